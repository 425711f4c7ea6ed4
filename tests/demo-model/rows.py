"""Documents to rows of numbers, made on the fly: a row depends on its seed alone."""

import random
from dataclasses import dataclass

import numpy as np

import data

# Tokens in a row, and rows in a step, for each size of document.
LENGTH = {"short": 256, "tooled": 576, "long": 2048}
ROWS = {"short": 16, "tooled": 8, "long": 2}
# What the prompt of a document may take: the rest is for its branches.
PROMPT_LIMIT = {"short": 190, "tooled": 420, "long": 1700}
# The share of prompt tokens in the loss; an answer counts 1.
PROMPT_WEIGHT = {"short": 0.1, "tooled": 0.03, "long": 0.03}


@dataclass
class Row:
    tokens: np.ndarray
    places: np.ndarray  # RoPE positions: every branch goes on where the prompt ends
    branch: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class Writer:
    """Fills one row; `add` refuses a branch that has no room left."""

    def __init__(self, length, prompt_weight):
        self.length = length
        self.prompt_weight = prompt_weight
        self.used = self.shared = self.branches = 0
        self.row = Row(*(np.zeros(length, dtype) for dtype in (np.int64, np.int64, np.int64, np.int64, np.float32)))
        # Padding looks at nothing but itself and the prompt, and nothing looks at it.
        self.row.branch[:] = -1

    def add(self, ids, answer_at):
        """One run of tokens; those from `answer_at` on are the answer."""
        size = len(ids) - 1 if self.shared else len(ids)
        if self.used + size > self.length:
            return False
        at = slice(self.used, self.used + size)
        self.row.tokens[at] = ids[:size]
        self.row.places[at] = np.arange(self.shared, self.shared + size)
        self.row.branch[at] = self.branches
        # The last token of a shared prompt predicts into every branch alike: no loss there.
        known = min(size, len(ids) - 1)
        self.row.target[self.used : self.used + known] = ids[1 : 1 + known]
        weights = np.full(known, self.prompt_weight, np.float32)
        weights[max(answer_at - 1, 0) :] = 1.0
        self.row.weight[self.used : self.used + known] = weights
        self.used += size
        self.branches += 1
        if not self.shared:
            self.shared = size
        return True


def split(document, case, thinking):
    """The prompt up to the last turns of the case, and the rest of it."""
    shown = document.prompt(case, thinking)
    marker = "<|im_start|>user\n" + case.messages[0]["content"] + "<|im_end|>"
    at = shown.rindex(marker)
    return shown[:at], shown[at:]


def draw_row(tokenizer, seed, size):
    """A whole document in one row."""
    d = data.Draw(random.Random(seed))
    encode = lambda text: tokenizer.encode(text).ids
    while True:
        d.taken.clear()
        document = data.draw_document(d, size)
        case = document.draw_case(d, False)
        prompt = encode(split(document, case, False)[0])
        if len(prompt) <= PROMPT_LIMIT[size]:
            break
    writer = Writer(LENGTH[size], PROMPT_WEIGHT[size])
    if prompt:
        writer.add(prompt, len(prompt))
    else:
        # Without system text, tools or history there is nothing to share but the first mark.
        writer.add(encode("<|im_start|>"), 1)
    refused = 0
    while refused < 2:
        thinking = d.chance(0.5)
        case = document.draw_case(d, thinking)
        tail = split(document, case, thinking)[1]
        if not prompt:
            tail = tail.removeprefix("<|im_start|>")
        ids = encode(tail)
        full = ids + encode(case.completion(thinking))
        refused += not writer.add(full, len(ids))
    return writer.row


def draw_batch(tokenizer, seed, step, size, rank, ranks):
    """The share of `rank` in the rows of one step."""
    count = max(1, ROWS[size] // ranks)
    first = rank * count
    rows = [draw_row(tokenizer, f"{seed}/{size}/{step}/{first + i}", size) for i in range(count)]
    return {name: np.stack([getattr(r, name) for r in rows]) for name in Row.__dataclass_fields__}
