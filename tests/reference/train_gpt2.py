"""Usage: train_gpt2.py CONFIG.yaml CURVES.json

Trains the model of a dsrun configuration in PyTorch on the CPU, from the same initial weights, on
the same batches, and writes losses and gradient norms (before clipping), with the versions that made
them, to CURVES.json. The norms are there since Adam hides a wrong scale of the gradient. Three ways:

fp32      everything in fp32; torch.optim.AdamW, torch's clipping.
bf16      rounds where dsrun's bf16 does: parameters are the fp32 masters rounded to nearest, ties
          away from zero; gradients are rounded to nearest even before norm and optimizer, as there
          is no accumulation; all else is fp32.
autocast  fp32 parameters under torch.autocast(bfloat16), as PyTorch's users train.

To make curves.json anew, in a virtual environment with requirements.txt (some 3 GB):

    python3 -m venv V && V/bin/pip install -r tests/reference/requirements.txt
    make all tests
    B=build DSRUN_REFERENCE_PYTHON=V/bin/python tests/reference.sh regenerate
"""

import json
import platform
import sys

import numpy as np
import torch

import definition
import torch_gpt2

MODES = ("fp32", "bf16", "autocast")
KEPT = ("model", "batch", "optimizer", "schedule", "evaluate", "seed")


def round_bf16_away(x):
    """To nearest bf16, ties away from zero: half of the last place is added to the magnitude."""
    return (x.view(torch.int32) + 0x8000).bitwise_and(-0x10000).view(torch.float32)


def round_bf16_even(x):
    return x.bfloat16().float()


def optimizer_of(config, masters):
    o = config["optimizer"]
    groups = [
        {"params": [p for p in masters if p.dim() > 1], "weight_decay": o["weight_decay"]},
        {"params": [p for p in masters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"])


def train(config, mode, shards, validation):
    """Losses and gradient norms of every step, and the loss on `validation` at the end."""
    masters = {
        name: torch.from_numpy(w).requires_grad_()
        for name, w in definition.initial_weights(config).items()
    }
    weights = masters
    if mode == "bf16":
        weights = {
            name: round_bf16_away(w.detach()).requires_grad_() for name, w in masters.items()
        }
    optimizer = optimizer_of(config, list(masters.values()))
    clip, losses, norms = config["optimizer"]["clip"], [], []

    def loss_of(ids, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
            return torch_gpt2.loss(weights, config["model"], ids, targets)

    for step in range(1, config["schedule"]["steps"] + 1):
        loss = loss_of(*torch_gpt2.batch(definition.train_batch(config, shards, step)))
        loss.backward()
        losses.append(loss.item())
        if mode == "bf16":
            for name, w in weights.items():
                masters[name].grad = round_bf16_even(w.grad)
                w.grad = None
        norms.append(torch.nn.utils.clip_grad_norm_(masters.values(), clip).item())
        for group in optimizer.param_groups:
            group["lr"] = definition.learning_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        if mode == "bf16":
            with torch.no_grad():
                for name, w in weights.items():
                    w.copy_(round_bf16_away(masters[name]))
    with torch.no_grad():
        return losses, norms, loss_of(*validation).item()


def write(path, config, checksums, runs):
    clip = config["optimizer"]["clip"]
    lines = [
        ("made_by", {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "script": "tests/reference/train_gpt2.py",
        }),
        ("config", {k: config[k] for k in KEPT}),
        ("sequence", config["data"]["sequence"]),
        ("shards_crc32c", checksums),
        ("steps_clipped", {mode: sum(n > clip for n in runs[mode][1]) for mode in MODES}),
        ("validation_loss", {mode: runs[mode][2] for mode in MODES}),
        ("columns", ["step", *MODES, *(mode + "_norm" for mode in MODES)]),
    ]
    rows = zip(*(runs[mode][part] for part in (0, 1) for mode in MODES))
    with open(path, "w") as f:
        f.write("{\n")
        for key, value in lines:
            f.write(f'"{key}": {json.dumps(value)},\n')
        f.write('"losses": [\n')
        f.write(",\n".join(json.dumps([i, *row]) for i, row in enumerate(rows, 1)))
        f.write("\n]}\n")


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    config = definition.read_config(sys.argv[1])
    paths = config["data"]["train"] + config["data"]["validation"]
    shards, checksums = zip(*(definition.shard(path) for path in paths))
    count = len(config["data"]["train"])
    validation = torch_gpt2.batch(definition.validation_windows(config, shards[count:]))
    runs = {mode: train(config, mode, shards[:count], validation) for mode in MODES}
    write(sys.argv[2], config, checksums, runs)


main()
