#!/bin/sh
# The swap store beside fio and DeepSpeed's aio_handle: sequential read, write and a half-half mix.
#
#	B=build bench/nvme.sh [DIR [DIR]]        default: two directories below $B
#
# A cell is an engine, a request size, a queue depth (of each directory) and one or two directories. In each cell
# the store, fio (the same engine, registered buffers and files where it has them, buffers not rewritten) and
# aio_handle take turns, so that a disk whose mood changes does so for all, after the same rest, with 0.2 s
# uncounted at the beginning, and all on the very files of the store, through /proc, since where a file lies can
# double its speed. A ratio is ours over theirs of the same turn, its median over the turns; a mode's ratio is the
# median over its cells. Ours includes the checksum of every extent, which the others do not have; CPU seconds per
# 1e9 bytes are given with it and, from one more pass of ours, without it.
#
# By default each size, depth, number of directories and engine is in some cell; NVME_BENCH_FULL=1 takes them all
# (hours), NVME_BENCH_CELLS="engine:bytes:depth:directories ..." those. NVME_BENCH_TURNS and NVME_BENCH_SECONDS make
# each longer. DSRUN_PEERS is the environment that bench/peers/install.sh made. Then two directories of unequal
# speed (nvme_unequal.sh). Leaves $B/bench/nvme.json.
set -eu

B=${B:-build}
turns=${NVME_BENCH_TURNS:-3}
seconds=${NVME_BENCH_SECONDS:-0.3}
peers=${DSRUN_PEERS:-$B/peers}
here=$(dirname "$0")
millis=$(awk "BEGIN { printf \"%dms\", $seconds * 1000 }")
cells="io_uring:65536:1:1 libaio:65536:16:2 io_uring:65536:64:1 libaio:262144:4:1 io_uring:262144:16:2
	io_uring:1048576:16:1 libaio:1048576:16:1 io_uring:1048576:1:2 libaio:4194304:64:1 io_uring:4194304:4:2
	libaio:16777216:1:2 io_uring:16777216:4:1"
if [ "${NVME_BENCH_FULL:-0}" = 1 ]; then
	cells=
	for d in 1 2; do for x in 65536 262144 1048576 4194304 16777216; do for q in 1 4 16 64; do
		cells="$cells io_uring:$x:$q:$d libaio:$x:$q:$d"
	done; done; done
fi
cells=${NVME_BENCH_CELLS:-$cells}

