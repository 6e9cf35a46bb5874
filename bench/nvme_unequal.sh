#!/bin/sh
# Two directories of unequal speed: what the store makes of them, beside each of them alone.
#
#	B=build bench/nvme_unequal.sh
#
# Both are ext4 on loop devices in $B/bench, held by the kernel's throttling to FAST and SLOW bytes a second
# in each direction (NVME_UNEQUAL_FAST, NVME_UNEQUAL_SLOW, over NVME_UNEQUAL_BYTES), so that the figures are the machine's only when
# its disk is slower than that. Needs root, loop devices, and a block I/O controller of cgroups, of either
# version; exits 77 with the reason where they are missing. Leaves $B/bench/nvme_unequal.json.
set -eu

B=${B:-build}
fast=${NVME_UNEQUAL_FAST:-240000000}
slow=${NVME_UNEQUAL_SLOW:-60000000}
seconds=${NVME_UNEQUAL_SECONDS:-1.5}
total=${NVME_UNEQUAL_BYTES:-100663296}

mkdir -p "$B/bench"
work=$(mktemp -d "$B/bench/unequal.XXXXXX")
group=
loops=
cleanup() {
	for l in $loops; do
		umount "/dev/$l" 2>/dev/null || true
		losetup -d "/dev/$l" 2>/dev/null || true
	done
	[ -z "$group" ] || rmdir "$group" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

skip() {
	echo "two directories of unequal speed: skipped, $1"
	exit 77
}

# disk NAME BYTES_PER_S: an ext4 in $work/NAME on a device that is held to this
disk() {
	truncate -s 512M "$work/$1.img"
	mkfs.ext4 -q "$work/$1.img" || skip "mkfs.ext4 failed"
	device=$(losetup --show --direct-io=on -f "$work/$1.img" 2>/dev/null) || skip "there is no loop device"
	name=${device#/dev/}
	loops="$loops $name"
	mkdir "$work/$1"
	mount "$device" "$work/$1" 2>/dev/null || skip "ext4 cannot be mounted"
	number=$(cat "/sys/block/$name/dev")
	case $group in
	*/blkio/*)
		echo "$number $2" >"$group/blkio.throttle.read_bps_device"
		echo "$number $2" >"$group/blkio.throttle.write_bps_device"
		;;
	*) echo "$number rbps=$2 wbps=$2" >"$group/io.max" ;;
	esac
}

[ "$(id -u)" -eq 0 ] || skip "it needs root"
for tool in mkfs.ext4 losetup; do
	command -v $tool >/dev/null || skip "$tool is not installed"
done
root=/sys/fs/cgroup
if [ -e $root/blkio/blkio.throttle.io_serviced ]; then
	group=$root/blkio/dsrun-bench-$$
elif grep -qw io $root/cgroup.subtree_control 2>/dev/null; then
	group=$root/dsrun-bench-$$
else
	skip "no cgroup can throttle block devices"
fi
mkdir "$group" 2>/dev/null || { group=; skip "no cgroup can be made"; }
disk fast "$fast"
disk slow "$slow"

# rate WEIGHTS DIR...: bytes a second of half reads, half writes; the weights' origin goes to $work/why
rate() {
	weights=$1
	shift
	printf 'mixed\n' | sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$B/bench/bench_nvme" auto 1048576 \
		8 "$total" "$seconds" "$weights" "$@" >"$work/out" 2>"$work/log" || {
		cat "$work/log" >&2
		exit 1
	}
	sed -n 's/^ready //p' "$work/out" | sed "s|$work/||g" >"$work/why"
	awk 'NR == 2 { print $1 }' "$work/out"
}

alone_fast=$(rate - "$work/fast")
alone_slow=$(rate - "$work/slow")
equal=$(rate 1,1 "$work/fast" "$work/slow")
both=$(rate - "$work/fast" "$work/slow")

awk -v f="$alone_fast" -v s="$alone_slow" -v e="$equal" -v b="$both" -v why="$(cat "$work/why")" \
	-v json="$B/bench/nvme_unequal.json" 'BEGIN {
	printf "two directories of unequal speed, MB/s: %.0f and %.0f alone, the sum is %.0f\n", f / 1e6, s / 1e6, (f + s) / 1e6
	printf "  shared equally    %4.0f, %.2f of the sum\n", e / 1e6, e / (f + s)
	printf "  shared by speed   %4.0f, %.2f of the sum (%s)\n", b / 1e6, b / (f + s), why
	printf "{\"alone_bytes_per_s\": [%.0f, %.0f], \"equal_shares_bytes_per_s\": %.0f, \"bytes_per_s\": %.0f,\n", f, s, e, b > json
	printf " \"ratio_sum\": %.4f, \"ratio_sum_equal_shares\": %.4f}\n", b / (f + s), e / (f + s) > json
}'
