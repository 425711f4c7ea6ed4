"""The vocabulary: byte-level BPE, cut by the `qwen2` pre-tokenizer.

Merges stay inside one class of characters.  Letters merge with letters first,
then punctuation with punctuation, and only a few everyday words take the space
before them.  So a noun is the same tokens in "the boiler", in "set_boiler" and
in "\\"boiler\\"", which is what lets so small a model copy it; and a text cut into
segments has the same tokens as the whole.
"""

import collections
import json
import random
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel

import chat
import data
import words

FILE = Path(__file__).parent / "vocabulary.json"
SIZE = 1536
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISIBLE = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACE, NEWLINE = "Ġ", "Ċ"
PUNCTUATION_MERGES = 48
SPACED_WORDS = 180


def learn(pieces, count):
    """The `count` best merges over counted pieces of byte-level text."""
    alphabet = len({c for piece in pieces for c in piece})
    trainer = trainers.BpeTrainer(vocab_size=alphabet + count, min_frequency=2, show_progress=False)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    lines = ("\n".join([piece] * times) for piece, times in sorted(pieces.items()))
    bpe.train_from_iterator(lines, trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in merges]


def nouns():
    """Every word of the pools: these never take the space before them."""
    pools = (words.THINGS, words.FACT_KEYS, words.PEOPLE_KEYS, words.PLACES, words.NAMES, words.PLAIN)
    pools += (words.STATION_FIRST, words.STATION_LAST, words.CITIES, words.TOPICS)
    return {part for pool in pools for word in pool for part in re.split(r"[ _]", word)} - {"the", "of", "to"}


def sample_texts(seed, documents=4000):
    for i in range(documents):
        d = data.Draw(random.Random(f"{seed}/vocabulary/{i}"))
        document = data.draw_document(d, "tooled" if i % 2 else "short")
        for nth in range(5):
            case = document.draw_case(d, thinking=True)
            # The shared prompt counts once, as it does in training.
            shown = case.messages[0]["content"] if nth else document.prompt(case, True)
            yield shown + "\n" + case.completion(True)
    # Plain English words, so that a stranger's question is not spelled letter by letter.
    yield " ".join(data.FREE_FIXED * 40)


def count_pieces(texts):
    letters, punctuation, spaced = (collections.Counter() for _ in range(3))
    marks = "|".join(re.escape(mark) for mark in CONTROL + VISIBLE)
    for text in texts:
        for plain in re.split(marks, text):
            for lead, word in re.findall(r"([^\W\d_]?| )([A-Za-z]{2,})", plain):
                letters[lead.strip() + word] += 1
                spaced[word] += lead == " "
            for mark in re.findall(r" ?[^\sA-Za-z0-9]+", plain):
                punctuation[mark.replace(" ", SPACE)] += 1
    return letters, punctuation, spaced


def build(seed):
    letters, punctuation, spaced = count_pieces(sample_texts(seed))
    kept = {p: n for p, n in punctuation.items() if not re.search(r"[-%_']", p)}
    of_punctuation = learn(kept, PUNCTUATION_MERGES)
    everyday = [w for w, _ in spaced.most_common() if w not in nouns() and (len(w) > 2 or w in ("is", "of"))]
    room = SIZE - 256 - len(CONTROL) - len(VISIBLE) - len(of_punctuation) - 1 - SPACED_WORDS
    of_letters = learn(letters, room)
    known = {a + b for a, b in of_letters}
    of_spaces = [(SPACE, w) for w in everyday if w in known][:SPACED_WORDS]

    merges = of_letters + of_punctuation + [(NEWLINE, NEWLINE)] + of_spaces
    vocabulary = {}
    for token in sorted(ByteLevel.alphabet()) + [a + b for a, b in merges]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens(VISIBLE)
    assert tokenizer.get_vocab_size() <= SIZE, tokenizer.get_vocab_size()
    return tokenizer


def load():
    """The vocabulary that the model in the repository was trained with."""
    return Tokenizer.from_file(str(FILE))


if __name__ == "__main__":
    # A model knows only the vocabulary that it was trained with: train anew after this.
    build(seed=1).save(str(FILE))
