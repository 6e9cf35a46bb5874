#!/bin/sh
# Usage: run.sh [NAME...]. Benchmarks in turn, bench/NAME.sh each, by default all: tables on stdout,
# figures in $B/bench/NAME.json. Expects to have the machine to itself.
set -eu
B=${B:-build}
export B
mkdir -p "$B/bench"
here=$(dirname "$0")
[ $# -gt 0 ] || set -- adam nvme swap order train trace
for name in "$@"; do
	echo "== $name"
	"$here/$name.sh"
done
