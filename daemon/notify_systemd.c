/*
 * The service manager hears of readiness, state and life. Each call is a datagram that is lost when
 * nobody listens, which is as it should be: a failed one is not an error of ours.
 */
#include "daemon/notify.h"

#include <systemd/sd-daemon.h>

bool notify_built_in(void)
{
	return true;
}

uint64_t notify_watchdog_ns(void)
{
	uint64_t usec = 0;

	/* Twice in the time allowed, as sd_watchdog_enabled(3) advises. */
	return sd_watchdog_enabled(0, &usec) > 0 ? usec * 1000 / 2 : 0;
}

void notify_ready(const char *status)
{
	(void)sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void notify_status(const char *status)
{
	(void)sd_notifyf(0, "STATUS=%s", status);
}

void notify_stopping(void)
{
	(void)sd_notify(0, "STOPPING=1\nSTATUS=draining: waiting for the present sessions to end");
}

void notify_alive(void)
{
	(void)sd_notify(0, "WATCHDOG=1");
}
