#!/bin/bash
# Goal: where and when may change, what may not. One small model is trained over placements, ZeRO
# stages, swap engines, prefetch depths and optimizer threads, over parameters and optimizer state
# split between tiers, and layer by layer; at equal world size every loss and every exported weight must be the same to the last bit.
# World sizes agree to 1e-5 (fp32).
# Method: dsrun itself, real workers, a real daemon, real files; cmp of losses and safetensors.
# So it must be for every optimizer and every form of its moments, over sizes of chunks too.
# Usage: same_numbers.sh [quick|full]. quick is the matrix of the project's promise; full adds every
# mix of placements and splits, accumulation, no clipping, and budgets so tight that gradients spill.
set -u
B=${B:-build}
mode=${1:-quick}
dir=$(mktemp -d "$B/same_numbers.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
fails=0 runs=0 i=0
mkdir "$dir/swap"

seq 1 4000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > "$dir/text"
"$B/bin/dsprep" --train "$dir/a.bin" --validation "$dir/b.bin" --validation-fraction 0.1 \
	"$dir/text" > /dev/null || exit 1

# train NAME WORLD PRECISION STAGE PARAM OPTIMIZER ACTIVATIONS ENGINE PREFETCH THREADS MICRO CLIP HOST
#	[DEVICE]
train() {
	local out=$dir/$1
	cat > "$out.yaml" <<EOF
model:     {arch: gpt2, layers: 3, hidden: 32, heads: 2, vocab: 256, context: 32}
data:      {train: [$dir/a.bin], validation: [$dir/b.bin], sequence: 32}
batch:     {global: 8, micro: ${11}}
optimizer: {${form:-type: adamw, lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1}, clip: ${12}}
schedule:  {type: cosine, warmup: 2, steps: 6, min_lr: 3e-4, order: ${order:-micro-batch}}
precision: $3
zero:      {stage: $4, offload_param: $5, offload_optimizer: $6, offload_activations: $7, prefetch: $9}
nvme:      {paths: [$dir/swap], engine: $8, extent: ${extent:-64KiB}, queue_depth: 8}
host:      {memory: ${13}, threads: ${10}}
device:    {type: cpu, count: $2, memory: ${14:-64MiB}}
evaluate:  {every: 3, batches: 2}
log:       {every: 1, file: $out.jsonl}
seed:      7
EOF
	runs=$((runs + 1))
	if ! "$B/bin/dsrun" --quiet --daemon private --export "$out.safetensors" "$out.yaml" \
		> "$out.log" 2>&1; then
		echo "run $1 failed:"; tail -n 25 "$out.log"
		fails=$((fails + 1))
		return 1
	fi
	sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([^,}]*\).*/\1 \2/p' "$out.jsonl" > "$out.loss"
	if [ "$(wc -l < "$out.loss")" -lt 6 ]; then
		echo "run $1: no losses in $out.jsonl"; head -3 "$out.jsonl"
		fails=$((fails + 1))
		return 1
	fi
}

# like NAME REFERENCE: the same bits?
like() {
	cmp -s "$dir/$1.loss" "$dir/$2.loss" && cmp -s "$dir/$1.safetensors" "$dir/$2.safetensors" &&
		return
	echo "run $1 differs from $2:"
	diff "$dir/$1.loss" "$dir/$2.loss" | head -6
	fails=$((fails + 1))
}

# close NAME REFERENCE TOLERANCE
close() {
	paste "$dir/$1.loss" "$dir/$2.loss" | awk -v tol="$3" -v who="$1 and $2" '
		{ d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > worst) worst = d }
		END { printf "%s: losses within %.2g\n", who, worst; exit worst > tol }' ||
		{ echo "$1 is further than $3 from $2"; fails=$((fails + 1)); }
}

train ref 2 bf16 0 none none none auto 1 1 4 1.0 64MiB || exit 1
for stage in 0 1 2 3; do for place in none cpu nvme; do
for engine in io_uring libaio; do for prefetch in 1 3; do for threads in 1 2; do
	name=bf16-s$stage-$place-$engine-p$prefetch-t$threads
	train "$name" 2 bf16 "$stage" $place $place $place $engine $prefetch $threads 4 1.0 64MiB &&
		like "$name" ref
	rm -f "$dir/$name.safetensors"
