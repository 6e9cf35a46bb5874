#!/bin/bash
# Usage: order.sh [ROUNDS]. Layer-wise accumulation: training with parameters and optimizer state on disk, micro-batches
# one after the other and side by side, with few and with many tokens in a micro-batch; rounds alternate, medians.
# Beside tokens a second, what a step moves on disk as measured and as planned, and the memory planned. Both
# orders must export the same weights. Writes $B/bench/order.json.
set -eu
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS
B=${B:-build}
rounds=${1:-3}
steps=${ORDER_STEPS:-3}
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/order.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/swap"
seq 1 60000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' > "$dir/text"
"$B/bin/dsprep" -q --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text"

config() { # CASE ORDER SEQUENCE ACCUMULATION
	cat > "$dir/$1-$2.yaml" <<END
model:     {arch: gpt2, layers: 12, hidden: 512, heads: 8, vocab: 256, context: 256}
data:      {train: [$dir/train.bin], sequence: $3}
batch:     {global: $4, micro: 1}
optimizer: {type: adamw, lr: 1e-3, clip: 1.0}
schedule:  {type: constant, steps: $steps, order: $2}
precision: bf16
zero:      {stage: 3, offload_param: nvme, offload_optimizer: nvme, prefetch: 4}
nvme:      {paths: [$dir/swap]}
host:      {memory: 384MiB, threads: 2}
device:    {type: cpu, count: 1, memory: 256MiB}
log:       {every: 1, file: $dir/$1-$2.jsonl}
END
}

# field FILE NAME: the first number of that name
field() { sed 's|[,{]|\n|g' "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -n 1; }

# a_step FILE NAME: how much the last run's log grows by in a step
a_step() {
	sed -n "s|.*\"$2\":\([0-9]*\).*|\1|p" "$1" | tail -n "$steps" |
		awk 'NR == 1 { first = $1 } END { print ($1 - first) / (NR - 1) }'
}

median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

measure() { # CASE
	local order
	for order in micro-batch layer; do
		"$B/bin/dsrun" --quiet --daemon private --summary "$dir/$1-$order.json" \
			--export "$dir/$order.safetensors" "$dir/$1-$order.yaml"
		field "$dir/$1-$order.json" tokens_per_s >> "$dir/$1-$order.rates"
	done
	cmp "$dir/micro-batch.safetensors" "$dir/layer.safetensors"
}

rows=
report() { # CASE TOKENS ACCUMULATION ORDER RATE_OF_THE_OTHER
	local log=$dir/$1-$4.jsonl plan rate read planned written device
	plan=$("$B/bin/dsrun" --plan --json "$dir/$1-$4.yaml")
	rate=$(median "$dir/$1-$4.rates")
	read=$(a_step "$log" nvme_read_bytes) written=$(a_step "$log" nvme_written_bytes)
	planned=$(field <(printf '%s' "$plan") step_read_bytes)
	device=$(printf '%s\n' "$plan" | sed 's|.*"device":{[^}]*"total_bytes":\([0-9]*\).*|\1|')
	printf '%-8s%14s  %-12s%12.1f%10.3f%14.1f%14.1f%14.1f%12.1f\n' "$2" "$3" "$4" "$rate" \
		"$(awk "BEGIN { print $rate / $5 }")" "$(awk "BEGIN { print $read / 1e6 }")" \
		"$(awk "BEGIN { print $planned / 1e6 }")" "$(awk "BEGIN { print $written / 1e6 }")" \
		"$(awk "BEGIN { print $device / 1048576 }")"
	rows="$rows${rows:+,}{\"tokens\":$2,\"accumulation\":$3,\"order\":\"$4\",\"tokens_per_s\":$rate,\"step_read_bytes\":$read,\"planned_read_bytes\":$planned,\"step_written_bytes\":$written,\"device_bytes\":$device}"
}

cases=${ORDER_CASES:-32:4 32:8 256:4}
for case in $cases; do
	for order in micro-batch layer; do config "$case" $order "${case%:*}" "${case#*:}"; done
done
for _ in $(seq 1 "$rounds"); do
	for case in $cases; do measure "$case"; done
done
printf '%-8s%14s  %-12s%12s%10s%14s%14s%14s%12s\n' tokens 'accumulation' order tokens/s ratio 'MB read' 'MB planned' 'MB written' 'MiB device'
ratios=
for case in $cases; do
	one=$(median "$dir/$case-micro-batch.rates") layer=$(median "$dir/$case-layer.rates")
	for order in micro-batch layer; do report "$case" "${case%:*}" "${case#*:}" $order "$one"; done
	ratios="$ratios\"ratio_layer_${case/:/_}\":$(awk "BEGIN { print $layer / $one }"),"
done
printf '{%s"steps":%s,"rows":[%s]}\n' "$ratios" "$steps" "$rows" > "$B/bench/order.json"
