#!/bin/sh
# Goal: the manners of the house that a machine can see.
# Method: one pass over every C and CUDA source: at most 100 columns with tabs of 8, no blank at a
# line's end, a source opens with a comment, at most 800 lines, no TODO without an issue's number,
# atomics in their explicit form, no bare fence, no volatile but for asm and sig_atomic_t.
set -eu
find . \( -path './build*' -o -path './.git' \) -prune -o \
	\( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -type f -print | sed 's|^\./||' | sort | xargs awk '
function bad_line(why) {
	print FILENAME ":" FNR ": " why
	bad = 1
}
function width(line, n, i) {
	n = 0
	for (i = 1; i <= length(line); i++)
		n += substr(line, i, 1) == "\t" ? 8 - n % 8 : 1
	return n
}
FNR == 1 && !/^\/\*/ { bad_line("opens with no comment") }
FNR == 801 { bad_line("more than 800 lines: split it") }
/[ \t]$/ { bad_line("blank at the end of the line") }
length($0) > 40 && width($0) > 100 { bad_line("wider than 100 columns") }
/(^|[^A-Z])(TODO|FIXME)([^A-Z]|$)/ && !/#[0-9]+/ { bad_line("unfinished, and no issue has its number") }
/atomic_thread_fence|__sync_/ { bad_line("a bare fence: ThreadSanitizer cannot follow it") }
/[^_a-z]atomic_(load|store|exchange|fetch_[a-z]+|compare_exchange_[a-z]+)[ ]*\(/ {
	bad_line("name the memory order")
}
/(^|[^_a-z])volatile([^_a-z]|$)/ && !/asm|sig_atomic_t/ && !/^[ \t\/]*\*/ { bad_line("volatile orders nothing") }
END { exit bad }'
