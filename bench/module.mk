# Benchmarks: BENCHES += bench_x, bench_x_USES := rooms; built by `make bench`, run by bench/run.sh.
BENCHES += bench_adam
bench_adam_USES := kernels common
BENCHES += bench_nvme
bench_nvme_USES := nvme common
bench_nvme_WRAP := crc32c
BENCHES += bench_swap
bench_swap_USES := daemon nvme kernels common
bench_swap_WRAP := optimizer_host_step
