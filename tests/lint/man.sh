#!/bin/sh
# Usage: man.sh PROGRAM...
# Goal: every program a user types has a man page, and every page is well formed.
# Method: mandoc's own lint, at the level of warnings.
set -eu
rc=0
for program in "$@"; do
	case $program in dsworker) continue ;; esac # started by dsrun's agent, never by a person
	if [ ! -f "man/$program.1" ] && [ ! -f "man/$program.8" ]; then
		echo "man/: no page for $program"
		rc=1
	fi
done
for page in man/*.[158]; do
	[ -e "$page" ] || continue
	mandoc -T lint -W warning "$page" || rc=1
done
exit $rc
