#!/bin/bash
# Goal: zero.offload_param and offload_optimizer: auto. dsrun measures, chooses among what fits, says
# so, and trains to the same numbers to the last bit as with everything on the device.
# Method: dsrun, with device budgets in which everything fits, in which optimizer state does not, and
# in which nothing does.
set -u
B=${B:-build}
dir=$(realpath "$(mktemp -d "$B/place_auto.XXXXXX")") || exit 1
trap 'rm -rf "$dir"' EXIT
fails=0
mkdir "$dir/swap"

fail() { echo "FAIL: $*"; fails=$((fails + 1)); }

seq 1 4000 > "$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" > /dev/null || exit 1

config() { # NAME PARAM OPTIMIZER DEVICE
	cat > "$dir/$1.yaml" <<EOF
model:     {arch: gpt2, layers: 6, hidden: 128, heads: 4, vocab: 256, context: 32}
data:      {train: $dir/a.bin, sequence: 32}
batch:     {global: 8, micro: 2}
optimizer: {lr: 1e-3}
schedule:  {warmup: 1, steps: 3}
zero:      {stage: 3, offload_param: $2, offload_optimizer: $3}
nvme:      {paths: [$dir/swap], extent: 256KiB}
host:      {memory: 256MiB, threads: 1}
device:    {type: cpu, count: 2, memory: $4}
log:       {every: 1, file: $dir/$1.jsonl}
EOF
}

losses() { sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$dir/$1.jsonl"; }
least() { sed 's/.*"least_bytes":\([0-9]*\).*/\1/' <<< "$(sed 's/"host":.*//' "$dir/plan.json")"; }

config none none none 64MiB
"$B/bin/dsrun" --quiet --export "$dir/none.safetensors" "$dir/none.yaml" || exit 1
"$B/bin/dsrun" --plan --json "$dir/none.yaml" > "$dir/plan.json" || exit 1
least=$(least)

for device in 64MiB $((least - 1)); do
	config auto auto auto "$device"
	"$B/bin/dsrun" --plan --daemon private "$dir/auto.yaml" > "$dir/plan" 2> "$dir/log" ||
		{ fail "no plan: $(cat "$dir/log")"; continue; }
	grep -q "^chosen      parameters " "$dir/plan" || fail "no choice: $(cat "$dir/plan")"
	[ "$(grep -c '^\*' "$dir/plan")" = 1 ] || fail "not one choice: $(cat "$dir/plan")"
	[ "$device" = 64MiB ] || grep -q '^  none  *none  *too large$' "$dir/plan" ||
		fail "what is too large is not said: $(cat "$dir/plan")"
	sed -n '/^chosen/p' "$dir/plan"
	rm -f "$dir/auto.jsonl"
	"$B/bin/dsrun" --quiet --daemon private --export "$dir/auto.safetensors" "$dir/auto.yaml" ||
		{ fail "exit $?"; continue; }
	[ "$(losses auto)" = "$(losses none)" ] || fail "other losses with $device"
	cmp -s "$dir/auto.safetensors" "$dir/none.safetensors" || fail "other weights with $device"
done

# One of them chosen, the other as asked.
config half auto nvme 64MiB
"$B/bin/dsrun" --plan --json --daemon private "$dir/half.yaml" > "$dir/plan.json" 2> /dev/null ||
	fail "no plan with one of them auto"
[ "$(grep -o '"offload_optimizer":"as asked"' "$dir/plan.json" | wc -l)" = 3 ] ||
	fail "not three choices of parameters: $(cat "$dir/plan.json")"

# Nothing fits.
config small auto auto 1MiB
"$B/bin/dsrun" --plan --daemon private "$dir/small.yaml" > "$dir/out" 2>&1
[ $? = 78 ] && grep -q "device.memory: 1MiB is too small" "$dir/out" || fail "$(cat "$dir/out")"

exit $((fails > 0))
