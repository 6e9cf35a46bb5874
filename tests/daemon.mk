TESTS         += t_daemon t_daemon_life t_daemon_hostile
t_daemon_SRCS := tests/daemon_bed.c
t_daemon_USES := offload nvme kernels common
t_daemon_life_SRCS := tests/daemon_bed.c
t_daemon_life_USES := offload nvme kernels common
t_daemon_hostile_SRCS := tests/daemon_bed.c
t_daemon_hostile_USES := offload nvme kernels common
