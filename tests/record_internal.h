/* Shared by record_*.c: the device as record_calls.c sees it, and the bytes of an operation. */
#ifndef TESTS_RECORD_INTERNAL_H
#define TESTS_RECORD_INTERNAL_H

#include <pthread.h>

#include "kernels/internal.h"
#include "offload/client.h"
#include "tests/record_device.h"

/* Accesses of what is about to be logged. */
struct record_list {
	struct record_access *at;
	size_t count, room;
};

void record_reads(struct record_list *list, const void *at, size_t bytes);
void record_writes(struct record_list *list, const void *at, size_t bytes);

/* record_log.c. Memory that is not to be had ends the test. */

/* Room for one more of `bytes` each: the array, perhaps elsewhere. */
void *record_room(void *array, size_t count, size_t *room, size_t bytes);
struct record_log *record_log_new(void);
/* Returns the entry's index. */
size_t record_log_entry(struct record_log *log, struct record_entry entry,
			const struct record_list *list);
void record_log_label(struct record_log *log, const char *text);
void record_log_region(struct record_log *log, const struct record_region *region);
void record_log_event(struct record_log *log);

/* What an operation of the device reads and writes, from its arguments. Returns its name. */
const char *record_op_accesses(enum device_op op, const void *args, struct record_list *list);

/* The session with the daemon, as the request for it said. */
struct record_session {
	struct client *client;
	char *arena;
	struct protocol_open open;
	struct protocol_unit *units;
	uint64_t *blobs;
	size_t *push_of; /* by id: the entry of its PUSH */
	size_t id_count;
};

struct record_device;

/* The device of the calling thread, be it the driving thread or the device's own; NULL: none. */
struct record_device *record_current(void);

/* Of the driving thread alone; NULL in any other. */
struct record_device *record_driven(void);

/* The lock is held. */
struct record_log *record_log_of(struct record_device *d);

struct record_session *record_session_of(struct record_device *d);

/* The device a stream belongs to; NULL when it is not a recording one. */
struct record_device *record_of_stream(struct device_stream *stream);

/* The next calls of the driving thread come from here. */
void record_site(const void *site);

/* What the host function that is enqueued next is, and which bytes it will touch. */
void record_call_next(struct record_device *d, const char *what, struct record_list *list);

/* An operation for the daemon. */
struct record_push {
	const char *what;
	unsigned queue, effects;
	struct record_list list; /* what it touches in the arena */
};

/* Held while an operation is logged and enters the ring, so that the log has the ring's order. */
void record_lock(struct record_device *d);
void record_unlock(struct record_device *d);

/* Logs the push; the lock is held. */
size_t record_log_push(struct record_device *d, const struct record_push *push);

/* Logs that the driving thread has learned of its end. */
void record_log_done(struct record_device *d, size_t push);

/* Around what makes the driving thread wait for something other than the device. */
void record_block(struct record_device *d);
void record_unblock(struct record_device *d);

#endif
