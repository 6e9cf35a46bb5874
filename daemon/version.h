/* What `--version` and the reports say. */
#ifndef DAEMON_VERSION_H
#define DAEMON_VERSION_H

#define DAEMON_VERSION "0.1.0"

#endif
