#!/bin/bash
# Goal: install puts every program and page where it belongs, and uninstall takes exactly that away.
# Method: into a DESTDIR that holds a file of somebody else's, with odd prefixes, and back out.
set -eu
: "${B:=build}"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() {
	echo "$1"
	exit 1
}
# The build directory's own flags; a make of its own, not a child of the one that runs the tests.
unset MAKEFLAGS MFLAGS MAKELEVEL
args=(--no-print-directory -s "B=$B" "DESTDIR=$root" "SAN=${SAN:-}")

for prefix in /usr /opt/ds/run; do
	mkdir -p "$root$prefix/bin" "$root$prefix/share/doc/other"
	echo x >"$root$prefix/bin/other"
	make "${args[@]}" "PREFIX=$prefix" install
	for program in dsrun dsctl dsprep; do
		[ -x "$root$prefix/bin/$program" ] || fail "no bin/$program"
	done
	[ -x "$root$prefix/sbin/dsoffloadd" ] || fail "no sbin/dsoffloadd"
	[ -x "$root$prefix/libexec/dsrun/dsworker" ] || fail "no libexec/dsrun/dsworker"
	[ -s "$root$prefix/share/doc/dsrun/LICENSE" ] || fail "no licence"
	for page in man/*.[158]; do
		[ -s "$root$prefix/share/man/man${page##*.}/${page#man/}" ] || fail "no $page"
	done
	! grep -rl '@[a-z]*dir@' "$root" || fail "an unreplaced word"
	make "${args[@]}" "PREFIX=$prefix" uninstall
	left=$(cd "$root" && find . ! -type d)
	[ "$left" = "./${prefix#/}/bin/other" ] || fail "left: $left"
	left=$(find "$root" -type d -name dsrun)
	[ -z "$left" ] || fail "left: $left"
	rm "$root$prefix/bin/other"
done
