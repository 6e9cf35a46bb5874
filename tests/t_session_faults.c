/*
 * Goal: a session that cannot get what it needs is refused whole: its peer is told, nothing is left
 * behind, and the next one works.
 *
 * Method: a session in this process, its control socket a pair, with everything it has in memory
 * and in swap. The k-th of the calls it makes to the system while it opens fails, for k = 1, 2, ...
 * until none does; then it takes operations through its rings, and is closed. Descriptors are
 * counted before and after; memory is AddressSanitizer's affair.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/ring.h"
#include "common/shm.h"
#include "daemon/session.h"

#define CHUNK (2u * PROTOCOL_ALIGN_ELEMS)
#define SLOTS 8u

static _Atomic int fail_at, calls;
static const char *_Atomic failed_call;

static bool fails(const char *name)
{
	if (atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) + 1 !=
	    atomic_load_explicit(&fail_at, memory_order_relaxed))
		return false;
	atomic_store_explicit(&failed_call, name, memory_order_relaxed);
	return true;
}

#define WRAP(type, name, failure, code, params, args)                                              \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (fails(#name)) {                                                                \
			errno = (code);                                                            \
			return failure;                                                            \
		}                                                                                  \
		return __real_##name args;                                                         \
	}

WRAP(void *, calloc, NULL, ENOMEM, (size_t n, size_t size), (n, size))
WRAP(int, eventfd, -1, EMFILE, (unsigned count, int flags), (count, flags))
WRAP(int, memfd_create, -1, EMFILE, (const char *name, unsigned flags), (name, flags))
WRAP(void *, mmap, MAP_FAILED, ENOMEM,
     (void *addr, size_t len, int prot, int flags, int fd, off_t offset),
     (addr, len, prot, flags, fd, offset))
WRAP(int, fallocate, -1, ENOSPC, (int fd, int mode, off_t offset, off_t len),
     (fd, mode, offset, len))
WRAP(int, ftruncate, -1, ENOSPC, (int fd, off_t len), (fd, len))
WRAP(ssize_t, sendmsg, -1, EAGAIN, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))

WRAP(int, madvise, -1, ENOMEM, (void *addr, size_t len, int advice), (addr, len, advice))

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	return fails("pthread_create") ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

static unsigned fds_now(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* One unit in memory, one in swap, two blobs. */
static struct session_plan *plan_make(const char *path)
{
	struct {
		struct protocol_open open;
		struct protocol_unit units[2];
		uint64_t blobs[2];
	} packet;
	uint64_t data = protocol_data_offset(SLOTS);
	struct session_plan *plan;
	struct err err;

	memset(&packet, 0, sizeof(packet));
	packet.open.data_bytes = 64 * CHUNK;
	packet.open.chunk_elems = CHUNK;
	packet.open.chunk_buffers = 3;
	packet.open.ring_slots = SLOTS;
	packet.open.param_type = DTYPE_BF16;
	packet.open.grad_type = DTYPE_BF16;
	packet.open.queue_depth = 4;
	packet.open.blob_extent_bytes = PROTOCOL_ALIGN_BYTES;
	packet.open.unit_count = 2;
	packet.open.blob_count = 2;
	packet.open.path_count = 1;
	strcpy(packet.open.paths[0], path);
	packet.open.eps = 1e-8;
	for (unsigned u = 0; u < 2; u++) {
		uint8_t home = u == 0 ? PROTOCOL_HOME_MEMORY : PROTOCOL_HOME_SWAP;

		packet.units[u] = (struct protocol_unit){.elems = 3 * CHUNK,
							 .norm_elems = CHUNK,
							 .param_offset = data,
							 .param_home = home,
							 .state_home = home,
							 .grad_home = home};
		packet.blobs[u] = 4 * PROTOCOL_ALIGN_BYTES;
	}
	ck_assert_msg(session_plan_make(&packet, sizeof(packet), &plan, &err) == 0, "%s", err.text);
	return plan;
}

struct bench {
	struct pool *pool;
	char path[256];
	int ended_fd;
};

/* The answer to OPEN: 0 with the descriptors, or the code of the refusal; 1 when none came. */
static int answer_take(int fd, struct protocol_opened *ret, int fds[3])
{
	union {
		struct protocol_error error;
		struct protocol_opened opened;
	} answer;
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = &answer, .iov_len = sizeof(answer)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && errno == EAGAIN)
		return 1;
	ck_assert_int_gt(n, 0);
	if (answer.error.head.type == PROTOCOL_ERROR) {
		ck_assert_int_lt(answer.error.code, 0);
		ck_assert_uint_gt(strlen(answer.error.text), 0);
		return answer.error.code;
	}
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), 3 * sizeof(int));
	*ret = answer.opened;
	return 0;
}

