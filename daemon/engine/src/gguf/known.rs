//! Names that the pinned llama.cpp knows. Unknown ones are no fault: llama.cpp refuses them cleanly.

/// Values of `general.architecture` that llama.cpp can load as a language model.
#[rustfmt::skip]
const ARCHITECTURES: &[&str] = &[
    "afmoe", "apertus", "arcee", "arctic", "arwkv7", "baichuan", "bailingmoe", "bailingmoe2",
    "bailingmoe3", "bert", "bitnet", "bloom", "chameleon", "chatglm", "clef", "codeshell", "cogvlm",
    "cohere2", "cohere2moe", "command-r", "dbrx", "deci", "deepseek", "deepseek2", "deepseek2-ocr",
    "deepseek32", "deepseek4", "dflash", "dots1", "dots3note", "dream", "eagle3", "ernie4_5",
    "ernie4_5-moe", "eurobert", "exaone", "exaone-moe", "exaone4", "falcon", "falcon-h1", "gemma",
    "gemma-embedding", "gemma2", "gemma3", "gemma3n", "gemma4", "gemma4-assistant", "glm-dsa", "glm4",
    "glm4moe", "glm5-next", "gpt-oss", "gpt2", "gptj", "gptneox", "granite", "granite_swa",
    "granitehybrid", "granitemoe", "graniteswitch", "grok", "grovemoe", "hrm_text", "hunyuan-dense",
    "hunyuan-moe", "hunyuan_vl", "hy_v3", "hy_v4", "internlm2", "jais", "jais2", "jamba",
    "jina-bert-v2", "jina-bert-v3", "kimi-k3", "kimi-linear", "laguna", "lfm2", "lfm2moe", "llada",
    "llada-moe", "llama", "llama-embed", "llama4", "maincoder", "mamba", "mamba2", "maple", "mellum",
    "mimo2", "minicpm", "minicpm3", "minimax-01", "minimax-m2", "minimax-m3", "mistral3", "mistral4",
    "modern-bert", "mpt", "muse-glimmer", "nanbeige", "nemotron", "nemotron_h", "nemotron_h_moe",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "olmo", "olmo2", "olmoe", "openelm", "orion",
    "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "plamo2", "plamo3", "plm",
    "pockettts", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen35", "qwen35moe", "qwen3moe",
    "qwen3next", "qwen3tts", "qwen3vl", "qwen3vlmoe", "qwen4exp", "refact", "rnd1", "rwkv6",
    "rwkv6qwen2", "rwkv7", "seed_oss", "smallthinker", "smollm3", "spark2_5", "stablelm", "starcoder",
    "starcoder2", "step35", "t5", "t5encoder", "talkie", "wavtokenizer-dec", "xverse",
];

/// Values of `tokenizer.ggml.pre` whose text llama.cpp cuts with loops of its own. The others go
/// through `std::regex`, which recurses once for each character of a long run.
#[rustfmt::skip]
const LOOPING_PRE_TOKENIZERS: &[&str] = &[
    // the splitter of GPT-2
    "a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "jina-de", "jina-es",
    "jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-es", "mellum", "modern-bert", "mpt", "olmo",
    "phi-2", "roberta-bpe", "trillion",
    // the splitter of Llama 3
    "chatglm-bpe", "dbrx", "falcon-h1", "falcon3", "glm4", "glm5", "jina-v5-nano", "lfm2", "llama-bpe",
    "llama-v3", "llama3", "midm-2.0", "pixtral", "smaug-bpe",
    // the splitters of Qwen
    "deepseek-r1-qwen", "f2llmv2", "grok-2", "hunyuan", "kormo", "laguna", "megrez", "qwen2", "qwen35",
    "solar-open", "stablelm2",
    // others
    "gemma4", "granite-embed-multi-311m", "kimi-k2", "mmbert", "sarvam-moe",
];

/// Values of `tokenizer.ggml.pre` that put a beginning-of-sequence token before every text unless the
/// file says otherwise.
#[rustfmt::skip]
const BOS_PRE_TOKENIZERS: &[&str] = &[
    "chameleon", "falcon-h1", "falcon3", "gemma4", "granite-embed-multi-311m", "jina-v5-nano", "lfm2",
    "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral", "tekken",
];

/// Whether the pinned llama.cpp has this architecture.
pub fn architecture(name: &str) -> bool {
    ARCHITECTURES.contains(&name)
}

/// Whether a long run of one letter is harmless to this pre-tokenizer.
pub fn loops_over_text(pre: &str) -> bool {
    LOOPING_PRE_TOKENIZERS.contains(&pre)
}

/// Whether this pre-tokenizer adds a beginning-of-sequence token by itself.
pub fn adds_bos(pre: &str) -> bool {
    BOS_PRE_TOKENIZERS.contains(&pre)
}

/// The name of a `general.file_type`, as in the names of published files.
pub fn file_type(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}
