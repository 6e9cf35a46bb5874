/*
 * dsctl: asks a running dsoffloadd how it is, and, in dsctl_bench.c, measures for it. See dsctl(1).
 *
 * The daemon answers with JSON, which --json prints as it came; without it the same text is read
 * back with the configuration parser, of which JSON is a part, and printed for people.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/conf.h"
#include "common/units.h"
#include "daemon/dsctl.h"
#include "offload/client.h"

static const char help[] =
	"usage: dsctl status|jobs|bench [options]\n"
	"Asks the offload daemon of this host, or measures for it.\n"
	"\n"
	"  status              the daemon: quotas and what is used of them, sessions, work done\n"
	"  jobs                a line for each session\n"
	"  bench               measures swap directories; dsctl bench --help tells more\n"
	"\n"
	"  -j, --json          print the answer as JSON\n"
	"  -s, --socket PATH   where it listens, default " DSCTL_SOCKET "\n"
	"  -V, --version       print the version\n"
	"  -h, --help          print this\n"
	"\n"
	"Exits with 69 when no daemon answers. See dsctl(1).\n";

struct work {
	uint64_t operations, read_bytes, written_bytes, handed_bytes, dropped_bytes, stepped;
	double adam_seconds, io_wait_seconds;
};

struct quota {
	uint64_t quota, used; /* quota 0: none */
};

struct status {
	const char *version, *state, *socket, *cpu, *engine;
	uint64_t protocol, pid, threads;
	double uptime;
	struct conf_strings paths;
	struct quota memory, swap;
	uint64_t open, max, ended;
	struct {
		const char *file, *engine; /* file NULL: no figures */
		uint64_t measured, extent, depth;
		struct conf_strings paths;
	} tuned;
	struct work work;
};

struct job {
	const char *job, *state, *engine;
	uint64_t rank, world, pid, uid, memory, swap, extent, depth;
	double uptime;
	struct work work;
};

struct jobs {
	struct conf_items items;
};

#define FIELD(key, kind, in, member)                                                               \
	{                                                                                          \
		.name = (key), .type = (kind), .offset = offsetof(in, member), .required = true    \
	}
#define U64(key, in, member)    FIELD(key, CONF_U64, in, member)
#define DOUBLE(key, in, member) FIELD(key, CONF_DOUBLE, in, member)
#define STRING(key, in, member) FIELD(key, CONF_STRING, in, member)
#define WORK(in)                                                                                   \
	U64("operations", in, work.operations), U64("swap_read_bytes", in, work.read_bytes),       \
		U64("swap_written_bytes", in, work.written_bytes),                                 \
		U64("swap_handed_bytes", in, work.handed_bytes),                                   \
		U64("swap_dropped_bytes", in, work.dropped_bytes),                                 \
		U64("stepped_elements", in, work.stepped),                                         \
		DOUBLE("adam_seconds", in, work.adam_seconds),                                     \
		DOUBLE("io_wait_seconds", in, work.io_wait_seconds)

static const struct conf_key memory_keys[] = {
	{.name = "quota_bytes", .type = CONF_U64, .offset = offsetof(struct status, memory.quota)},
	U64("used_bytes", struct status, memory.used),
	{.type = CONF_END},
};

static const struct conf_key swap_keys[] = {
	{.name = "quota_bytes", .type = CONF_U64, .offset = offsetof(struct status, swap.quota)},
	U64("used_bytes", struct status, swap.used),
	{.type = CONF_END},
};

static const struct conf_key session_keys[] = {
	U64("open", struct status, open),
	U64("max", struct status, max),
	U64("ended", struct status, ended),
	{.type = CONF_END},
};

static const struct conf_key tuned_keys[] = {
	STRING("file", struct status, tuned.file),
	U64("measured", struct status, tuned.measured),
	STRING("engine", struct status, tuned.engine),
	U64("extent_bytes", struct status, tuned.extent),
	U64("queue_depth", struct status, tuned.depth),
	{.name = "paths", .type = CONF_STRINGS, .offset = offsetof(struct status, tuned.paths)},
	{.type = CONF_END},
};