/* A few operations by hand, so that the session that did open is known to work. */
static void use(const struct protocol_opened *opened, const int fds[3])
{
	struct protocol_submission sub = {.op = PROTOCOL_OP_IMPORT,
					  .offset = opened->data_offset + 32 * CHUNK};
	struct protocol_completion done;
	struct ring submit, complete;
	struct pollfd p = {.fd = fds[2], .events = POLLIN};
	struct err err;
	uint8_t *arena;
	void *base;

	ck_assert_int_eq(shm_map(fds[0], opened->arena_bytes, &base, &err), 0);
	arena = base;
	ck_assert_int_eq(ring_attach(&submit, arena + opened->submit_offset,
				     opened->complete_offset - opened->submit_offset, sizeof(sub),
				     SLOTS, fds[1], &err),
			 0);
	ck_assert_int_eq(ring_attach(&complete, arena + opened->complete_offset,
				     opened->data_offset - opened->complete_offset, sizeof(done),
				     SLOTS, fds[2], &err),
			 0);
	for (sub.id = 0; sub.id < 6; sub.id++) {
		sub.unit = sub.id / 3;
		sub.chunk = sub.id % 3;
		ck_assert_int_eq(ring_push(&submit, &sub), 0);
	}
	for (unsigned count = 0; count < 6;) {
		if (ring_pop(&complete, &done) == 0) {
			ck_assert_int_eq(done.code, 0);
			count++;
		} else if (ring_sleep_begin(&complete)) {
			poll(&p, 1, -1);
			ring_sleep_end(&complete);
		}
	}
	shm_unmap(base, opened->arena_bytes);
}

/* Opens, uses, ends a session. Returns whether the k-th call was reached and failed. */
static bool attempt(const struct bench *b, int k)
{
	struct session_config config = {.pool = b->pool, .ended_fd = b->ended_fd, .name = "test"};
	struct protocol_opened opened = {.arena_bytes = 0};
	struct session *s = NULL;
	struct err err = {.code = 0};
	int fds[3] = {-1, -1, -1}, pair[2], rc, answered = 1;
	bool ended = false;
	const char *what;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	config.plan = plan_make(b->path);
	config.socket_fd = pair[0];
	atomic_store_explicit(&failed_call, NULL, memory_order_relaxed);
	atomic_store_explicit(&calls, 0, memory_order_relaxed);
	atomic_store_explicit(&fail_at, k, memory_order_relaxed);
	rc = session_start(&config, &s, &err);
	if (rc < 0) {
		ck_assert_ptr_null(s);
		ck_assert_int_eq(err.code, rc);
		session_plan_free(config.plan);
	}
	/* Its end is looked at before its answer, so that the last look finds whatever it said. */
	while (s && answered == 1 && !ended) {
		poll(&(struct pollfd){.fd = pair[1], .events = POLLIN}, 1, 10);
		ended = session_ended(s);
		answered = answer_take(pair[1], &opened, fds);
	}
	atomic_store_explicit(&fail_at, 0, memory_order_relaxed);
	if (fds[0] >= 0)
		use(&opened, fds);
	session_free(s);
	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	what = atomic_load_explicit(&failed_call, memory_order_relaxed);
	/* A refusal is never silent, unless the answer itself was what failed. */
	if (s && what && strcmp(what, "sendmsg") != 0 && fds[0] < 0)
		ck_assert_int_lt(answered, 0);
	close(pair[0]);
	close(pair[1]);
	return what != NULL;
}

START_TEST(each_call_fails_once)
{
	struct bench b;
	struct err err;
	const char *tmp = getenv("TMPDIR");
	unsigned fds;
	int k = 0;

	log_init("t_session_faults", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	ck_assert_ptr_nonnull(realpath(tmp ? tmp : "/tmp", b.path));
	b.ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_eq(pool_open(2, &b.pool, &err), 0);
	ck_assert(!attempt(&b, 0));
	fds = fds_now();
	while (attempt(&b, ++k))
		ck_assert_uint_eq(fds_now(), fds);
	printf("%d calls failed in turn\n", k - 1);
	ck_assert_int_gt(k, 15);
	pool_free(b.pool);
	close(b.ended_fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session_faults");
	TCase *tc = tcase_create("faults");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, each_call_fails_once);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
