# Tests of the whole system: real dsrun, workers, daemon, files.
TEST_TOOLS          += peak_memory
peak_memory_NOCHECK := 1
TEST_SCRIPTS        += tests/same_numbers.sh tests/documents.sh tests/bad_input.sh tests/resume.sh tests/overbudget.sh tests/host_auto.sh \
                       tests/place_auto.sh tests/trace.sh tests/convergence.sh tests/dsctl_bench.sh
TEST_SCRIPTS_LONG   += tests/same_numbers_full.sh tests/convergence_long.sh
TEST_SCRIPTS_THREAD += tests/thread_run.sh
