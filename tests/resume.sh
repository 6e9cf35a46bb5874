#!/bin/bash
# Goal: kill -9 of a worker, the daemon, the agent or dsrun at ten moments each, and the job resumed
# from its last checkpoint ends with the very losses and weights of a run that nobody disturbed, with
# moments in every form and with another optimizer. After
# each kill nothing is left: no process of the job, no named file in the swap directory.
# Method: real processes; the moment is a fixed count of progress lines plus a delay drawn from a
# printed seed, so that kills fall into forward, backward, step and checkpoint alike.
set -u
B=${B:-build}
moments=${1:-10}
case ${SAN:-} in ?*) moments=2 ;; esac # a sanitizer slows each run down many times
seed=${SEED:-20261124}
dir=$(mktemp -d "$B/resume.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/swap"
fails=0
RANDOM=$((seed % 32768))
echo "seed $seed"

seq 1 4000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > "$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" > "$dir/log" 2>&1 ||
	{ cat "$dir/log"; exit 1; }

# By turns, as are placements, each form with both.
forms=('type: adamw, lr: 3e-3' 'type: adamw, lr: 3e-3, moments: bf16' 'type: adamw, lr: 3e-3, moments: int8'
	'type: lion, lr: 3e-4')

config() { # NAME CKPT FORM [OPTIMIZER]
	cat > "$dir/$1.yaml" <<EOF
model:     {arch: gpt2, layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32}
data:      {train: [$dir/a.bin], validation: [$dir/b.bin], sequence: 32}
batch:     {global: 8, micro: 2}
optimizer: {${forms[$3]}, clip: 1.0}
schedule:  {type: cosine, warmup: 2, steps: 40}
zero:      {stage: 3, offload_param: nvme, offload_optimizer: ${4:-nvme}, offload_activations: cpu}
nvme:      {paths: [$dir/swap], extent: 64KiB}
host:      {memory: 64MiB}
device:    {type: cpu, count: 2, memory: 32MiB}
checkpoint: {dir: $dir/$2, every: 4, keep: 2}
log:       {every: 1, file: $dir/$1.jsonl}
EOF
}

# Processes of dsrun's tree, by name: children of children of $1, in /proc.
tree() {
	local p
	cat /proc/"$1"/task/*/children 2>/dev/null | tr ' ' '\n' | grep . | while read -r p; do
		echo "$p $(cat /proc/"$p"/comm 2>/dev/null)"
		tree "$p"
	done
}

losses() { sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$1" | sort -n -u; }
for form in "${!forms[@]}"; do
	config ref$form ref$form-ckpt "$form"
	"$B/bin/dsrun" --quiet --daemon private --export "$dir/ref$form.st" "$dir/ref$form.yaml" || exit 1
	losses "$dir/ref$form.jsonl" > "$dir/ref$form.loss"
done

fail() {
	echo "$1"
	fails=$((fails + 1))
}

# Is one of these processes still there, and no zombie?
alive() {
	local p
	for p in $1; do
		grep -qs '^State:[[:space:]]*[RSDTtIP]' "/proc/$p/status" && return 0
	done
	return 1
}

victim() { # ROOT WHO -> pid
	case $2 in
	dsrun) echo "$1" ;;
	agent) tree "$1" | awk 'NR == 1 { print $1 }' ;;
	worker) tree "$1" | awk '$2 == "dsworker" { print $1 }' | tail -n 1 ;;
	daemon) tree "$1" | awk '$2 == "dsoffloadd" { print $1; exit }' ;;
	esac
}

# Every other time the optimizer is with the daemon on disk and in memory, and on the device.
optimizers=(nvme '{cpu: 0.3, nvme: 0.4}')

one() { # WHO MOMENT
	local name=$1-$2 root pid all rc after lines=$((RANDOM % 33)) says form=$(($2 / 2 % ${#forms[@]}))
	config "$name" "$name-ckpt" $form "${optimizers[$2 % 2]}"
	: > "$dir/$name.out"
	"$B/bin/dsrun" --daemon private --grace 200ms "$dir/$name.yaml" > "$dir/$name.out" 2>&1 &
	root=$!
	# The moment: so many lines of progress, then a few milliseconds.
	while [ "$(grep -c '^step' "$dir/$name.out")" -lt "$lines" ] && kill -0 $root 2>/dev/null; do :; done
	pid=$(victim $root "$1")
	all=$(tree $root | cut -d' ' -f1)
	if [ -z "$pid" ] || ! kill -9 "$pid" 2>/dev/null; then
		wait $root; echo "$name: over before the kill"
		return 0
	fi
	after=$(date +%s%N)
	{ wait $root; rc=$?; } 2>/dev/null
	# Nothing left within half a second and the grace; 0.3 s more are a busy machine's.
	while alive "$all" && [ $(($(date +%s%N) - after)) -lt 2000000000 ]; do sleep 0.01; done
	after=$((($(date +%s%N) - after) / 1000000))
	if alive "$all"; then
		fail "$name: processes are left after $after ms"
	fi
	if [ -n "$(ls -A "$dir/swap")" ]; then
		fail "$name: left in swap: $(ls -A "$dir/swap")"
	fi
	case $1 in
	worker) says='rank 1 failed: .*SIGKILL' ;;
	daemon) says='dsoffloadd' ;;
	agent) says='agent' ;;
	dsrun) says='' ;;
	esac
	[ $after -le 1000 ] || fail "$name: took $after ms to go"
	if [ $rc -ne 137 ] || ! grep -q "$says" "$dir/$name.out"; then
		fail "$name: status $rc, or not named: $(cat "$dir/$name.out")"
	fi
	if ! "$B/bin/dsrun" --quiet --daemon private --resume --export "$dir/$name.st" "$dir/$name.yaml" > "$dir/$name.out2" 2>&1; then
		fail "$name: did not resume: $(cat "$dir/$name.out2")"
		return
	fi
	losses "$dir/$name.jsonl" > "$dir/$name.loss"
	if ! cmp -s "$dir/$name.st" "$dir/ref$form.st" || ! cmp -s "$dir/$name.loss" "$dir/ref$form.loss"; then
		fail "$name: after line $lines, resumed weights or losses differ"
		diff "$dir/$name.loss" "$dir/ref$form.loss" | head -4
	fi
	echo "$name: gone in $after ms, status $rc, resumed to the same weights"
	rm -rf "${dir:?}/$name"*
}

for who in worker daemon agent dsrun; do
	for moment in $(seq 1 "$moments"); do one $who "$moment"; done
done
[ $fails -eq 0 ] || { echo "$fails failures"; exit 1; }
