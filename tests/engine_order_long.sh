#!/bin/sh
# t_engine_order with eight draws of everything else for each placement, and every seventh call that
# orders left out by itself; prints the orderings that no run needed, with their places.
B=${B:-build}
ORDER_DRAWS=8 ORDER_STRIDE=7 exec "$B/tests/t_engine_order"
