#!/bin/bash
# Goal: whatever is wrong with a config, a shard, a checkpoint, a directory, a disk or a quota, the user
# gets one clear message and a documented exit status, and nothing that was there is lost.
# Method: a table. Each row changes one thing of a job that works, runs dsrun, and gives the status and
# a piece of the text that must come; the files that were there are compared before and after. Rows
# that need a mount are skipped, and said to be, where mounting is not allowed.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
dir=$(mktemp -d "${TMPDIR:-/tmp}/bad_input.XXXXXX") || exit 1
mounts=()
daemon=
cleanup() {
	[ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2> /dev/null
	for m in "${mounts[@]}"; do umount "$m"; done
	rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir" || exit 1
mkdir swap keep
cases=0 fails=0 skips=0

seq 1 3000 | awk '{ printf "%d times %d is %d.\n", $1, $1 % 7, $1 * ($1 % 7) }' > text
"$B/bin/dsprep" -q --train a.bin --validation b.bin text || exit 1

cat > good.yaml <<'EOF'
model:     {arch: gpt2, layers: 2, hidden: 32, heads: 2, vocab: 256, context: 32}
data:      {train: [a.bin], validation: [b.bin], sequence: 32}
batch:     {global: 8, micro: 2}
optimizer: {type: adamw, lr: 3e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, clip: 1.0}
schedule:  {type: cosine, warmup: 2, steps: 4, min_lr: 3e-4}
precision: bf16
zero:      {stage: 3, offload_param: nvme, offload_optimizer: nvme, offload_activations: none, prefetch: 2}
nvme:      {paths: [swap], engine: auto, extent: 64KiB, queue_depth: 8}
host:      {memory: 64MiB, threads: 1}
device:    {type: cpu, count: 2, memory: 32MiB}
checkpoint: {dir: ckpt, every: 2, keep: 2}
evaluate:  {every: 2, batches: 2}
log:       {every: 1, file: metrics.jsonl}
seed: 1
EOF
"$B/bin/dsrun" --quiet --daemon private good.yaml || exit 1
cp -a ckpt keep/ckpt
cp -a a.bin b.bin keep/

fail() {
	echo "$*"
	fails=$((fails + 1))
}

# expect NAME STATUS TEXT COMMAND...: the command fails so, says so once, and says nothing of a crash.
expect() {
	local name=$1 status=$2 text=$3 rc
	shift 3
	cases=$((cases + 1))
	timeout 60 "$@" > out 2>&1 < /dev/null
	rc=$?
	[ $rc -eq "$status" ] || fail "$name: exit status $rc, expected $status: $(tail -n 8 out)"
	grep -qF -- "$text" out || fail "$name: does not say '$text': $(tail -n 8 out)"
	if grep -qE 'SIGSEGV|SIGABRT|Assertion|AddressSanitizer' out; then fail "$name: crashed: $(tail -n 8 out)"; fi
	[ "$(wc -c < out)" -lt 8000 ] || fail "$name: $(wc -l < out) lines of message"
	diff -rq ckpt keep/ckpt > diff.out 2>&1 || fail "$name: checkpoints changed: $(cat diff.out)"
}

# bad NAME SED STATUS TEXT: the good config, edited.
bad() {
	sed -E "$2" good.yaml > bad.yaml
	cmp -s good.yaml bad.yaml && fail "$1: the edit changes nothing"
	expect "$1" "$3" "$4" "$B/bin/dsrun" --daemon private --resume bad.yaml
}

# Words, kinds, ranges: position, value, expectation, nearest key.
bad 'misspelt key'        's/stage: 3/stge: 3/'              78 "bad.yaml:7:13: zero.stge: unknown key (did you mean 'stage'?)"
bad 'misspelt section'    's/^optimizer:/optimiser:/'        78 "did you mean 'optimizer'"
bad 'unknown section'     's/^seed: 1/seed: 1\nflux: {a: 1}/'              78 'bad.yaml:15:1: flux: unknown key'
bad 'key twice'           's/seed: 1/seed: 1\nseed: 2/'      78 'seed'
bad 'not a number'        's/layers: 2/layers: two/'         78 "bad.yaml:1:33: model.layers: 'two'"
bad 'negative'            's/layers: 2/layers: -2/'          78 'model.layers'
bad 'zero layers'         's/layers: 2/layers: 0/'           78 'model.layers'
bad 'fraction'            's/heads: 2/heads: 1.5/'           78 'model.heads'
bad 'heads'               's/heads: 2/heads: 3/'             78 'model.heads'
bad 'huge'                's/layers: 2/layers: 99999999999999999999/' 78 'model.layers'
bad 'arch'                's/arch: gpt2/arch: gpt3/'         78 'model.arch'
bad 'context'             's/sequence: 32/sequence: 64/'     78 'data.sequence'
bad 'list for number'     's/layers: 2/layers: [2]/'         78 'model.layers'
bad 'mapping for list'    's/train: \[a.bin\]/train: {a: b}/' 78 'data.train'
bad 'empty list'          's/train: \[a.bin\]/train: []/'    78 'data.train'
bad 'missing train'       's/train: \[a.bin\], //'           78 'data.train'
bad 'missing section'     '/^model:/d'                       78 'model'
bad 'missing lr'          's/lr: 3e-3, //'                   78 'optimizer.lr'
bad 'batch'               's/global: 8/global: 7/'           78 'batch.global'
bad 'micro'               's/micro: 2/micro: 0/'             78 'batch.micro'
bad 'beta'                's/0.95/1.5/'                      78 'optimizer.betas'
bad 'one beta'            's/\[0.9, 0.95\]/[0.9]/'           78 'optimizer.betas'
bad 'lr nan'              's/lr: 3e-3/lr: .nan/'             78 'optimizer.lr'
bad 'lr negative'         's/lr: 3e-3/lr: -1/'               78 'optimizer.lr'
bad 'clip negative'       's/clip: 1.0/clip: -1/'            78 'optimizer.clip'
bad 'optimizer'           's/type: adamw/type: adam/'        78 'optimizer.type'
bad 'schedule'            's/type: cosine/type: cosin/'      78 'schedule.type'
bad 'warmup'              's/warmup: 2/warmup: 20/'          78 'schedule.warmup'
bad 'min_lr'              's/min_lr: 3e-4/min_lr: 1/'        78 'schedule.min_lr'
bad 'min_lr useless'      's/type: cosine/type: constant/'   78 'schedule.'
bad 'precision'           's/precision: bf16/precision: fp16/' 78 'precision'
bad 'stage'               's/stage: 3/stage: 4/'             78 'zero.stage'
bad 'placement'           's/offload_param: nvme/offload_param: disk/' 78 'zero.offload_param'
bad 'placement as bool'   's/offload_param: nvme/offload_param: true/' 78 'zero.offload_param'
bad 'shares above 1'      's/optimizer: nvme/optimizer: {cpu: 0.7, nvme: 0.5}/' 78 'bad.yaml:7:63: zero.offload_optimizer: the shares add up to 1.2'
bad 'share of nothing'    's/optimizer: nvme/optimizer: {disk: 0.5}/' 78 'zero.offload_optimizer.disk'
bad 'engine'              's/engine: auto/engine: aio/'      78 'nvme.engine'
bad 'extent unit'         's/extent: 64KiB/extent: 64K/'     78 'nvme.extent'
bad 'extent odd'          's/extent: 64KiB/extent: 65000/'   78 'nvme.extent'
bad 'queue depth'         's/queue_depth: 8/queue_depth: 0/' 78 'nvme.queue_depth'
bad 'no paths'            's/paths: \[swap\], //'            78 'nvme.paths'
bad 'no host memory'      's/memory: 64MiB, //'              78 'host.memory'
bad 'no device memory'    's/, memory: 32MiB//'              78 'device.memory'
# A build without CUDA has no such device; where there is one, 32 MiB are too few for it.
if "$B/bin/dsrun" --version | grep -q '^left out .*cuda'; then
	bad 'cuda'        's/type: cpu/type: cuda/'          78 'device.type'
else
	bad 'cuda budget' 's/type: cpu/type: cuda/'          78 'device.memory'
fi
bad 'no devices'          's/count: 2/count: 0/'             78 'device.count'
bad 'keep without dir'    's/dir: ckpt, //'                  78 'checkpoint.'
bad 'evaluate no data'    's/, validation: \[b.bin\]//'      78 'evaluate.'
bad 'seed'                's/seed: 1/seed: -1/'              78 'seed'
bad 'tab'                 's/^seed: 1/\tseed: 1/'            78 'bad.yaml:14'
bad 'unclosed'            's/heads: 2.*/heads: 2/'           78 'bad.yaml:'
bad 'alias'               's/seed: 1/seed: *one/'            78 'bad.yaml:14'
bad 'two documents'       's/^seed: 1/seed: 1\n---\nseed: 3/'              78 'bad.yaml:'
bad 'control character'   's/seed: 1/seed: \x011/'           78 'bad.yaml'

# What does not fit.
bad 'device too small'    's/memory: 32MiB/memory: 64KiB/'   78 'device.memory'
bad 'host too small'      's/memory: 64MiB/memory: 64KiB/'   78 'host.memory'
bad 'swap missing'        's/paths: \[swap\]/paths: [nowhere]/' 78 'nowhere'
bad 'swap is a file'      's/paths: \[swap\]/paths: [text]/' 78 'text'
bad 'model for the disk'  's/layers: 2, hidden: 32/layers: 900, hidden: 16384/; s/memory: 32MiB/memory: 99GiB/; s/memory: 64MiB/memory: 99GiB/' 78 'swap'

# The command line.
expect 'no config'        64 'no configuration file' "$B/bin/dsrun"
expect 'unknown option'   64 '--resume'       "$B/bin/dsrun" --resum good.yaml
expect 'config missing'   66 'nowhere.yaml'   "$B/bin/dsrun" nowhere.yaml
expect 'config is a dir'  66 'swap'           "$B/bin/dsrun" swap
expect 'no such daemon'   69 'nosuch.sock'    "$B/bin/dsrun" --resume --daemon "$dir/nosuch.sock" good.yaml
expect 'not resumed'      78 '--resume'       "$B/bin/dsrun" --daemon private good.yaml

# Shards.
shard() { # NAME STATUS TEXT: with bad.bin for a training shard
	bad "$1" 's/train: \[a.bin\]/train: [bad.bin]/' "$2" "$3"
}
rm -f bad.bin; shard 'shard missing' 66 bad.bin
: > bad.bin; shard 'shard empty' 65 bad.bin
head -c 1000 a.bin > bad.bin; shard 'shard truncated' 65 bad.bin
head -c 10 a.bin > bad.bin; shard 'shard header cut' 65 bad.bin
cp text bad.bin; shard 'shard is text' 65 bad.bin
{ head -c 5000 a.bin; printf '\377\377\377'; tail -c +5004 a.bin; } > bad.bin; shard 'shard corrupt' 65 bad.bin
{ cat a.bin; echo more; } > bad.bin; shard 'shard too long' 65 bad.bin
rm -f bad.bin; mkdir bad.bin; shard 'shard is a directory' 65 bad.bin; rmdir bad.bin
head -c 20 text > few; "$B/bin/dsprep" -q -o bad.bin few; shard 'shard too short' 65 bad.bin
bad 'vocabulary'          's/vocab: 256/vocab: 100/'         65 a.bin

# Checkpoints, each damaged in a copy.
damaged() { # NAME STATUS TEXT COMMAND on $newest
	local newest
	rm -rf hurt
	cp -a ckpt hurt
	newest=$(printf '%s\n' hurt/step-* | tail -n 1)
	eval "$4"
	rm -rf hurt.before
	cp -a hurt hurt.before
	sed 's/dir: ckpt/dir: hurt/; s/steps: 4/steps: 6/' good.yaml > bad.yaml
	expect "$1" "$2" "$3" "$B/bin/dsrun" --daemon private --resume bad.yaml
	diff -rq hurt hurt.before || fail "$1: the damaged checkpoint was changed"
	: "$newest"
}
# shellcheck disable=SC2016 # $newest is damaged()'s
{
damaged 'state truncated'   65 rank-0000 'truncate -s 100 "$newest"/rank-0000.state'
damaged 'state cut by one'  65 rank-0001 'truncate -s -1 "$newest"/rank-0001.state'
damaged 'state corrupt'     65 rank-0000 'printf x | dd of="$newest"/rank-0000.state bs=1 seek=5000 conv=notrunc status=none'
damaged 'state missing'     65 rank-0001 'rm "$newest"/rank-0001.state'
damaged 'state empty'       65 rank-0000 ': > "$newest"/rank-0000.state'
damaged 'manifest missing'  65 manifest.json 'rm "$newest"/manifest.json'
damaged 'manifest corrupt'  65 manifest.json 'echo "{{{" > "$newest"/manifest.json'
damaged 'manifest empty'    65 manifest.json ': > "$newest"/manifest.json'
}
bad 'another model'       's/hidden: 32/hidden: 64/; s/steps: 4/steps: 6/' 78 'model.hidden 32'
bad 'another precision'   's/precision: bf16/precision: fp32/; s/steps: 4/steps: 6/' 78 'precision bf16'
bad 'checkpoint in a file' 's/dir: ckpt/dir: text\/ckpt/' 73 text
expect 'export nowhere'   73 nowhere          "$B/bin/dsrun" --daemon private --resume --export nowhere/w.safetensors good.yaml
bad 'log nowhere'         's/file: metrics.jsonl/file: nowhere\/m.jsonl/; s/steps: 4/steps: 6/' 73 nowhere

# Disks that are full or read-only.
mounted() { # NAME OPTIONS
	mkdir "$1"
	mount -t tmpfs -o "$2" none "$1" 2> /dev/null || return 1
	mounts+=("$dir/$1")
}
if mounted small size=1m && mounted readonly ro; then
	bad 'swap full'          's/paths: \[swap\]/paths: [small]/; s/hidden: 32/hidden: 128/; s/steps: 4/steps: 6/; s/dir: ckpt/dir: other/' 78 small
	bad 'swap read-only'     's/paths: \[swap\]/paths: [readonly]/; s/steps: 4/steps: 6/' 78 readonly
	bad 'checkpoint full'    's/dir: ckpt/dir: small\/c/; s/offload_(param|optimizer): nvme/offload_\1: cpu/g; s/hidden: 32/hidden: 128/' 73 small
	sed -E 's/dir: ckpt/dir: small\/c/; s/hidden: 32/hidden: 128/' good.yaml > bad.yaml
	expect 'checkpoint disk full' 73 small   "$B/bin/dsrun" --daemon private bad.yaml
	compgen -G 'small/c/step-????????' > /dev/null && fail 'a half-written checkpoint has a name'
	sed -E 's/dir: ckpt/dir: readonly\/c/' good.yaml > bad.yaml
	expect 'checkpoint read-only' 73 readonly "$B/bin/dsrun" --daemon private bad.yaml
else
	echo 'mounting is not allowed here: rows on full and read-only disks are skipped'
	skips=5
fi

# A system daemon whose quota is too small.
cat > daemon.conf <<EOF
socket: $dir/d.sock
host: {memory: 64MiB, threads: 1}
nvme: {paths: [$dir/swap], quota: 64KiB}
EOF
"$B/bin/dsoffloadd" --foreground --config daemon.conf > daemon.log 2>&1 &
daemon=$!
until [ -S d.sock ] || ! kill -0 $daemon 2> /dev/null; do sleep 0.01; done
sed 's/steps: 4/steps: 6/' good.yaml > bad.yaml
expect 'quota too small'  69 nvme.quota       "$B/bin/dsrun" --daemon "$dir/d.sock" --resume bad.yaml

for f in a.bin b.bin; do cmp -s $f keep/$f || fail "$f was changed"; done
echo "$cases cases, $skips skipped"
[ $fails -eq 0 ] || { echo "$fails failures"; exit 1; }
