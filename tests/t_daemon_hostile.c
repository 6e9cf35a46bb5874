/*
 * Goal: a peer that sends nonsense, or scribbles over all that is shared with it, harms its own
 * session only: the daemon lives on, and a witness beside it gets right results.
 *
 * Method: random packets; OPENs with fields set to the numbers that break arithmetic; random
 * descriptors through an honest ring; rings and the arena's header overwritten while operations
 * run; eventfds that were made to block. After each round the witness takes a step and compares it
 * bit by bit, and at the end nothing may be left. Fixed seeds, printed.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/ring_abi.h"
#include "common/shm.h"
#include "tests/daemon_bed.h"

#define SEED 20240612u

static const char *const conf = "host: {memory: 1GiB, threads: 2}\nsession: {max: 200}\n";

/* Every field of a message is fed with these, beside random bits. */
static const uint64_t edges[] = {
	0,
	1,
	2,
	3,
	7,
	PROTOCOL_ALIGN_ELEMS,
	PROTOCOL_ALIGN_BYTES,
	PROTOCOL_ALIGN_BYTES - 1,
	1u << 20,
	UINT32_MAX,
	(uint64_t)UINT32_MAX + 1,
	UINT64_C(1) << 40,
	INT64_MAX,
	(uint64_t)INT64_MAX + 1,
	UINT64_MAX - PROTOCOL_ALIGN_BYTES + 1,
	UINT64_MAX,
};

static uint64_t edge(uint64_t *random)
{
	uint64_t r = bed_random(random);

	return r % 3 == 0 ? bed_random(random) : edges[r / 3 % (sizeof(edges) / sizeof(edges[0]))];
}

static struct bed_case swapped(void)
{
	struct bed_case c = {.param_type = DTYPE_BF16,
			     .grad_type = DTYPE_BF16,
			     .accumulate = true,
			     .engine = NVME_AUTO,
			     .chunk_buffers = 3,
			     .queue_depth = 4,
			     .path_count = 1};

	bed_case_homes(&c, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP);
	return c;
}

struct scene {
	struct bed_daemon daemon;
	struct bed_session witness;
	unsigned fds;
};

static void scene_open(struct scene *s)
{
	const struct bed_case c = swapped();
	struct err err;

	/* Hundreds of sessions with files of their own: in memory where that can be. */
	bed_start_in(&s->daemon, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", conf);
	ck_assert_msg(bed_open(&s->witness, &c, &s->daemon, &err) == 0, "%s", err.text);
	bed_import(&s->witness);
	bed_await_sessions(&s->daemon, 1);
	s->fds = bed_fds(&s->daemon);
}

static void scene_check(struct scene *s)
{
	bed_step(&s->witness);
}

static void scene_close(struct scene *s)
{
	bed_export(&s->witness);
	bed_await_sessions(&s->daemon, 1);
	ck_assert_uint_eq(bed_fds(&s->daemon), s->fds);
	bed_close(&s->witness);
	ck_assert_uint_eq(bed_status(&s->daemon, "memory.used_bytes"), 0);
	ck_assert_uint_eq(bed_status(&s->daemon, "swap.used_bytes"), 0);
	bed_stop(&s->daemon);
}

/* Packets. */

static void fill(uint8_t *at, size_t bytes, uint64_t *random)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)bed_random(random);
}

/* Sends one; too large for the socket is nothing the daemon ever sees. */
static void send_packet(int fd, const void *packet, size_t bytes)
{
	ssize_t n = send(fd, packet, bytes, MSG_NOSIGNAL);

	ck_assert(n == (ssize_t)bytes || errno == EMSGSIZE || errno == EPIPE ||
		  errno == ECONNRESET);
}

static size_t random_packet(uint8_t *packet, size_t room, uint64_t *random)
{
	size_t bytes =
		bed_random(random) % 5 == 0 ? bed_random(random) % room : bed_random(random) % 300;
	struct protocol_message head = {PROTOCOL_MAGIC, PROTOCOL_VERSION,
					(uint32_t)(bed_random(random) % 12), (uint32_t)bytes};

	fill(packet, bytes, random);
	if (bytes >= sizeof(head) && bed_random(random) % 8 > 0)
		memcpy(packet, &head, sizeof(head));
	return bytes;
}