done; done; done; done; done

# Device budgets in which all three blocks, one, or none are recomputed.
planned() { "$B/bin/dsrun" --plan --json "$dir/$1.yaml" | sed 's/[,{]/\n/g' | sed -n "s/^\"$2\"://p"; }
kept_bytes=$(planned ref kept_bytes)
full=$(planned ref total_bytes | head -1)
[ "$(planned ref kept_blocks)" = 3 ] || { echo "ref keeps not all blocks"; fails=$((fails + 1)); }
for kept in 2 0; do
	train kept$kept 2 bf16 0 none none none auto 1 1 4 1.0 64MiB $((full - (3 - kept) * kept_bytes)) &&
		like kept$kept ref
	[ "$(planned kept$kept kept_blocks)" = $kept ] ||
		{ echo "run kept$kept keeps $(planned kept$kept kept_blocks)"; fails=$((fails + 1)); }
done

# A host budget that cannot keep the gradients until the norm is known: they spill to disk.
for micro in 4 2; do
	train spill-ref$micro 2 bf16 0 none none none auto 1 1 $micro 1.0 64MiB
	train spill-$micro 2 bf16 3 nvme nvme nvme auto 1 1 $micro 1.0 1200KiB &&
		like spill-$micro spill-ref$micro
	"$B/bin/dsrun" --plan --json "$dir/spill-$micro.yaml" | grep -q '"swap":{.*"grad_bytes":[1-9]' ||
		{ echo "run spill-$micro spills nothing"; fails=$((fails + 1)); }
done

# Optimizer state and parameters split between tiers, and the tiers that each split must have units on.
params=(none cpu nvme '{cpu: 0.5, nvme: 0.5}' '{nvme: 0.4}')
param_tiers=(none cpu nvme 'cpu nvme' 'none nvme')
splits=('{cpu: 0.5}' '{nvme: 0.7}' '{cpu: 0.5, nvme: 0.3}' '{cpu: 0.3, nvme: 0.7}')
tiers=('none cpu' 'none nvme' 'none cpu nvme' 'cpu nvme')
split_is() { # NAME WHAT TIERS: is WHAT, of the plan's JSON, placed so?
	local tier
	"$B/bin/dsrun" --plan --json "$dir/$1.yaml" | sed "s/.*\"$2\"://; s/}}.*//" > "$dir/plan.json"
	for tier in none cpu nvme; do
		grep -q "\"$tier\":{\"asked\":[^}]*\"units\":[1-9]" "$dir/plan.json" && echo $tier
	done | paste -sd' ' | grep -qx "$3" ||
		{ echo "run $1: $2 is not on $3"; fails=$((fails + 1)); }
}
for micro in 4 2; do for clip in 1.0 0; do
	train split-ref 2 bf16 0 none none none auto 1 1 $micro $clip 64MiB || continue
	for stage in 0 1 3; do for n in "${!params[@]}"; do for i in "${!splits[@]}"; do
		# Every split at every stage and with every way of parameters, not all of them twice.
		[ "$mode" = full ] || [ $(((stage + micro + i) % 2)) = 0 ] || [ "$n" = 0 ] || continue
		name=split-m$micro-c$clip-s$stage-$n-$i
		train "$name" 2 bf16 "$stage" "${params[n]}" "${splits[i]}" none auto 2 2 $micro $clip \
			64MiB && like "$name" split-ref && split_is "$name" optimizer_state "${tiers[i]}" &&
			split_is "$name" parameters "${param_tiers[n]}"
		rm -f "$dir/$name.safetensors"
	done; done; done
done; done

