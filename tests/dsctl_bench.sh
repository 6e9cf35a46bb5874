#!/bin/bash
# Goal: dsctl bench measures a real directory, its first line is about endurance, and what it writes
# reaches who should read it: plan, worker and daemon agree, a user's own words win, and figures of
# another disk count for nothing. It leaves nothing behind, refuses what it should, and does not
# touch an old file when it fails.
# Method: the real programs; a file of figures, altered where the test has to know what is in it.
set -u
D=$B/bin/dsoffloadd C=$B/bin/dsctl R=$B/bin/dsrun
dir=$(mktemp -d) || exit 70
pids=()
trap '[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
failed=0
mkdir "$dir/swap" "$dir/out"

fail() {
	echo "FAIL: $*"
	failed=1
}

# Usage: expect STATUS TEXT COMMAND...: runs it, wants this status and TEXT in what it prints.
expect() {
	local status=$1 text=$2 rc
	shift 2
	"$@" >"$dir/printed" 2>&1 </dev/null
	rc=$?
	[ $rc -eq "$status" ] || fail "$*: status $rc, not $status: $(cat "$dir/printed")"
	[ -z "$text" ] || grep -qF -e "$text" "$dir/printed" ||
		fail "$*: no '$text' in: $(cat "$dir/printed")"
}

# Usage: await COMMAND...: until it succeeds, half a minute at most.
await() {
	local tries
	for ((tries = 0; tries < 3000; tries++)); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.01
	done
	fail "never came true: $*"
	return 1
}

empty() {
	[ -z "$(ls -A "$1")" ] || fail "left in $1: $(ls -A "$1")"
}

short() {
	"$C" bench --seconds 1 --size 64MiB --socket "@$$-none" "$@"
}

short --json --no-write "$dir/swap" >"$dir/json" 2>"$dir/printed"
case $?,$(cat "$dir/printed") in
0,*) ;;
*"in memory"* | *"direct"*)
	tail -n 1 "$dir/printed"
	exit 77 ;;
*) fail "bench: $(cat "$dir/printed")" ;;
esac

# Options and refusals.
expect 0 usage: "$C" bench --help
expect 64 "expected directories" "$C" bench
expect 64 "--params" "$C" bench --params many "$dir/swap"
expect 64 "--endurance" "$C" bench -e 0.6x "$dir/swap"
expect 64 "--size" "$C" bench -b 1MiB "$dir/swap"
expect 64 "--seconds" "$C" bench -S 0 "$dir/swap"
expect 64 "--step-time" "$C" bench -t 5 "$dir/swap"
expect 64 "both" "$C" bench -c x -p 5 "$dir/swap"
expect 66 "$dir/none" short -c "$dir/none"
expect 73 "$dir/none/file" short -o "$dir/none/file" "$dir/swap"
expect 78 "is not a directory that can be written to" short -n "$dir/none"
expect 73 "are free" "$C" bench -n -b 1TiB "$dir/swap"
expect 74 "" sh -c "'$C' bench -n -S 1 -b 64MiB -s @$$-none '$dir/swap' >/dev/full"
empty "$dir/swap"

# A disk without the room, where one can be made.
full_disk() {
	truncate -s 80M "$dir/image" && mkfs.ext4 -q "$dir/image" && mkdir "$dir/mnt" &&
		mount -o loop "$dir/image" "$dir/mnt" || exit 77
	"$C" bench -n -S 1 -b 128MiB -s "@$$-none" "$dir/mnt"
}
export -f full_disk
export dir C
unshare --mount bash -c full_disk >"$dir/printed" 2>&1
case $? in
73) grep -q "cannot reserve 128MiB" "$dir/printed" || fail "full disk: $(cat "$dir/printed")" ;;
77 | 1 | 127) echo "no full disk here: $(tail -n 1 "$dir/printed")" ;;
*) fail "full disk: $(cat "$dir/printed")" ;;
esac

# The file, the first line, and JSON.
expect 0 "" short -o "$dir/out/tuned.yaml" -p 1e9 -t 10s -e 100TB "$dir/swap"
[[ $(head -n 1 "$dir/printed") == "endurance: a step writes 11.2GiB; at 10 s a step that is 94.3TiB a day"*"days" ]] ||
	fail "the first line: $(head -n 1 "$dir/printed")"
