#!/bin/bash
# Usage: train_auto.sh. What dsrun predicts of each placement beside what it takes, and what auto
# chooses beside the best of the sweep: models of three kinds, every placement of parameters and
# optimizer that the planner considers. Rounds of measuring, predicting and training follow each
# other, and medians are compared: other work on the host slows both. DSRUN_BENCH_STEPS: steps of a run
# (8); DSRUN_BENCH_ROUNDS (3). Writes $B/bench/train_auto.json: prediction_error is the worst of the
# rows, ratio_auto_best the slowest chosen placement's step over the fastest one's, the worst of the models.
set -eu
B=${B:-build}
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS
steps=${DSRUN_BENCH_STEPS:-8} rounds=${DSRUN_BENCH_ROUNDS:-3}
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/train_auto.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/swap"
seq 1 60000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' > "$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" > "$dir/log"

config() { # NAME PARAM OPTIMIZER
	cat > "$dir/$1.yaml" <<EOF
model:     {arch: gpt2, $model, vocab: 256, context: $sequence}
data:      {train: [$dir/train.bin]}
batch:     {global: $global, micro: $micro}
optimizer: {type: adamw, lr: 1e-3, clip: $clip}
schedule:  {type: constant, steps: $steps}
precision: bf16
zero:      {stage: 3, offload_param: $2, offload_optimizer: $3}
nvme:      {paths: [$dir/swap]}
host:      {memory: 2GiB, threads: 2}
device:    {type: cpu, count: 2, memory: 2GiB}
log:       {every: 1, file: $dir/$1.jsonl}
EOF
}

# The median step behind the first two, in seconds: from the tokens a second of each.
step_seconds() { # JSONL
	sed -n 's/.*"tokens_per_s": *\([0-9.e+-]*\).*/\1/p' "$1" | tail -n +3 |
		awk -v t=$((global * sequence)) '{ print t / $1 }' | sort -g |
		awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

member() { # NAME: of the choice on standard input
	sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

rows='' worst=0 ratio=0
median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# One round: predicts, then trains every placement, each figure to a file of its own.
round() {
	local choice i=0
	config auto auto auto
	"$B/bin/dsrun" --plan --json --daemon private "$dir/auto.yaml" > "$dir/plan.json" 2> "$dir/log" ||
		{ cat "$dir/log"; exit 1; }
	sed 's/.*"choices":\[//; s/\].*//; s/},{/}\n{/g' "$dir/plan.json" > "$dir/choices"
	sed 's/.*"best":\([0-9]*\).*/\1/' "$dir/plan.json" >> "$dir/chosen"
	while read -r choice; do
		member seconds <<< "$choice" >> "$dir/predicted.$i"
		rm -f "$dir/run.jsonl"
		config run "$(member offload_param <<< "$choice")" "$(member offload_optimizer <<< "$choice")"
		"$B/bin/dsrun" --quiet --daemon private "$dir/run.yaml" < /dev/null
		step_seconds "$dir/run.jsonl" >> "$dir/took.$i"
		i=$((i + 1))
	done < "$dir/choices"
}

rows='' worst=0 ratio=0
sweep() { # NAME
	local name=$1 choice i=0 chosen param optimizer predicted took fastest=0 auto=0
	rm -f "$dir/chosen" "$dir"/predicted.* "$dir"/took.*
	for _ in $(seq 1 "$rounds"); do round; done
	printf '%s\n' "$name"
	while read -r choice; do
		param=$(member offload_param <<< "$choice") optimizer=$(member offload_optimizer <<< "$choice")
		predicted=$(median "$dir/predicted.$i") took=$(median "$dir/took.$i") chosen=' '
		if grep -qx "$i" "$dir/chosen"; then
			chosen='*' auto=$(awk "BEGIN { print ($took > $auto) ? $took : $auto }")
		fi
		i=$((i + 1))
		fastest=$(awk "BEGIN { print ($fastest == 0 || $took < $fastest) ? $took : $fastest }")
		worst=$(awk "BEGIN { e = $predicted / $took - 1; e = (e < 0) ? -e : e
			print (e > $worst) ? e : $worst }")
		printf '%s %-12s%-12s%12.4g%12.4g%10.1f %%\n' "$chosen" "$param" "$optimizer" "$predicted" \
			"$took" "$(awk "BEGIN { print 100 * ($predicted / $took - 1) }")"
		rows="$rows${rows:+,}{\"model\":\"$name\",\"offload_param\":\"$param\",\"offload_optimizer\":\"$optimizer\",\"predicted_s\":$predicted,\"measured_s\":$took}"
	done < "$dir/choices"
	printf '  auto over the fastest: %.3f\n' "$(awk "BEGIN { print $auto / $fastest }")"
	ratio=$(awk "BEGIN { r = $auto / $fastest; print (r > $ratio) ? r : $ratio }")
}

printf '  %-12s%-12s%12s%12s%12s\n' parameters optimizer 'predicted s' 'measured s' error
for which in ${DSRUN_BENCH_MODELS:-compute state accumulation}; do
	case $which in
	compute) model='layers: 6, hidden: 256, heads: 4' sequence=128 micro=4 global=8 clip=1.0
		sweep 'much compute: 4.8 M parameters, 1024 tokens, clipping' ;;
	state) model='layers: 8, hidden: 512, heads: 8' sequence=64 micro=1 global=2 clip=1.0
		sweep 'much state: 25 M parameters, 128 tokens, clipping' ;;
	accumulation) model='layers: 6, hidden: 384, heads: 6' sequence=64 micro=2 global=16 clip=0
		sweep 'four micro-batches: 11 M parameters, 1024 tokens, no clipping' ;;
	*) echo "DSRUN_BENCH_MODELS: $which is none of compute, state, accumulation"; exit 1 ;;
	esac
done
printf 'worst error %.1f %%, auto at most %.3f of the fastest\n' "$(awk "BEGIN { print 100 * $worst }")" "$ratio"
printf '{"prediction_error":%s,"ratio_auto_best":%s,"rows":[%s]}\n' "$worst" "$ratio" "$rows" \
	> "$B/bench/train_auto.json"
