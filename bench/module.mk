# Benchmarks: BENCHES += bench_x, bench_x_USES := rooms; built by `make bench`, run by bench/run.sh.
BENCHES += bench_adam
bench_adam_USES := kernels common
BENCHES += bench_nvme
bench_nvme_USES := nvme common
