#!/bin/bash
# Usage: B=BUILD_DIR run.sh [TEST...]
#
# Runs test programs and scripts one after another: PASS, FAIL or SKIP, the name and the seconds,
# the log of what failed, and as its last line "N passed, N failed, N skipped". Exits 0 only when
# nothing failed. TEST_TIMEOUT: seconds for each test. SAN: what the build was instrumented with.
#
# 1. Exit status 77 of a test means "cannot run here", with the reason on its last line.
# 2. No process outlives its test. All of them carry DSRUN_TEST_ID in their environment, so also those
#    are found that changed their group or session; one that is left when the test passed fails it.
# 3. A test has a fresh empty directory as TMPDIR, which goes with it.
set -u
: "${B:=build}" "${SAN:=}" "${TEST_TIMEOUT:=300}"
export B SAN
passed=0 failed=0 skipped=0
failures=()

case ,$SAN, in
*,thread,*)
	# ThreadSanitizer does not follow a process that forks with threads.
	export CK_FORK=no
	export TSAN_OPTIONS="second_deadlock_stack=1 ${TSAN_OPTIONS:-}" ;;
*,address,*)
	export ASAN_OPTIONS="allocator_may_return_null=1 ${ASAN_OPTIONS:-}"
	export LSAN_OPTIONS="suppressions=$PWD/tests/lsan.supp print_suppressions=0 ${LSAN_OPTIONS:-}" ;;
esac
export UBSAN_OPTIONS="print_stacktrace=1 ${UBSAN_OPTIONS:-}"
[ -z "$SAN" ] || export CK_TIMEOUT_MULTIPLIER=5

# Prints the processes of the running test. This shell is none of them: /proc shows the environment
# a process was started with, and its own had no such variable. Subshells share that; grep does not.
survivors() {
	env -u DSRUN_TEST_ID grep -lsxzF -- "DSRUN_TEST_ID=$DSRUN_TEST_ID" /proc/[0-9]*/environ |
		env -u DSRUN_TEST_ID cut -d/ -f3
}

# Kills what is left of the test. Prints one line for each process that two seconds did not end.
reap() {
	local tries pids=""
	for ((tries = 0; tries < 20; tries++)); do
		pids=$(survivors)
		[ -n "$pids" ] || return 0
		[ "$1" = wait ] || break
		sleep 0.1
	done
	for pid in $pids; do
		echo "left behind: $pid $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
		kill -KILL "$pid" 2>/dev/null
	done
}

run_one() {
	local test=$1 name log begin seconds rc left how=wait
	name=$(basename "$test" .sh)
	log=$B/tests/$name.log
	export DSRUN_TEST_ID="$$-$name"
	TMPDIR=$(mktemp -d "$scratch/XXXXXX") || exit 70
	export TMPDIR
	begin=$EPOCHREALTIME
	timeout -k 5 "$TEST_TIMEOUT" "$test" >"$log" 2>&1 </dev/null
	rc=$?
	seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	[ $rc -ne 124 ] && [ $rc -ne 137 ] || how=now
	left=$(reap $how)
	rm -rf "$TMPDIR"
	if [ -n "$left" ]; then
		echo "$left" >>"$log"
		[ $rc -ne 0 ] && [ $rc -ne 77 ] || rc=1
	fi
	case $rc in
	0) passed=$((passed + 1)); echo "PASS $name ${seconds}s" ;;
	77) skipped=$((skipped + 1)); echo "SKIP $name ${seconds}s: $(tail -n 1 "$log")" ;;
	*)
		failed=$((failed + 1))
		failures+=("$name")
		case $rc in
		124 | 137) echo "FAIL $name ${seconds}s: ended after $TEST_TIMEOUT s or killed" ;;
		*) echo "FAIL $name ${seconds}s: status $rc" ;;
		esac
		sed 's/^/    /' "$log" | tail -n 100 ;;
	esac
}

mkdir -p "$B/tests" || exit 70
scratch=$(mktemp -d "${TMPDIR:-/tmp}/dsrun-tests.XXXXXX") || exit 70
trap 'rm -rf "$scratch"' EXIT
for test in "$@"; do
	run_one "$test"
done
[ $failed -eq 0 ] || echo "failed: ${failures[*]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
