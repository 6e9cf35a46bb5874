"""DeepSpeed's CPUAdam and PyTorch's fused AdamW, as a process that bench_adam talks to.

usage: adam.py PEER THREADS       PEER: deepspeed | torch

Prints "ready VERSION", or a line that says why not and exits. Each line of standard input is then a
number of parameters: N allocates and warms up, and prints "ok", or "no memory" where the vectors would
not fit; an empty line runs one whole step on them, and prints its seconds. The step is the job of bf16
training with state on the CPU: the bf16 gradient to fp32, AdamW on fp32 parameters and moments, the
parameters to bf16.
"""
import os
import sys
import time

peer, threads = sys.argv[1], int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = str(threads)  # CPUAdam's OpenMP may be another than PyTorch's
os.environ["DS_ACCELERATOR"] = "cpu"

# What a library prints while it starts is not for the pipe.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

try:
    import torch
    if peer == "deepspeed":
        import deepspeed
        from deepspeed.ops.op_builder import CPUAdamBuilder
        op = CPUAdamBuilder().load(verbose=False)
        version = deepspeed.__version__
    else:
        version = torch.__version__
except Exception as e:  # whatever it is, the table says it
    lines = str(e).strip().splitlines() or [type(e).__name__]
    print(lines[-1], file=answers)
    sys.exit(0)

torch.set_num_threads(threads)
torch.set_grad_enabled(False)
LR, BETA1, BETA2, EPS, DECAY = 1e-4, 0.9, 0.95, 1e-8, 0.1
BYTES = 2 + 2 + 4 * 4  # a parameter: gradient and parameter in bf16; parameter, gradient, moments in fp32


def memory_available():
    with open("/proc/meminfo") as f:
        for line in f:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


class Job:
    def __init__(self, count):
        self.grad16 = torch.randn(count).mul_(1e-3).bfloat16()
        self.param = torch.nn.Parameter(torch.randn(count).mul_(0.02))
        self.param.grad = torch.empty(count)
        self.param16 = self.param.data.bfloat16()
        self.count = 0
        if peer == "torch":
            self.adam = torch.optim.AdamW([self.param], lr=LR, betas=(BETA1, BETA2), eps=EPS,
                                          weight_decay=DECAY, fused=True)
        else:
            self.m, self.v = torch.zeros(count), torch.zeros(count)
            op.create_adam(0, LR, BETA1, BETA2, EPS, DECAY, True, False)

    def step(self):
        self.count += 1
        self.param.grad.copy_(self.grad16)
        if peer == "torch":
            self.adam.step()
        else:
            op.adam_update(0, self.count, LR, BETA1, BETA2, EPS, DECAY, True, self.param.data,
                           self.param.grad, self.m, self.v)
        self.param16.copy_(self.param.data)


print("ready", version, file=answers)
job = None
for line in sys.stdin:
    if line.strip():
        if job is not None and peer == "deepspeed":
            op.destroy_adam(0)
        job = None
        if int(line) * BYTES > 0.9 * memory_available():
            print("no memory", file=answers)
            continue
        job = Job(int(line))
        job.step()
        print("ok", file=answers)
    else:
        begin = time.perf_counter()
        job.step()
        print(time.perf_counter() - begin, file=answers)
