#!/bin/bash
# Usage: train_pytorch.sh [ROUNDS]. Tokens a second of training on the cpu device, everything in memory, fp32,
# beside PyTorch: same model, batch and threads, on the quickstart's model and on GPT-2 124M, with all
# cores and with one; runs alternate and the medians are compared. PyTorch is what bench/peers/install.sh
# installed ($DSRUN_PEERS; $B/peers), running bench/peers/train_gpt2.py; with COMPILE=1, torch.compile is
# tried as well and the better counts. Writes $B/bench/train_pytorch.json; ratio_pytorch is the worst row's.
# MODELS names the models (quickstart gpt2). Four minutes; GPT-2 takes most, and has one round by default.
set -eu
B=${B:-build}
rounds=${1:-}
here=$(dirname "$0")
python=$(realpath -m "${DSRUN_PEERS:-$B/peers}")/bin/python
# What steers OpenBLAS away from the kernels it would choose is no matter of this table.
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS
mkdir -p "$B/bench"
dir=$(mktemp -d "$B/bench/pytorch.XXXXXX")
trap 'rm -rf "$dir"' EXIT
seq 1 60000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' >"$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" >"$dir/log"
peer=yes
"$python" -c 'import torch' 2>"$dir/log" || peer=

# Each row: what the model is, its own dimensions, batch, and how many steps are timed behind how many.
model() { # NAME
	case $1 in
	quickstart) what='quickstart, 0.8 M' layers=4 hidden=128 heads=4 vocab=256 sequence=128 micro=2 global=8 warmup=20 steps=60 times=3 ;;
	gpt2) what='GPT-2, 124 M' layers=12 hidden=768 heads=12 vocab=50257 sequence=1024 micro=1 global=1 warmup=1 steps=2 times=1 ;;
	esac
}

config() {
	cat <<EOF
model:     {arch: gpt2, layers: $layers, hidden: $hidden, heads: $heads, vocab: $vocab, context: $sequence}
data:      {train: [$dir/train.bin], sequence: $sequence}
batch:     {global: $global, micro: $micro}
optimizer: {type: adamw, lr: 3e-4, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}
schedule:  {type: constant, steps: $((warmup + steps))}
precision: fp32
zero:      {stage: 0}
device:    {type: cpu, count: 1, memory: 6GiB}
log:       {every: 1, file: $dir/log.jsonl}
EOF
}

# rate_ours CPUS: over the steps behind the warm-up; a worker's device has the threads it may run on.
rate_ours() {
	config >"$dir/train.yaml"
	taskset -c "$1" "$B/bin/dsrun" --quiet "$dir/train.yaml"
	sed -n "$((warmup + 1)),\$s/.*\"tokens_per_s\":\([0-9.e+]*\).*/\1/p" "$dir/log.jsonl" |
		awk '{ seconds += 1 / $1 } END { print NR / seconds }'
}

# rate_torch CPUS THREADS [--compile]
rate_torch() {
	local cpus=$1 threads=$2
	shift 2
	OMP_NUM_THREADS=$threads taskset -c "$cpus" "$python" "$here/peers/train_gpt2.py" --text "$dir/text" \
		--layers "$layers" --hidden "$hidden" --heads "$heads" --vocab "$vocab" --context "$sequence" \
		--sequence "$sequence" --micro "$micro" --global "$global" --warmup "$warmup" --steps "$steps" \
		--threads "$threads" "$@" 2>"$dir/log" | sed 's/.*"tokens_per_s": \([0-9.e+]*\).*/\1/'
}

median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
better() { printf '%s\n' "$@" | sort -g | tail -n 1; }

# The cores we may use, and the first of them: "0-1,4" is cores 0, 1 and 4.
all=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
first=${all%%[-,]*}
cores=$(nproc)
[ "$cores" -le 16 ] || cores=16 # as many threads as a device takes

rows='' worst=''
row() { # MODEL CPUS THREADS
	local ours torch ratio
	model "$1"
	rm -f "$dir/ours" "$dir/torch" "$dir/compiled"
	for _ in $(seq 1 "${rounds:-$times}"); do
		rate_ours "$2" >>"$dir/ours"
		[ -z "$peer" ] || rate_torch "$2" "$3" >>"$dir/torch"
		[ -z "$peer" ] || [ -z "${COMPILE:-}" ] || rate_torch "$2" "$3" --compile >>"$dir/compiled"
	done
	ours=$(median "$dir/ours")
	if [ -z "$peer" ]; then
		printf '%-20s %7d %12.0f %12s %8s\n' "$what" "$3" "$ours" 'not installed' -
		rows="$rows${rows:+,}{\"model\":\"$what\",\"threads\":$3,\"tokens_per_s\":$ours}"
		return
	fi
	torch=$(median "$dir/torch")
	[ ! -s "$dir/compiled" ] || torch=$(better "$torch" "$(median "$dir/compiled")")
	ratio=$(awk "BEGIN { print $ours / $torch }")
	printf '%-20s %7d %12.0f %12.0f %8.2f\n' "$what" "$3" "$ours" "$torch" "$ratio"
	rows="$rows${rows:+,}{\"model\":\"$what\",\"threads\":$3,\"tokens_per_s\":$ours,\"tokens_per_s_pytorch\":$torch,\"ratio\":$ratio}"
	worst=$(printf '%s\n' $worst "$ratio" | sort -g | head -n 1)
}

version=$([ -z "$peer" ] || "$python" -c 'import torch; print(torch.__version__)')
echo "PyTorch: ${version:-not installed: bench/peers/install.sh}"
printf '%-20s %7s %12s %12s %8s\n' 'tokens/s, fp32' threads ours pytorch ratio
for name in ${MODELS:-quickstart gpt2}; do
	row $name "$all" "$cores"
	[ "$cores" = 1 ] || row $name "$first" 1
done
printf '{%s"pytorch":"%s","rows":[%s]}\n' "${worst:+\"ratio_pytorch\":$worst,}" "$version" "$rows" \
	>"$B/bench/train_pytorch.json"
