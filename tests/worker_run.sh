#!/bin/bash
# Goal: a training run can be stopped, killed and resumed without a trace in its weights; it ends with
# what was asked for; and what it cannot do it refuses by name, leaving alone what was there.
# Method: the programs themselves on a tiny model. Runs that were interrupted, at other placements
# too, are compared bit by bit with one that was not.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
dir=$(mktemp -d "${TMPDIR:-/tmp}/worker_run.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
mkdir swap
fails=0

fail() {
	echo "$*"
	fails=$((fails + 1))
}

seq 1 3000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > text
"$B/bin/dsprep" -q --train a.bin --validation b.bin text || exit 1

# config NAME WORLD PLACEMENT STEPS [CHECKPOINT_DIR EVERY]
config() {
	cat > "$1.yaml" <<-END
		model:     {arch: gpt2, layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32}
		data:      {train: [a.bin], validation: [b.bin]}
		batch:     {global: 8, micro: 2}
		optimizer: {type: ${type:-adamw}, lr: ${lr:-3e-3}, clip: 1.0${moments:+, moments: $moments}}
		schedule:  {type: cosine, warmup: 2, steps: $4, min_lr: 3e-4, order: ${order:-micro-batch}}
		precision: bf16
		zero:      {stage: ${stage:-3}, offload_param: $3, offload_optimizer: ${optimizer:-$3},
		            offload_activations: ${activations:-none}}
		nvme:      {paths: [$dir/swap], extent: 64KiB}
		host:      {memory: 64MiB}
		device:    {type: cpu, count: $2, memory: 32MiB}
		evaluate:  {batches: 2}
		log:       {every: 1, file: $1.jsonl}
		seed:      ${seed:-3}
	END
	[ $# -lt 6 ] || echo "checkpoint: {dir: $5, every: $6, keep: ${keep:-2}}" >> "$1.yaml"
}

# run NAME STATUS ARGUMENTS...
run() {
	local name=$1 status=$2 rc
	shift 2
	timeout 100 "$B/bin/dsrun" --daemon private --summary "$name.json" "$@" "$name.yaml" > "$name.out" 2>&1
	rc=$?
	[ $rc -eq "$status" ] || { fail "run $name $*: exit status $rc, expected $status"; tail -n 15 "$name.out"; }
}

says() {
	grep -qF -- "$2" "$1.out" || { fail "run $1 does not say '$2':"; tail -n 5 "$1.out"; }
}

losses() { sed -n 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' "$1"; }

# The run that nobody disturbs.
config ref 2 none 12
run ref 0 --export ref.safetensors --generate 20 --prompt "1 times"
says ref "validation loss"
says ref "1 times"
[ "$(losses ref.jsonl | wc -l)" = 12 ] || fail "ref.jsonl has no 12 losses"
for key in first_loss last_loss losses validation_loss tokens tokens_per_s tiers seconds sample params; do
	grep -q "\"$key\":" ref.json || fail "the summary has no $key"
done

# To step 5, refused without --resume, resumed; the schedule is the whole run's.
config part 2 none 12 ck 5
run part 0 --export part.safetensors
cmp ref.safetensors part.safetensors || fail "checkpoints change the weights"
[ "$(ls ck)" = "step-00000010
step-00000012" ] || fail "checkpoints are: $(ls -A ck)"
run part 78
says part "--resume"
says part "step 12"
rm -r ck/step-00000012
run part 0 --resume --export part2.safetensors
says part "going on from step 10"
cmp ref.safetensors part2.safetensors || fail "resumed at step 10, the weights differ"
losses part.jsonl > part.losses
{ losses ref.jsonl; losses ref.jsonl | tail -n 2; } | cmp - part.losses || fail "the log is not continued"

# A finished run has nothing to train, but still exports, evaluates and samples.
run part 0 --resume --export part3.safetensors --generate 5
cmp ref.safetensors part3.safetensors || fail "a finished run exports other weights"
grep -q '"validation_loss":' part.json || fail "a finished run tells no validation loss"

# Elsewhere: the state goes on from memory to disk, and to other numbers of ranks.
rm -r ck/step-00000012
config moved 2 nvme 12 ck 50
run moved 0 --resume --export moved.safetensors
cmp ref.safetensors moved.safetensors || fail "resumed on disk, the weights differ"
for world in 1 4; do
	rm -r ck/step-00000012
	config world $world cpu 12 ck 50
	run world 0 --resume
	tail -n 1 world.jsonl > last
	losses ref.jsonl | tail -n 1 | cut -d' ' -f2 > want
	losses world.jsonl | tail -n 1 | cut -d' ' -f2 | paste - want |
		awk '{ d = ($1 - $2) / $2; exit d * d > 1e-6 }' || fail "$world ranks go elsewhere: $(cat last want)"
done

# A relay: each split of the optimizer goes on from a checkpoint that the one before has written.
from=0
keep=9
while read -r at param stage optimizer; do
	config relay$at 2 "$param" 12 relay 2
	run relay$at 0 --resume --export relay.safetensors
	[ $from = 0 ] || says relay$at "going on from step $from"
	cmp ref.safetensors relay.safetensors ||
		fail "written as $was, resumed as $optimizer, the weights differ"
	was=$optimizer from=$at
	for ((i = at + 2; i <= 12; i += 2)); do
		rm -r "$(printf 'relay/step-%08d' $i)" || fail "relay: no checkpoint of step $i"
	done
done <<-'END'
	2 none 3 {cpu: 0.5, nvme: 0.3}
	4 cpu 3 {nvme: 0.6}
	6 none 0 {cpu: 0.4, nvme: 0.6}
	8 nvme 1 {cpu: 0.6}
	10 nvme 3 none
END
unset keep stage optimizer

# Layer by layer: on from a checkpoint of the other order and back, without a trace; and a step moves
# on disk what the plan says (the difference of two runs is steps alone).
order=layer config layer 2 nvme 12 layer 4
run layer 0
rm -r layer/step-00000012
order=micro-batch config layer 2 cpu 12 layer 4
run layer 0 --resume
rm -r layer/step-00000012
order=layer config layer 2 none 12 layer 4
run layer 0 --resume --export layer.safetensors
says layer "going on from step 8"
cmp ref.safetensors layer.safetensors || fail "layer by layer, the weights differ"
for order in layer micro-batch; do for activations in none nvme; do
for steps in 4 8; do
	config traffic$steps 2 nvme $steps
	run traffic$steps 0
done
# Parameters that a fetch took as they were stepped were not read, what was dropped again was in vain.
nvme() { sed -n "s/.*\"nvme\":{\"peak_bytes\"[^}]*\"$2_bytes\":\([0-9]*\).*/\1/p" "$1.json"; }
moved() { # NAME read|write
	if [ "$2" = read ]; then
		echo $(($(nvme "$1" read) + $(nvme "$1" handed) - $(nvme "$1" dropped)))
	else
		nvme "$1" written
	fi
}
for what in read write; do
	each=$(moved traffic4 $what) both=$(moved traffic8 $what)
	plan=$("$B/bin/dsrun" --plan --json traffic8.yaml | sed -n "s/.*\"step_${what}_bytes\":\([0-9]*\).*/\1/p")
	[ $(((both - each) / 4)) = $((2 * plan)) ] ||
		fail "order $order, activations $activations: $what $(((both - each) / 4)) bytes a step, planned $((2 * plan))"
done
done; done
unset order activations

# Moments of another form are converted, and it is said; the moments of another optimizer are of no use.
moments=bf16 config form 2 cpu 6 forms 3
run form 0
rm -r forms/step-00000006
moments=int8 config form 2 none 6 forms 3
run form 0 --resume
says form "going on from step 3: the checkpoint's moments, bf16, are converted to int8"
for type in lion adagrad sgd; do
	type=$type config form 2 none 9 forms 3
	run form 78 --resume
	says form "optimizer.type adamw, the configuration says $type"
done
unset type
grep -q '"optimizer":"adamw","moments":"int8"' forms/step-00000006/manifest.json || fail "the manifest does not say the form"

# A user stops: the step ends, a checkpoint is written, the status is 0; then on.
config stop 2 none 4000 stopped 100000
"$B/bin/dsrun" --daemon private --summary stop.json stop.yaml > stop.out 2>&1 &
pid=$!
for ((i = 0; i < 600; i++)); do
	grep -q "^step 3/" stop.out && break
	read -r -t 0.1 < <(:) || :
	kill -0 $pid 2> /dev/null || break
	sleep 0.05
done
kill -TERM $pid
wait $pid
grep -q '"stopped_by"' stop.json || fail "no stopped_by in $(cat stop.json)"
[ "$(find stopped -name manifest.json | wc -l)" = 1 ] || fail "stopping wrote no checkpoint: $(tail -n 3 stop.out)"
stopped=$(find stopped -maxdepth 1 -name 'step-*' | sed 's/.*step-0*//')
config stop 2 none "$((stopped + 2))" stopped 100000
run stop 0 --resume
says stop "going on from step $stopped"

# Damage is named, with the older one that is whole; nothing is touched.
config bad 2 none 6 bad 2
run bad 0
printf x | dd of=bad/step-00000006/rank-0001.state bs=1 seek=5000 conv=notrunc status=none
find bad -type f -exec md5sum {} + | sort > before
run bad 65 --resume
says bad "bad/step-00000006/rank-0001.state"
says bad "bad/step-00000004 is whole"
find bad -type f -exec md5sum {} + | sort | cmp before - || fail "a refused resume changed the checkpoints"

# Another model, another seed.
seed=4 config seed 2 none 6 bad 2
rm -r bad/step-00000006
run seed 78 --resume
says seed "seed 3"
config nodir 2 none 6
run nodir 78 --resume
says nodir "checkpoint.dir"

# A loss that is not finite ends the run by name; the checkpoint before it stays.
lr=1e30 config nan 2 none 50 nan 1
run nan 65
says nan "not finite"
says nan "step "
[ -z "$(find nan -name '.*.tmp')" ] || fail "left behind: $(ls -A nan)"

# Shards that are wrong.
head -c 1000 a.bin > cut.bin
sed 's/a.bin/cut.bin/' ref.yaml > shard.yaml
run shard 65
says shard "cut.bin"
sed 's/a.bin/nothing.bin/' ref.yaml > shard.yaml
run shard 66
says shard "nothing.bin"
sed 's/vocab: 256/vocab: 100/' ref.yaml > shard.yaml
run shard 65
says shard "model.vocab"

# Outputs that cannot be made.
run ref 73 --export /nonexistent/x.safetensors
says ref "/nonexistent/x.safetensors"
sed 's|ref.jsonl|/nonexistent/x.jsonl|' ref.yaml > nolog.yaml
run nolog 73
says nolog "/nonexistent/x.jsonl"

[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
