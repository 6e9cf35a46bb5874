#!/bin/sh
# Usage: adam.sh. The CPU Adam beside the traffic it cannot avoid. Writes $B/bench/adam.json.
set -eu
B=${B:-build}
exec "$B/bench/bench_adam" "$B/bench/adam.json"
