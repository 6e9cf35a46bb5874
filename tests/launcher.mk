TESTS             += t_launcher
t_launcher_SRCS   := tests/launcher_bed.c
TEST_TOOLS        += fake_worker
fake_worker_NOCHECK := 1
