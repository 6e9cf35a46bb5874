#!/bin/bash
# Goal: `dsrun --trace` shows a real job as it was, with figures that can be recomputed from the file;
# it changes no number of the training; a job that fails has a trace too; what cannot be written is
# said, before the job where that can be known.
# Method: two ranks with everything on NVMe, and with nothing there, traced and not; trace_check.py
# parses the file strictly and recomputes the table. Runs that fail, are killed, or end early.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
here=$PWD
python=${PYTHON:-python3}
command -v "$python" > /dev/null || { echo "no $python to read the trace with"; exit 77; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/trace.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
mkdir swap
fails=0

fail() {
	echo "$*"
	fails=$((fails + 1))
}

seq 1 3000 > text
"$B/bin/dsprep" -q --train a.bin --validation b.bin text || exit 1

# config NAME PLACEMENT STEPS [ACTIVATIONS]
config() {
	cat > "$1.yaml" <<-END
		model:     {arch: gpt2, layers: 3, hidden: 64, heads: 2, vocab: 256, context: 32}
		data:      {train: [a.bin], validation: [b.bin]}
		batch:     {global: 8, micro: 2}
		optimizer: {type: adamw, lr: ${lr:-3e-3}, clip: 1.0}
		schedule:  {steps: $3}
		precision: bf16
		zero:      {stage: 3, offload_param: $2, offload_optimizer: $2, offload_activations: ${4:-none}}
		nvme:      {paths: [$dir/swap], extent: 64KiB}
		host:      {memory: 64MiB, threads: 2}
		device:    {type: cpu, count: 2, memory: 32MiB}
		evaluate:  {batches: 2}
		log:       {every: 1, file: $1.jsonl}
		seed:      3
	END
}

# run NAME STATUS ARGUMENTS...
run() {
	local name=$1 status=$2 rc
	shift 2
	timeout 100 "$B/bin/dsrun" --daemon private --summary "$name.sum" "$@" "$name.yaml" > "$name.out" 2>&1
	rc=$?
	[ $rc -eq "$status" ] || { fail "run $name $*: exit status $rc, expected $status"; tail -n 15 "$name.out"; }
}

says() {
	grep -qF -- "$2" "$1.out" || { fail "run $1 does not say '$2':"; tail -n 25 "$1.out"; }
}

losses() { sed -n 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' "$1"; }

# is_trace FILE: one JSON object with a list of events. How many are no metadata?
is_trace() {
	"$python" -c 'import json, sys
print(sum(e["ph"] == "X" for e in json.load(open(sys.argv[1]))["traceEvents"]))' "$1"
}

# The same job with everything on NVMe, traced and not.
config off nvme 6 nvme
run off 0 --export off.safetensors
config on nvme 6 nvme
run on 0 --export on.safetensors --trace on.json
"$python" "$here/tests/trace_check.py" on.json on.sum 2 6 2 3 "$dir/swap" || fail "on.json is wrong"
cmp off.safetensors on.safetensors || fail "tracing changes the weights"
losses off.jsonl > off.losses
losses on.jsonl | cmp - off.losses || fail "tracing changes the losses"
[ "$(wc -l < off.losses)" = 6 ] || fail "off.jsonl has no 6 losses"
says on "trace: on.json; its steps 3 to 6"
says on "hidden behind compute"
says on "  copy-in "
says on "dsoffloadd (rank 1's session)"

# Nothing offloaded: no daemon, and no transfers but collectives.
config none none 3
run none 0 --quiet --trace none.json --trace-steps 20
"$python" "$here/tests/trace_check.py" none.json none.sum 2 3 2 3 none || fail "none.json is wrong"
[ -s none.out ] && fail "--quiet prints: $(cat none.out)"

# The cuda device, which has a clock of its own; on the host shim, in a world of one.
if [ -x "$B/cuda_host/dsworker" ] && ! "$B/bin/dsrun" --version | grep -q '^left out .*cuda'; then
	config cuda nvme 4
	sed -i 's/^device: .*/device: {type: cuda, count: 1, memory: 64MiB}/' cuda.yaml
	DSRUN_WORKER=$B/cuda_host/dsworker run cuda 0 --trace cuda.json
	"$python" "$here/tests/trace_check.py" cuda.json cuda.sum 1 4 4 3 "$dir/swap" || fail "cuda.json is wrong"
fi

# Some steps only, of a run that goes on behind them; and steps that never come.
config some cpu 8
run some 0 --trace some.json --trace-steps 3-4
"$python" - some.json <<-'END' || fail "some.json has other steps than 3 and 4"
	import json, sys
	events = json.load(open(sys.argv[1]))["traceEvents"]
	steps = [e["args"]["unit"] for e in events if e["name"] == "step" and e["cat"] == "busy"
	         and e["pid"] == 1]
	ends = [e["ts"] + e["dur"] for e in events if e["name"] == "step" and e["ph"] == "X"]
	sys.exit(steps != [3, 4] or max(e["ts"] for e in events if e["ph"] == "X") > max(ends) + 1e6)
END
run some 0 --trace some.json --trace-steps 50-60
says some "nothing was recorded"
[ "$(is_trace some.json)" = 0 ] || fail "a trace of steps that never came has events"

# A loss that is not finite; a rank that is killed: as far as it went.
lr=1e30 config nan nvme 50
run nan 65 --trace nan.json
says nan "not finite"
[ "$(is_trace nan.json)" -gt 100 ] || fail "a failed job's trace is empty: $(head -c 300 nan.json)"
config killed nvme 100000
"$B/bin/dsrun" --daemon private --summary killed.sum --trace killed.json --trace-steps 100000 \
	killed.yaml > killed.out 2>&1 &
pid=$!
for ((i = 0; i < 600; i++)); do
	grep -q "^step 5/" killed.out && break
	kill -0 $pid 2> /dev/null || break
	sleep 0.05
done
# The worker of rank 1: a child of dsrun's child, the agent.
for agent in $(cat "/proc/$pid/task/$pid/children"); do
	for worker in $(cat "/proc/$agent/task/$agent/children"); do
		tr '\0' '\n' < "/proc/$worker/environ" | grep -qx RANK=1 && kill -9 "$worker"
	done
done
wait $pid
[ $? -eq 137 ] || fail "a killed rank's job ends otherwise: $(tail -n 5 killed.out)"
[ "$(is_trace killed.json)" -gt 100 ] || fail "a killed job's trace is empty"
grep -q '"trace":{"file":"killed.json"' killed.sum || fail "a killed job's summary has no trace"

# Where it cannot be written: before the job where that is seen, else at the end; nothing else is lost.
config bad none 3
run bad 73 --trace "$dir/nowhere/t.json"
says bad "--trace"
grep -q "^step" bad.out && fail "the job ran although its trace has no place"
run bad 73 --trace "$dir/swap"
says bad "directory"
mkdir gone
config gone none 2000
"$B/bin/dsrun" --summary gone.sum --trace gone/t.json --trace-steps 3 gone.yaml > gone.out 2>&1 &
pid=$!
for ((i = 0; i < 600; i++)); do
	grep -q "^step 5/" gone.out && break
	kill -0 $pid 2> /dev/null || break
	sleep 0.05
done
rmdir gone
kill -TERM $pid
wait $pid
rc=$?
[ $rc -eq 143 ] || [ $rc -eq 73 ] || fail "a trace without a place: exit status $rc"
says gone "gone/t.json"
grep -q '"tokens_per_s"' gone.sum || fail "with the trace the summary was lost: $(cat gone.sum)"

# The command line.
for steps in 0 5-3 0-4 x 3- -4 "" 1-2-3 99999999999999999999; do
	run bad 64 --trace t.json --trace-steps="$steps"
done
run bad 64 --trace-steps 5
says bad "goes with --trace only"

[ $fails -eq 0 ]
