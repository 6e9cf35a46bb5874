#!/bin/bash
# Goal: dsoffloadd and dsctl are as their man pages say: options, exit statuses, messages, the socket
# at its path.
# Method: the real programs, with configurations of this script's own in an empty directory.
set -u
D=$B/bin/dsoffloadd C=$B/bin/dsctl
dir=$(mktemp -d) || exit 70
pids=()
trap '[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
failed=0

fail() {
	echo "FAIL: $*"
	failed=1
}

# Usage: expect STATUS TEXT COMMAND...: runs it, wants this status and TEXT in what it prints.
expect() {
	local status=$1 text=$2 rc
	shift 2
	"$@" >"$dir/out" 2>&1 </dev/null
	rc=$?
	[ $rc -eq "$status" ] || fail "$*: status $rc, not $status: $(cat "$dir/out")"
	[ -z "$text" ] || grep -qF -e "$text" "$dir/out" || fail "$*: no '$text' in: $(cat "$dir/out")"
}

# Usage: conf TEXT: a configuration.
conf() {
	printf '%b\n' "$1" >"$dir/conf"
}

# Usage: await COMMAND...: until it succeeds, ten seconds at most.
await() {
	local tries
	for ((tries = 0; tries < 1000; tries++)); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.01
	done
	fail "never came true: $*"
}

# Options.
expect 0 usage: "$D" --help
expect 0 "dsoffloadd " "$D" --version
expect 64 "unexpected argument" "$D" status
expect 64 "" "$D" --nonsense
expect 0 usage: "$C" --help
expect 0 "dsctl " "$C" -V
expect 64 "expected one command" "$C"
expect 64 "unknown command top" "$C" top
expect 64 "expected one command" "$C" status jobs
expect 69 "does not answer" "$C" status -s "$dir/none"
expect 69 "does not answer" "$C" jobs --socket "@$$-none"
expect 66 "$dir/none" "$D" --check-config --config "$dir/none"

# Configurations.
expect 0 "" "$D" -n -c etc/dsoffload.conf
# With every key of it in force, but for a directory that is not here.
sed -e 's/^#\(  [a-z]\|[a-z]\)/\1/' -e 's|\[/.*\]|[/tmp]|' etc/dsoffload.conf >"$dir/conf"
expect 0 "" "$D" -n -c "$dir/conf"
conf '{}'
expect 0 "" "$D" -n -c "$dir/conf"
while IFS='|' read -r text message; do
	conf "$text"
	expect 78 "$message" "$D" -n -c "$dir/conf"
	grep -qE "conf:[0-9]+:[0-9]+: " "$dir/out" || fail "no position: $(cat "$dir/out")"
done <<'TABLE'
sockt: /run/x|did you mean 'socket'
socket: run/x|an absolute path
socket: "@"|an absolute path
host: {memory: 1GB, memory: 2GB}|memory
host: {memory: much}|host.memory
host: {threads: 0}|host.threads
host: {threads: 4096}|host.threads
nvme: {paths: [/nowhere/at/all]}|/nowhere/at/all
nvme: {paths: [/etc/passwd]}|is no directory
nvme: {engine: uring}|nvme.engine
nvme: {quota: 1GiB}\nsession: {swap: 2GiB}|nvme.quota
session: {max: 0}|session.max
session: {hello_timeout: 5}|session.hello_timeout
session: {hello_timeout: 2h}|session.hello_timeout
session: {memory: 100000TiB}|host.memory
log: {level: loud}|log.level
log: {format: xml}|log.format
TABLE

# A daemon at a path.
conf "socket: $dir/socket
host: {memory: 64MiB, threads: 1}"
"$D" -f -c "$dir/conf" 2>"$dir/log" &
pids+=($!)
await "$C" status -s "$dir/socket"
expect 0 "running, pid ${pids[0]}" "$C" status -s "$dir/socket"
expect 0 "0B of 64MiB" "$C" status -s "$dir/socket"
expect 0 '"state":"running"' "$C" status --json --socket "$dir/socket"
expect 0 '{"jobs":[]}' "$C" jobs -j -s "$dir/socket"
expect 0 "WRITTEN" "$C" jobs -s "$dir/socket"
expect 69 "another daemon answers" "$D" -f -c "$dir/conf"
expect 74 "" sh -c "'$C' status -s '$dir/socket' >/dev/full"
grep -q "listening at $dir/socket" "$dir/log" || fail "nothing in the log: $(cat "$dir/log")"

# A dead one's socket is taken over; a living one removes its own.
kill -KILL "${pids[0]}"
wait "${pids[0]}" 2>/dev/null
[ -S "$dir/socket" ] || fail "a killed daemon cannot have removed its socket"
"$D" -f -c "$dir/conf" 2>"$dir/log" &
pids[0]=$!
await "$C" status -s "$dir/socket"
kill -TERM "${pids[0]}"
wait "${pids[0]}" || fail "SIGTERM: status $?: $(cat "$dir/log")"
pids=()
[ ! -e "$dir/socket" ] || fail "the socket was left behind"
echo "not a socket" >"$dir/socket"
expect 73 "no socket" "$D" -f -c "$dir/conf"
[ -f "$dir/socket" ] || fail "a file that is no socket was removed"
rm "$dir/socket"
conf "socket: $dir/none/socket"
expect 73 "$dir/none/socket" "$D" -f -c "$dir/conf"

# Descriptors passed on must be what they should be.
expect 64 "LISTEN_FDS" bash -c "LISTEN_FDS=1 LISTEN_PID=\$\$ exec '$D' -f -c '$dir/conf' 3</dev/null"
expect 64 "passes 2 sockets" bash -c "LISTEN_FDS=2 LISTEN_PID=\$\$ exec '$D' -f -c '$dir/conf'"

[ $failed -eq 0 ] && echo "all as documented"
exit $failed