START_TEST(random_packets)
{
	static uint8_t packet[PROTOCOL_PACKET_MAX + 4096];
	struct scene s;
	uint64_t random = SEED;
	struct err err;

	scene_open(&s);
	for (int round = 0; round < 300; round++) {
		int fd = bed_raw_connect(&s.daemon);

		if (round % 3 == 0)
			bed_raw_hello(fd);
		for (int i = 0; i < 3; i++)
			send_packet(fd, packet, random_packet(packet, sizeof(packet), &random));
		shutdown(fd, SHUT_WR);
		bed_raw_await_end(fd, &err);
		close(fd);
	}
	scene_check(&s);
	scene_close(&s);
}
END_TEST

/* Versions and sizes that do not match are told in so many words. */
START_TEST(wrong_heads)
{
	static const struct {
		struct protocol_message head;
		size_t bytes;
		const char *text;
	} cases[] = {
		{{0, PROTOCOL_VERSION, PROTOCOL_HELLO, 88}, 88, "no message"},
		{{PROTOCOL_MAGIC, 7, PROTOCOL_HELLO, 88}, 88, "its peer version 7"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_HELLO, 88}, 80, "that says 88"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_HELLO, 96}, 96, "of 96 bytes"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_STATS, 16}, 16, "no place here"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_TRACE, 24}, 24, "no place here"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_HELLO, 88}, 88, "job's name"},
		{{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_QUERY, 24}, 8, "of 8 bytes"},
	};
	uint8_t packet[128];
	struct scene s;
	struct err err;

	scene_open(&s);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = bed_raw_connect(&s.daemon);

		memset(packet, 0, sizeof(packet));
		memcpy(packet, &cases[i].head, sizeof(cases[i].head));
		send_packet(fd, packet, cases[i].bytes);
		ck_assert_int_eq(bed_raw_await_end(fd, &err), ERR_PROTOCOL);
		ck_assert_msg(strstr(err.text, cases[i].text) != NULL, "'%s' does not say '%s'",
			      err.text, cases[i].text);
		close(fd);
	}
	scene_close(&s);
}
END_TEST

/* A valid OPEN with a few of its words changed: refused, or a session like any other. */
static void mutate(struct client_config *config, struct protocol_unit *units, uint64_t *random)
{
	/* What the counts promise must be there to be sent; those have cases of their own. */
	size_t from = offsetof(struct protocol_open, data_bytes);
	size_t to = offsetof(struct protocol_open, unit_count);
	uint64_t value;

	for (uint64_t n = bed_random(random) % 3 + 1; n > 0; n--) {
		value = edge(random);
		switch (bed_random(random) % 4) {
		case 0:
			memcpy((uint8_t *)&config->open + from +
				       bed_random(random) % (to - from - 8 + 1),
			       &value, bed_random(random) % 8 + 1);
			break;
		case 1:
			memcpy((uint8_t *)units +
				       bed_random(random) % (BED_UNITS * sizeof(*units) - 7),
			       &value, bed_random(random) % 8 + 1);
			break;
		case 2:
			memcpy((uint8_t *)&units[bed_random(random) % BED_UNITS] +
				       bed_random(random) % 5 * 8,
			       &value, 8);
			break;
		default:
			memcpy((uint8_t *)&config->open + offsetof(struct protocol_open, beta1) +
				       bed_random(random) % (4 * 8 + 64 - 7),
			       &value, 8);
		}
	}
}

START_TEST(mutated_opens)
{
	struct protocol_unit units[BED_UNITS];
	const struct bed_case c = swapped();
	struct client_config config;
	struct protocol_opened opened;
	struct bed_session shape;
	struct scene s;
	struct err err;
	uint64_t random = SEED + 1, blobs[BED_BLOBS];
	int opens = 0, fds[3], fd, rc;

	scene_open(&s);
	for (int round = 0; round < 400; round++) {
		fd = bed_raw_connect(&s.daemon);
		bed_raw_hello(fd);
		memset(&shape, 0, sizeof(shape));
		bed_request(&shape, &c, &s.daemon, &config, units);
		memcpy(blobs, shape.blob_bytes, sizeof(blobs));
		config.blobs = blobs;
		if (round > 0)
			mutate(&config, units, &random);
		if (round % 16 == 1)
			blobs[0] = edge(&random);
		rc = bed_raw_open(fd, &config, fds, &opened, &err);
		if (rc == 0) {
			for (int i = 0; i < 3; i++)
				close(fds[i]);
			opens++;
		}
		shutdown(fd, SHUT_WR);
		bed_raw_await_end(fd, &err);
		close(fd);
		if (round % 50 == 0)
			scene_check(&s);
	}
	printf("%d of 400 were sessions\n", opens);
	ck_assert_int_gt(opens, 0);
	ck_assert_int_lt(opens, 400);
	scene_close(&s);
}
END_TEST

