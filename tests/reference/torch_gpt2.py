"""GPT-2's forward pass in PyTorch: what train_gpt2.py trains and check_export.py compares with.
Weights are a dictionary of tensors, as definition.tensors names them.
"""

import torch
import torch.nn.functional as F


def linear(w, name, x):
    return x @ w[name + ".weight"] + w[name + ".bias"]


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-5)


def attention(w, name, x, heads):
    batch, seq, hidden = x.shape
    q, k, v = (
        t.view(batch, seq, heads, hidden // heads).transpose(1, 2)
        for t in linear(w, name + ".c_attn", x).split(hidden, dim=-1)
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return linear(w, name + ".c_proj", y.transpose(1, 2).reshape(batch, seq, hidden))


def logits(w, model, ids):
    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
    for i in range(model["layers"]):
        h = f"h.{i}."
        x = x + attention(w, h + "attn", norm(w, h + "ln_1", x), model["heads"])
        y = linear(w, h + "mlp.c_fc", norm(w, h + "ln_2", x))
        x = x + linear(w, h + "mlp.c_proj", F.gelu(y, approximate="tanh"))
    return norm(w, "ln_f", x) @ w["wte.weight"].T


def loss(w, model, ids, targets):
    """Mean over all tokens, summed up in double."""
    rows = logits(w, model, ids).float().flatten(0, 1)
    return F.cross_entropy(rows, targets.flatten(), reduction="none").double().mean()


def batch(pair):
    return tuple(torch.from_numpy(rows.copy()) for rows in pair)
