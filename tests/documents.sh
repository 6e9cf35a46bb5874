#!/bin/bash
# Goal: examples in documents work. Every YAML block of README.md and every example configuration and
# train.yaml(5)'s own is checked by `dsrun --check`, with what it names put in place.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
root=$PWD
dir=$(mktemp -d "${TMPDIR:-/tmp}/documents.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
fails=0
mkdir -p local_nvme build/quickstart/swap build/overbudget/swap build/split/swap

awk '/^```yaml/ { n++; on = 1; next } /^```/ { on = 0 } on { print > ("readme-" n ".yaml") }' "$root/README.md"
cp "$root"/examples/*.yaml .
awk '/^\.Bd -literal/ { n++; on = 1; next } /^\.Ed/ { on = 0 } on { print > ("man-" n ".text") }' \
	"$root/man/train.yaml.5"
for f in man-*.text; do
	grep -q '^model:' "$f" && sed 's/\\e/\\/g' "$f" > "${f%.text}.yaml"
done

count=0
for f in *.yaml; do
	count=$((count + 1))
	# A reader's NVMe is not where this machine's is, nor is a README's machine as large as it likes.
	sed "s|/local_nvme[0-9]*|$dir/local_nvme|g" "$f" > checked.yaml
	if ! "$B/bin/dsrun" --check checked.yaml > out 2>&1; then
		echo "$f:"; cat out
		fails=$((fails + 1))
	fi
	rm checked.yaml
done
echo "$count configurations"
[ $count -ge 5 ] || { echo "fewer than there were: the extraction is broken"; exit 1; }
[ $fails -eq 0 ]
