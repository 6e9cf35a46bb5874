#!/bin/sh
# The swap store beside fio: sequential read, write and a half-half mix, on the given directories.
#
#	B=build bench/nvme.sh [DIR...]        default: a directory below $B
#
# Each cell is run several times, the two of us and fio taking turns, so that a disk whose mood
# changes does so for all, after the same writes and with 0.3 s uncounted at the beginning; and fio
# works on the very file of the store, through /proc, since where a file lies can double its speed.
# A ratio is ours over fio's of the same turn, its median over the turns; a mode's ratio is the
# median over its cells. Ours includes the checksum of every extent. Leaves $B/bench/nvme.json.
# NVME_BENCH_TURNS, NVME_BENCH_SECONDS and NVME_BENCH_BYTES make it longer.
set -eu

B=${B:-build}
turns=${NVME_BENCH_TURNS:-3}
seconds=${NVME_BENCH_SECONDS:-0.4}
total=${NVME_BENCH_BYTES:-268435456}
millis=$(awk "BEGIN { printf \"%dms\", $seconds * 1000 }")
cells="65536:32 1048576:16 4194304:8"

mkdir -p "$B/bench"
work=$(mktemp -d "$B/bench/nvme.XXXXXX")
cleanup() {
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
[ $# -gt 0 ] || set -- "$work"

fio=$(command -v fio || true)
if [ -z "$fio" ]; then
	echo "fio is not installed: the ratios stay null"
elif ! $fio --enghelp 2>/dev/null | grep -q io_uring; then
	echo "this fio has no io_uring: the ratios stay null"
	fio=
fi

# start NAME ENGINE EXTENT DEPTH DIR...: a bench_nvme that reads $work/NAME.in
start() {
	n=$1 e=$2 x=$3 d=$4
	shift 4
	rm -f "$work/$n.in" "$work/$n.out"
	mkfifo "$work/$n.in" "$work/$n.out"
	"$B/bench/bench_nvme" "$e" "$x" "$d" "$total" "$seconds" "$@" 2>>"$work/log" \
		<"$work/$n.in" >"$work/$n.out" 3>&- 4<&- 5>&- 6<&- &
}

# files PID DIR...: its swap files in these directories, as fio takes them
files() {
	pid=$1
	shift
	for dir in "$@"; do
		dir=$(realpath "$dir")
		for fd in /proc/"$pid"/fd/*; do
			case $(readlink "$fd" || true) in "$dir"/*"(deleted)") echo "$fd" ;; esac
		done
	done | paste -sd:
}

fail() {
	cat "$work/log" >&2
	exit 1
}

# The answers of the two, "-" from one that is not there.
uring() {
	[ "$uring_ready" = ready ] || { echo -; return; }
	echo "$1" >&3
	read -r figure <&4 || fail
	echo "$figure"
}
aio() {
	[ "$aio_ready" = ready ] || { echo -; return; }
	echo "$1" >&5
	read -r figure <&6 || fail
	echo "$figure"
}

# Whole extents for who comes next, and the same writes just before for everybody.
measure_uring() {
	uring fill >/dev/null
	u=$(uring "$mode")
}
measure_aio() {
	aio fill >/dev/null
	a=$(aio "$mode")
}
measure_fio() {
	if [ "$uring_ready" = ready ]; then uring fill; else aio fill; fi >/dev/null
	f=$(beside "$mode" "$extent" "$depth")
}

# beside MODE EXTENT DEPTH: the same by fio; "-" where it cannot
beside() {
	case ,$fio,$names, in *,,*) echo -; return ;; esac
	case $1 in mixed) rw=rw ;; *) rw=$1 ;; esac
	"$fio" --name=swap --filename="$names" --file_service_type=roundrobin --size="$total" \
		--ioengine=io_uring --direct=1 --rw="$rw" --rwmixread=50 --bs="$2" \
		--iodepth=$(($3 * dirs)) --runtime="$millis" --ramp_time=300ms --time_based \
		--output-format=json 2>>"$work/log" >"$work/fio.json" || { echo -; return; }
	# The job's read and write sections each have one "bw_bytes"; trim's is 0.
	awk -F: '/"bw_bytes"/ { sum += $2 } END { printf "%.0f\n", sum }' "$work/fio.json"
}

dirs=$#
: >"$work/turns"
for cell in $cells; do
	extent=${cell%:*} depth=${cell#*:} turn=0
	start uring io_uring "$extent" "$depth" "$@"
	exec 3>"$work/uring.in" 4<"$work/uring.out"
	read -r uring_ready <&4 || uring_ready=
	names=$([ "$uring_ready" != ready ] || files $! "$@")
	start aio libaio "$extent" "$depth" "$@"
	exec 5>"$work/aio.in" 6<"$work/aio.out"
	read -r aio_ready <&6 || aio_ready=
	[ -n "$names" ] || [ "$aio_ready" != ready ] || names=$(files $! "$@")
	while [ "$turn" -lt "$turns" ]; do
		for mode in read write mixed; do
			# Who goes first changes.
			if [ $((turn % 2)) -eq 0 ]; then
				measure_uring; measure_fio; measure_aio
			else
				measure_aio; measure_fio; measure_uring
			fi
			echo "$mode $extent $depth $u $a $f" >>"$work/turns"
		done
		turn=$((turn + 1))
	done
	exec 3>&- 4<&- 5>&- 6<&-
	wait || true
done

sort -u "$work/log" >&2
awk -v json="$B/bench/nvme.json" -v fio="$([ -z "$fio" ] || "$fio" --version)" '
function median(list, n,    i, j, t, v) {
	n = split(list, v, " ")
	if (n == 0)
		return "-"
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) {
			t = v[j]; v[j] = v[j - 1]; v[j - 1] = t
		}
	return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
function add(list, x) { return x == "-" ? list : list " " x }
function number(x, form) { return x == "-" ? "null" : sprintf(form, x) }
function gb(x) { return x == "-" ? "-" : sprintf("%.2f", x / 1e9) }
{
	key = $1 " " $2 " " $3
	if (!(key in seen)) { seen[key] = 1; keys[++count] = key }
	uring[key] = add(uring[key], $4)
	aio[key] = add(aio[key], $5)
	other[key] = add(other[key], $6)
	best = $4 == "-" ? $5 : $4
	if (best != "-" && $6 != "-" && $6 > 0) ratio[key] = add(ratio[key], best / $6)
}
END {
	printf "%-6s %8s %6s %12s %12s %12s %8s\n", "mode", "request", "depth", "io_uring", "libaio", \
		"fio", "ratio"
	printf "%-6s %8s %6s %12s %12s %12s %8s\n", "", "KiB", "", "GB/s", "GB/s", "GB/s", "to fio"
	printf "{\"fio\": %s,\n \"cells\": [", (fio == "" ? "null" : "\"" fio "\"") > json
	order = "read write mixed"
	for (j = 1; j <= 3; j++) for (i = 1; i <= count; i++) {
		key = keys[i]
		split(key, k, " "); split(order, names, " ")
		if (k[1] != names[j])
			continue
		u = median(uring[key]); a = median(aio[key]); f = median(other[key]); r = median(ratio[key])
		printf "%-6s %8d %6d %12s %12s %12s %8s\n", k[1], k[2] / 1024, k[3], gb(u), gb(a), gb(f), \
			r == "-" ? "-" : sprintf("%.2f", r)
		printf "%s\n  {\"mode\": \"%s\", \"request_bytes\": %d, \"depth\": %d, ", (rows++ > 0 ? "," : ""), \
			k[1], k[2], k[3] > json
		printf "\"io_uring_bytes_per_s\": %s, \"libaio_bytes_per_s\": %s, ", number(u, "%.0f"), \
			number(a, "%.0f") > json
		printf "\"fio_bytes_per_s\": %s, \"ratio\": %s}", number(f, "%.0f"), number(r, "%.4f") > json
		modes[k[1]] = add(modes[k[1]], r)
	}
	printf "],\n \"ratio_fio_read\": %s, \"ratio_fio_write\": %s, \"ratio_fio_mixed\": %s}\n", \
		number(median(modes["read"]), "%.4f"), number(median(modes["write"]), "%.4f"), \
		number(median(modes["mixed"]), "%.4f") > json
	printf "ratio to fio: read %s, write %s, mixed %s\n", number(median(modes["read"]), "%.2f"), \
		number(median(modes["write"]), "%.2f"), number(median(modes["mixed"]), "%.2f")
}' "$work/turns"
