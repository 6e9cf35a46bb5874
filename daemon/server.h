/*
 * The main thread: connections, their messages, quotas, and the beginning and end of sessions.
 */
#ifndef DAEMON_SERVER_H
#define DAEMON_SERVER_H

#include "common/err.h"
#include "daemon/daemon_conf.h"
#include "daemon/listener.h"

/*
 * Serves until told to stop by a signal (SIGTERM and SIGHUP: when the present sessions have ended;
 * a second one, or SIGINT: at once). The signals are blocked already, in every thread. Returns 0,
 * or a negative code when serving could not begin or go on.
 */
int server_run(const struct daemon_conf *conf, struct listener *listener, struct err *err);

#endif
