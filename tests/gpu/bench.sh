#!/bin/bash
# Usage: bench.sh [JSON]. What this machine's GPU gives: model FLOPs utilisation of a GPT-2 of 1.3
# billion parameters with all state on the device, with the optimizer on the host and on NVMe, PyTorch
# beside it where it is present; the largest model that takes a step; and how much of the transfers
# is hidden behind compute. The rates are over what a large bf16 product reaches in the same run. A goal
# that is missed is a row that says so; FAILED is what did not run. Ends within eight minutes.
# DSRUN_GPU_SMALL=1: small models, for trying out this script.
set -u
# shellcheck source=tests/gpu/lib.sh
. "$(dirname "$0")/lib.sh"
json=${1:-gpu-bench.json}
small=${DSRUN_GPU_SMALL:-}
memory=${DSRUN_GPU_MEMORY:-$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits 2>/dev/null | head -n 1)}
memory=$((${memory:-2048} - 1024)) # MiB; the context and libraries take some
host_mib=$(awk '/MemAvailable/ { print int($2 / 1024 * 0.8) }' /proc/meminfo)
disk_mib=$(df --output=avail -m "$work" | tail -n 1)
model='layers: 24, hidden: 2048, heads: 16, vocab: 50304, context: 1024'
sequence=1024 micro=8 steps=8 precision=bf16
host=${host_mib}MiB device="type: cuda, memory: ${memory}MiB"
global_many=256
[ -z "$small" ] || model='layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32'
[ -z "$small" ] || sequence=16 micro=1 global_many=4

# goal NAME VALUE OVER TEXT: a row with the value, and whether it reaches the goal.
goal() {
	if holds "$2 >= $3"; then
		row "$1" ok "$2, goal $3; $4" "\"value\":$2,\"goal\":$3,\"reached\":true"
	else
		row "$1" ok "$2, below its goal of $3; $4" "\"value\":$2,\"goal\":$3,\"reached\":false"
	fi
}

peak=
peak_rate() {
	limit 60 "$root/tests/gpu_probe" product ${small:+64} > "$work/product.json" 2> "$work/product.log" ||
		{ row 'a large product' FAILED "$(cat "$work/product.log")"; return; }
	peak=$(field "$work/product.json" tflops)
	row 'a large product' ok "$peak TFLOP/s in bf16" "\"tflops\":$peak"
}

# utilisation NAME: of the model's own operations, recomputation apart.
utilisation() { calc "$(rate "$1") * $(field "$work/$1.json" flops_per_token) / ($peak * 1e12)"; }

utilisations() {
	local gib=$((memory / 1024)) mfu many
	zero='stage: 0' global=$((micro * 2))
	config device
	job device 120 || { row 'all on the device' FAILED "$(why device)"; return; }
	mfu=$(utilisation device)
	goal 'all on the device' "$mfu" 0.5 "$(rate device) tokens/s, device budget $gib GiB"
	global=$global_many steps=4
	config many
	job many 120 || { row 'a large batch' FAILED "$(why many)"; return; }
	many=$(rate many)
	row 'a large batch' ok "$many tokens/s with $global sequences a step" "\"tokens_per_s\":$many"
	zero='stage: 3, offload_optimizer: cpu'
	config host
	if job host 120; then
		goal 'optimizer on the host' "$(calc "$(rate host) / $many")" 0.9 "$(rate host) tokens/s"
	else
		row 'optimizer on the host' FAILED "$(why host)"
	fi
	zero='stage: 3, offload_optimizer: nvme'
	config nvme
	if job nvme 120; then
		row 'optimizer on NVMe' ok "$(calc "$(rate nvme) / $many") of all on the device, $(rate nvme) tokens/s" \
			"\"value\":$(calc "$(rate nvme) / $many")"
	else
		row 'optimizer on NVMe' FAILED "$(why nvme)"
	fi
}

pytorch() {
	python3 -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null ||
		{ row PyTorch skipped 'no PyTorch with a GPU here'; return; }
	limit 120 python3 "$here/torch_step.py" --layers 24 --hidden 2048 --heads 16 --vocab 50304 \
		--sequence 1024 --batch "$micro" --steps 8 > "$work/torch.json" 2> "$work/torch.log" ||
		{ row PyTorch FAILED "$(tail -n 3 "$work/torch.log" | tr '\n' ' ')"; return; }
	local tokens ours
	tokens=$(field "$work/torch.json" tokens_per_s)
	ours=$([ -s "$work/device.jsonl" ] && rate device || echo 0)
	row PyTorch ok "$tokens tokens/s with torch.compile; ours over it: $(calc "$ours / $tokens")" \
		"\"tokens_per_s\":$tokens,\"ratio\":$(calc "$ours / $tokens")"
}

hidden_fraction() {
	steps=4 global=$((micro * 4)) zero='stage: 3, offload_param: cpu, offload_optimizer: cpu'
	config traced
	job traced 120 --trace "$work/trace.json" || { row 'transfers hidden' FAILED "$(why traced)"; return; }
	local hidden
	hidden=$(field "$work/traced.json" hidden_fraction)
	[ -n "$hidden" ] || { row 'transfers hidden' FAILED 'the summary has no hidden_fraction'; return; }
	goal 'transfers hidden' "$hidden" 0.95 'of the time of transfers, parameters and optimizer on the host'
	[ -z "${OUT:-}" ] || gzip -c "$work/trace.json" > "$OUT/trace.json.gz"
}

# The most layers of a wide model that the plan takes, and a step of it.
largest() {
	local low=1 high=512 mid seconds=$(($(left) - 20))
	local wide='hidden: 4096, heads: 32, vocab: 50304, context: 1024'
	[ -z "$small" ] || wide='hidden: 32, heads: 2, vocab: 256, context: 32' high=8
	[ $seconds -gt 30 ] || { row 'the largest model' skipped 'no time is left'; return; }
	micro=1 global=1 steps=1
	# The state of 1 M parameters takes 16 MiB, half of them made in a second: what time allows.
	zero='stage: 3, offload_param: cpu, offload_optimizer: {cpu: 0.6, nvme: 0.2}'
	[ "$disk_mib" -gt 8192 ] || zero='stage: 3, offload_param: cpu, offload_optimizer: cpu'
	while [ $((high - low)) -gt 1 ]; do
		mid=$(((low + high) / 2)) model="layers: $mid, $wide"
		config largest
		if "$bin/dsrun" --plan --json "$work/largest.yaml" > "$work/plan.json" 2> /dev/null; then low=$mid; else high=$mid; fi
	done
	model="layers: $low, $wide"
	config largest
	"$bin/dsrun" --plan --json "$work/largest.yaml" > "$work/plan.json" 2> "$work/largest.log" ||
		{ row 'the largest model' FAILED "$(why largest)"; return; }
	if limit $seconds "$root/tests/peak_memory" "$work/peak" "$bin/dsrun" --daemon private \
		--summary "$work/largest.json" "$work/largest.yaml" > "$work/largest.log" 2>&1; then
		row 'the largest model' ok "$(field "$work/plan.json" params) parameters took a step; host memory $(cat "$work/peak") bytes, planned $(field "$work/plan.json" host_peak_bytes)" \
			"\"params\":$(field "$work/plan.json" params),\"peak_bytes\":$(cat "$work/peak"),\"planned_bytes\":$(field "$work/plan.json" host_peak_bytes)"
	else
		row 'the largest model' FAILED "$(field "$work/plan.json" params) parameters: $(why largest)"
	fi
}

shards
peak_rate
if [ -n "$peak" ]; then
	utilisations
	pytorch
	hidden_fraction
	largest
fi
finish "$json" bench