/* Counts that the packet does not hold. */
START_TEST(wrong_counts)
{
	uint32_t counts[][3] = {{0, 0, 0},          {BED_UNITS + 1, 2, 1}, {BED_UNITS, 3, 1},
				{UINT32_MAX, 2, 1}, {3, UINT32_MAX, 1},    {3, 2, UINT32_MAX},
				{3, 2, 17},         {1u << 27, 0, 1}};
	struct protocol_unit units[BED_UNITS];
	const struct bed_case c = swapped();
	uint8_t packet[sizeof(struct protocol_open) + sizeof(units) + BED_BLOBS * 8];
	struct client_config config;
	struct bed_session shape = {.step = 0};
	struct scene s;
	struct err err;

	scene_open(&s);
	for (size_t i = 1; i < sizeof(counts) / sizeof(counts[0]); i++) {
		int fd = bed_raw_connect(&s.daemon);

		bed_raw_hello(fd);
		bed_request(&shape, &c, &s.daemon, &config, units);
		config.open.head = (struct protocol_message){PROTOCOL_MAGIC, PROTOCOL_VERSION,
							     PROTOCOL_OPEN, sizeof(packet)};
		config.open.unit_count = counts[i][0];
		config.open.blob_count = counts[i][1];
		config.open.path_count = counts[i][2];
		memset(packet, 0, sizeof(packet));
		memcpy(packet, &config.open, sizeof(config.open));
		memcpy(packet + sizeof(config.open), units, sizeof(units));
		send_packet(fd, packet, sizeof(packet));
		ck_assert_int_eq(bed_raw_await_end(fd, &err), ERR_PROTOCOL);
		close(fd);
	}
	scene_close(&s);
}
END_TEST

/* Flags that this version does not know. */
START_TEST(wrong_flags)
{
	struct protocol_unit units[BED_UNITS];
	const struct bed_case c = swapped();
	struct client_config config;
	struct bed_session shape = {.step = 0};
	struct client *client;
	struct scene s;
	struct err err;

	scene_open(&s);
	bed_request(&shape, &c, &s.daemon, &config, units);
	for (unsigned bit = 1; bit < 32; bit++) {
		config.open.flags = 1u << bit | (bit & PROTOCOL_OPEN_TRACE);
		ck_assert_int_eq(client_open(&config, &client, &err), ERR_PROTOCOL);
		ck_assert_ptr_nonnull(strstr(err.text, "flags"));
	}
	scene_close(&s);
}
END_TEST

/* Descriptors. */

static struct protocol_submission random_submission(const struct bed_session *v, uint64_t *random)
{
	uint64_t data = protocol_data_offset(16);
	struct protocol_submission sub = {
		.op = (uint32_t)(bed_random(random) % 9),
		.flags = (uint32_t)bed_random(random) & 15,
		.id = 0,
		.unit = (uint32_t)(bed_random(random) % 4),
		.offset = data + bed_random(random) % (v->data_bytes / 4096 + 2) * 4096,
		.step = bed_random(random) % 5,
		.chunk = (uint32_t)(bed_random(random) % 8),
		.lr = 1e-3,
		.grad_scale = 1,
	};

	switch (bed_random(random) % 12) {
	case 0:
		sub.op = (uint32_t)edge(random);
		break;
	case 1:
		sub.unit = (uint32_t)edge(random);
		break;
	case 2:
		sub.offset = edge(random);
		break;
	case 3:
		sub.chunk = (uint32_t)edge(random);
		break;
	case 4:
		fill((uint8_t *)&sub.lr, sizeof(sub.lr), random);
		break;
	case 5:
		sub.offset += bed_random(random) % 4096;
		break;
	}
	return sub;
}

START_TEST(random_submissions)
{
	const struct bed_case c = swapped();
	struct protocol_submission sub;
	struct bed_session v;
	struct scene s;
	uint64_t random = SEED + 2;
	struct err err;
	uint32_t id;
	int failed = 0;

	scene_open(&s);
	for (int round = 0; round < 150; round++) {
		ck_assert_msg(bed_open(&v, &c, &s.daemon, &err) == 0, "%s", err.text);
		bed_import(&v);
		for (int i = 0; i < 40; i++) {
			sub = random_submission(&v, &random);
			if (client_submit(v.client, &sub, &id, &err) < 0) {
				ck_assert_int_ne(err.code, 0);
				break;
			}
		}
		failed += client_prepare(v.client, &id, &err) < 0 ||
			  client_wait(v.client, 0, NULL, &err) < 0;
		bed_close(&v);
		if (round % 25 == 0)
			scene_check(&s);
	}
	printf("%d of 150 sessions failed\n", failed);
	scene_close(&s);
}
END_TEST

