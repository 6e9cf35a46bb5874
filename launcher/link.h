/*
 * What dsrun and its agent say to each other, over the agent's standard input and output: frames of
 * a head and a payload, in the byte order of the machine (both ends are one binary). A frame is
 * at most LINK_BYTES_MAX long, every field is checked before use, and a frame that makes no sense
 * ends the link: each side then ends what it started.
 *
 *   dsrun                      agent
 *                           <- HELLO    magic, version, pid, host
 *   JOB      launch text    ->
 *   SIGNAL   a signal       ->          to every worker
 *   KILL                    ->          everything, at once
 *   COMM_ID  an id          ->          what the ranks meet by, for every worker
 *   FAILED                  ->          a rank has failed somewhere, for every worker
 *                           <- NOTICE   a line for the user
 *                           <- STARTED  a rank runs
 *                           <- OUTPUT   bytes of a rank's stdout or stderr
 *                           <- REPORT   a rank's report (offload/job.h)
 *                           <- COMM_ID  rank 0's id, once: dsrun sends it to every agent
 *                           <- FAILURE  the first failure of this host, once: when it is a rank's,
 *                                       dsrun tells every agent that it has FAILED
 *                           <- EXITED   how a rank, or the private daemon, ended
 *                           <- DONE     nothing is left
 *   end of file: the other side is gone
 */
#ifndef LAUNCHER_LINK_H
#define LAUNCHER_LINK_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "common/err.h"

#define LINK_MAGIC      0x6b6e6c64u /* "dlnk" */
#define LINK_VERSION    2u
#define LINK_BYTES_MAX  (1u << 20)
#define LINK_HOST_BYTES 64u
#define LINK_SET_BYTES  256u

/* `rank` of frames about the private daemon, and about nobody. */
#define LINK_RANK_DAEMON 0xfffffffeu
#define LINK_RANK_NONE   0xffffffffu

enum link_type {
	LINK_HELLO = 1,
	LINK_JOB,
	LINK_SIGNAL,
	LINK_KILL,
	LINK_NOTICE,
	LINK_STARTED,
	LINK_OUTPUT,
	LINK_REPORT,
	LINK_FAILURE,
	LINK_EXITED,
	LINK_DONE,
	LINK_COMM_ID,
	LINK_FAILED, /* no payload: the rank is the head's */
	LINK_TYPE_COUNT,
};

struct link_head {
	uint32_t type, rank, bytes; /* bytes: of the payload */
};

struct link_hello {
	uint32_t magic, version, pid;
	char host[LINK_HOST_BYTES]; /* NUL-terminated */
};

struct link_signal {
	uint32_t signal;
};

struct link_started {
	uint32_t pid;
	char cores[LINK_SET_BYTES]; /* NUL-terminated; "" when not bound */
};

enum link_stream { LINK_STDOUT = 1, LINK_STDERR = 2 };

struct link_output {
	uint32_t stream; /* enum link_stream; the bytes follow */
};

struct link_report {
	uint32_t type; /* enum report_type; the text follows */
};

/* Who failed is the head's rank; LINK_RANK_NONE: the agent itself could not start the job. */
struct link_failure {
	int32_t code; /* as in struct err, where the launcher failed to do something, else 0 */
	uint32_t pad;
	uint64_t at_ns; /* CLOCK_MONOTONIC of the agent's host; why, as text, follows */
};

struct link_exited {
	uint32_t pid;
	int32_t how;    /* CLD_EXITED, CLD_KILLED or CLD_DUMPED */
	int32_t status; /* exit code or signal */
	uint32_t ours;  /* enum link_ours */
	uint32_t oom;   /* 1: the kernel's log says that it killed it for lack of memory */
	uint32_t pad;
	uint64_t started_ns, at_ns;
};

struct link_comm_id {
	uint8_t id[COMM_ID_BYTES];
};

/* The strongest that the agent had sent to a process before it ended. */
enum link_ours { LINK_OURS_NOTHING, LINK_OURS_STOP, LINK_OURS_TERM, LINK_OURS_KILL };

struct link_done {
	uint32_t left; /* processes that could not be killed */
};

_Static_assert(sizeof(struct link_failure) == 16, "failure changed size");
_Static_assert(sizeof(struct link_exited) == 40, "exited changed size");

struct link_frame {
	struct link_head head;
	const uint8_t *payload; /* head.bytes of it, until the next link_read */
};

/* One direction each; caller's storage. The descriptors are borrowed and non-blocking. */
struct link_in {
	int fd;
	uint8_t *buf;
	size_t start, len, room;
};

struct link_out {
	int fd;
	uint8_t *buf;
	size_t start, len, room;
	bool broken; /* the peer is gone: what is put is dropped */
};

void link_in_init(struct link_in *in, int fd);
void link_in_done(struct link_in *in);

/*
 * Reads what is there. 1 when something came, 0 when there is nothing now, -EPIPE at the end of
 * file, or the read's error. Frames given out before are gone.
 */
int link_read(struct link_in *in, struct err *err);

/* The next whole frame: 1, 0 when more bytes are needed, ERR_PROTOCOL, or -ENOMEM. */
int link_next(struct link_in *in, struct link_frame *ret, struct err *err);

void link_out_init(struct link_out *out, int fd);
void link_out_done(struct link_out *out);

/*
 * Queues a frame: `head_bytes` of `head`, then `text_bytes` of `text`; either may be NULL with 0.
 * -ENOMEM, or -E2BIG past LINK_BYTES_MAX.
 */
int link_put(struct link_out *out, enum link_type type, uint32_t rank, const void *head,
	     size_t head_bytes, const void *text, size_t text_bytes);

/* Writes what the pipe takes. 0, or -EPIPE (also later: `broken`) when nobody reads any more. */
int link_flush(struct link_out *out);

size_t link_pending(const struct link_out *out);

/*
 * Copies a fixed-size payload head out of a frame; the rest is at *ret_text. ERR_PROTOCOL when the
 * frame is shorter, or, with ret_text NULL, longer.
 */
int link_take(const struct link_frame *frame, void *ret_head, size_t head_bytes,
	      const char **ret_text, size_t *ret_text_bytes, struct err *err);

#endif
