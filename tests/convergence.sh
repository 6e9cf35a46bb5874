#!/bin/bash
# Goal: smaller optimizer states train as those in fp32 do, and each other optimizer learns.
# Method: one model is trained from three seeds with AdamW's moments in fp32, bf16 and int8, all else
# the same. A form passes when the mean of its three final validation losses is not below the least
# and not above the greatest of the three of fp32. Before that, its losses must not be those of fp32:
# it is another form. Lion, Adagrad and SGD are trained from the first seed, and must end
# below what bigrams give (long) or below a bound (short).
# Usage: convergence.sh [short|long [STEPS]]. short is a small model on arithmetic, in seconds; long
# the quickstart's, on its text, of 1500 steps (or CONVERGENCE_STEPS).
set -u
B=${B:-build}
mode=${1:-short}
dir=$(mktemp -d "$B/convergence.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
fails=0
seeds=(1 2 3)
case $mode in
short)
	model='layers: 2, hidden: 64, heads: 2, vocab: 256, context: 32' steps=${2:-150} batches=10
	seq 1 20000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > "$dir/text" ;;
long)
	model='layers: 4, hidden: 128, heads: 4, vocab: 256, context: 128'
	steps=${2:-${CONVERGENCE_STEPS:-1500}} batches=40
	command -v bible > /dev/null || { echo "no text: Debian's package bible-kjv is missing"; exit 77; }
	bible -f gen1:1-rev22:21 > "$dir/text" ;;
*) echo "convergence.sh: '$mode', expected short or long" >&2; exit 64 ;;
esac
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" > "$dir/log" || exit 1

field() { sed 's|[,{]|\n|g' "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -n 1; }

train() { # NAME SEED OPTIMIZER: appends the loss to NAME.losses
	cat > "$dir/c.yaml" <<EOF
model:     {arch: gpt2, $model}
data:      {train: [$dir/a.bin], validation: [$dir/b.bin]}
batch:     {global: 8, micro: 8}
optimizer: {$3, clip: 1.0}
schedule:  {type: cosine, warmup: $((steps / 15)), steps: $steps}
zero:      {offload_optimizer: cpu}
host:      {memory: 1GiB, threads: 2}
device:    {type: cpu, memory: 1GiB}
evaluate:  {batches: $batches}
seed:      $2
EOF
	"$B/bin/dsrun" --quiet --daemon private --summary "$dir/s.json" "$dir/c.yaml" > "$dir/out" 2>&1 ||
		{ echo "$1 from seed $2 failed:"; cat "$dir/out"; exit 1; }
	field "$dir/s.json" validation_loss >> "$dir/$1.losses"
}

for form in fp32 bf16 int8; do
	for seed in "${seeds[@]}"; do
		train $form "$seed" "type: adamw, lr: 6e-3, betas: [0.9, 0.95], weight_decay: 0.1, moments: $form"
	done
	awk -v form=$form '{ l = l " " $1; s += $1 } END { printf "%-8s%s  mean %.5f\n", form, l, s / NR }' "$dir/$form.losses"
done
for form in bf16 int8; do
	cmp -s "$dir/fp32.losses" "$dir/$form.losses" && { echo "$form trains as fp32 to the last digit"; fails=$((fails + 1)); }
	awk 'NR == FNR { if (!n++ || $1 < min) min = $1; if ($1 > max) max = $1; next } { sum += $1; count++ }
		END { exit !(sum / count >= min && sum / count <= max) }' "$dir/fp32.losses" "$dir/$form.losses" ||
		{ echo "the mean of $form is outside the spread of fp32"; fails=$((fails + 1)); }
done

if [ "$mode" = long ]; then
	bound=$("$B/bin/dsprep" --json --bigram "$dir/a.bin" "$dir/b.bin" | sed 's/.*"bigram_loss":\([0-9.e+-]*\).*/\1/')
else
	bound=2.0
fi
while read -r type rest; do
	train "$type" 1 "type: $type, $rest"
	loss=$(cat "$dir/$type.losses")
	echo "$type $loss, bound $bound"
	awk -v l="$loss" -v b="$bound" 'BEGIN { exit !(l < b) }' ||
		{ echo "$type does not learn"; fails=$((fails + 1)); }
done <<'END'
lion lr: 2e-3
adagrad lr: 3e-2
sgd lr: 0.3
END
[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
