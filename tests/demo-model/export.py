"""A model as a GGUF file, and back: Q8_0 matrices, F32 norms, the vocabulary and the chat template."""

import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize

import chat
import tokenizer as vocabulary
from model import Demo, Shape

GGUF = Path(__file__).parent.parent.parent / "client" / "demo" / "hearth-demo.gguf"
Q8 = gguf.GGMLQuantizationType.Q8_0
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
NAMES = {
    "embed.weight": "token_embd",
    "norm.weight": "output_norm",
    "attn_norm.weight": "attn_norm",
    "attn.q.weight": "attn_q",
    "attn.k.weight": "attn_k",
    "attn.v.weight": "attn_v",
    "attn.out.weight": "attn_output",
    "attn.q_norm.weight": "attn_q_norm",
    "attn.k_norm.weight": "attn_k_norm",
    "ffn_norm.weight": "ffn_norm",
    "ffn.gate.weight": "ffn_gate",
    "ffn.up.weight": "ffn_up",
    "ffn.down.weight": "ffn_down",
}


def tensor_name(name):
    """`blocks.3.attn.q.weight` is `blk.3.attn_q.weight`."""
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        return f"blk.{number}.{NAMES[rest]}.weight"
    return f"{NAMES[name]}.weight"


def write(path: Path, model, tokenizer):
    """Writes beside `path` and renames, so that a reader never sees half a file."""
    draft = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    out = gguf.GGUFWriter(str(draft), "qwen3")
    write_facts(out, model.shape)
    write_vocabulary(out, tokenizer, model.shape.vocab)
    for name, tensor in model.state_dict().items():
        values = tensor.detach().float().cpu().numpy()
        if values.ndim == 1:
            out.add_tensor(tensor_name(name), values)
        else:
            out.add_tensor(tensor_name(name), quantize(np.ascontiguousarray(values), Q8), raw_dtype=Q8)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    os.replace(draft, path)


def read(path: Path) -> Demo:
    """The model of a file, with the rounding that Q8_0 gave it."""
    reader = gguf.GGUFReader(str(path))
    fact = lambda key: reader.fields[f"qwen3.{key}"].contents()
    shape = Shape(
        vocab=fact("vocab_size"),
        width=fact("embedding_length"),
        layers=fact("block_count"),
        heads=fact("attention.head_count"),
        kv_heads=fact("attention.head_count_kv"),
        head_dim=fact("attention.key_length"),
        ffn=fact("feed_forward_length"),
        rope_base=fact("rope.freq_base"),
        norm_eps=fact("attention.layer_norm_rms_epsilon"),
        context=fact("context_length"),
    )
    model = Demo(shape)
    found = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    state = {name: torch.from_numpy(found[tensor_name(name)].copy()) for name in model.state_dict()}
    model.load_state_dict(state)
    return model


def write_facts(out, shape):
    out.add_type("model")
    out.add_name("Hearth demo")
    out.add_author("Hearth")
    out.add_license("Apache-2.0")
    out.add_description("A very small assistant of a field station, trained on generated text.")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_block_count(shape.layers)
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.width)
    out.add_feed_forward_length(shape.ffn)
    out.add_vocab_size(shape.vocab)
    out.add_rope_freq_base(shape.rope_base)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_key_length(shape.head_dim)
    out.add_value_length(shape.head_dim)
    out.add_layer_norm_rms_eps(shape.norm_eps)


def write_vocabulary(out, tokenizer, size):
    tokens, kinds = [], []
    for i in range(size):
        token = tokenizer.id_to_token(i)
        tokens.append(token if token is not None else f"<|unused_{i}|>")
        kinds.append(kind_of(token))
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    out.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    out.add_pad_token_id(tokenizer.token_to_id("<|endoftext|>"))
    out.add_add_bos_token(False)
    out.add_chat_template(chat.TEMPLATE)


def kind_of(token):
    if token is None:
        return UNUSED
    if token in vocabulary.CONTROL:
        return CONTROL
    return USER_DEFINED if token in vocabulary.VISIBLE else NORMAL
