#!/bin/bash
# Goal: a model whose training state is at least five times the host and device budgets together
# trains, and memory is what --plan said: the peak of all processes, shared memory counted once, is
# within 15 %. Then once more inside a memory cgroup of plan + 15 % without swap, where root may make
# one. Usage: overbudget.sh [CONFIG], default examples/overbudget.yaml.
set -u
B=${B:-build}
config=${1:-examples/overbudget.yaml}
dir=$(mktemp -d "$B/overbudget.XXXXXX") || exit 1
group=
# shellcheck disable=SC2317 # called by the trap
cleanup() {
	if [ -n "$group" ]; then rmdir "$group" 2>/dev/null; fi
	rm -rf "$dir"
}
trap cleanup EXIT
mkdir "$dir/swap"
need=$((8 * 1024 * 1024))
case ${SAN:-} in ?*) echo "memory under a sanitizer is the sanitizer's"; exit 77 ;; esac
[ "$(df --output=avail -k "$dir" | tail -1)" -gt $need ] ||
	{ echo "needs 8 GiB of free disk in $B"; exit 77; }
seq 1 20000 > "$dir/text"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/text" > "$dir/log" 2>&1 ||
	{ cat "$dir/log"; exit 1; }
sed -e "s|build/overbudget/swap|$dir/swap|" -e "s|build/quickstart/|$dir/|g" "$config" > "$dir/c.yaml"

field() { sed "s|[,{]|\n|g" "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -1; }

"$B/bin/dsrun" --plan --json "$dir/c.yaml" > "$dir/plan.json" || exit 1
"$B/bin/dsrun" --plan "$dir/c.yaml"
plan=$(field "$dir/plan.json" host_peak_bytes)
params=$(field "$dir/plan.json" params)
devices=$(sed -n 's/.*device:.*count: *\([0-9]*\).*/\1/p' "$dir/c.yaml")
mib() { sed -n "s/^$1:.*memory: *\([0-9]*\)MiB.*/\1/p" "$dir/c.yaml"; }
budget=$(((devices * $(mib device) + $(mib host)) * 1048576))
echo "params $params, state $((16 * params)) bytes, budgets $budget bytes"
[ "$params" -ge 300000000 ] || { echo "fewer than 300 M parameters"; exit 1; }
[ $((16 * params)) -ge $((5 * budget)) ] || { echo "state is less than five times the budgets"; exit 1; }

"$B/tests/peak_memory" "$dir/peak" "$B/bin/dsrun" --daemon private --summary "$dir/summary.json" "$dir/c.yaml"
rc=$?
[ $rc -eq 0 ] || { echo "dsrun ended with $rc"; exit 1; }
[ "$(field "$dir/summary.json" steps)" = 3 ] || { echo "not three steps"; cat "$dir/summary.json"; exit 1; }
peak=$(cat "$dir/peak")
awk -v p="$peak" -v q="$plan" 'BEGIN { r = p / q; printf "peak %d bytes, plan %d bytes: %.3f\n", p, q, r
	exit !(r >= 0.85 && r <= 1.15) }' || { echo "outside 15 % of the plan"; exit 1; }

limit=$((plan + plan * 15 / 100))
if mkdir "/sys/fs/cgroup/memory/dsrun-test-$$" 2>/dev/null; then
	group=/sys/fs/cgroup/memory/dsrun-test-$$
	echo $limit > "$group/memory.limit_in_bytes"
	echo $limit > "$group/memory.memsw.limit_in_bytes" 2>/dev/null
	sh -c "echo \$\$ > $group/cgroup.procs; exec '$B/bin/dsrun' --quiet --daemon private '$dir/c.yaml'"
	rc=$?
	echo "in a memory cgroup of $limit bytes: exit $rc, most used $(cat "$group/memory.max_usage_in_bytes")"
elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null && mkdir "/sys/fs/cgroup/dsrun-test-$$" 2>/dev/null; then
	group=/sys/fs/cgroup/dsrun-test-$$
	if ! { echo $limit > "$group/memory.max" && echo 0 > "$group/memory.swap.max"; } 2>/dev/null; then
		echo "no memory cgroup to be had: that half is left out"
		exit 0
	fi
	sh -c "echo \$\$ > $group/cgroup.procs; exec '$B/bin/dsrun' --quiet --daemon private '$dir/c.yaml'"
	rc=$?
	echo "in a memory cgroup of $limit bytes: exit $rc, most used $(cat "$group/memory.peak" 2>/dev/null)"
else
	echo "no memory cgroup to be had: that half is left out"
	exit 0
fi
exit $rc