static const struct conf_key status_keys[] = {
	STRING("version", struct status, version),
	U64("protocol", struct status, protocol),
	U64("pid", struct status, pid),
	DOUBLE("uptime_seconds", struct status, uptime),
	STRING("state", struct status, state),
	STRING("socket", struct status, socket),
	U64("threads", struct status, threads),
	STRING("cpu", struct status, cpu),
	STRING("swap_engine", struct status, engine),
	{.name = "swap_paths", .type = CONF_STRINGS, .offset = offsetof(struct status, paths)},
	{.name = "tuned", .type = CONF_SECTION, .keys = tuned_keys},
	{.name = "memory", .type = CONF_SECTION, .keys = memory_keys},
	{.name = "swap", .type = CONF_SECTION, .keys = swap_keys},
	{.name = "sessions", .type = CONF_SECTION, .keys = session_keys},
	WORK(struct status),
	{.type = CONF_END},
};

static const struct conf_key job_keys[] = {
	STRING("job", struct job, job),
	U64("rank", struct job, rank),
	U64("world", struct job, world),
	U64("pid", struct job, pid),
	U64("uid", struct job, uid),
	STRING("state", struct job, state),
	DOUBLE("uptime_seconds", struct job, uptime),
	U64("memory_bytes", struct job, memory),
	U64("swap_bytes", struct job, swap),
	STRING("engine", struct job, engine),
	U64("extent_bytes", struct job, extent),
	U64("queue_depth", struct job, depth),
	WORK(struct job),
	{.type = CONF_END},
};

static const struct conf_key jobs_keys[] = {
	{.name = "jobs",
	 .type = CONF_SECTIONS,
	 .keys = job_keys,
	 .item_bytes = sizeof(struct job),
	 .offset = offsetof(struct jobs, items)},
	{.type = CONF_END},
};

static void quota_print(const char *name, const struct quota *q)
{
	char used[UNITS_TEXT_BYTES], quota[UNITS_TEXT_BYTES];

	units_format_bytes(used, q->used);
	if (q->quota > 0)
		printf("%-10s %s of %s\n", name, used, units_format_bytes(quota, q->quota));
	else
		printf("%-10s %s, no quota\n", name, used);
}

