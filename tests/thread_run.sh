#!/bin/bash
# Goal: no data race in a whole job: real workers, streams, rings, daemon, every way for parameters,
# gradients and activations to travel. Method: the programs of a ThreadSanitizer build train a small
# model over mixes of placement, stage, accumulation and clipping; a report ends its process with 66.
set -u
B=${B:-build}
dir=$(mktemp -d "$B/thread_run.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
grep -q __tsan_init "$B/bin/dsworker" || { echo "not a build with SAN=thread"; exit 77; }
mkdir "$dir/swap"
seq 1 2000 > "$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" "$dir/text" > "$dir/log" 2>&1 ||
	{ cat "$dir/log"; exit 1; }
fails=0 runs=0
while read -r stage param optimizer act; do
	for micro in 2 4; do for clip in 1.0 0; do
		cat > "$dir/c.yaml" <<EOF
model:     {arch: gpt2, layers: 3, hidden: 32, heads: 2, vocab: 256, context: 32}
data:      {train: [$dir/a.bin], validation: [$dir/b.bin]}
batch:     {global: 8, micro: $micro}
optimizer: {lr: 3e-3, clip: $clip}
schedule:  {steps: 6}
zero:      {stage: $stage, offload_param: $param, offload_optimizer: $optimizer, offload_activations: $act}
nvme:      {paths: [$dir/swap], extent: 64KiB}
host:      {memory: 64MiB, threads: 2}
device:    {count: 2, memory: 64MiB}
evaluate:  {every: 3, batches: 2}
EOF
		runs=$((runs + 1))
		rm -rf "$dir/tee"
		if ! "$B/bin/dsrun" --quiet --daemon private --tee "$dir/tee" "$dir/c.yaml" > "$dir/log" 2>&1; then
			echo "stage $stage, placements $param $optimizer $act, micro $micro, clip $clip:"
			cat "$dir/log"
			grep -h -A 12 'WARNING: ThreadSanitizer' "$dir"/tee/*.err | head -40
			fails=$((fails + 1))
		fi
	done; done
done <<EOF
3 nvme nvme nvme
3 none none none
3 cpu nvme none
3 none nvme cpu
1 nvme cpu cpu
1 nvme none nvme
2 cpu nvme none
0 none nvme none
3 nvme {"cpu":0.5,"nvme":0.3} none
1 cpu {"nvme":0.5} none
EOF
echo "$runs runs"
[ $fails -eq 0 ]
