TESTS            += t_err t_units t_rng t_crc32c t_cpu t_file t_file_faults t_shm t_futex t_ring \
                    t_json t_log t_conf t_conf_fuzz t_topo t_trace
t_err_USES       := common
t_units_USES     := common
t_rng_USES       := common
t_crc32c_USES    := common
t_cpu_USES       := common
t_file_USES      := common
t_file_faults_USES := common
t_file_faults_WRAP := open read pread write pwrite fsync close rename malloc fdopendir unlinkat getrandom
t_shm_USES       := common
t_futex_USES     := common
t_ring_USES      := common
t_json_USES      := common
t_json_WRAP      := realloc
t_log_USES       := common
t_conf_USES      := common
t_conf_fuzz_USES := common
t_conf_fuzz_WRAP := malloc calloc realloc reallocarray
t_topo_USES      := common
t_trace_USES     := common
t_trace_WRAP     := calloc aligned_alloc
# Streams and collectives as well: they stand or fall with the orderings of this room.
TESTS_THREAD     += t_ring t_futex t_crc32c t_log t_device t_comm t_trace
TEST_SCRIPTS     += tests/install.sh tests/lint_plants.sh
