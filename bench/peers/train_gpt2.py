#!/usr/bin/env python3
"""GPT-2 trained by PyTorch on the CPU in fp32, as dsrun trains it: what bench/train_pytorch.sh runs
beside it. Tied head, tanh GELU, AdamW with decay of the matrices alone, clipping of the norm,
accumulation over micro-batches; no gradient checkpointing. Attention, optimizer and norm are the
fused ones that PyTorch offers; --compile hands the model to torch.compile as well.

Usage: train_gpt2.py --text FILE --layers N --hidden N --heads N --vocab N --context N --sequence N
                     --micro N --global N --warmup STEPS --steps STEPS --threads N [--compile]

Prints one line of JSON: tokens a second over the steps behind the warm-up, the first and last loss.
"""

import argparse
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(hidden)
        self.c_attn = nn.Linear(hidden, 3 * hidden)
        self.attn_proj = nn.Linear(hidden, hidden)
        self.ln_2 = nn.LayerNorm(hidden)
        self.c_fc = nn.Linear(hidden, 4 * hidden)
        self.mlp_proj = nn.Linear(4 * hidden, hidden)

    def attention(self, x):
        batch, seq, hidden = x.shape
        qkv = self.c_attn(x).view(batch, seq, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_proj(out.transpose(1, 2).reshape(batch, seq, hidden))

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.wte = nn.Embedding(a.vocab, a.hidden)
        self.wpe = nn.Embedding(a.context, a.hidden)
        self.blocks = nn.ModuleList(Block(a.hidden, a.heads) for _ in range(a.layers))
        self.ln_f = nn.LayerNorm(a.hidden)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 / math.sqrt(2 * a.layers) if "proj" in name else 0.02
                nn.init.normal_(p, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def batches(path, a):
    """Micro-batches of bytes, one sequence behind the other, without end."""
    with open(path, "rb") as f:
        text = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).long()
    count, i = (len(text) - 1) // a.sequence, 0
    while True:
        rows = [(i + r) % count * a.sequence for r in range(a.micro)]
        i += a.micro
        yield (
            torch.stack([text[r : r + a.sequence] for r in rows]),
            torch.stack([text[r + 1 : r + 1 + a.sequence] for r in rows]),
        )


def step(model, optimizer, data, accumulation):
    total = 0.0
    for _ in range(accumulation):
        loss = model(*next(data)) / accumulation
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--text", required=True)
    for name in "layers hidden heads vocab context sequence micro warmup steps threads".split():
        p.add_argument("--" + name, type=int, required=True)
    p.add_argument("--global", type=int, required=True, dest="sequences")
    p.add_argument("--compile", action="store_true")
    return p.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = GPT2(a)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if a.compile else model
    data, accumulation = batches(a.text, a), a.sequences // a.micro
    losses = [step(run, optimizer, data, accumulation) for _ in range(a.warmup)]
    began = time.perf_counter()
    losses += [step(run, optimizer, data, accumulation) for _ in range(a.steps)]
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "tokens_per_s": a.steps * a.sequences * a.sequence / seconds,
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
