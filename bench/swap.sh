#!/bin/sh
# Usage: swap.sh [DIR]. The optimizer step of a model whose state is on disk, beside its transfers alone and
# Adam alone (bench/bench_swap.c says how), for chunk buffers and extents as the planner chooses them
# and around that. DIR, by default a directory below $B, is where the swap file goes. Writes
# $B/bench/swap.json: ratio_max, the median over the rows of step / max(I/O alone, Adam alone), and
# the rows. SWAP_BENCH_PARAMS and SWAP_BENCH_ROUNDS make it longer.
set -eu
B=${B:-build}
params=${SWAP_BENCH_PARAMS:-100000000}
rounds=${SWAP_BENCH_ROUNDS:-5}
mkdir -p "$B/bench"
work=$(mktemp -d "$B/bench/swap.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
dir=${1:-$work}

# member FILE NAME: that member of the object
member() { sed 's|[,{}]|\n|g' "$1" | sed -n "s|^\"$2\":\"*\([^\"]*\)\"*$|\1|p"; }

printf '%-9s %9s %10s %7s %7s %8s %8s %8s %9s %7s\n' precision params extent buffers threads \
	'step s' 'I/O s' 'Adam s' 'CPU/cores' ratio
# precision, extent, buffers, threads: what a plan has where memory allows (4 of 4 MiB), the least,
# more, shorter extents, one thread, fp32.
for row in 'bf16 4194304 4 2' 'bf16 4194304 3 2' 'bf16 4194304 8 2' 'bf16 1048576 4 2' \
	'bf16 4194304 4 1' 'fp32 4194304 4 2'; do
	# shellcheck disable=SC2086
	set -- $row
	"$B/bench/bench_swap" "$dir" "$1" "$params" "$2" "$3" 32 "$4" "$rounds" >"$work/row"
	cat "$work/row" >>"$work/rows"
	member "$work/row" ratio >>"$work/ratios"
	printf '%-9s %9s %10s %7s %7s %8s %8s %8s %9s %7s\n' "$1" "$(member "$work/row" params)" \
		"$(member "$work/row" extent_bytes)" "$3" "$4" "$(member "$work/row" step_s)" \
		"$(member "$work/row" io_s)" "$(member "$work/row" adam_s)" \
		"$(member "$work/row" cpu_bound_s)" "$(member "$work/row" ratio)"
done
ratio=$(sort -g "$work/ratios" |
	awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }')
printf 'ratio_max, the median: %s\n' "$ratio"
printf '{"ratio_max":%s,"rows":[%s]}\n' "$ratio" "$(paste -sd, "$work/rows")" >"$B/bench/swap.json"
