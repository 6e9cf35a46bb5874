/*
 * The futex system call, in its shared form: the word may lie in memory of two processes.
 *
 * Called from any thread. Invariant: the call orders nothing by itself; the caller's atomics do.
 */
#include "common/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u

int futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(timeout_ns / NS_PER_S),
		.tv_nsec = (long)(timeout_ns % NS_PER_S),
	};

	if (syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_ns ? &ts : NULL, NULL, 0) == 0)
		return 0;
	return errno == EAGAIN ? 0 : -errno;
}

void futex_wake(_Atomic uint32_t *word, int count)
{
	/* Fails only for an address that is not ours, which the caller has just written to. */
	(void)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}
