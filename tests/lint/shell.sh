#!/bin/sh
# Goal: the shell scripts mean what they say. Method: shellcheck, at the level of warnings.
set -eu
find . \( -path './build*' -o -path './.git' \) -prune -o \( -name '*.sh' -o -path './.ci/run' \) \
	-type f -print | sort | xargs shellcheck -S warning -x
