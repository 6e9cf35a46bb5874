#!/bin/sh
# Every mix of placements, stages, accumulation, clipping and precision: see same_numbers.sh.
exec "$(dirname "$0")/same_numbers.sh" full
