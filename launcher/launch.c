/*
 * struct launch as text and back: JSON out, and in through the configuration reader. Two texts,
 * since the job has a form of its own (offload/job.h), which the agent completes and passes on.
 */
#include "launcher/launch.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"

static void optional_string(struct json *j, const char *key, const char *value)
{
	if (value && value[0])
		json_string(j, key, value);
}

/* The launcher's part; the job's own text follows behind its NUL. */
static char *format_launch(const struct launch *launch)
{
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_u64(&j, "daemon", (uint64_t)launch->daemon);
	optional_string(&j, "socket", launch->socket);
	json_u64(&j, "daemon_memory", launch->daemon_memory_bytes);
	json_u64(&j, "daemon_threads", launch->daemon_threads);
	if (launch->daemon_paths.count > 0) {
		json_array_begin(&j, "daemon_paths");
		for (size_t i = 0; i < launch->daemon_paths.count; i++)
			json_string(&j, NULL, launch->daemon_paths.at[i]);
		json_array_end(&j);
	}
	optional_string(&j, "daemon_tuned", launch->daemon_tuned);
	json_string(&j, "worker_path", launch->worker_path);
	json_string(&j, "daemon_path", launch->daemon_path);
	json_bool(&j, "cuda", launch->cuda);
	json_u64(&j, "grace_ns", launch->grace_ns);
	json_u64(&j, "log_level", (uint64_t)launch->log_level);
	json_u64(&j, "log_format", (uint64_t)launch->log_format);
	json_object_end(&j);

	const char *text = json_text(&j);
	char *copy = text ? strdup(text) : NULL;
	json_done(&j);
	return copy;
}

char *launch_format(const struct launch *launch, size_t *ret_len)
{
	char *head = format_launch(launch), *job = job_format(&launch->job), *text = NULL;

	if (head && job) {
		size_t head_len = strlen(head) + 1, job_len = strlen(job);

		text = malloc(head_len + job_len);
		if (text) {
			memcpy(text, head, head_len);
			memcpy(text + head_len, job, job_len);
			*ret_len = head_len + job_len;
		}
	}
	free(head);
	free(job);
	return text;
}

/* Numbers of the text that struct launch holds in other types. */
struct numbers {
	struct launch launch;
	uint64_t daemon, log_level, log_format;
};

#define AT(field) offsetof(struct numbers, field)

/* clang-format off */
static const struct conf_key launch_keys[] = {
	{.name = "daemon", .type = CONF_U64, .offset = AT(daemon), .required = true, .min = 0,
	 .max = LAUNCH_DAEMON_COUNT - 1},
	{.name = "socket", .type = CONF_STRING, .offset = AT(launch.socket)},
	{.name = "daemon_memory", .type = CONF_U64, .offset = AT(launch.daemon_memory_bytes),
	 .required = true},
	{.name = "daemon_threads", .type = CONF_U64, .offset = AT(launch.daemon_threads),
	 .required = true},
	{.name = "daemon_paths", .type = CONF_STRINGS, .offset = AT(launch.daemon_paths)},
	{.name = "daemon_tuned", .type = CONF_STRING, .offset = AT(launch.daemon_tuned)},
	{.name = "worker_path", .type = CONF_STRING, .offset = AT(launch.worker_path),
	 .required = true},
	{.name = "daemon_path", .type = CONF_STRING, .offset = AT(launch.daemon_path),
	 .required = true},
	{.name = "cuda", .type = CONF_BOOL, .offset = AT(launch.cuda), .required = true},
	{.name = "grace_ns", .type = CONF_U64, .offset = AT(launch.grace_ns), .required = true},
	{.name = "log_level", .type = CONF_U64, .offset = AT(log_level), .required = true, .min = 0,
	 .max = 3},
	{.name = "log_format", .type = CONF_U64, .offset = AT(log_format), .required = true,
	 .min = 0, .max = 3},
	{.type = CONF_END},
};
/* clang-format on */

static int parse_launch(const char *text, size_t len, struct launch *ret, struct conf_doc **ret_doc,
			struct err *err)
{
	struct numbers numbers = {0};
	int rc = conf_parse("launch", text, len, launch_keys, &numbers, ret_doc, err);

	if (rc < 0)
		return rc;
	*ret = numbers.launch;
	ret->daemon = (int)numbers.daemon;
	ret->log_level = (int)numbers.log_level;
	ret->log_format = (int)numbers.log_format;
	if ((ret->daemon == LAUNCH_DAEMON_AUTO || ret->daemon == LAUNCH_DAEMON_NAMED) &&
	    !ret->socket)
		return err_set(err, ERR_PROTOCOL, "launch: a daemon without a socket");
	return 0;
}

int launch_parse(const char *text, size_t len, struct launch *ret, struct launch_docs *ret_docs,
		 struct err *err)
{
	const char *nul = memchr(text, '\0', len), *job = nul ? nul + 1 : NULL;
	struct launch_docs docs = {0};
	struct launch launch;
	int rc = nul ? 0 : err_set(err, ERR_PROTOCOL, "launch: no job");

	if (rc == 0)
		rc = parse_launch(text, (size_t)(nul - text), &launch, &docs.launch, err);
	if (rc == 0)
		rc = job_parse(job, len - (size_t)(job - text), &launch.job, &docs.job, err);
	if (rc < 0) {
		launch_docs_done(&docs);
		if (rc == ERR_CONFIG)
			err->code = rc = ERR_PROTOCOL;
		return rc;
	}
	*ret = launch;
	*ret_docs = docs;
	return 0;
}

void launch_docs_done(struct launch_docs *docs)
{
	docs->launch = conf_free(docs->launch);
	docs->job = conf_free(docs->job);
}
