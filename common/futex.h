/* Sleep on a 32-bit word until it changes, between threads or between processes that share it. */
#ifndef COMMON_FUTEX_H
#define COMMON_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Sleeps while *word == seen, at most timeout_ns (0: for ever). Returns 0 when woken or when the
 * word differs, -ETIMEDOUT, or -EINTR. Spurious returns happen: callers loop.
 */
int futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);

/* Wakes up to `count` sleepers. */
void futex_wake(_Atomic uint32_t *word, int count);

#endif
