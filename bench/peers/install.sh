#!/bin/sh
# Usage: install.sh DIR. Installs PyTorch and DeepSpeed, which the benchmarks measure dsrun beside, into a
# Python virtual environment of their own at DIR, and compiles the two DeepSpeed operators that are used
# (CPUAdam, and aio_handle where libaio's header is). Takes minutes and some gigabytes; nothing outside DIR
# changes. PEER_PACKAGES names other versions. Done already: says so, and does nothing.
set -eu

[ $# -eq 1 ] || { echo "usage: install.sh DIR" >&2; exit 64; }
dir=$1
python=$dir/bin/python
packages=${PEER_PACKAGES:-torch deepspeed numpy ninja setuptools wheel}

versions() {
	"$python" -c 'import torch, deepspeed; print("PyTorch", torch.__version__ + ", DeepSpeed", deepspeed.__version__)' 2>/dev/null
}
# Operators are compiled beside the environment, not into the user's cache; no GPU is asked for.
export DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR="$dir/extensions"

if [ ! -e "$dir/ready" ]; then
	command -v g++ >/dev/null || { echo "install.sh: g++ is needed to compile DeepSpeed's operators" >&2; exit 69; }
	[ -x "$python" ] || python3 -m venv "$dir"
	# shellcheck disable=SC2086 # a list
	"$python" -m pip install --quiet --disable-pip-version-check $packages
	PATH="$dir/bin:$PATH" "$python" - <<'PYTHON'
import sys
from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder

CPUAdamBuilder().load(verbose=False)
try:
    AsyncIOBuilder().load(verbose=False)
except Exception as e:
    print("install.sh: no aio_handle:", str(e).strip().splitlines()[-1], file=sys.stderr)
PYTHON
	touch "$dir/ready"
fi
versions
