/*
 * dsoffload.conf: the table of its keys, its defaults, and the checks of keys against each other
 * and against the host. The main thread calls, once, before anything is opened.
 */
#include "daemon/daemon_conf.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/topo.h"
#include "common/units.h"
#include "daemon/pool.h"
#include "nvme/nvme.h"

/* What a host keeps for itself: the default quota is this part of its memory. */
#define MEMORY_SHARE 2u
#define SESSIONS_MAX 1024.0

#define AT(member) offsetof(struct daemon_conf, member)

static const char *const engine_names[] = {"auto", "io_uring", "libaio", NULL};
static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};
static const char *const format_names[] = {"auto", "text", "json", "journal", NULL};

_Static_assert(NVME_URING == 1 && NVME_LIBAIO == 2, "engine_names are in the enum's order");
_Static_assert(LOG_LEVEL_DEBUG == 3 && LOG_FORMAT_JOURNAL == 3, "and so are those of the log");

static const struct conf_key host_keys[] = {
	{.name = "memory", .type = CONF_BYTES, .offset = AT(host.memory), .min = 1, .max = 0x1p62},
	{.name = "threads",
	 .type = CONF_U64,
	 .offset = AT(host.threads),
	 .min = 1,
	 .max = POOL_THREADS_MAX},
	{.type = CONF_END},
};

static const struct conf_key nvme_keys[] = {
	{.name = "paths", .type = CONF_STRINGS, .offset = AT(nvme.paths)},
	{.name = "quota", .type = CONF_BYTES, .offset = AT(nvme.quota), .min = 1, .max = 0x1p62},
	{.name = "engine", .type = CONF_ENUM, .offset = AT(nvme.engine), .names = engine_names},
	{.name = "tuned", .type = CONF_STRING, .offset = AT(nvme.tuned)},
	{.type = CONF_END},
};

static const struct conf_key session_keys[] = {
	{.name = "max", .type = CONF_U64, .offset = AT(session.max), .min = 1, .max = SESSIONS_MAX},
	{.name = "memory",
	 .type = CONF_BYTES,
	 .offset = AT(session.memory),
	 .min = 1,
	 .max = 0x1p62},
	{.name = "swap", .type = CONF_BYTES, .offset = AT(session.swap), .min = 1, .max = 0x1p62},
	{.name = "hello_timeout",
	 .type = CONF_DURATION,
	 .offset = AT(session.hello_timeout),
	 .min = 1e6,
	 .max = 3600e9},
	{.type = CONF_END},
};

static const struct conf_key log_keys[] = {
	{.name = "level", .type = CONF_ENUM, .offset = AT(log.level), .names = level_names},
	{.name = "format", .type = CONF_ENUM, .offset = AT(log.format), .names = format_names},
	{.type = CONF_END},
};

static const struct conf_key daemon_keys[] = {
	{.name = "socket", .type = CONF_STRING, .offset = AT(socket)},
	{.name = "host", .type = CONF_SECTION, .keys = host_keys},
	{.name = "nvme", .type = CONF_SECTION, .keys = nvme_keys},
	{.name = "session", .type = CONF_SECTION, .keys = session_keys},
	{.name = "log", .type = CONF_SECTION, .keys = log_keys},
	{.type = CONF_END},
};

static int defaults_fill(struct daemon_conf *c, struct err *err)
{
	long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
	struct topo *topo;
	int rc;

	if (pages <= 0 || page_bytes <= 0)
		return err_set(err, ERR_CONFIG,
			       "this host does not tell its memory: set host.memory");
	rc = topo_open(&topo, err);
	if (rc < 0)
		return rc;
	*c = (struct daemon_conf){.socket = DAEMON_SOCKET};
	c->host.memory = (uint64_t)pages * (uint64_t)page_bytes / MEMORY_SHARE;
	c->host.threads = topo_cores(topo);
	c->session.max = 64;
	c->session.hello_timeout = 5000000000u;
	c->log.level = LOG_LEVEL_INFO;
	topo_free(topo);
	return 0;
}

static int paths_check(struct daemon_conf *c, const struct conf_doc *doc, struct err *err)
{
	struct stat st;
	char *real;

	if (c->nvme.paths.count > PROTOCOL_PATHS_MAX)
		return conf_error(doc, "nvme.paths", err, "%zu directories, at most %u can be used",
				  c->nvme.paths.count, PROTOCOL_PATHS_MAX);
	for (size_t i = 0; i < c->nvme.paths.count; i++) {
		const char *path = c->nvme.paths.at[i];

		real = path[0] == '/' ? realpath(path, NULL) : NULL;
		if (!real)
			return conf_error(doc, "nvme.paths", err, "'%s': %s", path,
					  path[0] == '/' ? err_str(-errno)
							 : "not an absolute path");
		if (strlen(real) >= PROTOCOL_PATH_BYTES || stat(real, &st) < 0 ||
		    !S_ISDIR(st.st_mode)) {
			free(real);
			return conf_error(doc, "nvme.paths", err,
					  "'%s' is no directory with a name of up to %u characters",
					  path, PROTOCOL_PATH_BYTES - 1);
		}
		strcpy(c->real_paths[i], real);
		free(real);
	}
	return 0;
}

static int cross_check(struct daemon_conf *c, const struct conf_doc *doc, struct err *err)
{
	char one[UNITS_TEXT_BYTES], all[UNITS_TEXT_BYTES];

	if (c->session.memory == 0)
		c->session.memory = c->host.memory;
	if (c->session.memory > c->host.memory)
		return conf_error(doc, "session.memory", err,
				  "%s for one session is more than host.memory, %s for all",
				  units_format_bytes(one, c->session.memory),
				  units_format_bytes(all, c->host.memory));
	if (c->nvme.quota > 0 && c->session.swap > c->nvme.quota)
		return conf_error(doc, "session.swap", err,
				  "%s for one session is more than nvme.quota, %s for all",
				  units_format_bytes(one, c->session.swap),
				  units_format_bytes(all, c->nvme.quota));
	/* Room for the terminating NUL, which abstract names do without but never miss. */
	if (strlen(c->socket) >= 108 || (c->socket[0] != '/' && c->socket[0] != '@') ||
	    c->socket[1] == '\0')
		return conf_error(doc, "socket", err,
				  "'%s': expected an absolute path, or @name for the abstract "
				  "namespace, of up to 107 characters",
				  c->socket);
	return paths_check(c, doc, err);
}

int daemon_conf_load(const char *path, struct daemon_conf *ret, struct conf_doc **ret_doc,
		     struct err *err)
{
	struct conf_doc *doc = NULL;
	int rc;

	rc = defaults_fill(ret, err);
	if (rc < 0)
		return rc;
	ret->file = path;
	rc = path ? conf_load(path, daemon_keys, ret, &doc, err)
		  : conf_parse("defaults", "{}", 2, daemon_keys, ret, &doc, err);
	if (rc < 0)
		return rc;
	rc = cross_check(ret, doc, err);
	if (rc < 0) {
		conf_free(doc);
		return rc;
	}
	*ret_doc = doc;
	return 0;
}
