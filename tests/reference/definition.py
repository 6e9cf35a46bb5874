"""What a run of dsrun is, apart from its arithmetic: random numbers, initial weights, token shards,
sampling, learning rate. Written from the definitions in common/rng.h, worker/init.h, worker/data.h
and offload/train_config.h, sharing no code with them.
"""

import math
import struct

import numpy as np
import yaml

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(seed, stream, index):
    """Philox 4x32-10 at counters (index, stream): two arrays of 64-bit words."""
    index = np.asarray(index, dtype=np.uint64)
    c = [index & LOW, index >> HALF]
    c += [np.full_like(index, stream & 0xFFFFFFFF), np.full_like(index, stream >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> HALF) ^ c[1] ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF) ^ c[3] ^ np.uint64(k1),
            p0 & LOW,
        ]
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c[1] << HALF | c[0], c[3] << HALF | c[2]


def u64(seed, stream, index):
    return int(philox(seed, stream, [index])[0][0])


def below(seed, stream, index, bound):
    return u64(seed, stream, index) * bound >> 64


def normals(seed, stream, count):
    """Standard normals of indices 0..count-1. Logarithm and cosine are the C library's, one by one:
    vectorised ones may differ in the last bit."""
    first, second = philox(seed, stream, np.arange(count))
    scale = 2.0**-53
    radius = [math.log(u * scale) for u in ((first >> np.uint64(11)) + np.uint64(1)).tolist()]
    cosine = [math.cos(2 * math.pi * (u * scale)) for u in (second >> np.uint64(11)).tolist()]
    return np.sqrt(-2.0 * np.array(radius)) * np.array(cosine)


def tensors(model):
    """(name, shape, initial value) of every tensor in dsrun's order; a value that is a float is a
    standard deviation. Matrices have weight decay, vectors have none."""
    h, std = model["hidden"], 0.02
    residual = std / math.sqrt(2.0 * model["layers"])
    yield "wte.weight", (model["vocab"], h), std
    yield "wpe.weight", (model["context"], h), std
    yield "ln_f.weight", (h,), 1
    yield "ln_f.bias", (h,), 0
    for i in range(model["layers"]):
        for name, shape, value in (
            ("attn.c_attn.weight", (h, 3 * h), std),
            ("attn.c_proj.weight", (h, h), residual),
            ("mlp.c_fc.weight", (h, 4 * h), std),
            ("mlp.c_proj.weight", (4 * h, h), residual),
            ("ln_1.weight", (h,), 1),
            ("ln_1.bias", (h,), 0),
            ("attn.c_attn.bias", (3 * h,), 0),
            ("attn.c_proj.bias", (h,), 0),
            ("ln_2.weight", (h,), 1),
            ("ln_2.bias", (h,), 0),
            ("mlp.c_fc.bias", (4 * h,), 0),
            ("mlp.c_proj.bias", (h,), 0),
        ):
            yield f"h.{i}.{name}", shape, value


def initial_weights(config):
    weights = {}
    for number, (name, shape, value) in enumerate(tensors(config["model"])):
        if isinstance(value, float):
            w = value * normals(config["seed"], number, math.prod(shape))
        else:
            w = np.full(math.prod(shape), value)
        weights[name] = w.astype(np.float32).reshape(shape)
    return weights


def learning_rate(config, step):
    lr, low = config["optimizer"]["lr"], config["schedule"]["min_lr"]
    warmup, steps = config["schedule"]["warmup"], config["schedule"]["steps"]
    if config["schedule"]["type"] != "cosine":
        raise SystemExit("schedule: only cosine is known here")
    if step < warmup:
        return lr * step / warmup
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def crc32c(data):
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def shard(path):
    """Tokens of a shard, and their checksum as it stands in the header."""
    with open(path, "rb") as f:
        data = f.read()
    magic, version, width, _, count, crc, _ = struct.unpack("<4sIIIQII", data[:32])
    if (magic, version, width) != (b"DSTK", 1, 1) or len(data) != 64 + count:
        raise SystemExit(f"{path}: not a shard of bytes")
    if crc != crc32c(data[64:]):
        raise SystemExit(f"{path}: wrong checksum")
    return np.frombuffer(data, dtype=np.uint8, offset=64).astype(np.int64), f"{crc:08x}"


def permuted(seed, epoch, x, windows):
    bits = 1
    while 4**bits < windows:
        bits += 1
    mask = (1 << bits) - 1
    while True:
        left, right = x >> bits, x & mask
        for j in range(4):
            f = u64(seed, (1 << 32) + j, epoch << 32 | right)
            left, right = right, left ^ f & mask
        x = left << bits | right
        if x < windows:
            return x


def train_window(config, shards, g):
    """Sequence g of the run: its tokens and the one behind."""
    s, seed = config["data"]["sequence"], config["seed"]
    counts = [0 if len(t) < s + 1 else max(1, (len(t) - s) // s) for t in shards]
    epoch, x = divmod(g, sum(counts))
    k = permuted(seed, epoch, x, sum(counts))
    i = 0
    while k >= counts[i]:
        k -= counts[i]
        i += 1
    slack = min(s - 1, len(shards[i]) - 1 - counts[i] * s)
    first = k * s + below(seed, (1 << 33) + i, epoch, slack + 1)
    return shards[i][first : first + s + 1]


def train_batch(config, shards, step):
    """Step from 1. Inputs and targets, [batch.global][sequence]."""
    size = config["batch"]["global"]
    rows = [train_window(config, shards, (step - 1) * size + b) for b in range(size)]
    rows = np.stack(rows)
    return rows[:, :-1], rows[:, 1:]


def validation_windows(config, shards):
    s, limit = config["data"]["sequence"], config["evaluate"]["batches"]
    rows = [
        t[first : first + s + 1] for t in shards for first in range(0, len(t) - s, s)
    ]
    rows = np.stack(rows[: limit * config["batch"]["global"]])
    return rows[:, :-1], rows[:, 1:]


def read_config(path):
    with open(path) as f:
        return yaml.safe_load(f)
