#!/bin/bash
# Usage: train_overlap.sh. A training step with parameters and state on disk, beside its parts: compute alone (the
# same training, everything in device memory) and swap alone (bench_swap: the transfers and optimizer
# steps that the plan counts for a step, one behind the other, nothing else going on). The worker has a core of
# its own and so has the daemon, as where an accelerator computes: else both parts compete for cores, and
# what is measured is that. Models where swap takes less than compute, about as much, and more; without
# clipping, where steps begin during backward, and with it, where all wait for the norm.
#
# Each figure is a median over steps, swap alone the mean of two runs around the others, since the
# speed of a disk drifts; OVERLAP_BENCH_ROUNDS repeats all of it, and ratios are medians over the
# rounds. Writes $B/bench/train_overlap.json: ratio_overlap and ratio_overlap_clip, the medians over the
# rows of step / max(compute, swap), and the rows.
set -eu
B=${B:-build}
rounds=${OVERLAP_BENCH_ROUNDS:-1}
steps=12
# nothing of what other programs were told about BLAS
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/overlap.XXXXXX")
dir=$(realpath "$dir")
daemon=
cleanup() {
	[ -z "$daemon" ] || kill -INT "$daemon" 2>/dev/null || true
	wait
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir "$dir/swap"

# The first core, and another one.
cores=$(taskset -cp $$ | sed 's/.*: *//' | tr , '\n' | awk -F- '{ for (i = $1; i <= ($2 == "" ? $1 : $2); i++) print i }')
worker_core=$(echo "$cores" | head -n 1)
daemon_core=$(echo "$cores" | sed -n 2p)
if [ -z "$daemon_core" ]; then
	echo "two cores are needed, one for the worker and one for the daemon: nothing is measured"
	echo '{"ratio_overlap":null,"ratio_overlap_clip":null,"rows":[]}' >"$B/bench/train_overlap.json"
	exit 0
fi

seq 1 30000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' >"$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" >"$dir/log"

config() { # NAME PLACEMENT SEQUENCE CLIP
	cat >"$dir/$1.yaml" <<EOF2
model:     {arch: gpt2, layers: 8, hidden: 512, heads: 8, vocab: 256, context: $3}
data:      {train: [$dir/train.bin]}
batch:     {global: 1, micro: 1}
optimizer: {type: adamw, lr: 1e-3, clip: $4}
schedule:  {type: constant, steps: $steps}
precision: bf16
zero:      {stage: 3, offload_param: $2, offload_optimizer: $2, prefetch: 3}
nvme:      {paths: [$dir/swap]}
host:      {memory: 512MiB, threads: 1}
device:    {type: cpu, count: 1, memory: 4GiB}
log:       {every: 1, file: $dir/$1.jsonl}
EOF2
}

median() { sort -g | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

daemon_start() {
	printf 'socket: %s/socket\nhost: {threads: 1}\n' "$dir" >"$dir/conf"
	rm -f "$dir/socket"
	taskset -c "$daemon_core" "$B/bin/dsoffloadd" -c "$dir/conf" >"$dir/log" 2>&1 &
	daemon=$!
	for _ in $(seq 200); do
		[ ! -S "$dir/socket" ] || return 0
		sleep 0.05
	done
	cat "$dir/log" >&2
	exit 1
}

# train NAME: seconds of a step, the median but for the first ones, which fill the pipeline
train() {
	rm -f "$dir/$1.jsonl"
	taskset -c "$worker_core" "$B/bin/dsrun" --quiet --daemon "$dir/socket" "$dir/$1.yaml" >"$dir/log" 2>&1 ||
		{ cat "$dir/log" >&2; exit 1; }
	sed -n 's/.*"seconds": *\([0-9.e+-]*\).*/\1/p' "$dir/$1.jsonl" |
		awk 'NR > 3 { print $1 - last } { last = $1 }' | median
}

# shape NAME: parameters, and bytes that the plan reads in a step
shape() {
	"$B/bin/dsrun" --plan "$dir/$1.yaml" |
		awk '/^model/ { p = $2 } /^  read in a step/ { b = $5 } END { print p, b }'
}

# swap: seconds of that traffic alone
swap() {
	taskset -c "$daemon_core" "$B/bench/bench_swap" "$dir/swap" bf16 "$params" 4194304 8 32 1 3 "$bytes"
}

larger() { awk "BEGIN { print ($1 > $2 ? $1 : $2) }"; }
over() { awk "BEGIN { printf \"%.4f\", $1 / $2 }"; }

daemon_start
printf '%-26s %8s %10s %8s %8s %7s %8s %7s\n' model sequence 'compute s' 'swap s' 'step s' ratio 'clip s' ratio
rows=
for sequence in 64 160 512; do
	config memory none $sequence 0
	config disk nvme $sequence 0
	config clip nvme $sequence 1
	read -r params bytes <<<"$(shape disk)"
	for _ in $(seq "$rounds"); do
		before=$(swap)
		c=$(train memory)
		s=$(train disk)
		k=$(train clip)
		after=$(swap)
		w=$(awk "BEGIN { print ($before + $after) / 2 }")
		m=$(larger "$c" "$w")
		for figure in "compute $c" "swap $w" "step $s" "clip $k" "ratio $(over "$s" "$m")" "ratio_clip $(over "$k" "$m")"; do
			echo "${figure#* }" >>"$dir/$sequence.${figure%% *}"
		done
	done
	compute=$(median <"$dir/$sequence.compute") swap=$(median <"$dir/$sequence.swap")
	step=$(median <"$dir/$sequence.step") clip=$(median <"$dir/$sequence.clip")
	ratio=$(median <"$dir/$sequence.ratio") ratio_clip=$(median <"$dir/$sequence.ratio_clip")
	echo "$ratio" >>"$dir/ratios"
	echo "$ratio_clip" >>"$dir/ratios_clip"
	printf '%-26s %8s %10.3f %8.3f %8.3f %7.3f %8.3f %7.3f\n' "$params parameters" $sequence \
		"$compute" "$swap" "$step" "$ratio" "$clip" "$ratio_clip"
	rows="$rows${rows:+,}{\"params\":$params,\"sequence\":$sequence,\"compute_s\":$compute,\"swap_s\":$swap,\"step_s\":$step,\"ratio\":$ratio,\"clip_s\":$clip,\"ratio_clip\":$ratio_clip}"
done
printf 'medians: without clipping %s, with it %s\n' "$(median <"$dir/ratios")" "$(median <"$dir/ratios_clip")"
printf '{"ratio_overlap":%s,"ratio_overlap_clip":%s,"rows":[%s]}\n' "$(median <"$dir/ratios")" \
	"$(median <"$dir/ratios_clip")" "$rows" >"$B/bench/train_overlap.json"
