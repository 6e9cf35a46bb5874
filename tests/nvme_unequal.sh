#!/bin/sh
# Goal: two directories of unequal speed together give near the sum of both, not twice the slower.
# Method: bench/nvme_unequal.sh with devices held to speeds so low that the rest of the machine does not matter:
# 40 and 10 MB/s. Sharing equally is at most 2/5 of their sum; the store has to measure and do better.
# Exit 77 where there is no root, loop device or throttling, with the reason.
set -eu
B=${B:-build}
rc=0
NVME_UNEQUAL_FAST=40000000 NVME_UNEQUAL_SLOW=10000000 NVME_UNEQUAL_BYTES=50331648 NVME_UNEQUAL_SECONDS=1 \
	"$(dirname "$0")/../bench/nvme_unequal.sh" || rc=$?
[ "$rc" -eq 0 ] || exit "$rc"
value() {
	sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" "$B/bench/nvme_unequal.json"
}
awk -v r="$(value ratio_sum)" -v e="$(value ratio_sum_equal_shares)" 'BEGIN {
	if (r >= 0.6 && r > 1.25 * e)
		exit 0
	printf "nvme_unequal.sh: %s of the sum by speed, %s with equal shares\n", r, e
	exit 1
}'
