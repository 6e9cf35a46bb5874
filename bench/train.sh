#!/bin/sh
# Usage: train.sh. Whole training steps, a part at a time: each bench/train_NAME.sh prints its table and
# writes $B/bench/train_NAME.json, whose members beginning with ratio_ or prediction_ are the figures
# that count. Writes $B/bench/train.json: those figures, and each part whole.
set -eu
B=${B:-build}
export B
here=$(dirname "$0")
parts=
for script in "$here"/train_*.sh; do
	name=$(basename "$script" .sh)
	echo "== $name"
	"$script"
	parts="$parts $name"
done
{
	printf '{'
	for name in $parts; do
		grep -o '"\(ratio\|prediction\)_[a-z_]*": *[0-9.e+-]*' "$B/bench/$name.json" | sed 's/$/,/'
	done
	first=
	for name in $parts; do
		printf '%s"%s": ' "$first" "${name#train_}"
		cat "$B/bench/$name.json"
		first=,
	done
	printf '}\n'
} >"$B/bench/train.json"
