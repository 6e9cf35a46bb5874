#!/bin/bash
# Usage: quickstart.sh [BUILD_DIR], from the root of the repository; `make quickstart` calls it.
#
# Trains examples/quickstart.yaml on the King James Bible, its parameters and optimizer state on
# disk, and shows what the model learned. Everything it makes is in BUILD_DIR/quickstart, the
# figures in summary.json. Fails when the model is not well below what bigrams give.
set -euo pipefail
B=${1:-build}
dir=$B/quickstart
config=examples/quickstart.yaml
rm -rf "$dir"
mkdir -p "$dir/swap"

# The configuration's paths are those of the default build directory.
if [ "$B" != build ]; then
	sed "s|build/quickstart|$dir|g" "$config" > "$dir/quickstart.yaml"
	config=$dir/quickstart.yaml
fi

command -v bible > /dev/null || { echo "quickstart: no text: Debian's package bible-kjv is missing" >&2; exit 66; }
bible -f gen1:1-rev22:21 > "$dir/bible.txt"
"$B/bin/dsprep" --train "$dir/train.bin" --validation "$dir/validation.bin" "$dir/bible.txt"
bigram=$("$B/bin/dsprep" --json --bigram "$dir/train.bin" "$dir/validation.bin" |
	sed 's/.*"bigram_loss":\([0-9.e+-]*\).*/\1/')

echo
"$B/bin/dsrun" --plan "$config"
echo
"$B/bin/dsrun" --summary "$dir/summary.json" --summary-add "bigram_loss=$bigram" --generate 400 "$config"

validation=$(sed 's/.*"validation_loss":\([0-9.e+-]*\).*/\1/' "$dir/summary.json")
echo
awk -v v="$validation" -v b="$bigram" -v f="$dir/summary.json" 'BEGIN {
	printf "validation loss  %.4f nats a byte\n", v
	printf "bigrams give     %.4f nats a byte\n", b
	printf "summary          %s\n", f
	if (!(v < b - 0.3)) {
		print "quickstart: the model should be at least 0.3 below bigrams" > "/dev/stderr"
		exit 1
	}
}'
