# Tests are declared by the room they test, in tests/<room>.mk:
#   TESTS += t_x, t_x_USES := rooms, t_x_WRAP := symbols to intercept; TEST_SCRIPTS += tests/x.sh
include $(filter-out tests/module.mk,$(wildcard tests/*.mk))
