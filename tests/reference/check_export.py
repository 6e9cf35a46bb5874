"""Usage: check_export.py [--initial] CONFIG.yaml EXPORT.safetensors [SUMMARY.json LOGITS]

With --initial: EXPORT's weights are the initial weights of the definition, bit by bit. (Of a run
with a learning rate of 1e-30; what was 0 may then be some 1e-29.)

Else: EXPORT loads in transformers' GPT2LMHeadModel with no key missing or left over, and on every
validation window gives, to 1e-4, the logits of torch_gpt2.py, those of a forward pass in numpy in
double, and dsrun's own behind the last token (LOGITS, of tests/reference_logits.c). Its mean loss
on them is the validation loss in SUMMARY, to 1e-4 relative. Prints the worst deviations as one line
of JSON.

Seen when curves.json was made, with its versions and transformers 5.23.0, over 18 windows of 64
tokens and logits up to 5.3: all 836352 initial weights equal; logits to dsrun's 1.2e-6 (fp32 export)
and 1.4e-6 (bf16), to PyTorch's 1.4e-6 and 1.9e-6, to numpy's 2.7e-6 and 2.7e-6; loss to dsrun's
1.2e-9 and 5.5e-9.
"""

import json
import os
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers

import definition
import torch_gpt2

TOLERANCE = 1e-4


def check_initial(config, export):
    expected = definition.initial_weights(config)
    if set(export) != {"transformer." + name for name in expected}:
        raise SystemExit("names differ")
    values = 0
    for name, w in expected.items():
        found = export["transformer." + name].numpy()
        if found.shape != w.shape:
            raise SystemExit(f"{name}: shape {found.shape}, expected {w.shape}")
        if not np.array_equal(np.where(np.abs(found) < 1e-28, 0, found), w):
            raise SystemExit(f"{name}: {np.sum(found != w)} of {w.size} initial weights differ")
        values += w.size
    return {"initial_weights_equal": values}


def load(config, path):
    """As a user of transformers loads a model: from a directory with config.json."""
    m = config["model"]
    shape = transformers.GPT2Config(
        vocab_size=m["vocab"], n_positions=m["context"], n_embd=m["hidden"],
        n_layer=m["layers"], n_head=m["heads"], bos_token_id=None, eos_token_id=None,
        architectures=["GPT2LMHeadModel"],
    )
    with tempfile.TemporaryDirectory() as d:
        shape.save_pretrained(d)
        os.symlink(os.path.abspath(path), os.path.join(d, "model.safetensors"))
        model, info = transformers.GPT2LMHeadModel.from_pretrained(
            d, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    wrong = {k: list(v) for k, v in info.items() if v and not isinstance(v, str)}
    if wrong:
        raise SystemExit(f"{path}: transformers says {wrong}")
    return model.eval()


def numpy_logits(w, m, ids):
    """One sequence, in double."""
    def linear(name, x):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * w[name + ".weight"] + w[name + ".bias"]

    size, mask = m["hidden"] // m["heads"], np.tri(len(ids), dtype=bool)
    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for i in range(m["layers"]):
        h = f"h.{i}."
        q, k, v = np.split(linear(h + "attn.c_attn", norm(h + "ln_1", x)), 3, axis=1)
        parts = []
        for a in range(0, m["hidden"], size):
            s = np.where(mask, q[:, a : a + size] @ k[:, a : a + size].T / np.sqrt(size), -np.inf)
            p = np.exp(s - s.max(1, keepdims=True))
            parts.append(p / p.sum(1, keepdims=True) @ v[:, a : a + size])
        x = x + linear(h + "attn.c_proj", np.concatenate(parts, axis=1))
        y = linear(h + "mlp.c_fc", norm(h + "ln_2", x))
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(h + "mlp.c_proj", y)
    return norm("ln_f", x) @ w["wte.weight"].T


def deviations(config, path, export, summary, own_path):
    shards = [definition.shard(p)[0] for p in config["data"]["validation"]]
    ids, targets = definition.validation_windows(config, shards)
    weights = {name.removeprefix("transformer."): t.float() for name, t in export.items()}
    doubles = {name: t.double().numpy() for name, t in weights.items()}
    with torch.no_grad():
        theirs = load(config, path)(torch.from_numpy(ids.copy())).logits
        plain = torch_gpt2.logits(weights, config["model"], torch.from_numpy(ids.copy()))
    exact = np.stack([numpy_logits(doubles, config["model"], row) for row in ids])
    own = np.fromfile(own_path, dtype=np.float32).reshape(len(ids), -1)
    loss = torch.nn.functional.cross_entropy(
        theirs.double().flatten(0, 1), torch.from_numpy(targets.flatten())
    ).item()
    theirs = theirs.numpy()
    return {
        "logits_to_dsrun": float(np.abs(theirs[:, -1] - own).max()),
        "logits_to_torch": float(np.abs(theirs - plain.numpy()).max()),
        "logits_to_numpy": float(np.abs(theirs - exact).max()),
        "loss_to_dsrun": abs(loss / summary["validation_loss"] - 1),
    }, {"windows": len(ids), "largest_logit": float(np.abs(theirs).max()), "loss": loss}


def main():
    args = sys.argv[1:]
    initial = args[:1] == ["--initial"]
    if initial:
        args.pop(0)
    if len(args) != (2 if initial else 4):
        raise SystemExit(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config, export = definition.read_config(args[0]), safetensors.torch.load_file(args[1])
    if initial:
        print(json.dumps(check_initial(config, export)))
        return
    with open(args[2]) as f:
        found, about = deviations(config, args[1], export, json.load(f), args[3])
    print(json.dumps({**found, **about}))
    # Written so that a NaN fails.
    if not all(value <= TOLERANCE for value in found.values()):
        raise SystemExit(f"more than {TOLERANCE}")


main()
