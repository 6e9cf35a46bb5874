#!/bin/sh
# Usage: run.sh. Every benchmark in turn; tables on stdout, figures in $B/bench/*.json. Expects to have
# the machine to itself.
set -eu
B=${B:-build}
export B
mkdir -p "$B/bench"
here=$(dirname "$0")
echo "== CPU Adam beside the traffic it cannot avoid"
"$B/bench/bench_adam" "$B/bench/adam.json"
echo "== swap store beside fio"
"$here/nvme.sh"
echo "== training, state in memory and on disk"
"$here/train.sh"
echo "== what tracing costs"
"$here/trace.sh"
