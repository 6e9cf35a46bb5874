/*
 * Fibers for the CUDA shim. A kernel's threads stop at barriers and warp collectives, thousands of
 * times a launch, so on x86-64 a switch is fifteen instructions; elsewhere it is swapcontext, which
 * makes two system calls.
 *
 * 1. A fiber that has begun goes on only in the host thread that began it.
 * 2. Sanitizers are told of every switch: AddressSanitizer has a fake stack for each fiber and must
 *    know the bounds of the stack in use; ThreadSanitizer has a call stack for each.
 */
#include "tests/cuda_host/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_host/sanitizer.h"

/* Of the latest switch in this host thread. */
static __thread struct fiber *left, *entered;

static void leave(struct fiber *from, struct fiber *to)
{
	left = from;
	entered = to;
#ifdef SHIM_ASAN
	__sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
#endif
#ifdef SHIM_TSAN
	__tsan_switch_to_fiber(to->tsan, 0);
#endif
}

/* On the new stack. The bounds of the one left are news when that is a thread's own. */
static void arrive(void)
{
#ifdef SHIM_ASAN
	const void *bottom;
	size_t bytes;

	__sanitizer_finish_switch_fiber(entered->fake, &bottom, &bytes);
	left->stack = (void *)(uintptr_t)bottom;
	left->stack_bytes = bytes;
#endif
}

/* The first frame of every fiber. */
static void begin(void)
{
	arrive();
	entered->entry();
	abort();
}

void fiber_adopt(struct fiber *f)
{
	memset(f, 0, sizeof(*f));
#ifdef SHIM_TSAN
	f->tsan = __tsan_get_current_fiber();
#endif
}

#if defined(__x86_64__)

/* Stores the stack pointer in *from and takes `to`; what must survive a call is on the stack. */
void shim_swap(void **from, void *to);
__asm__(".text\n"
	".p2align 4\n"
	".globl shim_swap\n"
	".hidden shim_swap\n"
	".type shim_swap, @function\n"
	"shim_swap:\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size shim_swap, . - shim_swap\n");

/* Six registers, then where to return to: begin, as if called, which puts %rsp at 8 mod 16. */
static void prepare(struct fiber *f)
{
	uintptr_t top = ((uintptr_t)f->stack + f->stack_bytes) & ~(uintptr_t)15;
	void **frame = (void **)(top - 8) - 7;

	memset(frame, 0, top - (uintptr_t)frame);
	frame[6] = (void *)(uintptr_t)begin;
	f->sp = frame;
}

static void swap(struct fiber *from, struct fiber *to)
{
	shim_swap(&from->sp, to->sp);
}

#else

static void prepare(struct fiber *f)
{
	if (getcontext(&f->context) != 0)
		abort();
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = f->stack_bytes;
	f->context.uc_link = NULL;
	makecontext(&f->context, begin, 0);
}

static void swap(struct fiber *from, struct fiber *to)
{
	if (swapcontext(&from->context, &to->context) != 0)
		abort();
}

#endif

void fiber_init(struct fiber *f, void *stack, size_t stack_bytes, void (*entry)(void))
{
	/* What it was doing may have left its frames' surroundings forbidden. */
	shim_permit(stack, stack_bytes);
#ifdef SHIM_TSAN
	if (f->tsan)
		__tsan_destroy_fiber(f->tsan);
	f->tsan = __tsan_create_fiber(0);
#endif
	f->stack = stack;
	f->stack_bytes = stack_bytes;
	f->entry = entry;
	f->fake = NULL;
	prepare(f);
}

void fiber_done(struct fiber *f)
{
	if (!f->stack)
		return;
#ifdef SHIM_TSAN
	__tsan_destroy_fiber(f->tsan);
#endif
	shim_permit(f->stack, f->stack_bytes);
	memset(f, 0, sizeof(*f));
}

__attribute__((noinline)) void fiber_switch(struct fiber *from, struct fiber *to)
{
	leave(from, to);
	swap(from, to);
	arrive();
}
