#!/bin/bash
# Goal: `device: {type: cuda}` trains, with the losses of the cpu device, the same bits in every run
# and with every placement, and says what is missing where there is no cuBLASLt.
# Method: dsrun itself with a dsworker whose cuda device stands on the host shim of this directory.
# fp32 is compared with the cpu device to 1e-4 for 20 steps, bf16 to 2e-2, a job with the same job
# once more, each placement with the one that has everything on the device, two ranks with one.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
if "$B/bin/dsrun" --version | grep -q '^left out .*cuda'; then
	echo "this build has no cuda device"
	exit 77
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/train.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
mkdir swap
fails=0 runs=0
export DSRUN_WORKER="$B/cuda_host/dsworker"

seq 1 4000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > text
"$B/bin/dsprep" -q --train a.bin --validation b.bin text || exit 1

# train NAME DEVICE PRECISION STAGE PARAM OPTIMIZER ACTIVATIONS STEPS
train() {
	cat > "$1.yaml" <<-END
		model:     {arch: gpt2, layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32}
		data:      {train: [a.bin], validation: [b.bin], sequence: 32}
		batch:     {global: 4, micro: 2}
		optimizer: {type: adamw, lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, clip: 1.0}
		schedule:  {type: cosine, warmup: 2, steps: $8, min_lr: 3e-4}
		precision: $3
		zero:      {stage: $4, offload_param: $5, offload_optimizer: $6, offload_activations: $7}
		nvme:      {paths: [$dir/swap], extent: 64KiB}
		host:      {memory: 64MiB}
		device:    {type: $2, count: ${count:-1}, memory: 64MiB}
		evaluate:  {batches: 1}
		log:       {every: 1, file: $1.jsonl}
		seed:      7
	END
	runs=$((runs + 1))
	if ! "$B/bin/dsrun" --quiet --daemon private --export "$1.safetensors" "$1.yaml" > "$1.out" 2>&1; then
		echo "run $1 failed:"; tail -n 20 "$1.out"
		fails=$((fails + 1))
		return 1
	fi
	sed -n 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' "$1.jsonl" > "$1.losses"
	[ "$(wc -l < "$1.losses")" -eq "$8" ] || { echo "run $1: not $8 losses"; fails=$((fails + 1)); }
}

# like NAME REFERENCE: the same bits?
like() {
	cmp -s "$1.losses" "$2.losses" && cmp -s "$1.safetensors" "$2.safetensors" && return
	echo "run $1 differs from $2:"
	diff "$1.losses" "$2.losses" | head -6
	fails=$((fails + 1))
}

# close NAME REFERENCE TOLERANCE
close() {
	paste "$1.losses" "$2.losses" | awk -v tol="$3" -v who="$1 and $2" '
		{ d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > worst) worst = d }
		END { printf "%s: losses within %.2g\n", who, worst; exit worst > tol }' ||
		{ echo "$1 is further than $3 from $2"; fails=$((fails + 1)); }
}

for precision in fp32 bf16; do
	train "cpu-$precision" cpu $precision 0 none none none 20
	train "cuda-$precision" cuda $precision 0 none none none 20
	train "again-$precision" cuda $precision 0 none none none 20
	like "again-$precision" "cuda-$precision"
done
close cuda-fp32 cpu-fp32 1e-4
close cuda-bf16 cpu-bf16 2e-2

train none cuda bf16 0 none none none 4
while read -r stage param optimizer act; do
	name=s$stage-$param-${optimizer//[^a-z0-9.]/}-$act
	train "$name" cuda bf16 "$stage" "$param" "$optimizer" "$act" 4 && like "$name" none
	rm -f "$name.safetensors"
done <<-END
	0 cpu cpu cpu
	0 nvme nvme nvme
	1 none cpu none
	1 none nvme cpu
	2 cpu none nvme
	2 none cpu cpu
	3 none none none
	3 cpu cpu none
	3 nvme nvme nvme
	3 cpu nvme cpu
	3 nvme cpu none
	0 none {"cpu":0.5} none
	1 cpu {"nvme":0.5} none
	3 none {"cpu":0.4,"nvme":0.3} none
	3 nvme {"cpu":0.4,"nvme":0.3} cpu
END

# Two ranks, through the host's own NCCL: the losses of one, and the same bits at every stage.
if "$B/bin/dsrun" --version | grep -q '^collectives .*nccl'; then
	count=2 train two cuda fp32 3 none none none 20 && close two cuda-fp32 1e-4
	count=2 train two-0 cuda fp32 0 none none none 20 && like two-0 two
	count=2 train two-nvme cuda fp32 3 nvme nvme nvme 20 && like two-nvme two
fi

# Without epilogues in the library: our own kernels, and other roundings of the same sums.
DSRUN_SHIM_CUBLASLT=bare train bare cuda fp32 3 cpu cpu none 20 && close bare cpu-fp32 1e-4

# The same worker with no library of ours beside it: there is none, or the real one, which finds no
# GPU. Both are errors that name it.
cp "$DSRUN_WORKER" dsworker
DSRUN_WORKER=$dir/dsworker "$B/bin/dsrun" --quiet none.yaml > missing.out 2>&1
rc=$?
if [ $rc -eq 0 ] || ! grep -q 'cuda device 0: .*cublasLt' missing.out; then
	echo "without the host's cuBLASLt: status $rc"
	cat missing.out
	fails=$((fails + 1))
fi

echo "$runs runs"
[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
