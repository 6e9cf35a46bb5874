/*
 * What systemd wants to hear (sd_notify). Built with libsystemd it is notify_systemd.c, without it
 * notify_none.c, where every call does nothing. The main thread calls.
 */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* For --version. */
bool notify_built_in(void);

/* How often a watchdog wants to hear from us, in nanoseconds; 0: no watchdog. Asked once. */
uint64_t notify_watchdog_ns(void);

void notify_ready(const char *status);
void notify_status(const char *status);
void notify_stopping(void);
void notify_alive(void);

#endif
