/* Starts dsrun with fake workers (fake_worker.c) and looks at what comes of it. */
#ifndef TESTS_LAUNCHER_BED_H
#define TESTS_LAUNCHER_BED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define BED_ENV_MAX  16
#define BED_ARGS_MAX 24

struct bed {
	/* To fill in; all may be left zero. */
	unsigned ranks;                 /* 3 */
	bool daemon;                    /* the plan needs a daemon, which will be a private one */
	const char *env[BED_ENV_MAX];   /* "FAKE_1=exit 3" */
	const char *args[BED_ARGS_MAX]; /* options of dsrun */
	int out_fd;                     /* its standard output; 0: kept in `out` */
	bool ignore_hup;
	bool no_config; /* args are the whole command line */

	/* While it runs. */
	pid_t pid;
	uint64_t epoch_ns; /* what `until` counts from */
	time_t started;
	char mark[64];
	int out, err; /* memfds of its output */

	/* Afterwards. */
	int status; /* exit status, or 1000 + signal */
	uint64_t ended_ns;
	char *out_text, *err_text; /* NUL-terminated; NULs inside become '?' */
	size_t out_len;
};

uint64_t bed_now_ns(void);
void bed_start(struct bed *bed);

/* Waits for dsrun's end; fails the test after 30 s. Nothing may be left then, and is not. */
void bed_wait(struct bed *bed);
void bed_run(struct bed *bed);
void bed_done(struct bed *bed);

/* Waits until as many processes of the job have `what` ("RANK=") in their environment. */
void bed_await(struct bed *bed, const char *what, unsigned count);

/* Waits until a process has ended and is not reaped yet. */
void bed_await_zombie(pid_t pid);

/* Waits until dsrun has printed `text`. */
void bed_await_text(struct bed *bed, int fd, const char *text);

/* The pid of the one whose environment has `what`; "agent": the agent. 0: there is none. */
pid_t bed_find(const struct bed *bed, const char *what);

/* Nothing with a name is left: no socket, no cgroup. The job's id begins with dsrun's pid. */
void bed_check_names(const struct bed *bed);

/* How many processes of this job there are, dsrun excluded; zombies have no environment. */
unsigned bed_left(const struct bed *bed);

/*
 * A promise: ended no later than `ms` after a worker's stamp, or after epoch_ns where none was
 * made; on a loaded machine tenfold.
 */
void bed_check_time(const struct bed *bed, unsigned ms);

/* The end: status, and a text that must be in what dsrun wrote to standard error (NULL: any). */
void bed_check(const struct bed *bed, int status, const char *text);

#endif