mkdir -p "$B/bench"
work=$(mktemp -d "$B/bench/nvme.XXXXXX")
cleanup() {
	exec 3>&- 4<&- 5>&- 6<&- || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
if [ $# -eq 0 ]; then
	mkdir "$work/one" "$work/two"
	set -- "$work/one" "$work/two"
fi

fio=$(command -v fio || true)
[ -n "$fio" ] || echo "fio is not installed: its columns stay empty"

fail() {
	cat "$work/log" >&2
	exit 1
}

# The file of all cells but the very large: a few times what is in flight.
peer_bytes=1073741824
file_bytes() {
	awk -v x="$1" -v q="$2" -v d="$3" 'BEGIN { n = 2 * (q + 4) * x * d; printf "%.0f\n", (n > 268435456 ? n : 268435456) }'
}

# peer_open: DeepSpeed's process on descriptors 5 and 6; $peer is its version, or why there is none.
peer_open() {
	peer="not installed"
	[ -x "$peers/bin/python" ] || return 0
	mkfifo "$work/peer.in" "$work/peer.out"
	"$peers/bin/python" "$here/peers/aio.py" "$peer_bytes" 0.2 "$seconds" <"$work/peer.in" >"$work/peer.out" \
		2>>"$work/peer.log" &
	exec 5>"$work/peer.in" 6<"$work/peer.out"
	read -r peer <&6 || peer="not installed"
}

# cell_open ENGINE EXTENT DEPTH DIR...: bench_nvme on descriptors 3 and 4, its files in $files; or fails
cell_open() {
	e=$1 x=$2 q=$3
	shift 3
	rm -f "$work/in" "$work/out"
	mkfifo "$work/in" "$work/out"
	"$B/bench/bench_nvme" "$e" "$x" "$q" "$total" "$seconds" - "$@" 2>>"$work/log" <"$work/in" >"$work/out" 5>&- 6<&- &
	pid=$!
	exec 3>"$work/in" 4<"$work/out"
	read -r _ <&4 || return 1
	files=
	for dir in "$@"; do
		dir=$(realpath "$dir")
		for fd in /proc/"$pid"/fd/*; do
			case $(readlink "$fd" || true) in "$dir"/*"(deleted)") files="$files $fd" ;; esac
		done
	done
}

cell_close() {
	exec 3>&- 4<&-
	wait "$pid" || true
}

# Each prints "RATE CPU", "- -" where there is none.
ours() {
	echo "$1" >&3
	read -r figures <&4 || fail
	echo "$figures"
}
by_fio() {
	case $1 in mixed) rw=rw ;; *) rw=$1 ;; esac
	[ -n "$fio" ] || { echo "- -"; return; }
	fixed=
	[ "$engine" != io_uring ] || fixed="--fixedbufs --registerfiles"
	# shellcheck disable=SC2086 # options
	"$fio" --name=swap --filename="$(echo $files | tr ' ' :)" --file_service_type=roundrobin --size="$total" \
		--ioengine="$engine" $fixed --direct=1 --rw="$rw" --rwmixread=50 --bs="$extent" --scramble_buffers=0 \
		--iodepth=$((depth * dirs)) --runtime="$millis" --ramp_time=200ms --time_based --output-format=json \
		2>>"$work/log" >"$work/fio.json" || { echo "- -"; return; }
	# The job's read and write sections each have one "bw_bytes"; trim's is 0.
	awk -F: '/"bw_bytes"/ { sum += $2 } /"(usr|sys)_cpu"/ { cpu += $2 }
		END { if (sum > 0) printf "%.0f %.4f\n", sum, cpu / 100 * 1e9 / sum; else print "- -" }' "$work/fio.json"
}
by_peer() {
	case $peer/$1 in ready*/read | ready*/write) ;; *) echo "- -"; return ;; esac
	[ "$total" -le "$peer_bytes" ] || { echo "- -"; return; }
	# shellcheck disable=SC2086 # names
	echo "$1" "$extent" "$depth" $files >&5
	read -r figures <&6 || figures="- -"
	case $figures in -*) echo "$figures" >>"$work/log"; figures="- -" ;; esac
	echo "$figures"
}

# fio takes this long from its start to its first transfer; a disk that may rest before it serves somebody is
# given the same rest before it serves anybody.
rest() {
	sleep 0.3
}

# turn MODE: one line of $work/turns; who goes first changes. What fio and aio_handle write is no extent of ours: only
# a mix of ours needs whole extents after it, and then everybody gets the same writes before.
turn() {
	order="ours fio peer"
	[ $((turn % 2)) -eq 0 ] || order="peer fio ours"
	for who in $order; do
		[ "$1" != mixed ] || ours fill >/dev/null
		[ $who = fio ] || rest
		case $who in
		ours) o=$(ours "$1") ;;
		fio) f=$(by_fio "$1") ;;
		peer) p=$(by_peer "$1") ;;
		esac
	done
	echo "$1 $engine $extent $depth $dirs $o $f $p" >>"$work/turns"
}

: >"$work/turns"
: >"$work/plain"
: >"$work/log"
peer_open
for cell in $cells; do
	IFS=: read -r engine extent depth dirs <<EOF
$cell
EOF
	total=$(file_bytes "$extent" "$depth" "$dirs")
	if [ "$dirs" = 1 ]; then opened=$1; else opened="$1 $2"; fi
	# shellcheck disable=SC2086 # one or two
	if ! cell_open "$engine" "$extent" "$depth" $opened; then
		echo "$cell: no figures: $(tail -1 "$work/log")"
		cell_close
		continue
	fi
	# Reads come first: a disk that is still storing what was written reads slower.
	for mode in read write mixed; do
		turn=0
		while [ "$turn" -lt "$turns" ]; do
			turn $mode
			turn=$((turn + 1))
		done
	done
	ours plain >/dev/null
	ours fill >/dev/null
	for mode in read write mixed; do
		echo "$mode $engine $extent $depth $dirs $(ours $mode)" >>"$work/plain"
	done
	cell_close
done
exec 5>&- 6<&- || true

awk -f "$here/nvme.awk" -v json="$B/bench/nvme.json" -v fio="$([ -z "$fio" ] || "$fio" --version)" -v peer="$peer" \
	-v unequal="$B/bench/nvme_unequal.json" -v seen="$(B=$B "$here/nvme_unequal.sh" >"$work/unequal" && echo 1 || echo 0)" \
	"$work/plain" "$work/turns"
cat "$work/unequal"
