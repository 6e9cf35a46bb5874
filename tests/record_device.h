/*
 * A recording device: a backend of kernels/device.h for tests, which does everything that it is
 * asked, writes down every operation with its stream, its events and the bytes it reads and writes,
 * and runs streams in the most inconvenient order that their events allow. record_proof.h judges
 * the log.
 *
 * A test program that links it has it under DEVICE_CUDA; the device says that it is a DEVICE_CPU,
 * whose operations it runs. One thread, the one that opens it, enqueues and waits.
 *
 * What the engine asks of the daemon and of the collectives is written down too: the program wraps
 * RECORD_WRAP of tests/offload.mk, see record_calls.c.
 */
#ifndef TESTS_RECORD_DEVICE_H
#define TESTS_RECORD_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

#define RECORD_STREAMS_MAX 8u
#define RECORD_NAME_BYTES  64u

enum record_kind {
	RECORD_ITEM,       /* an operation, a copy, a collective, a host function of a stream */
	RECORD_HOST,       /* host memory that the driving thread reads, writes or frees */
	RECORD_EVENT,      /* device_event_record */
	RECORD_WAIT,       /* device_stream_wait */
	RECORD_SYNC,       /* device_stream_sync */
	RECORD_EVENT_SYNC, /* device_event_sync */
	RECORD_QUERY,      /* device_event_query, which said that it is complete */
	RECORD_PUSH,       /* an operation is handed to the daemon */
	RECORD_DONE,       /* client_wait, or client_poll that said that it is complete */
	RECORD_KIND_COUNT,
};

struct record_access {
	uintptr_t at;
	size_t bytes;
	bool writes;
};

struct record_entry {
	enum record_kind kind;
	const char *what; /* static: "attention_forward", "STEP" */
	int stream;       /* -1: none */
	int event;        /* index; -1: none */
	size_t partner;   /* PUSH: the item that pushed, or RECORD_BY_HOST. DONE: the PUSH */
	unsigned queue;   /* PUSH: the daemon's unit or blob that it is about */
	unsigned effects; /* PUSH: of enum record_effect */
	uint32_t label;   /* where in the program the driving thread was */
	const void *site; /* the caller of the device or the client */
	size_t access_first, access_count;
};

#define RECORD_BY_HOST SIZE_MAX

/* What an operation does to what the daemon holds of a unit or blob: one bit each. */
enum record_effect {
	RECORD_READS_STATE = 1, /* parameters and optimizer state; a blob's content */
	RECORD_WRITES_STATE = 2,
	RECORD_READS_GRAD = 4, /* the kept gradient */
	RECORD_WRITES_GRAD = 8,
};

/* Memory with a name. `whole`: cut up into others, which all accesses must keep to. */
struct record_region {
	uintptr_t at;
	size_t bytes;
	bool whole;
	char name[RECORD_NAME_BYTES];
};

/* Entries are in an order that no happens-before relation contradicts. */
struct record_log {
	struct record_entry *entries;
	size_t count, room;
	struct record_access *accesses;
	size_t access_count, access_room;
	char (*labels)[RECORD_NAME_BYTES];
	size_t label_count, label_room;
	struct record_region *regions;
	size_t region_count, region_room;
	const char *streams[RECORD_STREAMS_MAX];
	unsigned stream_count, event_count, queue_count;
	char (*event_names)[RECORD_NAME_BYTES]; /* by index */
	size_t event_room;
};

enum record_policy {
	RECORD_EAGER,  /* any stream that can go on, at once */
	RECORD_LAZY,   /* nothing before the host waits; then any stream */
	RECORD_STARVE, /* `stream` only when the host waits and nothing else can go on */
	RECORD_FAVOUR, /* `stream` at once; others only when the host waits */
	RECORD_POLICY_COUNT,
};

/* How streams run, and which ordering to leave out in earnest. */
struct record_schedule {
	enum record_policy policy;
	unsigned stream; /* in order of opening */
	uint64_t seed;
	/* Every call of this kind from this place does nothing. NULL: none. */
	const void *drop_site;
	enum record_kind drop_kind;
};

/* For the next device that this thread opens. */
void record_schedule_set(const struct record_schedule *schedule);

/*
 * Ends the log, which is the caller's to free; streams must be idle. What the device does after
 * that, until it is freed, is in no log.
 */
struct record_log *record_log_take(struct device *device);
struct record_log *record_log_free(struct record_log *log);

/*
 * The rest is for the thread that opened a recording device and has not freed it; for any other
 * thread it does nothing.
 */

/* From here on entries say that the program is at this place. */
void record_label(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The thread reads, or writes, host memory that a stream or the daemon may use too. */
void record_host_reads(const void *at, size_t bytes, const char *what);
void record_host_writes(const void *at, size_t bytes, const char *what);

void record_name_event(struct device_event *event, const char *name);

/* Names memory, for messages. */
void record_region(const void *at, size_t bytes, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
