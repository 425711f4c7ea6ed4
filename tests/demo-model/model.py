"""The network: a Qwen3-shaped decoder, small enough to train on two CPU cores.

A row of a batch is one document: a shared prompt with several independent
continuations ("branches").  `branch` numbers them, 0 being the shared prompt, so a
token sees the prompt and its own branch, and nothing else.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class Shape:
    """Every number that a GGUF of the `qwen3` architecture states."""

    vocab: int = 1536
    width: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 512
    rope_base: float = 1e6
    norm_eps: float = 1e-6
    context: int = 2048


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (scaled * weight).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position, the "neox" layout: a head's first half pairs with its second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.q = nn.Linear(shape.width, shape.heads * shape.head_dim, bias=False)
        self.k = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.v = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.out = nn.Linear(shape.heads * shape.head_dim, shape.width, bias=False)
        self.q_norm = Norm(shape.head_dim, shape.norm_eps)
        self.k_norm = Norm(shape.head_dim, shape.norm_eps)

    def forward(self, x, cos, sin, mask):
        rows, length, _ = x.shape
        s = self.shape
        q = self.q(x).view(rows, length, s.heads, s.head_dim)
        k = self.k(x).view(rows, length, s.kv_heads, s.head_dim)
        v = self.v(x).view(rows, length, s.kv_heads, s.head_dim)
        q = rotate(self.q_norm(q), cos, sin).transpose(1, 2) * s.head_dim**-0.5
        k = rotate(self.k_norm(k), cos, sin).transpose(1, 2)
        share = s.heads // s.kv_heads
        k = k.repeat_interleave(share, dim=1)
        v = v.transpose(1, 2).repeat_interleave(share, dim=1)
        # Plain products: on a CPU they beat the fused attention of PyTorch.
        weights = torch.softmax(q @ k.transpose(-1, -2) + mask, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(rows, length, -1))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.attn_norm = Norm(shape.width, shape.norm_eps)
        self.attn = Attention(shape)
        self.ffn_norm = Norm(shape.width, shape.norm_eps)
        self.ffn = FeedForward(shape)

    def forward(self, x, cos, sin, mask):
        x = x + self.attn(self.attn_norm(x), cos, sin, mask)
        return x + self.ffn(self.ffn_norm(x))


class Demo(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.norm_eps)
        steps = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        self.register_buffer("rates", shape.rope_base**-steps, persistent=False)
        self.apply(self._start)
        for block in self.blocks:
            # A residual branch starts silent, so that depth costs no stability.
            nn.init.zeros_(block.attn.out.weight)
            nn.init.zeros_(block.ffn.down.weight)

    @staticmethod
    def _start(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def hidden(self, tokens, places, branch):
        """The last hidden state of every token; `places` are RoPE positions."""
        x = self.embed(tokens)
        angles = places[..., None].float() * self.rates.float()
        cos = angles.cos()[:, :, None, :].to(x.dtype)
        sin = angles.sin()[:, :, None, :].to(x.dtype)
        mask = sight(branch, x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.norm(x)

    def logits(self, hidden):
        return hidden @ self.embed.weight.T


def sight(branch, dtype):
    """An additive mask: 0 where a token may look, a large negative elsewhere."""
    length = branch.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    shared = branch[:, None, :] == 0
    seen = (earlier & (shared | (branch[:, :, None] == branch[:, None, :])))[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=branch.device).masked_fill(~seen, -1e4)
