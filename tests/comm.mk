TESTS       += t_comm
t_comm_USES := comm kernels common
