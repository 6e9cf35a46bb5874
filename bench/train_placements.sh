#!/bin/bash
# Usage: train_placements.sh [ROUNDS]. Tokens a second of training with all state in device memory, on the CPU and
# on disk, same model, same world; rounds alternate and the medians are compared. Writes
# $B/bench/train_placements.json.
set -eu
B=${B:-build}
rounds=${1:-3}
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/train.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/swap"
seq 1 60000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' > "$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" > "$dir/log"

config() { # NAME PLACEMENT MODEL SEQUENCE MICRO GLOBAL STEPS DEVICE HOST
	cat > "$dir/$1-$2.yaml" <<EOF
model:     {arch: gpt2, $3, vocab: 256, context: $4}
data:      {train: [$dir/train.bin]}
batch:     {global: $6, micro: $5}
optimizer: {type: adamw, lr: 1e-3, clip: 1.0}
schedule:  {type: constant, steps: $7}
precision: bf16
zero:      {stage: 3, offload_param: $2, offload_optimizer: $2}
nvme:      {paths: [$dir/swap]}
host:      {memory: $9, threads: 2}
device:    {type: cpu, count: 2, memory: $8}
EOF
}

# field FILE NAME: the first number of that name
field() { sed 's|[,{]|\n|g' "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -n 1; }

measure() { # NAME
	local place
	for _ in $(seq 1 "$rounds"); do
		for place in none cpu nvme; do
			"$B/bin/dsrun" --quiet --daemon private --summary "$dir/s.json" "$dir/$1-$place.yaml"
			field "$dir/s.json" tokens_per_s >> "$dir/$1-$place.rates"
		done
	done
}

median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

rows=
report() { # NAME WHAT
	local none cpu nvme
	none=$(median "$dir/$1-none.rates") cpu=$(median "$dir/$1-cpu.rates") nvme=$(median "$dir/$1-nvme.rates")
	printf '%-34s %10.0f %10.0f %10.0f %8.3f %8.3f\n' "$2" "$none" "$cpu" "$nvme" \
		"$(awk "BEGIN { print $cpu / $none }")" "$(awk "BEGIN { print $nvme / $none }")"
	rows="$rows${rows:+,}{\"model\":\"$2\",\"tokens_per_s_memory\":$none,\"tokens_per_s_cpu\":$cpu,\"tokens_per_s_disk\":$nvme}"
}

for place in none cpu nvme; do
	config small $place 'layers: 6, hidden: 192, heads: 6' 128 4 16 12 256MiB 64MiB
	config medium $place 'layers: 6, hidden: 512, heads: 8' 256 4 16 4 1GiB 512MiB
done
measure small
measure medium
printf '%-34s %10s %10s %10s %8s %8s\n' 'tokens/s, two workers, ZeRO-3, bf16' memory cpu disk cpu/mem disk/mem
report small '2.7 M parameters, sequence 128'
report medium '19 M parameters, sequence 256'
none=$(median "$dir/medium-none.rates") nvme=$(median "$dir/medium-nvme.rates")
printf '{"tokens_per_s_memory":%s,"tokens_per_s_disk":%s,"ratio_disk_memory":%s,"rows":[%s]}\n' \
	"$none" "$nvme" "$(awk "BEGIN { print $nvme / $none }")" "$rows" > "$B/bench/train_placements.json"
