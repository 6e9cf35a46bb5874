#!/bin/bash
# Goal: right numbers. dsrun trains the model of tests/reference/train.yaml with everything offloaded
# to disk, in two workers; its 50 losses are PyTorch's to 1e-4 in fp32, to 1e-3 in bf16 where the
# reference rounds in the same places, and to 2e-2 against PyTorch's autocast; all of them relative.
# Gradient norms are compared too: losses alone, under Adam, do not show a gradient of twice the size.
# Method: tests/reference/curves.json keeps PyTorch's losses, with the versions that made them, so
# this half needs no Python. The text is made here, from fixed seeds; the shards' checksums say
# whether it is that of the curves. train_gpt2.py tells how the curves are made, by
# `reference.sh regenerate`.
#
# The other half looks at what dsrun exports: initial weights, and whether transformers gives the
# same logits and validation loss from it (check_export.py). It runs where DSRUN_REFERENCE_PYTHON
# names an interpreter with tests/reference/requirements.txt.
set -u
B=${B:-build}
here=tests/reference
curves=$here/curves.json
dir=$(mktemp -d "$B/reference.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
fails=0
mkdir "$dir/swap"

fail() { echo "$*"; fails=$((fails + 1)); }

# shard NAME SEED WORDS
shard() {
	awk -v seed="$2" -v words="$3" -f $here/text.awk > "$dir/$1.txt" &&
		"$B/bin/dsprep" -q -o "$dir/$1.bin" "$dir/$1.txt" || exit 1
}
# Two shards of different sizes, and several epochs of them in 50 steps.
shard a 1 900
shard b 2 450
shard v 3 200

# config NAME PRECISION OFFLOAD [SED-SCRIPT]
config() {
	{
		sed "${4:-}" $here/train.yaml
		echo "data:      {train: [$dir/a.bin, $dir/b.bin], validation: [$dir/v.bin], sequence: 64}"
		echo "precision: $2"
		echo "evaluate:  {batches: 10}"
		echo "zero:      {$3}"
		echo "nvme:      {paths: [$dir/swap], extent: 64KiB}"
		echo "host:      {memory: 64MiB, threads: 2}"
		echo "device:    {type: cpu, count: 2, memory: 64MiB}"
		echo "log:       {every: 1, file: $dir/$1.jsonl}"
	} > "$dir/$1.yaml"
}
disk="stage: 3, offload_param: nvme, offload_optimizer: nvme, offload_activations: nvme"

# train NAME
train() {
	"$B/bin/dsrun" --quiet --daemon private --export "$dir/$1.safetensors" \
		--summary "$dir/$1.json" "$dir/$1.yaml" > "$dir/$1.log" 2>&1 && return
	fail "run $1 failed:"
	tail -n 25 "$dir/$1.log"
	exit 1
}

# Columns of the kept curves and what dsrun logged, for the programs below: keep[step, column].
# shellcheck disable=SC2016
lib='
function key(name, text) {
	if (!match(text, "\"" name "\": *[-+.0-9a-zA-Z]+"))
		return ""
	text = substr(text, RSTART, RLENGTH)
	sub(/.*: */, "", text)
	return text
}
function off(found, expected, d) {
	d = found / expected - 1
	return d < 0 ? -d : d
}
FNR == 1 { file++ }
file == 1 && /^"columns"/ { split($0, names, /[^a-z0-9_]+/) }
file == 1 && /^"validation_loss"/ { kept_validation = $0 }
file == 1 && /^\[[0-9]/ {
	n = split($0, row, /[^-+.0-9e]+/)
	for (i = 3; i <= n; i++)
		keep[row[2], names[i + 1]] = row[i]
	steps++
}
file == 2 && key("loss", $0) != "" {
	seen++
	loss[key("step", $0)] = key("loss", $0)
	norm[key("step", $0)] = key("grad_norm", $0)
}
file == 2 && key("validation_loss", $0) != "" { validation = key("validation_loss", $0) }
'

# compare RUN COLUMN TOLERANCE [NORM-TOLERANCE]: losses of all steps, the validation loss behind the
# last, norms. A comparison is written so that what is no number fails.
compare() {
	awk -v run="$1" -v mode="$2" -v tol="$3" -v norm_tol="${4:-0}" "$lib"'
	function look(what, found, expected, tol, d) {
		d = found == "" || expected == "" ? 9 : off(found, expected)
		if (!(d <= tol)) {
			printf "%s, %s: %s, PyTorch has %s\n", run, what, found, expected
			bad = 1
		}
		return d
	}
	END {
		for (i = 1; i <= steps; i++) {
			d = look("loss of step " i, loss[i], keep[i, mode], tol)
			if (d > worst) { worst = d; at = i }
			if (norm_tol)
				d = look("norm of step " i, norm[i], keep[i, mode "_norm"], norm_tol)
			if (norm_tol && d > worst_norm) { worst_norm = d; norm_at = i }
		}
		v = look("validation", validation, key(mode, kept_validation), tol)
		printf "%s against PyTorch %s: worst of %d losses %.2g at step %d, validation %.2g; allowed %g\n",
			run, mode, seen, worst, at, v, tol
		if (norm_tol)
			printf "%s against PyTorch %s: worst of %d gradient norms %.2g at step %d; allowed %g\n",
				run, mode, seen, worst_norm, norm_at, norm_tol
		exit bad || steps != 50 || seen != steps
	}' $curves "$dir/$1.jsonl" || fail "run $1 is not what PyTorch computes ($2)"
}

# nearer RUN COLUMN OTHER: four times nearer to its own curve than to another, on average
nearer() {
	awk -v run="$1" -v mode="$2" -v other="$3" "$lib"'
	END {
		for (i = 1; i <= steps; i++) {
			own += off(loss[i], keep[i, mode])
			far += off(loss[i], keep[i, other])
		}
		printf "%s: %.2g from PyTorch %s on average, %.2g from %s\n", run, own / seen, mode, far / seen, other
		exit !(own * 4 < far)
	}' $curves "$dir/$1.jsonl" || fail "run $1 does not round where the reference does"
}

config fp32 fp32 "$disk"
config bf16 bf16 "$disk"
if [ "${1:-}" = regenerate ]; then
	"${DSRUN_REFERENCE_PYTHON:?}" -B $here/train_gpt2.py "$dir/fp32.yaml" "$dir/curves.json" &&
		cp "$dir/curves.json" $curves || exit 1
fi
for s in a b v; do
	crc=$(od -An -v -tu1 -j24 -N4 "$dir/$s.bin" | awk '{ printf "%02x%02x%02x%02x", $4, $3, $2, $1 }')
	grep -q "^\"shards_crc32c\":.*\"$crc\"" $curves || fail "shard $s, $crc, is not that of the curves"
done
train fp32
train bf16
compare fp32 fp32 1e-4 1e-4
compare bf16 bf16 1e-3 5e-3
nearer bf16 bf16 fp32
compare bf16 autocast 2e-2

if [ -z "${DSRUN_REFERENCE_PYTHON:-}" ]; then
	echo "exported weights against transformers: left out, DSRUN_REFERENCE_PYTHON names no interpreter"
else
	config initial fp32 "$disk" '/^optimizer/s/lr: [^,]*/lr: 1.0e-30/
		/^optimizer/s/weight_decay: [^,]*/weight_decay: 0.0/
		/^schedule/s/.*/schedule:  {type: constant, steps: 1}/'
	train initial
	"$DSRUN_REFERENCE_PYTHON" -B $here/check_export.py --initial "$dir/initial.yaml" \
		"$dir/initial.safetensors" || fail "initial weights are not the definition's"
	for p in fp32 bf16; do
		config $p-memory $p "stage: 0" 's/micro: 4/micro: 1/'
		"$B/tests/reference_logits" "$dir/$p-memory.yaml" "$dir/$p.safetensors" "$dir/$p.logits" &&
			"$DSRUN_REFERENCE_PYTHON" -B $here/check_export.py "$dir/$p.yaml" "$dir/$p.safetensors" \
				"$dir/$p.json" "$dir/$p.logits" || fail "transformers differs on the $p export"
	done
fi
[ $fails -eq 0 ]
