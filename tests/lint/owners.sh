#!/bin/sh
# Usage: owners.sh OBJECT...: each in a directory that is named after its room.
# Goal: each vendor's symbols have one home, and what only some rooms may do, only those do.
# Method: the undefined symbols of every object against owners.txt.
set -eu
nm -u -A "$@" | awk -v rules="$(dirname "$0")/owners.txt" '
BEGIN {
	while ((getline line < rules) > 0) {
		if (line ~ /^#/ || line ~ /^[ \t]*$/)
			continue
		n++
		re[n] = line
		sub(/[ \t].*/, "", re[n])
		homes[n] = line
		sub(/^[^ \t]+[ \t]+/, "", homes[n])
		re[n] = "^(" re[n] ")$"
	}
	if (n == 0) {
		print rules ": no rules"
		exit bad = 1
	}
}
{
	object = $1
	sub(/:.*/, "", object)
	n_parts = split(object, part, "/")
	room = part[n_parts - 1]
	symbol = $NF
	sub(/@.*/, "", symbol)
	for (i = 1; i <= n; i++)
		if (symbol ~ re[i] && index(" " homes[i] " ", " " room " ") == 0) {
			print object ": " symbol " belongs to: " (homes[i] == "-" ? "nobody" : homes[i])
			bad = 1
		}
}
END { exit bad }'
