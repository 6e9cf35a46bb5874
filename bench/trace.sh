#!/bin/bash
# Usage: trace.sh [ROUNDS]. What `dsrun --trace` costs while it records: tokens a second of the same job
# traced at every step and not, state in device memory and on disk; rounds alternate and the medians
# are compared. Writes $B/bench/trace.json.
set -eu
B=${B:-build}
rounds=${1:-5}
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/trace.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/swap"
seq 1 20000 > "$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" > "$dir/log"

config() { # PLACEMENT
	cat > "$dir/$1.yaml" <<EOF
model:     {arch: gpt2, layers: 6, hidden: 192, heads: 6, vocab: 256, context: 128}
data:      {train: [$dir/train.bin]}
batch:     {global: 16, micro: 4}
optimizer: {type: adamw, lr: 1e-3, clip: 1.0}
schedule:  {type: constant, steps: 16}
precision: bf16
zero:      {stage: 3, offload_param: $1, offload_optimizer: $1}
nvme:      {paths: [$dir/swap]}
host:      {memory: 64MiB, threads: 2}
device:    {type: cpu, count: 2, memory: 256MiB}
EOF
}

# rate FILE: its tokens a second.
rate() { sed 's|[,{]|\n|g' "$1" | sed -n 's|^ *"tokens_per_s": *\([0-9.e+-]*\).*|\1|p' | head -n 1; }

median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

printf '%-10s %14s %14s %8s\n' 'state in' tokens/s traced ratio
rows=
for place in none nvme; do
	config $place
	for _ in $(seq 1 "$rounds"); do
		"$B/bin/dsrun" --quiet --daemon private --summary "$dir/s.json" "$dir/$place.yaml"
		rate "$dir/s.json" >> "$dir/$place.off"
		"$B/bin/dsrun" --quiet --daemon private --summary "$dir/s.json" --trace "$dir/t.json" "$dir/$place.yaml"
		rate "$dir/s.json" >> "$dir/$place.on"
	done
	off=$(median "$dir/$place.off") on=$(median "$dir/$place.on")
	ratio=$(awk "BEGIN { print $on / $off }")
	printf '%-10s %14.0f %14.0f %8.3f\n' "$place" "$off" "$on" "$ratio"
	rows="$rows${rows:+,}{\"placement\":\"$place\",\"tokens_per_s\":$off,\"tokens_per_s_traced\":$on,\"ratio\":$ratio}"
done
printf '{"rows":[%s]}\n' "$rows" > "$B/bench/trace.json"
