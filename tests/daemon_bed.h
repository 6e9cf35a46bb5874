/*
 * What the daemon's tests share: a private dsoffloadd, sessions with it, and what should come out.
 */
#ifndef TESTS_DAEMON_BED_H
#define TESTS_DAEMON_BED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernels/dtype.h"
#include "kernels/optimizer.h"
#include "nvme/nvme.h"
#include "offload/client.h"

#define BED_UNITS       3u
#define BED_BLOBS       2u
#define BED_CHUNK_ELEMS (2u * PROTOCOL_ALIGN_ELEMS)

struct bed_daemon {
	pid_t pid;
	char socket[64]; /* abstract */
	char dir[256];   /* of its own, with the directories for swap and the log below */
	char swap[2][PROTOCOL_PATH_BYTES];
	char log[300];
};

/* The dsoffloadd of this build; static storage. */
const char *bed_program(void);

/*
 * Starts one as dsrun does: socket and configuration passed on. `conf` is YAML that is put behind
 * the socket's line. Returns when it listens, which is at once.
 */
void bed_start(struct bed_daemon *d, const char *conf);

/* The same with its directory in `base`, not in $TMPDIR. */
void bed_start_in(struct bed_daemon *d, const char *base, const char *conf);

/* SIGTERM, and the exit status must be 0: no sanitizer has complained either. */
void bed_stop(struct bed_daemon *d);

/* Waits for its end. Returns the wait status. */
int bed_wait(struct bed_daemon *d);

/* Removes what is left on disk. */
void bed_clean(struct bed_daemon *d);

/* The daemon's log, which the caller frees. */
char *bed_log(const struct bed_daemon *d);

/* The daemon's open descriptors, when it has settled. */
unsigned bed_fds(const struct bed_daemon *d);

/* A number of `dsctl status`: "sessions.open", "memory.used_bytes", "operations". */
uint64_t bed_status(const struct bed_daemon *d, const char *key);

/* Asks until sessions.open is `count`; fails the test after ten seconds. */
void bed_await_sessions(const struct bed_daemon *d, uint64_t count);

/* How a session is put together. */
struct bed_case {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
	enum dtype param_type, grad_type;
	bool accumulate;
	uint8_t param_home[BED_UNITS], state_home[BED_UNITS], grad_home[BED_UNITS];
	enum nvme_engine engine;
	unsigned chunk_buffers, queue_depth, path_count;
	bool traced;
};

/* All units with the same homes. */
void bed_case_homes(struct bed_case *c, uint8_t param, uint8_t state, uint8_t grad);
const char *bed_case_text(const struct bed_case *c); /* static storage */

struct bed_unit {
	uint64_t elems, decay, norm_first, norm_elems;
	uint64_t param_offset, fetch_offset, grad_offset[2];
	/* what should be in the daemon's hands */
	float *param, *kept;
	uint16_t *hi;
	void *state_mem;
	struct optimizer_state state; /* of all elements */
};

struct bed_session {
	struct client *client;
	struct bed_case setup;
	struct bed_unit units[BED_UNITS];
	uint64_t blob_bytes[BED_BLOBS], blob_offset[BED_BLOBS];
	uint64_t transfer_offset, data_bytes;
	uint8_t *arena;
	uint64_t random;
	uint64_t step;
	uint32_t blind_ids[2][BED_UNITS];
};

/* The request of a case; bed_open's, for tests that change something in it. */
void bed_request(struct bed_session *s, const struct bed_case *c, const struct bed_daemon *d,
		 struct client_config *ret, struct protocol_unit units[BED_UNITS]);

/* Opens; a negative code with err filled when it is refused. */
int bed_open(struct bed_session *s, const struct bed_case *c, const struct bed_daemon *d,
	     struct err *err);
void bed_close(struct bed_session *s);

/* Random master weights and moments into the session and into the reference. */
void bed_import(struct bed_session *s);

/*
 * A step of every unit: gradients in, steps submitted, parameters fetched right behind them; all of
 * it compared with the reference, bit by bit.
 */
void bed_step(struct bed_session *s);

/* Submits a step of every unit without looking at the result; false when the session is over. */
bool bed_step_blindly(struct bed_session *s, struct err *err);

/* State out again, compared with the reference. */
void bed_export(struct bed_session *s);

/* Blobs in and out. */
void bed_blobs(struct bed_session *s);

/* All of the above, for a few steps. */
void bed_run(const struct bed_daemon *d, const struct bed_case *c);

uint64_t bed_random(uint64_t *state);

/* Without the client: a connected socket, greeted; an OPEN on it; a packet of any sort. */
int bed_raw_connect(const struct bed_daemon *d);
void bed_raw_hello(int fd);
/* Returns 0, or the ERROR's code with its text. The three descriptors are the caller's. */
int bed_raw_open(int fd, const struct client_config *config, int ret_fds[3],
		 struct protocol_opened *ret, struct err *err);
/*
 * Waits for the daemon to close; fails the test after ten seconds. Returns the last ERROR's code.
 */
int bed_raw_await_end(int fd, struct err *err);

#endif
