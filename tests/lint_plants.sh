#!/bin/bash
# Goal: each lint finds what it is for: a lint that finds nothing proves nothing.
# Method: one violation of each kind is planted in a small tree, where the lint must fail and name it;
# without it the lint must pass.
set -eu
lint=$PWD/tests/lint
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cd "$root"
mkdir -p common kernels nvme daemon worker tests bench etc man objects
rc=0

# Usage: finds WORDS COMMAND...: the command fails and its output has the words.
finds() {
	local words=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "not found by $(basename "$1"): $words"
		rc=1
	elif ! grep -qF -- "$words" <<<"$out"; then
		echo "$(basename "$1") found something else than: $words"
		echo "$out"
		rc=1
	fi
}
passes() {
	"$@" || { echo "$(basename "$1") fails for nothing"; rc=1; }
}
# Usage: plant FILE LINE...: a source with these lines behind its comment.
plant() {
	local file=$1
	shift
	printf '%s\n' '/* Planted. */' "$@" >"$file"
}
compile() {
	mkdir -p "objects/$(dirname "$1")"
	${CC:-cc} -O2 -ffp-contract=off "${@:2}" -c -o "objects/${1%.c}.o" "$1"
}

plant common/a.c 'int a;'
passes "$lint/includes.sh"
passes "$lint/text.sh"

plant common/b.c '#include "nvme/nvme.h"'
finds 'common/b.c:2: #include "nvme/nvme.h": not a room below' "$lint/includes.sh"
plant common/b.c
plant nvme/b.c '#include "common/internal.h"'
finds 'private to its room' "$lint/includes.sh"
plant nvme/b.c '#include <yaml.h>'
finds 'the home of this header is common/' "$lint/includes.sh"
plant nvme/b.c '#include <immintrin.h>'
finds 'intrinsics live in' "$lint/includes.sh"
plant nvme/b.c '#include "common/ring_abi.h"'
finds 'rings are reached through' "$lint/includes.sh"
plant worker/b.c '#include "offload/protocol.h"'
finds 'between offload/ and daemon/ only' "$lint/includes.sh"
rm -f */b.c
plant kernels/a_avx2.c '#include <immintrin.h>'
plant daemon/a.c '#include "offload/protocol.h"'
passes "$lint/includes.sh"
echo 'nvme_USES := kernels common' >nvme/module.mk
finds 'nvme may not use kernels' "$lint/includes.sh"
rm nvme/module.mk

plant common/b.c "$(printf 'int %0100d;' 0 | tr 0 x)"
finds 'wider than 100 columns' "$lint/text.sh"
plant common/b.c 'int b; '
finds 'blank at the end' "$lint/text.sh"
echo 'int b;' >common/b.c
finds 'opens with no comment' "$lint/text.sh"
plant common/b.c "/* TO""DO: all of it */"
finds 'no issue has its number' "$lint/text.sh"
plant common/b.c 'volatile int b;'
finds 'volatile orders nothing' "$lint/text.sh"
plant common/b.c 'void b(void) { atomic_thread_fence(x); }'
finds 'a bare fence' "$lint/text.sh"
plant common/b.c 'int b(void) { return atomic_load(&x); }'
finds 'name the memory order' "$lint/text.sh"
plant common/b.c "$(printf '/* %s */\n' {1..801})"
finds 'more than 800 lines' "$lint/text.sh"
rm common/b.c
passes "$lint/text.sh"

# Usage: uses ROOM SYMBOL WORDS
uses() {
	plant "$1/c.c" "void $2(void); void f(void); void f(void) { $2(); }"
	compile "$1/c.c" -fno-builtin
	finds "$3" "$lint/owners.sh" "objects/$1/c.o"
}
uses daemon io_uring_submit 'io_uring_submit belongs to: nvme'
uses daemon io_submit 'io_submit belongs to: nvme'
uses nvme hwloc_topology_init 'belongs to: common'
uses nvme yaml_parser_parse 'belongs to: common'
uses nvme cblas_sgemm 'belongs to: kernels'
uses daemon cudaMalloc 'belongs to: kernels'
uses worker MPI_Init 'belongs to: comm'
uses daemon ncclAllGather 'belongs to: comm'
uses worker fork 'belongs to: launcher'
uses daemon posix_spawnp 'belongs to: launcher'
uses kernels exit 'exit belongs to: launcher daemon worker'
uses nvme printf 'printf belongs to: launcher daemon worker'
uses common pthread_create 'pthread_create belongs to'
uses daemon strerror 'strerror belongs to: nobody'
plant common/c.c "void hwloc_x(void); void f(void); void f(void) { hwloc_x(); }"
compile common/c.c
passes "$lint/owners.sh" objects/common/c.o

plant common/d.c 'float f(const float *x); float f(const float *x) { return x[0] * x[1] + x[2]; }'
compile common/d.c
passes "$lint/isa.sh" objects/common/d.o
if [ "$(uname -m)" = x86_64 ]; then
	compile common/d.c -mavx
	finds 'objects/common/d.o: vector code' "$lint/isa.sh" objects/common/d.o
	plant common/d.c 'void f(float *x); void f(float *x) { for (int i = 0; i < 64; i++) x[i] *= 2; }'
	compile common/d.c -O3 -mavx512f -mprefer-vector-width=512
	finds 'objects/common/d.o: vector code' "$lint/isa.sh" objects/common/d.o
	mv objects/common/d.o objects/common/d_avx512.o
	compile common/d.c
	passes "$lint/isa.sh" objects/common/d_avx512.o objects/common/d.o
fi

printf '#!/bin/sh\nfor i in $(ls); do cat $i > $i; done\n' >etc/a.sh
finds 'SC2045' "$lint/shell.sh"
rm etc/a.sh
finds 'no page for dsrun' "$lint/man.sh" dsrun dsworker
printf '.Dd January 1, 2026\n.Dt DSRUN 1\n.Os\n.Sh NAME\n.Nm dsrun\n' >man/dsrun.1
finds 'man/dsrun.1' "$lint/man.sh" dsrun
exit $rc
