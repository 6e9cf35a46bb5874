/* Fibers: stacks that one host thread switches between. The CUDA shim's threads; see fiber.c. */
#ifndef TESTS_CUDA_HOST_FIBER_H
#define TESTS_CUDA_HOST_FIBER_H

#include <stddef.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct fiber {
	void *stack; /* its lowest byte */
	size_t stack_bytes;
	void (*entry)(void);
	void *fake; /* AddressSanitizer's fake stack while it is stopped */
	void *tsan; /* ThreadSanitizer's name of it */
#if defined(__x86_64__)
	void *sp; /* while it is stopped */
#else
	ucontext_t context;
#endif
};

/*
 * Makes a fiber that runs entry(), which never returns, once switched to. The struct is zeroed
 * before the first call; a further one abandons what the fiber was doing. Borrows the stack.
 */
void fiber_init(struct fiber *f, void *stack, size_t stack_bytes, void (*entry)(void));

/* Before its stack goes. Nothing to do for one that was never begun. */
void fiber_done(struct fiber *f);

/* Makes `f` stand for the calling thread's own stack, so that it can be switched back to. */
void fiber_adopt(struct fiber *f);

/*
 * Stops `from`, which must be what runs, and goes on with `to`, in the same host thread; returns
 * when something switches back to `from`.
 */
void fiber_switch(struct fiber *from, struct fiber *to);

#endif
