#!/bin/bash
# Goal: dsprep makes the shards it says, whole or not at all, and refuses the rest with one line that
# names the culprit and the right exit status.
# Method: the program itself on small texts; shards are looked at with od, not with dsprep.
set -u
B=${B:-build}
dsprep=$PWD/$B/bin/dsprep
case $B in /*) dsprep=$B/bin/dsprep ;; esac
dir=$(mktemp -d "${TMPDIR:-/tmp}/dsprep.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
fails=0

fail() {
	echo "$*"
	fails=$((fails + 1))
}

# refused STATUS WORDS ARGUMENTS...: exits so, with one line that has the words; makes nothing.
refused() {
	local status=$1 words=$2 rc
	shift 2
	"$dsprep" "$@" > out 2> err < /dev/null
	rc=$?
	[ $rc -eq "$status" ] || fail "dsprep $*: exit status $rc, expected $status: $(cat err)"
	tail -n 1 err | grep -qF -- "$words" || fail "dsprep $*: no '$words' in: $(cat err)"
	[ ! -e x.bin ] && [ ! -e y.bin ] || fail "dsprep $*: made a shard"
	rm -rf x.bin y.bin
}

number() { od -A n -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# One shard.
printf 'hello\nworld\n' > a.txt
printf 'again\n' > b.txt
"$dsprep" -q -o one.bin a.txt b.txt > out || fail "one shard: exit status $?"
[ ! -s out ] || fail "-q says: $(cat out)"
[ "$(head -c 4 one.bin)" = DSTK ] || fail "no magic"
[ "$(number one.bin 4 4) $(number one.bin 8 4) $(number one.bin 12 4)" = "1 1 256" ] || fail "header"
[ "$(number one.bin 16 8)" = 18 ] || fail "count is $(number one.bin 16 8)"
[ "$(tail -c +65 one.bin)" = "$(cat a.txt b.txt)" ] || fail "tokens"
"$dsprep" --info one.bin | grep -q '18 tokens of 1 byte.*vocabulary 256' || fail "--info"
"$dsprep" --json --info one.bin | grep -qF '"tokens":18' || fail "--json --info"

# Standard input gives the same bytes, and so does a rerun over an existing shard.
cat a.txt b.txt | "$dsprep" -o stdin.bin - > out || fail "standard input: exit status $?"
cmp one.bin stdin.bin || fail "standard input differs"
"$dsprep" -q -o stdin.bin a.txt b.txt && cmp one.bin stdin.bin || fail "rerun differs"

# Two shards hold all the text, and the cut is at a line.
seq 1 10000 > long.txt
"$dsprep" --train t.bin --validation v.bin --validation-fraction 0.2 long.txt > out ||
	fail "two shards: exit status $?"
{ tail -c +65 t.bin; tail -c +65 v.bin; } | cmp - long.txt || fail "text was lost"
[ "$(tail -c 1 t.bin | od -A n -t u1 | tr -d ' ')" = 10 ] || fail "the cut is inside a line"
size=$(stat -c %s long.txt)
count=$(number v.bin 16 8)
[ "$count" -le $((size / 5)) ] && [ "$count" -gt $((size / 5 - 10)) ] || fail "$count of $size are for validation"
# One line of text has no place for a cut but where it was asked for.
tr -d '\n' < long.txt > line.txt
"$dsprep" -q --train t1.bin --validation v1.bin --validation-fraction 0.5 line.txt || fail "one line"
{ tail -c +65 t1.bin; tail -c +65 v1.bin; } | cmp - line.txt || fail "of one line, text was lost"

# Bigrams: two tokens in turn; each follows the other 999 or 1000 times in 256 + that.
yes ab | tr -d '\n' | head -c 2001 > ab.txt
"$dsprep" -q -o ab.bin ab.txt
"$dsprep" --json --bigram ab.bin ab.bin > out || fail "--bigram: exit status $?"
awk -F '[:,]' '{ want = -log(1001 / 1256); d = $2 - want; exit d * d > 1e-6 }' out ||
	fail "bigram loss: $(cat out)"
"$dsprep" --bigram t.bin v.bin | grep -q 'add-one' || fail "--bigram does not say how"

# Refused.
refused 64 "expected one of" a.txt
refused 64 "at least one text" -o x.bin
refused 64 "go together" --train x.bin a.txt
refused 64 "same file" --train x.bin --validation x.bin a.txt
refused 64 "1.5" --train x.bin --validation y.bin --validation-fraction 1.5 a.txt
refused 64 "x0.1" --train x.bin --validation y.bin --validation-fraction x0.1 a.txt
refused 64 "no --train" -o x.bin --train y.bin a.txt
refused 64 "two shards" --bigram one.bin
refused 64 "one shard" --info one.bin one.bin
refused 64 "--json goes with" --json -o x.bin a.txt
refused 64 "cannot read the command line" --no-such-option
refused 66 "nothing.txt" -o x.bin a.txt nothing.txt
refused 66 "$dir" -o x.bin "$dir"
refused 66 "nothing.bin" --info nothing.bin
refused 65 "no text" -o x.bin /dev/null
refused 65 "no text" --train x.bin --validation y.bin /dev/null
refused 65 "no text" --train x.bin --validation y.bin -
refused 65 "not a token shard" --info long.txt
head -c 70 one.bin > short.bin
refused 65 "truncated" --bigram one.bin short.bin
printf a > single.txt
"$dsprep" -q -o single.bin single.txt
refused 65 "nothing to predict" --bigram one.bin single.bin
refused 65 "y.bin: no text" --train x.bin --validation y.bin single.txt
refused 73 "nowhere/x.bin" -o nowhere/x.bin a.txt
mkdir x.d
refused 73 "x.d" -o x.d a.txt

# A full disk leaves the old shard, and no half of a new one.
if mkdir small && mount -t tmpfs -o size=64k none small 2> /dev/null; then
	cp one.bin small/x.bin
	head -c 200000 /dev/zero | "$dsprep" -o small/x.bin - > out 2> err
	rc=$?
	[ $rc -eq 73 ] || fail "full disk: exit status $rc: $(cat err)"
	grep -q 'small/x.bin' err || fail "full disk: $(cat err)"
	cmp one.bin small/x.bin || fail "full disk: the old shard is gone"
	[ "$(find small -type f | wc -l)" = 1 ] || fail "full disk: left $(ls -A small)"
	umount small
fi

[ -z "$(find . -name '.*.tmp*')" ] || fail "left behind: $(find . -name '.*.tmp*')"
[ $fails -eq 0 ] || { echo "$fails failed"; exit 1; }
