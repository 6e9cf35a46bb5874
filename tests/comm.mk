TESTS       += t_comm
t_comm_SRCS := tests/comm_bed.c
t_comm_USES := comm kernels common
