TESTS            += t_nvme t_nvme_faults t_nvme_mounts t_nvme_weights
t_nvme_SRCS      := tests/nvme_bed.c
t_nvme_USES      := nvme common
t_nvme_faults_SRCS := tests/nvme_bed.c
t_nvme_faults_USES := nvme common
t_nvme_faults_WRAP := calloc strdup open unlink fcntl fstatfs fstatvfs statx getrlimit fallocate \
    ftruncate eventfd io_uring_queue_init_params io_uring_get_probe_ring io_uring_register_eventfd \
    io_uring_register_files io_uring_register_buffers_sparse io_uring_register_buffers_update_tag \
    io_uring_submit io_uring_submit_and_wait io_uring_peek_batch_cqe __io_uring_get_cqe \
    io_setup io_submit io_getevents
t_nvme_mounts_SRCS := tests/nvme_bed.c
t_nvme_mounts_USES := nvme common
t_nvme_weights_SRCS := tests/nvme_bed.c
t_nvme_weights_USES := nvme common
TESTS            += t_nvme_figures t_nvme_measure
t_nvme_figures_USES := nvme common
t_nvme_measure_USES := nvme common
t_nvme_measure_WRAP := calloc mmap eventfd fallocate io_setup io_uring_queue_init_params
TEST_SCRIPTS         += tests/nvme_unequal.sh
tests: $(B)/bench/bench_nvme
