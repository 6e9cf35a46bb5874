#!/bin/bash
# Usage: check.sh [JSON]. Proves on this machine's GPU what can only be proven there: every kernel
# against its reference, whole training runs against the cpu device, every placement against all
# state on the device, two ranks over NCCL, compute-sanitizer, and the rate of copies from the
# daemon's kind of memory. One line for each part, one JSON for all; exit status 1 when a part failed.
# Ends within eight minutes. DSRUN_GPU_SMALL=1: small models, for trying out this script.
set -u
# shellcheck source=tests/gpu/lib.sh
. "$(dirname "$0")/lib.sh"
json=${1:-gpu-check.json}
small=${DSRUN_GPU_SMALL:-}
gpt2='layers: 12, hidden: 768, heads: 12, vocab: 50257, context: 1024'
tiny='layers: 4, hidden: 256, heads: 4, vocab: 1000, context: 128'
gpt2_sequence=256 tiny_sequence=128 stages='0 1 2 3'
if [ -n "$small" ]; then
	gpt2='layers: 1, hidden: 32, heads: 2, vocab: 256, context: 32' gpt2_sequence=16
	tiny='layers: 1, hidden: 16, heads: 2, vocab: 256, context: 32' tiny_sequence=8 stages='0 3'
fi
steps_24=20

kernels() {
	local test log
	for test in "$root"/tests/t_*; do
		[ -x "$test" ] || continue
		log=$work/$(basename "$test").log
		limit 120 "$test" > "$log" 2>&1
		case $? in
		0) row "$(basename "$test")" ok "$(tail -n 1 "$log")" ;;
		77) row "$(basename "$test")" skipped "$(tail -n 1 "$log")" ;;
		*) row "$(basename "$test")" FAILED "$(tail -n 5 "$log" | tr '\n' ' ')" ;;
		esac
	done
}

# against NAME REFERENCE BOUND
against() {
	local w
	w=$(worst "$1" "$2")
	if holds "$w <= $3" && [ "$(wc -l < "$work/$1.loss")" -eq $steps_24 ]; then
		row "$1 against $2" ok "largest relative difference $w, bound $3" "\"difference\":$w"
	else
		row "$1 against $2" FAILED "largest relative difference $w of $(wc -l < "$work/$1.loss") steps, bound $3"
	fi
}

# same NAME REFERENCE: losses and exported weights to the last bit.
same() {
	if cmp -s "$work/$1.loss" "$work/$2.loss" && cmp -s "$work/$1.safetensors" "$work/$2.safetensors"; then
		return 0
	fi
	echo "$1 differs from $2: $(diff "$work/$1.loss" "$work/$2.loss" | head -n 4 | tr '\n' ' ')"
	return 1
}