/* What is shared. */

/* Whatever order the daemon may see these in, it must live with. */
static uint32_t word_get(_Atomic uint32_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static void word_set(_Atomic uint32_t *word, uint32_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

struct raw {
	int fd, fds[3]; /* arena, submission and completion eventfd */
	struct protocol_opened opened;
	uint8_t *arena;
	struct ring_header *submit, *complete;
};

static void raw_open_case(struct raw *r, const struct bed_daemon *d, const struct bed_case *c)
{
	struct protocol_unit units[BED_UNITS];
	struct bed_session shape = {.step = 0};
	struct client_config config;
	struct err err;
	void *base;

	bed_request(&shape, c, d, &config, units);
	r->fd = bed_raw_connect(d);
	bed_raw_hello(r->fd);
	ck_assert_msg(bed_raw_open(r->fd, &config, r->fds, &r->opened, &err) == 0, "%s", err.text);
	ck_assert_int_eq(shm_map(r->fds[0], r->opened.arena_bytes, &base, &err), 0);
	r->arena = base;
	r->submit = (struct ring_header *)(void *)(r->arena + r->opened.submit_offset);
	r->complete = (struct ring_header *)(void *)(r->arena + r->opened.complete_offset);
}

static void raw_open(struct raw *r, const struct bed_daemon *d)
{
	const struct bed_case c = swapped();

	raw_open_case(r, d, &c);
}

static void raw_close(struct raw *r)
{
	struct err err;

	shutdown(r->fd, SHUT_WR);
	bed_raw_await_end(r->fd, &err);
	close(r->fd);
	for (int i = 0; i < 3; i++)
		close(r->fds[i]);
	shm_unmap(r->arena, r->opened.arena_bytes);
}

static void raw_push(struct raw *r, const struct protocol_submission *sub)
{
	uint32_t head = atomic_load_explicit(&r->submit->head, memory_order_relaxed);
	uint8_t *slots = (uint8_t *)(r->submit + 1);

	memcpy(slots + head % 16 * sizeof(*sub), sub, sizeof(*sub));
	atomic_store_explicit(&r->submit->head, head + 1, memory_order_seq_cst);
	eventfd_write(r->fds[1], 1);
}

static void scribble(struct raw *r, uint64_t *random)
{
	uint64_t bytes = r->opened.data_offset, at;

	switch (bed_random(random) % 6) {
	case 0:
		word_set(&r->submit->head, (uint32_t)bed_random(random));
		break;
	case 1:
		word_set(&r->complete->tail, (uint32_t)bed_random(random));
		break;
	case 2:
		word_set(&r->submit->head,
			 word_get(&r->submit->head) + 16 + (uint32_t)(bed_random(random) % 3));
		break;
	case 3: /* anywhere in header and rings, the daemon's own words too */
		for (int i = 0; i < 64; i++)
			r->arena[bed_random(random) % bytes] = (uint8_t)bed_random(random);
		break;
	case 4:
		at = bed_random(random) % (bytes / 4096) * 4096;
		fill(r->arena + at, 4096, random);
		break;
	default: /* pages gone */
		fallocate(r->fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			  (off_t)r->opened.arena_bytes);
	}
	eventfd_write(r->fds[1], 1);
}

START_TEST(scribbled_arena)
{
	struct protocol_submission sub = {.op = PROTOCOL_OP_IMPORT, .unit = 0};
	uint64_t random = SEED + 3;
	struct scene s;
	struct raw r;

	scene_open(&s);
	for (int round = 0; round < 120; round++) {
		raw_open(&r, &s.daemon);
		sub.offset = r.opened.data_offset;
		for (int i = 0; i < 8; i++) {
			sub.chunk = (uint32_t)i % 3;
			raw_push(&r, &sub);
		}
		for (uint64_t i = bed_random(&random) % 4 + 1; i > 0; i--)
			scribble(&r, &random);
		raw_close(&r);
		if (round % 20 == 0)
			scene_check(&s);
	}
	scene_close(&s);
}
END_TEST

/*
 * The eventfds are shared with their flags: made blocking, the completion one filled to the brim,
 * so that a wake-up blocks the session's thread. The session ends all the same when its peer
 * leaves.
 */
START_TEST(blocking_eventfds)
{
	struct protocol_submission sub = {.op = PROTOCOL_OP_IMPORT, .unit = 0};
	struct scene s;
	struct raw r;

	scene_open(&s);
	for (int round = 0; round < 10; round++) {
		raw_open(&r, &s.daemon);
		ck_assert_int_eq(fcntl(r.fds[1], F_SETFL, 0), 0);
		ck_assert_int_eq(fcntl(r.fds[2], F_SETFL, 0), 0);
		eventfd_write(r.fds[2], UINT64_MAX - 1);
		word_set(&r.complete->sleeping, 1);
		sub.offset = r.opened.data_offset;
		for (int i = 0; i < 8; i++)
			raw_push(&r, &sub);
		if (round % 2 == 0) /* stuck before its peer leaves */
			while (word_get(&r.complete->head) == 0)
				poll(NULL, 0, 1);
		raw_close(&r);
	}
	scene_check(&s);
	scene_close(&s);
}
END_TEST

/* More operations than there are slots, and completions that nobody takes. */
START_TEST(too_many_operations)
{
	struct protocol_submission sub = {.op = PROTOCOL_OP_IMPORT, .unit = 0};
	struct scene s;
	struct raw r;
	struct err err;
	struct protocol_arena *head;

	scene_open(&s);
	raw_open(&r, &s.daemon);
	head = (struct protocol_arena *)(void *)r.arena;
	sub.offset = r.opened.data_offset;
	for (int i = 0; i < 64; i++) {
		/* The daemon's tail shows what it took. */
		while (!word_get(&head->failed) &&
		       word_get(&r.submit->head) - word_get(&r.submit->tail) == 16)
			poll(NULL, 0, 1);
		if (word_get(&head->failed))
			break;
		raw_push(&r, &sub);
	}
	bed_raw_await_end(r.fd, &err);
	ck_assert_uint_eq(word_get(&head->failed), 1);
	ck_assert_int_eq(head->code, ERR_PROTOCOL);
	ck_assert_msg(strstr(head->text, "protocol error") != NULL, "%s", head->text);
	raw_close(&r);
	scene_check(&s);
	scene_close(&s);
}
END_TEST

/* A trace is told only to who asked for it when opening, one answer after the other. */
START_TEST(wrong_traces)
{
	static const struct {
		bool traced;
		uint32_t record, bytes;
		const char *text;
	} cases[] = {
		{false, 1, sizeof(struct protocol_trace), "not traced"},
		{true, 2, sizeof(struct protocol_trace), "record is 2"},
		{true, UINT32_MAX, sizeof(struct protocol_trace), "record is 4294967295"},
		{true, 0, sizeof(struct protocol_message), "of 16 bytes"},
		{true, 0, sizeof(struct protocol_trace) + 8, "of 32 bytes"},
	};
	struct bed_case c = swapped();
	uint8_t packet[64];
	struct scene s;
	struct err err;

	scene_open(&s);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct protocol_trace ask = {
			{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_TRACE, cases[i].bytes},
			cases[i].record,
			0};
		struct raw r;

		c.traced = cases[i].traced;
		raw_open_case(&r, &s.daemon, &c);
		memset(packet, 0, sizeof(packet));
		memcpy(packet, &ask, sizeof(ask));
		send_packet(r.fd, packet, cases[i].bytes);
		ck_assert_int_eq(bed_raw_await_end(r.fd, &err), ERR_PROTOCOL);
		ck_assert_msg(strstr(err.text, cases[i].text) != NULL, "'%s' does not say '%s'",
			      err.text, cases[i].text);
		raw_close(&r);
	}
	scene_check(&s);
	scene_close(&s);
}
END_TEST

/* Asks without reading, until the daemon has enough of it; nobody else waits for that. */
START_TEST(a_trace_that_is_not_read)
{
	struct protocol_trace ask = {
		{PROTOCOL_MAGIC, PROTOCOL_VERSION, PROTOCOL_TRACE, sizeof(ask)}, 1, 0};
	struct protocol_submission sub = {.op = PROTOCOL_OP_IMPORT, .unit = 0};
	struct bed_case c = swapped();
	struct scene s;
	struct raw r;
	struct err err;
	int rounds = 0;

	scene_open(&s);
	c.traced = true;
	raw_open_case(&r, &s.daemon, &c);
	sub.offset = r.opened.data_offset;
	while (send(r.fd, &ask, sizeof(ask), MSG_NOSIGNAL) == sizeof(ask)) {
		ck_assert_int_lt(rounds++, 100000);
		/* Work, so that there is something to tell; completions are taken blindly. */
		if (word_get(&r.submit->head) - word_get(&r.submit->tail) < 8 &&
		    word_get(&r.complete->head) - word_get(&r.complete->tail) < 8)
			raw_push(&r, &sub);
		word_set(&r.complete->tail, word_get(&r.complete->head));
		if (rounds % 100 == 0)
			scene_check(&s);
	}
	bed_raw_await_end(r.fd, &err);
	raw_close(&r);
	scene_check(&s);
	scene_close(&s);
}
END_TEST

/* Each kind of wrong descriptor has its words. */
START_TEST(wrong_submissions)
{
	const uint64_t data = protocol_data_offset(16);
	const struct {
		struct protocol_submission sub;
		const char *text;
	} cases[] = {
		{{.op = 0}, "operation 0 is not known"},
		{{.op = 9}, "operation 9 is not known"},
		{{.op = PROTOCOL_OP_FETCH, .unit = 3, .offset = data}, "no such unit"},
		{{.op = PROTOCOL_OP_FETCH, .unit = 0, .offset = data + 1}, "not aligned"},
		{{.op = PROTOCOL_OP_FETCH, .unit = 0, .offset = 0}, "not inside"},
		{{.op = PROTOCOL_OP_FETCH, .unit = 0, .offset = UINT64_MAX - 4095}, "not inside"},
		{{.op = PROTOCOL_OP_GRAD, .unit = 1, .offset = data - 4096}, "not inside"},
		{{.op = PROTOCOL_OP_STEP, .unit = 1, .step = 0}, "step 0"},
		{{.op = PROTOCOL_OP_STEP, .unit = 1, .step = 1, .lr = INFINITY}, "not finite"},
		{{.op = PROTOCOL_OP_STEP, .flags = PROTOCOL_FLAG_FROM_ARENA, .step = 1},
		 "not inside"},
		{{.op = PROTOCOL_OP_IMPORT, .unit = 0, .chunk = 4, .offset = data},
		 "no such chunk"},
		{{.op = PROTOCOL_OP_EXPORT, .unit = 0, .chunk = 0, .offset = data + 512},
		 "not aligned"},
		{{.op = PROTOCOL_OP_STORE, .unit = 2, .offset = data}, "no such blob"},
		{{.op = PROTOCOL_OP_LOAD, .unit = 0, .offset = data + 100}, "not aligned"},
	};
	const struct bed_case c = swapped();
	struct protocol_submission sub;
	struct bed_session v;
	struct scene s;
	struct err err;
	uint32_t id;

	scene_open(&s);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(bed_open(&v, &c, &s.daemon, &err), 0);
		sub = cases[i].sub;
		ck_assert_int_eq(client_submit(v.client, &sub, &id, &err), 0);
		ck_assert_int_eq(client_wait(v.client, id, NULL, &err), ERR_PROTOCOL);
		ck_assert_msg(strstr(err.text, cases[i].text) != NULL, "'%s' does not say '%s'",
			      err.text, cases[i].text);
		/* The session is over, its socket and its completions are not. */
		ck_assert_int_eq(client_submit(v.client, &sub, &id, &err), 0);
		ck_assert_int_eq(client_wait(v.client, id, NULL, &err), ERR_PROTOCOL);
		bed_close(&v);
	}
	scene_check(&s);
	scene_close(&s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon_hostile");
	TCase *tc = tcase_create("hostile");
	SRunner *runner = srunner_create(suite);
	int failed;

	printf("seed %u\n", SEED);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, random_packets);
	tcase_add_test(tc, wrong_heads);
	tcase_add_test(tc, mutated_opens);
	tcase_add_test(tc, wrong_counts);
	tcase_add_test(tc, wrong_flags);
	tcase_add_test(tc, random_submissions);
	tcase_add_test(tc, wrong_submissions);
	tcase_add_test(tc, scribbled_arena);
	tcase_add_test(tc, blocking_eventfds);
	tcase_add_test(tc, wrong_traces);
	tcase_add_test(tc, a_trace_that_is_not_read);
	tcase_add_test(tc, too_many_operations);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
