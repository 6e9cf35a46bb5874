#!/bin/sh
# Usage: deps.sh [build | check | all]
#
# Puts the machine in a state to build (build), to run the tests (check), or to run everything that CI
# runs (all, the default). Says nothing when nothing is missing, which takes one dpkg-query.
#
# 1. Installs through apt-get, only as root, and only packages that are missing.
# 2. Without apt-get or root, what matters is whether the tools answer, whoever installed them: if all
#    do we go on; if not we name what is missing and the command that a person has to give.
# 3. Optional parts are installed on a Debian where we may, and never missed.
set -eu

# Package, and a command that succeeds when the same thing came from elsewhere.
# shellcheck disable=SC2016 # the commands are evaluated later
build_list='
gcc             command -v ${CC:-cc}
make            command -v make
binutils        command -v ar
libc6-dev       header stdlib.h
pkg-config      command -v pkg-config
liburing-dev    header liburing.h
libaio-dev      header libaio.h
libhwloc-dev    header hwloc.h
libyaml-dev     header yaml.h
libopenblas-dev header cblas.h
bible-kjv       command -v bible
'
check_list='
g++             cplusplus
check           header check.h
libsubunit-dev  library subunit
mandoc          command -v mandoc
shellcheck      command -v shellcheck
procps          command -v pkill
util-linux      command -v setsid
python3         command -v python3
'
all_list='
clang           command -v clang
fio             command -v fio
'
optional='libsystemd-dev'

header() {
	echo "#include <$1>" | ${CC:-cc} -E -o /dev/null - 2>/dev/null
}
cplusplus() {
	echo 'int i;' | ${CC:-cc} -x c++ -fsyntax-only - 2>/dev/null
}
library() {
	echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -o /dev/null - "-l$1" 2>/dev/null
}
installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}
names() {
	echo "$1" | awk 'NF { print $1 }'
}

# Prints the packages of $list that neither dpkg knows as installed nor whose command answers.
missing() {
	echo "$list" | while read -r package probe; do
		[ -n "$package" ] || continue
		installed "$package" || eval "$probe" >/dev/null 2>&1 || echo "$package"
	done
}

# Usage: apt SHOW ARGUMENT... Runs apt-get silently; SHOW=yes shows its words when it fails.
apt() {
	show=$1
	shift
	log=$(mktemp)
	if DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1 </dev/null; then
		rm -f "$log"
		return 0
	fi
	[ "$show" = no ] || cat "$log" >&2
	rm -f "$log"
	return 1
}

# A container begins without package lists, so the first try may fail for that alone.
apt_install() {
	apt no install --no-install-recommends "$@" && return 0
	apt yes update && apt yes install --no-install-recommends "$@"
}

case ${1:-all} in
build) list=$build_list ;;
check) list=$build_list$check_list ;;
all) list=$build_list$check_list$all_list ;;
*)
	echo "usage: deps.sh [build | check | all]" >&2
	exit 64 ;;
esac

want=$(names "$list")
# shellcheck disable=SC2086 # package names, one word each
if command -v dpkg-query >/dev/null && dpkg-query -W -f '${db:Status-Status}\n' $want $optional \
	2>/dev/null | awk -v n="$(echo $want $optional | wc -w)" '
	$1 == "installed" { seen++ } END { exit seen != n }'; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	packages=''
	for package in $want; do
		installed "$package" || packages="$packages $package"
	done
	if [ -n "$packages" ]; then
		echo "deps: installing$packages"
		# shellcheck disable=SC2086
		apt_install $packages || echo "deps: apt-get failed; looking for the tools themselves" >&2
	fi
	for package in $optional; do
		installed "$package" || apt_install "$package" ||
			echo "deps: $package is not to be had; building without it"
	done
fi
lacking=$(missing)
if [ -n "$lacking" ]; then
	lacking=$(echo "$lacking" | tr '\n' ' ')
	echo "deps: missing: $lacking" >&2
	echo "deps: as root: apt-get install --no-install-recommends $lacking" >&2
	exit 1
fi
