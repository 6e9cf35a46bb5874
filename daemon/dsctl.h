/* Private to dsctl: its commands, in dsctl*.c. */
#ifndef DAEMON_DSCTL_H
#define DAEMON_DSCTL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/endurance.h"
#include "kernels/adam_measure.h"
#include "nvme/measure.h"

#define DSCTL_SOCKET "/run/dsoffload/dsoffload.sock"

/* dsctl.c: sessions that the daemon at `socket` serves; ERR_UNAVAILABLE when none answers. */
int dsctl_sessions(const char *socket, uint64_t *ret_open, struct err *err);

/* dsctl_bench.c: `dsctl bench`, of whose arguments argv[0] is "bench". Returns the exit status. */
int dsctl_bench(int argc, char **argv);

/* All that bench found out. */
struct bench_result {
	struct nvme_measured disks;
	struct err memory; /* code 0, or why memory was not measured */
	struct endurance endurance;
	uint64_t busy_sessions; /* of a daemon that was at work meanwhile */
	const char *written;    /* the file of figures; NULL when none was written */
};

/* dsctl_report.c: the result on standard output, for people or as JSON. A code of the stream. */
int bench_print(const struct bench_result *result, struct err *err);
int bench_print_json(const struct bench_result *result, struct err *err);

#endif
