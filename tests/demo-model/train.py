"""Trains the demo model from nothing to a GGUF file, in one command.

The schedule runs on wall time, so the learning rate has decayed when the time is
up however busy the machine was.  Each worker is one process with one thread,
because two such processes suffer less from a contended machine than one process
with two threads.  Stopped and started again, it goes on from its checkpoint.
"""

import argparse
import json
import os
import random
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

import evaluate
import export
import rows
import tokenizer as vocabulary
from model import Demo, Shape

HERE = Path(__file__).parent
MATRIX_RATE, OTHER_RATE = 0.02, 4e-3
# The rate holds until this share of the time, then falls in a line.
HOLD = 0.4
WARM_STEPS = 20
# Up to each share of the time, how often a step is of each size: short texts
# teach copying, which all the rest is built on.
MIX = ((0.12, (0.85, 0.15, 0.0)), (0.4, (0.55, 0.45, 0.0)), (0.7, (0.3, 0.67, 0.03)), (1.0, (0.25, 0.68, 0.07)))


class Muon:
    """Momentum whose matrix is pushed towards an orthogonal one before the step."""

    def __init__(self, params, momentum=0.95):
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.momentum = momentum
        self.held = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate):
        for shape, params in self.groups.items():
            held = self.held[shape]
            grads = torch.stack([p.grad for p in params])
            held.mul_(self.momentum).add_(grads)
            push = orthogonal(grads.add(held, alpha=self.momentum))
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for p, update in zip(params, push):
                p.add_(update, alpha=-scale)


def orthogonal(matrices, rounds=5):
    """A Newton-Schulz iteration that brings the singular values near 1."""
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Run:
    """One training process: the model, its optimisers, and where it stands."""

    def __init__(self, args, rank, ranks):
        self.args, self.rank, self.ranks = args, rank, ranks
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(args.seed)
        self.tokenizer = vocabulary.load()
        self.model = Demo(Shape(layers=args.layers)).to(self.device)
        matrices = [p for p in self.model.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.loss = torch.compile(self.raw_loss, dynamic=False) if args.compile else self.raw_loss
        self.step = self.tokens = 0
        self.before = 0.0  # seconds trained before this start
        if (args.run / "checkpoint.pt").exists():
            self.resume()
        self.started = time.time()

    def raw_loss(self, tokens, places, branch, target, weight):
        hidden = self.model.hidden(tokens, places, branch)
        losses = F.cross_entropy(self.model.logits(hidden).flatten(0, 1), target.flatten(), reduction="none")
        return (losses * weight.flatten()).sum() / weight.sum()

    def elapsed(self):
        return self.before + time.time() - self.started

    def progress(self):
        """The share of the time that is used, as the first worker's clock has it."""
        share = torch.tensor([self.elapsed() / (60 * self.args.minutes)])
        if self.ranks > 1:
            dist.broadcast(share, 0)
        return float(share)

    def train(self):
        saved = time.time()
        while (share := self.progress()) < 1.0:
            began = time.time()
            size = self.size_of_step(share)
            loss = self.one_step(size, share)
            if self.rank == 0 and self.step % 10 == 0:
                speed = rows.ROWS[size] * rows.LENGTH[size] / (time.time() - began)
                print(f"{self.elapsed() / 60:6.1f} min  step {self.step}  {self.tokens / 1e6:.2f} M  {size:6}  loss {loss:.4f}  {speed:.0f} tokens/s", flush=True)
            if self.rank == 0 and time.time() - saved > 60 * self.args.save_minutes:
                self.save()
                saved = time.time()
        if self.rank == 0:
            self.save()

    def size_of_step(self, share):
        odds = next(odds for limit, odds in MIX if share < limit or limit == 1.0)
        return random.Random(f"{self.args.seed}/size/{self.step}").choices(list(rows.LENGTH), odds)[0]

    def one_step(self, size, share):
        batch = rows.draw_batch(self.tokenizer, self.args.seed, self.step, size, self.rank, self.ranks)
        loss = self.loss(*(torch.from_numpy(batch[n]).to(self.device) for n in ("tokens", "places", "branch", "target", "weight")))
        loss.backward()
        self.share_gradients()
        rate = min(1.0, (self.step + 1) / WARM_STEPS, max(0.01, (1 - share) / (1 - HOLD)))
        self.muon.step(MATRIX_RATE * rate)
        for group in self.adam.param_groups:
            group["lr"] = OTHER_RATE * rate
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += rows.ROWS[size] * rows.LENGTH[size]
        return float(loss)

    def share_gradients(self):
        params = list(self.model.parameters())
        flat = torch.cat([p.grad.flatten() for p in params])
        if self.ranks > 1:
            dist.all_reduce(flat)
            flat /= self.ranks
        for p, grad in zip(params, flat.split([p.numel() for p in params])):
            p.grad = grad.view_as(p)

    def save(self):
        export.write(self.args.out, self.model, self.tokenizer)
        state = {
            "shape": asdict(self.model.shape),
            "model": self.model.state_dict(),
            "muon": self.muon.held,
            "adam": self.adam.state_dict(),
            "progress": {"step": self.step, "tokens": self.tokens, "seconds": self.elapsed()},
        }
        draft = self.args.run / "checkpoint.part"
        torch.save(state, draft)
        os.replace(draft, self.args.run / "checkpoint.pt")
        scores = evaluate.score(self.model, self.tokenizer, count=30)
        point = {"minutes": round(self.elapsed() / 60, 1), "tokens": self.tokens, "step": self.step, "scores": scores}
        with (self.args.run / "curve.jsonl").open("a") as out:
            out.write(json.dumps(point) + "\n")
        print(f"saved {self.args.out}", {c: (s["greedy"], s["sampled"]) for c, s in scores.items()}, flush=True)

    def resume(self):
        state = torch.load(self.args.run / "checkpoint.pt", map_location=self.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.muon.held = state["muon"]
        self.adam.load_state_dict(state["adam"])
        self.step, self.tokens = state["progress"]["step"], state["progress"]["tokens"]
        self.before = state["progress"]["seconds"]


def work(rank, args, ranks):
    torch.set_num_threads(1 if ranks > 1 else os.cpu_count())
    if ranks > 1:
        meeting = f"file://{args.run.resolve()}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timedelta(minutes=30))
    Run(args, rank, ranks).train()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / ".cache", help="folder of the checkpoint and the curve")
    parser.add_argument("--out", type=Path, default=export.GGUF, help="the GGUF file to write")
    parser.add_argument("--minutes", type=float, default=65, help="wall time to train")
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes, on a machine without a GPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="for a machine without a C++ compiler")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    (args.run / "meeting").unlink(missing_ok=True)
    ranks = 1 if torch.cuda.is_available() else args.workers
    if ranks == 1:
        work(0, args, 1)
    else:
        torch.multiprocessing.spawn(work, (args, ranks), nprocs=ranks)


if __name__ == "__main__":
    main()
