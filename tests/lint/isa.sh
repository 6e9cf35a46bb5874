#!/bin/sh
# Usage: isa.sh OBJECT...
# Goal: no vector code runs before the CPU was asked: only *_avx2 and *_avx512 objects hold any.
# Method: every other object is disassembled and searched for registers wider than SSE's, mask
# registers, and the VEX forms that a compiler makes of SSE code under -mavx.
set -eu
for object in "$@"; do
	case $object in
	*_avx2.o | *_avx512.o) shift ;;
	*) set -- "$@" "$object"; shift ;;
	esac
done
objdump -d --no-show-raw-insn "$@" | awk '
/file format/ { object = $1; sub(/:$/, "", object) }
/%[yz]mm|%k[0-7]|[ \t]v[a-z0-9]+ .*%xmm/ {
	if (!(object in seen))
		print object ": vector code: " $0
	seen[object] = 1
	bad = 1
}
END { exit bad }'