static void tuned_print(const struct status *s)
{
	const time_t measured = (time_t)s->tuned.measured;
	char extent[UNITS_TEXT_BYTES], when[32] = "?";
	struct tm tm;

	if (!s->tuned.file)
		return;
	if (gmtime_r(&measured, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	printf("%-10s %s, extent %s, queue depth %" PRIu64 ", by %s of %s UTC\n", "tuned",
	       s->tuned.engine, units_format_bytes(extent, s->tuned.extent), s->tuned.depth,
	       s->tuned.file, when);
}

static void status_print(const struct status *s)
{
	char text[UNITS_TEXT_BYTES], written[UNITS_TEXT_BYTES];

	printf("dsoffloadd %s, %s, pid %" PRIu64 "\n", s->version, s->state, s->pid);
	printf("%-10s %s\n", "socket", s->socket);
	printf("%-10s %s\n", "up", units_format_duration(text, (uint64_t)(s->uptime * 1e9)));
	printf("%-10s %" PRIu64 " open of %" PRIu64 ", %" PRIu64 " ended\n", "sessions", s->open,
	       s->max, s->ended);
	quota_print("memory", &s->memory);
	quota_print("swap", &s->swap);
	printf("%-10s %s", "engine", s->engine);
	for (size_t i = 0; i < s->paths.count; i++)
		printf("%s%s", i == 0 ? " in " : ", ", s->paths.at[i]);
	putchar('\n');
	tuned_print(s);
	printf("%-10s %" PRIu64 ", %s\n", "threads", s->threads, s->cpu);
	units_format_bytes(text, s->work.read_bytes);
	units_format_bytes(written, s->work.written_bytes);
	printf("%-10s %s read, %s written", "swap moved", text, written);
	units_format_bytes(text, s->work.handed_bytes);
	units_format_bytes(written, s->work.dropped_bytes);
	printf("; %s taken before it was read, %s read in vain\n", text, written);
	printf("%-10s %" PRIu64 " operations, %.3g parameters stepped in %.1f s of CPU\n", "work",
	       s->work.operations, (double)s->work.stepped, s->work.adam_seconds);
}

static void jobs_print(const struct jobs *jobs)
{
	const struct job *j = jobs->items.at;
	char memory[UNITS_TEXT_BYTES], swap[UNITS_TEXT_BYTES], in[UNITS_TEXT_BYTES],
		out[UNITS_TEXT_BYTES], up[UNITS_TEXT_BYTES];

	printf("%-24s %7s %8s %6s %-8s %9s %9s %9s %10s %10s %10s\n", "JOB", "RANK", "PID", "UID",
	       "STATE", "UP", "MEMORY", "SWAP", "OPS", "READ", "WRITTEN");
	for (size_t i = 0; i < jobs->items.count; i++, j++)
		printf("%-24s %3" PRIu64 "/%-3" PRIu64 " %8" PRIu64 " %6" PRIu64
		       " %-8s %9s %9s %9s %10" PRIu64 " %10s %10s\n",
		       j->job, j->rank, j->world, j->pid, j->uid, j->state,
		       units_format_duration(up, (uint64_t)(j->uptime * 1e9)),
		       units_format_bytes(memory, j->memory), units_format_bytes(swap, j->swap),
		       j->work.operations, units_format_bytes(in, j->work.read_bytes),
		       units_format_bytes(out, j->work.written_bytes));
}

int dsctl_sessions(const char *socket, uint64_t *ret_open, struct err *err)
{
	struct status status = {.version = NULL};
	struct conf_doc *doc = NULL;
	char *text = NULL;
	int rc = client_query(socket, PROTOCOL_QUERY_STATUS, &text, err);

	if (rc == 0)
		rc = conf_parse("the daemon's answer", text, strlen(text), status_keys, &status,
				&doc, err);
	free(text);
	if (rc < 0)
		return rc;
	*ret_open = status.open;
	conf_free(doc);
	return 0;
}

static int answer_print(enum protocol_query_what what, const char *text, struct err *err)
{
	struct status status = {.version = NULL};
	struct jobs jobs = {.items.count = 0};
	struct conf_doc *doc = NULL;
	bool is_status = what == PROTOCOL_QUERY_STATUS;
	int rc;

	rc = conf_parse("the daemon's answer", text, strlen(text),
			is_status ? status_keys : jobs_keys,
			is_status ? (void *)&status : (void *)&jobs, &doc, err);
	if (rc < 0)
		return rc == ERR_CONFIG ? err_set(err, ERR_PROTOCOL, "%s", err->text) : rc;
	if (is_status)
		status_print(&status);
	else
		jobs_print(&jobs);
	conf_free(doc);
	return 0;
}

struct options {
	const char *socket;
	bool json;
	enum protocol_query_what what;
};

static int usage(const char *message, const char *what)
{
	fprintf(stderr, "dsctl: %s%s (--help tells more)\n", message, what);
	return err_exit_status(ERR_USAGE);
}

/* Returns 1 to go on, else the exit status is in *ret_status. */
static int options_parse(int argc, char **argv, struct options *ret, int *ret_status)
{
	static const struct option table[] = {
		{"json", no_argument, NULL, 'j'},
		{"socket", required_argument, NULL, 's'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int opt;

	*ret_status = 0;
	while ((opt = getopt_long(argc, argv, "js:Vh", table, NULL)) != -1) {
		switch (opt) {
		case 'j':
			ret->json = true;
			break;
		case 's':
			ret->socket = optarg;
			break;
		case 'V':
			printf("dsctl %s\n", DSRUN_VERSION);
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			*ret_status = err_exit_status(ERR_USAGE);
			return 0;
		}
	}
	if (argc - optind != 1)
		*ret_status = usage("expected one command, status, jobs or bench", "");
	else if (strcmp(argv[optind], "status") == 0)
		ret->what = PROTOCOL_QUERY_STATUS;
	else if (strcmp(argv[optind], "jobs") == 0)
		ret->what = PROTOCOL_QUERY_JOBS;
	else
		*ret_status = usage("unknown command ", argv[optind]);
	return *ret_status == 0;
}

int main(int argc, char **argv)
{
	struct options options = {.socket = DSCTL_SOCKET};
	struct err err = {.code = 0};
	char *text = NULL;
	int rc, status;

	/* It has options of its own, which follow its name. */
	if (argc > 1 && strcmp(argv[1], "bench") == 0)
		return dsctl_bench(argc - 1, argv + 1);
	if (!options_parse(argc, argv, &options, &status))
		return fflush(stdout) == 0 ? status : err_exit_status(ERR_IO);
	rc = client_query(options.socket, options.what, &text, &err);
	if (rc == 0 && options.json)
		puts(text);
	else if (rc == 0)
		rc = answer_print(options.what, text, &err);
	free(text);
	if (rc == 0 && fflush(stdout) != 0)
		rc = err_sys(&err, ERR_IO, "standard output");
	if (rc < 0)
		fprintf(stderr, "dsctl: %s\n", err.text);
	return err_exit_status(rc);
}
