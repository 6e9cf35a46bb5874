#!/bin/sh
# Goal: dependencies go down only, and a vendor's headers have one home.
# Method: every #include of every source against layers.txt and the rules below; and what a module.mk
# says a room uses against layers.txt. tests/ and bench/ may look everywhere.
set -eu
find . -mindepth 2 -maxdepth 2 \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name module.mk \) \
	! -path './build*/*' ! -path './tests/*' ! -path './bench/*' ! -path './.*/*' |
	sed 's|^\./||' | sort | xargs awk -v layers="$(dirname "$0")/layers.txt" '
function bad_include(why) {
	print FILENAME ":" FNR ": " $0 ": " why
	bad = 1
}
function home(room) {
	if (dir != room)
		bad_include("the home of this header is " room "/")
}
BEGIN {
	while ((getline line < layers) > 0) {
		n = split(line, word)
		if (n == 0 || line ~ /^#/)
			continue
		known[word[1]] = 1
		# Rooms stand below the line that names them: what those link is known already.
		for (i = 2; i <= n; i++) {
			below[word[1], word[i]] = 1
			links[word[1]] = links[word[1]] " " word[i] " " links[word[i]]
		}
	}
}
FNR == 1 { dir = FILENAME; sub(/\/.*/, "", dir) }
FILENAME ~ /module\.mk$/ {
	if ($1 == dir "_USES" || $1 == dir "_cuda_USES") {
		if (!(dir in known)) {
			print FILENAME ": " dir " is not in layers.txt"
			bad = 1
		}
		for (i = 3; i <= NF; i++)
			if ($i != dir && index(links[dir] " ", " " $i " ") == 0) {
				print FILENAME ": " dir " may not use " $i
				bad = 1
			}
	}
	next
}
/^#[ \t]*include[ \t]*"/ {
	header = $0
	sub(/^[^"]*"/, "", header)
	sub(/".*/, "", header)
	room = header
	sub(/\/.*/, "", room)
	if (room == dir)
		next
	if (header ~ /\/internal\.h$/)
		bad_include("private to its room")
	else if (!((dir, room) in below))
		bad_include("not a room below")
	else if (header == "offload/protocol.h" && dir != "daemon")
		bad_include("between offload/ and daemon/ only")
	else if (header == "common/ring_abi.h")
		bad_include("rings are reached through common/ring.h")
}
/^#[ \t]*include[ \t]*</ {
	header = $0
	sub(/^[^<]*</, "", header)
	sub(/>.*/, "", header)
	if (header ~ /^(liburing|libaio)/) home("nvme")
	else if (header ~ /^(hwloc|yaml)/) home("common")
	else if (header ~ /^(cblas|openblas|cuda|cublas)/) home("kernels")
	else if (header ~ /^(nccl|mpi)/) home("comm")
	else if (header ~ /^systemd\//) home("daemon")
	else if (header ~ /intrin\.h$/ && FILENAME !~ /_avx(2|512)?\.[ch]$/)
		bad_include("intrinsics live in *_avx2 and *_avx512 files")
}
END { exit bad }'
