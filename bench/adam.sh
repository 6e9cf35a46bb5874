#!/bin/sh
# Usage: adam.sh [MILLIONS]. The CPU Adam beside the traffic it cannot avoid, DeepSpeed's CPUAdam and
# PyTorch's fused AdamW (bench/peers/install.sh), up to so many millions of parameters (2^20), by default
# what memory allows. Writes $B/bench/adam.json.
set -eu
B=${B:-build}
here=$(dirname "$0")
peers=$(realpath -m "${DSRUN_PEERS:-$B/peers}")
mkdir -p "$B/bench"
if [ -e "$peers/ready" ]; then
	export PATH="$peers/bin:$PATH" TORCH_EXTENSIONS_DIR="$peers/extensions"
	exec "$B/bench/bench_adam" "$B/bench/adam.json" "${1:-0}" "$peers/bin/python" "$here/peers/adam.py"
fi
exec "$B/bench/bench_adam" "$B/bench/adam.json" "${1:-0}"
