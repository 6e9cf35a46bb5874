#!/bin/bash
# Goal: host.memory: auto. A job is lent what the node's daemon has left, keeps in it what it has room
# for of what was asked to be on NVMe, trains to the same numbers to the last bit, and holds what its
# plan says, within 15 %.
# Method: dsrun, with daemons of this script's own whose quotas leave room for none, some, or all of a
# model; then a private daemon, and one that has nothing left.
set -u
B=${B:-build}
dir=$(realpath "$(mktemp -d "$B/host_auto.XXXXXX")") || exit 1
daemon=
trap '[ -z "$daemon" ] || kill -KILL $daemon 2>/dev/null; rm -rf "$dir"' EXIT
fails=0
mkdir "$dir/swap"

fail() { echo "FAIL: $*"; fails=$((fails + 1)); }
field() { sed 's|[,{]|\n|g' "$1" | sed -n "s|^ *\"$2\": *\([0-9.e+-]*\).*|\1|p" | head -1; }

seq 1 4000 > "$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" > /dev/null || exit 1

# config NAME PLACE MEMORY
config() {
	cat > "$dir/$1.yaml" <<EOF
model:     {arch: gpt2, layers: 12, hidden: 256, heads: 4, vocab: 256, context: 32}
data:      {train: $dir/a.bin, sequence: 32}
batch:     {global: 8, micro: 2}
optimizer: {lr: 1e-3}
schedule:  {warmup: 1, steps: 3}
zero:      {stage: 3, offload_param: $2, offload_optimizer: $2}
nvme:      {paths: [$dir/swap], extent: 256KiB}
host:      {memory: $3, threads: 1}
device:    {type: cpu, count: 2, memory: 192MiB}
log:       {every: 1, file: $dir/$1.jsonl}
EOF
}

losses() { sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$dir/$1.jsonl"; }

# A daemon that lends so much, at $dir/socket.
start() {
	printf 'socket: %s\nhost: {memory: %s, threads: 1}\nnvme: {paths: [%s]}\nlog: {level: error}\n' \
		"$dir/socket" "$1" "$(realpath "$dir/swap")" > "$dir/conf"
	"$B/bin/dsoffloadd" -f -c "$dir/conf" &
	daemon=$!
	for ((i = 0; i < 1000; i++)); do
		"$B/bin/dsctl" status -s "$dir/socket" > /dev/null 2>&1 && return
		sleep 0.01
	done
	fail "no daemon"
}

stop() {
	kill -TERM $daemon
	wait $daemon || fail "the daemon ended with $?"
	daemon=
}

config none none 1GiB
config auto nvme auto
"$B/bin/dsrun" --quiet --export "$dir/none.safetensors" "$dir/none.yaml" || exit 1

trained() { # NAME DAEMON: to the same numbers?
	rm -f "$dir/auto.jsonl"
	"$B/bin/dsrun" --quiet --daemon "$2" --export "$dir/auto.safetensors" "$dir/auto.yaml" ||
		{ fail "$1: exit $?"; return; }
	[ "$(losses auto)" = "$(losses none)" ] || fail "$1: other losses"
	cmp -s "$dir/auto.safetensors" "$dir/none.safetensors" || fail "$1: other weights"
}

# portion BYTES ALL: none, some, or all?
portion() { if [ "$1" -eq 0 ]; then echo none; elif [ "$1" -lt "$2" ]; then echo some; else echo all; fi; }

# Quotas, and how much of parameters and of state they keep in memory. (The embedding is small enough
# for its state to go where no block's parameters would.)
params=9564160 state=47820800
for case in '13MiB none none' '22MiB some some' '80MiB all some' '400MiB all all'; do
	quota=${case%% *}
	start "$quota"
	"$B/bin/dsrun" --plan --json --daemon "$dir/socket" "$dir/auto.yaml" > "$dir/plan.json" ||
		fail "$quota: no plan"
	cached_params=$(field "$dir/plan.json" cached_param_bytes)
	cached_state=$(field "$dir/plan.json" cached_state_bytes)
	reads=$(sed 's/.*"swap"//' "$dir/plan.json" | sed 's/.*"step_read_bytes":\([0-9]*\).*/\1/')
	echo "$quota: cached $cached_params of parameters, $cached_state of state; $reads read in a step"
	kept="$(portion "$cached_params" $params) $(portion "$cached_state" $state)"
	[ "$quota $kept" = "$case" ] || fail "$quota: $kept"
	[ $((reads > 0)) = $((${quota%MiB} < 400)) ] || fail "$quota: $reads bytes read in a step"
	trained "$quota" "$dir/socket"
	stop
done

# A private daemon, of what this host can spare: all of it is cached, and memory is as planned.
"$B/bin/dsrun" --plan --json --daemon private "$dir/auto.yaml" > "$dir/plan.json" || fail "no plan"
plan=$(field "$dir/plan.json" host_peak_bytes)
trained private private
if [ -z "${SAN:-}" ]; then
	"$B/tests/peak_memory" "$dir/peak" "$B/bin/dsrun" --quiet --daemon private "$dir/auto.yaml" ||
		fail "exit $?"
	awk -v p="$(cat "$dir/peak")" -v q="$plan" 'BEGIN { r = p / q
		printf "peak %d bytes, plan %d bytes: %.3f\n", p, q, r; exit !(r >= 0.85 && r <= 1.15) }' ||
		fail "outside 15 % of the plan"
fi

# Too little to start with is said before anything runs.
start 1MiB
"$B/bin/dsrun" --plan --daemon "$dir/socket" "$dir/auto.yaml" > "$dir/out" 2>&1
[ $? = 78 ] && grep -q "host.memory: 1MiB is too small" "$dir/out" || fail "$(cat "$dir/out")"
stop

exit $((fails > 0))
