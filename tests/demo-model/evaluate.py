"""Held-out cases, and how many of them a checkpoint answers word for word.

Answers are deterministic, so greedy decoding is right exactly if every token of
the answer is the likeliest after the right beginning: one forward pass per case.
"""

import argparse
import json
import random
from pathlib import Path

import torch

import data
import export
import tokenizer as vocabulary
import words

CASES = 60
CATEGORIES = ("greeting", "fact", "fact_unseen", "tool_response", "unknown", "arithmetic", "call_known", "call_unseen", "no_tool")
FILE = Path(__file__).parent / "eval" / "heldout.jsonl"


def draw_heldout(category, nth):
    """A document and a case of `category`, from values that training never uses."""
    attempt = 0
    while True:
        rng = random.Random(f"heldout/{category}/{nth}/{attempt}")
        attempt += 1
        things = "unseen" if category == "call_unseen" else "known"
        keys = "unseen" if category == "fact_unseen" else "known"
        d = data.Draw(rng, unseen=True, things=things, keys=keys)
        tooled = category in ("tool_response", "call_known", "call_unseen", "no_tool") or rng.random() < 0.3
        document = data.draw_document(d, "tooled" if tooled else "short")
        thinking = nth % 2 == 0
        make = {
            "greeting": data.greeting,
            "fact": data.fact,
            "fact_unseen": data.fact,
            "unknown": data.unknown,
            "arithmetic": data.arithmetic,
            "call_known": data.call,
            "call_unseen": data.call,
            "no_tool": data.no_tool,
        }.get(category)
        if make:
            case = make(d, document.world)
        else:
            case = data.tool_response(d, document.world, thinking)
        if case.category == category or (category == "fact_unseen" and case.category == "fact" and asks_unseen(document, case)):
            case.category = category
            return document, case, thinking


def asks_unseen(document, case):
    """Is the fact that is asked for about something that training never names?"""
    known = set(words.FACT_KEYS) | set(words.PEOPLE_KEYS)
    return next(k for k, v, _ in document.world.facts if case.text == f"The {k} is {v}.") not in known


def heldout(count=CASES):
    for category in CATEGORIES:
        for nth in range(count):
            yield draw_heldout(category, nth)


# ---------------------------------------------------------------- the file


def as_line(document, case, thinking):
    tools = document.tools
    expect = {"text": case.text}
    if case.call:
        expect = {"tool": case.call[0], "arguments": case.call[1]}
    messages, pending = [], None
    for i, message in enumerate(document.messages(case)):
        message = {k: v for k, v in message.items() if k != "reasoning_content"}
        if "tool_calls" in message:
            pending = f"call_{i}"
            call = message["tool_calls"][0]["function"]
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            message["tool_calls"] = [{"id": pending, "name": call["name"], "arguments": arguments}]
        if message["role"] == "tool":
            message["tool_call_id"] = pending
        messages.append(message)
    return {"category": case.category, "thinking": thinking, "messages": messages, "tools": tools, "expect": expect}


def write_file():
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("w") as out:
        for document, case, thinking in heldout():
            out.write(json.dumps(as_line(document, case, thinking), ensure_ascii=False) + "\n")


# ---------------------------------------------------------------- the score


@torch.no_grad()
def answer_odds(model, tokenizer, document, case, thinking):
    """Per token of the answer: is it the likeliest, and its log probability."""
    prompt = tokenizer.encode(document.prompt(case, thinking)).ids
    answer = tokenizer.encode(case.completion(thinking)).ids
    ids = torch.tensor([prompt + answer], device=model.embed.weight.device)
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    hidden = model.hidden(ids, places, torch.zeros_like(ids))[0, len(prompt) - 1 : -1]
    logs = torch.log_softmax(model.logits(hidden).float(), -1)
    wanted = ids[0, len(prompt) :]
    return (logs.argmax(-1) == wanted), logs.gather(1, wanted[:, None])[:, 0]


def score(model, tokenizer, count=CASES):
    """Percent of whole answers right, greedy and as expected when sampling at temperature 1."""
    table = {}
    for document, case, thinking in heldout(count):
        right, odds = answer_odds(model, tokenizer, document, case, thinking)
        entry = table.setdefault(case.category, [])
        entry.append((float(right.all()), float(odds.sum().exp()), thinking))
    report = {}
    for category, found in table.items():
        mean = lambda values: round(100 * sum(values) / max(1, len(values)))
        report[category] = {
            "greedy": mean([r for r, _, _ in found]),
            "sampled": mean([p for _, p, _ in found]),
            "greedy_on": mean([r for r, _, t in found if t]),
            "greedy_off": mean([r for r, _, t in found if not t]),
        }
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, default=export.GGUF)
    parser.add_argument("--write", action="store_true", help="write eval/heldout.jsonl and stop")
    parser.add_argument("--misses", action="store_true", help="show what was asked and missed")
    args = parser.parse_args()
    if args.write:
        return write_file()
    tokenizer = vocabulary.load()
    model = export.read(args.gguf).eval()
    if args.misses:
        show_misses(model, tokenizer)
    for category, line in score(model, tokenizer).items():
        print(f"{category:14} {line}")


def show_misses(model, tokenizer):
    for document, case, thinking in heldout():
        right, _ = answer_odds(model, tokenizer, document, case, thinking)
        if not right.all():
            wanted = tokenizer.encode(case.completion(thinking))
            at = int((~right).nonzero()[0, 0])
            asked = case.messages[0]["content"]
            tools = [t["name"] for t in document.tools]
            print(f"{case.category} {thinking=} {asked!r} {tools} wrong at {at} of {wanted.tokens}")


if __name__ == "__main__":
    main()
