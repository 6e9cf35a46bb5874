#!/bin/bash
# Goal: several ranks with cuda devices train as one does: the same losses to 1e-4, and among
# themselves the same bits at every ZeRO stage and placement; and when one dies, or its communicator
# has an error, the job ends at once with that one as the cause.
# Method: dsrun itself, with a dsworker whose cuda device stands on the host shim of this directory
# and whose collectives are the host NCCL's, which adds in another order in its all-reduce than in
# its reduce-scatter, and waits for ever for a rank that is gone.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
if "$B/bin/dsrun" --version | grep -Eq '^left out .*(cuda|nccl)'; then
	echo "this build has no cuda device, or no NCCL"
	exit 77
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/ranks.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
mkdir swap
fails=0 runs=0
export DSRUN_WORKER="$B/cuda_host/dsworker"

fail() {
	echo "$@"
	fails=$((fails + 1))
}

seq 1 4000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > text
"$B/bin/dsprep" -q --train a.bin --validation b.bin text || exit 1

# config NAME RANKS STAGE PARAM OPTIMIZER ACTIVATIONS STEPS
config() {
	cat > "$1.yaml" <<-END
		model:     {arch: gpt2, layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32}
		data:      {train: [a.bin], sequence: 32}
		batch:     {global: 12, micro: 2}
		optimizer: {type: adamw, lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, clip: 1.0}
		schedule:  {type: cosine, warmup: 2, steps: $7, min_lr: 3e-4}
		precision: fp32
		zero:      {stage: $3, offload_param: $4, offload_optimizer: $5, offload_activations: $6}
		nvme:      {paths: [$dir/swap], extent: 64KiB}
		host:      {memory: 64MiB}
		device:    {type: cuda, count: $2, memory: 64MiB}
		log:       {every: 1, file: $1.jsonl}
		seed:      7
	END
}

# train NAME RANKS STAGE PARAM OPTIMIZER ACTIVATIONS STEPS
train() {
	config "$@"
	runs=$((runs + 1))
	if ! "$B/bin/dsrun" --quiet --daemon private --export "$1.safetensors" "$1.yaml" > "$1.out" 2>&1; then
		fail "run $1 failed: $(tail -n 20 "$1.out")"
		return 1
	fi
	sed -n 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' "$1.jsonl" > "$1.losses"
	[ "$(wc -l < "$1.losses")" -eq "$7" ] || fail "run $1: not $7 losses"
}

# like NAME REFERENCE: the same bits?
like() {
	cmp -s "$1.losses" "$2.losses" && cmp -s "$1.safetensors" "$2.safetensors" && return
	fail "run $1 differs from $2: $(diff "$1.losses" "$2.losses" | head -6)"
}

# close NAME REFERENCE: losses within 1e-4?
close() {
	paste "$1.losses" "$2.losses" | awk -v who="$1 and $2" '
		{ d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > worst) worst = d }
		END { printf "%s: losses within %.2g\n", who, worst; exit worst > 1e-4 }' ||
		fail "$1 is further than 1e-4 from $2"
}

train one 1 0 none none none 20
for ranks in 2 3; do
	train "r$ranks" $ranks 3 none none none 20 && close "r$ranks" one
	train "short$ranks" $ranks 3 none none none 3
done
while read -r ranks stage param optimizer act; do
	name=r$ranks-s$stage-$param-$optimizer-$act
	train "$name" "$ranks" "$stage" "$param" "$optimizer" "$act" 3 && like "$name" "short$ranks"
done <<-END
	2 0 none none none
	2 1 none cpu none
	2 2 none none cpu
	2 2 cpu nvme none
	2 3 cpu cpu nvme
	2 3 nvme nvme cpu
	3 0 none none none
	3 1 none none none
	3 2 none cpu none
	3 3 nvme nvme none
END

# ends NAME STATUS TEXT: how a job ended that could not go on.
ends() {
	local rc=0
	runs=$((runs + 1))
	"$B/bin/dsrun" --daemon private "$1.yaml" > "$1.out" 2>&1 || rc=$?
	[ $rc -eq "$2" ] || fail "$1: status $rc, expected $2"
	grep -q "$3" "$1.out" || fail "$1: no '$3' in: $(tail -n 20 "$1.out")"
}

# Rank 1 is killed in the middle; the others wait for it in a collective.
config killed 3 3 none none none 100000
cat > mortal <<-END
	#!/bin/bash
	if [ "\$RANK" = 1 ]; then
		(until [ -s killed.jsonl ]; do sleep 0.05; done; echo \$EPOCHREALTIME > killed.at; kill -KILL \$\$) &
	fi
	exec "$DSRUN_WORKER"
END
chmod +x mortal
DSRUN_WORKER=$dir/mortal ends killed 137 'rank 1 failed: killed by SIGKILL'
took=$(awk -v a="$(cat killed.at)" -v b="$EPOCHREALTIME" 'BEGIN { printf "%d", (b - a) * 1000 }')
echo "killed: ended after $took ms"
# Workers that only SIGKILL would end have the grace, a second, before it.
[ -n "${SAN:-}" ] || [ "$took" -le 3000 ] || fail "killed: ended after $took ms"

config error 3 3 none none none 100000
NCCL_HOST_ERROR=1,60 ends error 70 'rank 1 failed'
grep -q 'why .*remote process exited or there was a network error (6)' error.out ||
	fail "error: no cause in: $(tail -n 20 error.out)"

config old 2 3 none none none 3
NCCL_HOST_VERSION=21713 ends old 78 'NCCL 2.17.13, too old: 2.18 or later is needed'

echo "$runs runs"
[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
