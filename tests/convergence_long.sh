#!/bin/sh
# The quickstart's model, from three seeds in each form of the optimizer's state: see convergence.sh.
exec "$(dirname "$0")/convergence.sh" long
