#!/bin/bash
# Goal: the scripts that prove and measure dsrun on a GPU (tests/gpu/) run to their end, and every part
# says what it should: they are needed where there is no time to mend them.
# Method: both, with small models, over a dsworker whose cuda device stands on the host shim. Copies
# and rates mean nothing there; that they are told is what counts.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
if "$B/bin/dsrun" --version | grep -Eq '^left out .*(cuda|nccl)'; then
	echo "this build has no cuda device, or no NCCL"
	exit 77
fi
case ${SAN:-} in ?*) echo "what the scripts start runs under sanitizers in train.sh and ranks.sh"; exit 77 ;; esac
root=$(mktemp -d "${TMPDIR:-/tmp}/gpu_scripts.XXXXXX") || exit 1
trap 'rm -rf "$root"' EXIT
mkdir "$root/tests" || exit 1
ln -s "$B/bin" "$root/bin" && ln -s "$B/cuda_host/lib" "$root/lib" && cp -r tests/gpu "$root/gpu" &&
	ln -s "$B/tests/gpu_probe" "$B/tests/peak_memory" "$B/tests/t_linear_cuda" "$root/tests/" || exit 1
export DSRUN_WORKER="$B/cuda_host/dsworker" DSRUN_GPU_SMALL=1 DSRUN_GPU_MEMORY=2048
fails=0

# says FILE REGEX: a line of the table.
says() {
	grep -Eq "$2" "$1" || { echo "no line like '$2'"; fails=$((fails + 1)); }
}

# valid FILE: one JSON object with a row for each line of the table.
valid() {
	python3 - "$1" <<'END' || fails=$((fails + 1))
import json, sys
o = json.load(open(sys.argv[1]))
assert o["passed"] + o["failed"] + o["skipped"] == len(o["parts"]) > 0, o
assert all(p["status"] in ("ok", "FAILED", "skipped") and p["detail"] for p in o["parts"]), o
END
}

"$root/gpu/check.sh" "$root/check.json" > "$root/check.out" 2>&1
cat "$root/check.out"
valid "$root/check.json"
for part in t_linear_cuda 'cuda-fp32 against cpu-fp32' 'cuda-fp32 twice' 'cuda-bf16 against cpu-bf16' \
	'cuda-bf16 twice' 'every placement' 'two-ranks against one-rank'; do
	says "$root/check.out" "^ok +$part"
done
says "$root/check.out" '^(ok|FAILED) +copies from the arena +in [0-9.]+ GB/s'
"$root/gpu/bench.sh" "$root/bench.json" > "$root/bench.out" 2>&1
cat "$root/bench.out"
valid "$root/bench.json"
for part in 'a large product' 'all on the device' 'a large batch' 'optimizer on the host' 'optimizer on NVMe' \
	'transfers hidden' 'the largest model'; do
	says "$root/bench.out" "^ok +$part"
done
# A part that fails is named, and the script's status tells.
rm "$root/tests/gpu_probe"
if "$root/gpu/bench.sh" "$root/bench.json" > "$root/bench.out" 2>&1; then
	echo "a failed part and status 0"
	fails=$((fails + 1))
fi
says "$root/bench.out" '^FAILED +a large product'
[ $fails -eq 0 ]