[ "$(ls "$dir/out")" = tuned.yaml ] || fail "beside the file: $(ls "$dir/out")"
[ "$(stat -c %a "$dir/out/tuned.yaml")" = 644 ] || fail "who may read it: $(ls -l "$dir/out")"
grep -q "path: \"$(realpath "$dir/swap")\"" "$dir/out/tuned.yaml" || fail "no path: $(cat "$dir/out/tuned.yaml")"
python3 - "$dir/json" <<'PY' || fail "JSON: $(cat "$dir/json")"
import json, sys
j = json.load(open(sys.argv[1]))
assert j["warning"].startswith("writing without pause")
assert j["engine"] in ("io_uring", "libaio") and j["queue_depth"] >= 1
assert j["directories"][0]["mixed_bytes_per_s"] > 0 and j["steps"][0]["threads"] == 1
assert "file" not in j and j["bench_written_bytes"] > 0
PY

# kill -9 in the middle leaves nothing, and the old file.
cp "$dir/out/tuned.yaml" "$dir/old"
"$C" bench -S 30 -b 64MiB -s "@$$-none" -o "$dir/out/tuned.yaml" "$dir/swap" >/dev/null 2>&1 &
victim=$!
at_work() { [ -n "$(find "/proc/$victim/fd" -lname "$dir/swap/*deleted*")" ]; }
await at_work
kill -KILL $victim
wait $victim 2>/dev/null
empty "$dir/swap"
[ "$(ls "$dir/out")" = tuned.yaml ] || fail "kill -9 left: $(ls "$dir/out")"
cmp "$dir/out/tuned.yaml" "$dir/old" || fail "kill -9 changed the old file"

# A job. figures ENGINE EXTENT DEPTH: the file says so.
seq 1 3000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' >"$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" >/dev/null || fail dsprep
figures() {
	sed "s/^nvme:.*/nvme: {engine: $1, extent: $2, queue_depth: $3}/" "$dir/old" >"$dir/new"
	mv "$dir/new" "$dir/out/tuned.yaml"
}
config() { # NAME STEPS NVME
	cat >"$dir/$1.yaml" <<YAML
model:     {arch: gpt2, layers: 2, hidden: 64, heads: 2, vocab: 256, context: 32}
data:      {train: [$dir/a.bin], sequence: 32}
batch:     {global: 2, micro: 2}
optimizer: {type: adamw, lr: 3e-3}
schedule:  {type: constant, steps: $2}
zero:      {stage: 3, offload_param: nvme, offload_optimizer: nvme}
nvme:      {paths: [$dir/swap]$3}
host:      {memory: 64MiB, threads: 1}
device:    {type: cpu, count: 1, memory: 64MiB}
log:       {every: 1, file: $dir/$1.jsonl}
YAML
}
losses() { sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$dir/$1.jsonl"; }

config auto 100000 ", tuned: $dir/out/tuned.yaml"
config own 100000 ", tuned: $dir/out/tuned.yaml, engine: libaio, extent: 64KiB, queue_depth: 9"
config none 5 ", extent: 4MiB, queue_depth: 32"
config few 5 ", tuned: $dir/out/tuned.yaml"
config lost 5 ", tuned: $dir/out/lost.yaml"
figures libaio 131072 5
expect 0 "extents of up to 128KiB, 5 in flight" "$R" --plan "$dir/auto.yaml"
expect 0 "extents of up to 64KiB, 9 in flight" "$R" --plan "$dir/own.yaml"
expect 78 "nvme.tuned" "$R" --plan "$dir/lost.yaml"

# A daemon of the node's. jobs_have TEXT: its one session is so.
cat >"$dir/conf" <<YAML
socket: $dir/socket
host:   {memory: 128MiB, threads: 1}
nvme:   {paths: [$dir/swap], tuned: $dir/out/tuned.yaml}
YAML
"$D" -f -c "$dir/conf" 2>"$dir/log" &
pids+=($!)
await "$C" status -s "$dir/socket"
expect 0 "tuned      libaio, extent 128KiB, queue depth 5, by $dir/out/tuned.yaml" "$C" status -s "$dir/socket"
expect 0 '"extent_bytes":131072,"queue_depth":5' "$C" status -j -s "$dir/socket"
grep -q "figures of dsctl bench in $dir/out/tuned.yaml, measured 20.*: libaio, extent 128KiB" "$dir/log" ||
	fail "the daemon's log: $(cat "$dir/log")"
jobs_have() { "$C" jobs -j -s "$dir/socket" | grep -q "$1"; }
start() { # CONFIG
	"$R" --quiet --daemon "$dir/socket" "$dir/$1.yaml" >"$dir/$1.log" 2>&1 &
	pids[1]=$!
}
stop() {
	kill -TERM "${pids[1]}"
	wait "${pids[1]}" 2>/dev/null
	unset 'pids[1]'
	await jobs_have '"jobs":\[\]'
}
start auto
await jobs_have '"state":"running".*"engine":"libaio","extent_bytes":131072,"queue_depth":5' ||
	fail "jobs: $("$C" jobs -j -s "$dir/socket"): $(cat "$dir/auto.log")"
expect 69 "serves 1 session" "$C" bench -n -s "$dir/socket" "$dir/swap"
expect 0 "NOT TO BE TRUSTED" "$C" bench -f -S 1 -b 64MiB -s "$dir/socket" -o "$dir/out/forced" -c "$dir/auto.yaml"
grep -q "^endurance: a step writes .*MiB; at .* the least" "$dir/printed" || fail "-c: $(head -n 1 "$dir/printed")"
[ ! -e "$dir/out/forced" ] || fail "figures beside a job at work were written"
stop
start own
await jobs_have '"state":"running".*"engine":"libaio","extent_bytes":65536,"queue_depth":9' ||
	fail "jobs: $("$C" jobs -j -s "$dir/socket"): $(cat "$dir/own.log")"
stop

# A new file counts from the next session on.
figures io_uring 262144 6
start auto
await jobs_have '"state":"running".*"extent_bytes":262144,"queue_depth":6' ||
	fail "jobs: $("$C" jobs -j -s "$dir/socket"): $(cat "$dir/auto.log")"
stop
expect 0 '"extent_bytes":262144,"queue_depth":6' "$C" status -j -s "$dir/socket"

# Another filesystem than was measured: as if there were no figures, and said.
sed -i 's/filesystem: "[^"]*"/filesystem: "dev:0:00"/' "$dir/out/tuned.yaml"
expect 0 "extents of up to 4MiB, 32 in flight" "$R" --plan "$dir/auto.yaml"
expect 0 "another filesystem" "$R" --plan "$dir/auto.yaml"
start auto
await jobs_have '"state":"running".*"extent_bytes":4194304,"queue_depth":32' ||
	fail "jobs: $("$C" jobs -j -s "$dir/socket"): $(cat "$dir/auto.log")"
stop
grep -q "do not hold: .*another filesystem" "$dir/log" || fail "not in the daemon's log: $(cat "$dir/log")"

# So do a broken one, and one that is gone.
echo "nonsense: 1" >"$dir/out/tuned.yaml"
expect 78 "tuned.yaml:1:1" "$R" --plan "$dir/auto.yaml"
kill -TERM "${pids[0]}"
wait "${pids[0]}" || fail "SIGTERM: status $?: $(cat "$dir/log")"
pids=()
expect 78 "tuned.yaml:1:1" "$D" -f -c "$dir/conf"
rm "$dir/out/tuned.yaml"
expect 66 "tuned.yaml" "$D" -f -c "$dir/conf"

# A private daemon, and the same numbers by any figures.
figures libaio 131072 5
expect 0 "" "$R" --quiet --daemon private "$dir/few.yaml"
expect 0 "" "$R" --quiet --daemon private "$dir/none.yaml"
[ "$(losses few)" = "$(losses none)" ] && [ "$(losses few | wc -l)" -eq 5 ] ||
	fail "losses: $(losses few); $(losses none)"
empty "$dir/swap"

[ $failed -eq 0 ] && echo "figures reach who should read them"
exit $failed
