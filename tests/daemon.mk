TESTS         += t_pool t_session_faults t_daemon t_daemon_life t_daemon_hostile t_daemon_trace
TESTS_THREAD  += t_pool t_session_faults t_daemon t_daemon_life t_daemon_hostile t_daemon_trace
TEST_SCRIPTS  += tests/daemon.sh
t_pool_USES   := daemon nvme kernels common
t_pool_WRAP   := pthread_create
t_session_faults_USES := daemon nvme kernels common
t_session_faults_WRAP := calloc eventfd memfd_create mmap fallocate ftruncate sendmsg madvise \
    pthread_create
t_daemon_SRCS := tests/daemon_bed.c
t_daemon_USES := offload nvme kernels common
t_daemon_life_SRCS := tests/daemon_bed.c
t_daemon_life_USES := offload nvme kernels common
t_daemon_hostile_SRCS := tests/daemon_bed.c
t_daemon_hostile_USES := offload nvme kernels common
t_daemon_trace_SRCS := tests/daemon_bed.c
t_daemon_trace_USES := offload nvme kernels common
