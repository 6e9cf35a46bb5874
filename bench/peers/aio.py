"""DeepSpeed's aio_handle, as a process that bench/nvme.sh talks to.

usage: aio.py BYTES RAMP SECONDS       BYTES: of the largest set of files; RAMP and SECONDS: of a pass

Prints "ready VERSION", or a line that says why not and exits. Each line of standard input is then
"read" or "write", a block size, a queue depth and files: whole files are read or written again and again,
all files at once, with one thread for each, and the answer is the bytes a second after the ramp, and the
CPU seconds per 1e9 bytes. One file is one tensor, in the library's own page-locked memory.
"""
import os
import resource
import sys
import time

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "extensions"))
os.environ["PATH"] = os.path.join(sys.prefix, "bin") + ":" + os.environ.get("PATH", "")

# What a library prints while it starts is not for the pipe.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

most, ramp, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
try:
    import deepspeed
    import torch
    from deepspeed.ops.op_builder import AsyncIOBuilder
    op = AsyncIOBuilder().load(verbose=False)
    memory = op.aio_handle(1 << 20, 8, False, True, 1).new_cpu_locked_tensor(
        most, torch.empty(0, dtype=torch.uint8))
    memory.fill_(0x5a)
except Exception as e:
    print("not installed:", (str(e).strip() or repr(e)).splitlines()[-1], file=answers)
    sys.exit(0)
print("ready DeepSpeed", deepspeed.__version__, file=answers)


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def once(handle, mode, parts):
    for tensor, name in parts:
        if mode == "read":
            handle.async_pread(tensor, name, 0)
        else:
            handle.async_pwrite(tensor, name, 0)
    if handle.wait() != len(parts):
        raise OSError(f"{mode}: a transfer failed")


def run(mode, block, depth, names):
    handle = op.aio_handle(block, depth, False, True, len(names))
    parts, at = [], 0
    for name in names:
        size = os.stat(name).st_size
        parts.append((memory[at:at + size], name))
        at += size
    begin = time.monotonic()
    while time.monotonic() - begin < ramp:
        once(handle, mode, parts)
    begin, cpu, moved = time.monotonic(), cpu_seconds(), 0
    while time.monotonic() - begin < seconds:
        once(handle, mode, parts)
        moved += at
    return moved / (time.monotonic() - begin), (cpu_seconds() - cpu) * 1e9 / moved


for line in sys.stdin:
    mode, block, depth, *names = line.split()
    try:
        print("%.0f %.4f" % run(mode, int(block), int(depth), names), file=answers)
    except Exception as e:
        print("-", str(e).replace("\n", " "), file=answers)