training() {
	model=$gpt2 sequence=$gpt2_sequence global=2 micro=2 steps=$steps_24 host=8GiB zero='stage: 0'
	for precision in fp32 bf16; do
		device='type: cpu, memory: 12GiB'
		config cpu-$precision
		job cpu-$precision 120 || { row "cpu-$precision" FAILED "$(why cpu-$precision)"; continue; }
		device='type: cuda, memory: 12GiB'
		for name in cuda-$precision cuda-$precision-again; do
			config $name
			job $name 60 --export "$work/$name.safetensors" || { row $name FAILED "$(why $name)"; continue 2; }
		done
		against cuda-$precision cpu-$precision "$([ $precision = fp32 ] && echo 1e-4 || echo 2e-2)"
		if what=$(same cuda-$precision-again cuda-$precision); then
			row "cuda-$precision twice" ok 'the same losses and weights, bit for bit'
		else
			row "cuda-$precision twice" FAILED "$what"
		fi
		rm -f "$work"/*.safetensors
	done
}

placements() {
	local n=0 bad=0 first='' place
	model=$tiny sequence=$tiny_sequence global=8 micro=4 steps=6 precision=bf16 host=2GiB
	device='type: cuda, memory: 2GiB'
	zero='stage: 0'
	config all-on-device
	job all-on-device 60 --export "$work/all-on-device.safetensors" ||
		{ row 'every placement' FAILED "$(why all-on-device)"; return; }
	for stage in $stages; do
		for place in 'none cpu none' 'none nvme none' 'cpu cpu cpu' 'nvme nvme nvme' 'nvme cpu none' \
			'cpu nvme cpu' 'none {cpu:_0.5,_nvme:_0.3} nvme'; do
			set -- $place
			zero="stage: $stage, offload_param: $1, offload_optimizer: ${2//_/ }, offload_activations: $3"
			config placed
			n=$((n + 1))
			if ! job placed 60 --export "$work/placed.safetensors"; then
				bad=$((bad + 1)) first=${first:-"$zero: $(why placed)"}
			elif ! what=$(same placed all-on-device); then
				bad=$((bad + 1)) first=${first:-"$zero: $what"}
			fi
			rm -f "$work/placed.safetensors"
		done
	done
	if [ $bad -eq 0 ]; then
		row 'every placement' ok "$n of them, the same losses and weights as all on the device"
	else
		row 'every placement' FAILED "$bad of $n; $first"
	fi
}

# NCCL refuses two ranks on one device of one host; each with a host id of its own it takes for two.
two_ranks() {
	cat > "$work/worker" <<SH
#!/bin/sh
NCCL_HOSTID=dsrun-rank-\$RANK LOCAL_RANK=0 exec "${DSRUN_WORKER:-$bin/dsworker}" "\$@"
SH
	chmod +x "$work/worker"
	model=$tiny sequence=$tiny_sequence global=8 micro=4 steps=$steps_24 precision=fp32 host=2GiB zero='stage: 3'
	device='type: cuda, memory: 2GiB'
	config one-rank
	job one-rank 60 || { row 'two ranks on one GPU' FAILED "$(why one-rank)"; return; }
	device='type: cuda, count: 2, memory: 2GiB'
	config two-ranks
	DSRUN_WORKER=$work/worker NCCL_MULTI_RANK_GPU_ENABLE=1 job two-ranks 90 ||
		{ row 'two ranks on one GPU' FAILED "$(why two-ranks)"; return; }
	against two-ranks one-rank 1e-4
}

sanitizers() {
	local tool test log
	command -v compute-sanitizer > /dev/null ||
		{ row compute-sanitizer skipped 'not found on this machine'; return; }
	for tool in memcheck racecheck; do
		for test in "$root"/tests/t_*; do
			[ -x "$test" ] || continue
			log=$work/$tool.log
			CK_FORK=no CK_DEFAULT_TIMEOUT=600 limit 100 \
				compute-sanitizer --tool $tool --error-exitcode 9 "$test" > "$log" 2>&1
			case $? in
			0) row "$tool $(basename "$test")" ok "$(grep -m 1 'SUMMARY' "$log")" ;;
			124 | 137) row "$tool $(basename "$test")" FAILED 'not through within its time' ;;
			*) row "$tool $(basename "$test")" FAILED "$(grep -m 3 -E '=========|F:' "$log" | tr '\n' ' ')" ;;
			esac
		done
	done
}

bandwidth() {
	limit 60 "$root/tests/gpu_probe" copies ${small:+4} > "$work/copies.json" 2> "$work/copies.log" ||
		{ row 'copies from the arena' FAILED "$(cat "$work/copies.log")"; return; }
	local in out detail
	in=$(field "$work/copies.json" ratio_in) out=$(field "$work/copies.json" ratio_out)
	detail="in $(field "$work/copies.json" arena_in_GBps) GB/s, $in of pinned memory; out $(field "$work/copies.json" arena_out_GBps) GB/s, $out"
	if holds "$in >= 0.95 && $out >= 0.95"; then
		row 'copies from the arena' ok "$detail" "\"ratio_in\":$in,\"ratio_out\":$out"
	else
		row 'copies from the arena' FAILED "$detail" "\"ratio_in\":$in,\"ratio_out\":$out"
	fi
}

shards
kernels
training
placements
two_ranks
bandwidth
sanitizers
finish "$json" check