# All micro-batches of a layer before the next: two a step, or four.
for micro in 2 1; do for clip in 1.0 0; do
	train order-ref 2 bf16 0 none none none auto 1 1 $micro $clip 64MiB || continue
	order=layer
	for stage in 0 1 2 3; do for param in none cpu nvme; do for act in none cpu nvme; do
	for optimizer in none cpu nvme '{cpu: 0.3, nvme: 0.4}'; do
		i=$((i + 1))
		# A thirteenth of the mixes, others each time round.
		[ "$mode" = full ] || [ $((i % 13)) = 0 ] || continue
		name=layer-m$micro-c$clip-s$stage-$param-$act-${optimizer//[^a-z0-9.]/}
		train "$name" 2 bf16 "$stage" $param "$optimizer" $act auto 2 2 $micro $clip 64MiB &&
			like "$name" order-ref
		rm -f "$dir/$name.safetensors" "$dir/$name.jsonl"
	done; done; done; done
	# Nothing fits but the least: gradients spill, no block is kept.
	train layer-tight 2 bf16 3 nvme nvme nvme auto 1 1 $micro $clip 1200KiB 1400KiB &&
		like layer-tight order-ref
	unset order
done; done

# Other optimizers and forms of moments; what each has to differ from, to be what it says.
forms=('type: adamw, lr: 3e-3, moments: bf16' 'type: adamw, lr: 3e-3, moments: int8' 'type: lion, lr: 3e-4'
	'type: adagrad, lr: 3e-2' 'type: sgd, lr: 0.3')
unlike() { # NAME REFERENCE
	! cmp -s "$dir/$1.loss" "$dir/$2.loss" || { echo "run $1 is the same as $2"; fails=$((fails + 1)); }
}
form_runs() { # NAME PRECISION MICRO CLIP: against all on the device, at stage 0
	local ref=$1-ref i=0
	train "$ref" 2 "$2" 0 none none none auto 1 1 "$3" "$4" 64MiB || return
	while read -r stage param state act engine prefetch threads extent; do
		i=$((i + 1))
		[ "$state" != split ] || state=${splits[2]}
		extent=$extent train "$1-$i" 2 "$2" "$stage" "$param" "$state" "$act" "$engine" "$prefetch" "$threads" \
			"$3" "$4" 64MiB && like "$1-$i" "$ref"
		rm -f "$dir/$1-$i.safetensors"
	done <<-'END'
		0 none none none auto 1 1 64KiB
		1 cpu cpu none auto 1 2 64KiB
		3 nvme nvme nvme io_uring 2 2 64KiB
		3 none nvme none libaio 1 1 1MiB
		2 cpu split cpu auto 2 2 128KiB
	END
}
was=ref
for i in "${!forms[@]}"; do
	form=${forms[i]}
	form_runs "form$i" bf16 4 1.0
	unlike "form$i-ref" "$was"
	was=form$i-ref
	[ "$mode" = full ] || continue
	for precision in bf16 fp32; do for micro in 4 2; do for clip in 1.0 0; do
		form_runs "form$i-$precision-m$micro-c$clip" $precision $micro $clip
	done; done; done
done
unset form
unlike form1-ref ref

train fp32-1 1 fp32 0 none none none auto 1 1 2 1.0 64MiB
for world in 1 2 4; do
	train fp32-w$world-nvme $world fp32 3 nvme nvme cpu auto 2 2 2 1.0 64MiB &&
		close fp32-w$world-nvme fp32-1 1e-5
done
like fp32-w1-nvme fp32-1

# What rounds moments depends on the element alone: with a rank's share of the sum being the whole,
# worlds part by the order of sums only, as they do in fp32.
for moments in bf16 int8; do
	form="type: adamw, lr: 3e-3, moments: $moments"
	train $moments-1 1 fp32 0 none none none auto 1 1 2 1.0 64MiB
	for world in 2 4; do
		train $moments-w$world $world fp32 3 nvme nvme cpu auto 2 2 2 1.0 64MiB && close $moments-w$world $moments-1 1e-5
	done
done
unset form

if [ "$mode" = full ]; then
	for precision in bf16 fp32; do for micro in 4 2; do for clip in 1.0 0; do
		train "mref" 2 $precision 0 none none none auto 1 1 $micro $clip 64MiB || continue
		for stage in 0 1 3; do for param in "${params[@]}"; do for optimizer in none cpu nvme "${splits[@]}"; do
		for act in none cpu nvme; do
			name=mix-$precision-m$micro-c$clip-s$stage-${param//[^a-z0-9.]/}-${optimizer//[^a-z0-9.]/}-$act
			train "$name" 2 $precision $stage "$param" "$optimizer" $act auto 2 2 $micro $clip 64MiB &&
				like "$name" mref
			rm -f "$dir/$name.safetensors" "$dir/$name.jsonl"
		done; done; done; done
	done; done; done
fi

echo "$runs runs"
[ $fails -eq 0 ] || { echo "$fails differ"; exit 1; }
