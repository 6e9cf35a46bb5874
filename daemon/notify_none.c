/* Without libsystemd: nobody is told anything. See notify.h. */
#include "daemon/notify.h"

bool notify_built_in(void)
{
	return false;
}

uint64_t notify_watchdog_ns(void)
{
	return 0;
}

void notify_ready(const char *status)
{
	(void)status;
}

void notify_status(const char *status)
{
	(void)status;
}

void notify_stopping(void)
{
}

void notify_alive(void)
{
}
