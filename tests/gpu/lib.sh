# shellcheck shell=bash
# What check.sh and bench.sh share; sourced by both. They run from a folder made by bundle.sh, on a
# machine with an NVIDIA GPU, its driver and the CUDA libraries, which may have nothing else: bash, awk,
# sed and coreutils.
#
# 1. Every part ends in one line of the table and one member of the JSON: ok, FAILED or skipped, and
#    why. Nothing is left out silently, and a part that fails does not keep the others from running.
# 2. Every part has a limit of time, and none begins when the whole has used up its own.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 70
root=${DSRUN_GPU_ROOT:-$(dirname "$here")}
bin=$root/bin
began=$SECONDS
total_s=${DSRUN_GPU_SECONDS:-480}
rows=()
passed=0 failed=0 skipped=0

# Where the CUDA libraries may be that the loader does not know: a toolkit, or PyTorch's own.
cuda_dirs() {
	local name dir python
	python=$(command -v python3) &&
		python=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
	for name in libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2 libcudnn.so.9; do
		ldconfig -p 2>/dev/null | grep -q "$name" && continue
		for dir in "${CUDA_HOME:-/usr/local/cuda}"/lib64 "${CUDA_HOME:-/usr/local/cuda}"/targets/*/lib \
			"$python"/nvidia/*/lib "$python"/nvidia/lib; do
			[ -e "$dir/$name" ] && echo "$dir" && break
		done
	done | sort -u | tr '\n' ':'
}

LD_LIBRARY_PATH=$root/lib:$(cuda_dirs)${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH
# All the threads there are; a development machine's choice of kernels must not come along.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

work=$(mktemp -d "${TMPDIR:-/tmp}/dsrun-gpu.XXXXXX") || exit 70
trap 'rm -rf "$work"' EXIT
mkdir "$work/swap"

text_json() { printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g'; }

# row NAME STATUS DETAIL [JSON-MEMBERS]
row() {
	case $2 in
	ok) passed=$((passed + 1)) ;;
	FAILED) failed=$((failed + 1)) ;;
	skipped) skipped=$((skipped + 1)) ;;
	esac
	printf '%-8s %-34s %s\n' "$2" "$1" "$3"
	rows+=("{\"name\":\"$(text_json "$1")\",\"status\":\"$2\",\"detail\":\"$(text_json "$3")\"${4:+,$4}}")
}

left() { echo $((total_s - (SECONDS - began))); }

# limit SECONDS COMMAND...: the command, ended after so long or when the whole is over.
limit() {
	local s=$1
	shift
	[ "$(left)" -gt "$s" ] || s=$(left)
	[ "$s" -gt 0 ] || return 124
	timeout -k 5 "$s" "$@"
}

finish() { # FILE KIND
	local chip driver IFS=,
	chip=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
	driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
	printf '{"kind":"%s","date":"%s","chip":"%s","driver":"%s","commit":"%s","seconds":%d,"passed":%d,"failed":%d,"skipped":%d,"parts":[%s]}\n' \
		"$2" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(text_json "${chip:-none}")" "$(text_json "${driver:-none}")" \
		"$(cat "$root/commit" 2>/dev/null || echo unknown)" $((SECONDS - began)) \
		$passed $failed $skipped "${rows[*]}" > "$1"
	echo "$passed passed, $failed failed, $skipped skipped"
	[ $failed -eq 0 ]
}

# field FILE NAME: the first number of that name.
field() { sed 's|[,{]|\n|g' "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -n 1; }

calc() { awk "BEGIN { printf \"%.6g\", $1 }"; }
holds() { awk "BEGIN { exit !($1) }"; }

shards() {
	seq 1 60000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 97, $1 * ($1 % 97) }' > "$work/text"
	"$bin/dsprep" --train "$work/train.bin" --validation "$work/validation.bin" "$work/text" > "$work/log" 2>&1 ||
		{ cat "$work/log"; row 'token shards' FAILED 'dsprep'; }
}

# config NAME: a job from these variables.
model='' sequence='' global='' micro='' steps='' precision='' zero='' host='' device=''
config() {
	cat > "$work/$1.yaml" <<YAML
model:     {arch: gpt2, $model}
data:      {train: [$work/train.bin], sequence: $sequence}
batch:     {global: $global, micro: $micro}
optimizer: {type: adamw, lr: 3e-4, clip: 1.0}
schedule:  {type: constant, steps: $steps}
precision: $precision
zero:      {$zero}
nvme:      {paths: [$work/swap]}
host:      {memory: $host, threads: $(nproc)}
device:    {$device}
log:       {every: 1, file: $work/$1.jsonl}
YAML
}

# job NAME SECONDS [OPTION...]: runs it; its losses in $work/NAME.loss, its output in NAME.log.
job() {
	local name=$1 seconds=$2
	shift 2
	rm -f "$work/$name.jsonl"
	limit "$seconds" "$bin/dsrun" --daemon private --summary "$work/$name.json" "$@" "$work/$name.yaml" \
		> "$work/$name.log" 2>&1 || return
	sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$work/$name.jsonl" > "$work/$name.loss"
}

# The last lines of a job that failed, on one line.
why() { tail -n 4 "$work/$1.log" | tr '\n' ' ' | cut -c1-400; }

# The median of tokens_per_s, the first two steps left out.
rate() {
	sed -n 's/.*"tokens_per_s": *\([0-9.e+]*\).*/\1/p' "$work/$1.jsonl" | tail -n +3 | sort -g |
		awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# worst NAME REFERENCE: the largest relative difference of their losses.
worst() {
	paste "$work/$1.loss" "$work/$2.loss" | awk '
		{ d = ($2 - $4) / $4; if (d < 0) d = -d; if (!(d <= w)) w = d; n++ }
		END { if (!n) w = "nan"; print w }'
}
