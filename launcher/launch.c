/* struct launch as text and back: JSON out, and in through the configuration reader. */
#include "launcher/launch.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "common/json.h"

static void optional_string(struct json *j, const char *key, const char *value)
{
	if (value && value[0])
		json_string(j, key, value);
}

static void format_job(struct json *j, const struct job *job)
{
	json_string(j, "id", job->id);
	json_string(j, "config_name", job->config_name);
	json_string(j, "config_text", job->config_text);
	json_u64(j, "world", job->world);
	json_bool(j, "resume", job->resume);
	optional_string(j, "export", job->export_path);
	json_u64(j, "generate", job->generate);
	optional_string(j, "prompt", job->prompt);
}

char *launch_format(const struct launch *launch)
{
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	format_job(&j, &launch->job);
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
	json_string(&j, "worker_path", launch->worker_path);
	json_string(&j, "daemon_path", launch->daemon_path);
	json_u64(&j, "grace_ns", launch->grace_ns);
	json_u64(&j, "log_level", (uint64_t)launch->log_level);
	json_u64(&j, "log_format", (uint64_t)launch->log_format);
	json_object_end(&j);

	const char *text = json_text(&j);
	char *copy = text ? strdup(text) : NULL;
	json_done(&j);
	return copy;
}

/* Numbers of the text that struct launch holds in other types. */
struct numbers {
	struct launch launch;
	uint64_t daemon, log_level, log_format;
};

#define AT(field)  offsetof(struct numbers, field)
#define JOB(field) offsetof(struct numbers, launch.job.field)

static const struct conf_key launch_keys[] = {
	{.name = "id", .type = CONF_STRING, .offset = JOB(id), .required = true},
	{.name = "config_name", .type = CONF_STRING, .offset = JOB(config_name), .required = true},
	{.name = "config_text", .type = CONF_STRING, .offset = JOB(config_text), .required = true},
	{.name = "world", .type = CONF_U64, .offset = JOB(world), .required = true, .min = 1,
	 .max = COMM_WORLD_MAX},
	{.name = "resume", .type = CONF_BOOL, .offset = JOB(resume), .required = true},
	{.name = "export", .type = CONF_STRING, .offset = JOB(export_path)},
	{.name = "generate", .type = CONF_U64, .offset = JOB(generate), .required = true},
	{.name = "prompt", .type = CONF_STRING, .offset = JOB(prompt)},
	{.name = "daemon", .type = CONF_U64, .offset = AT(daemon), .required = true, .min = 0,
	 .max = LAUNCH_DAEMON_COUNT - 1},
	{.name = "socket", .type = CONF_STRING, .offset = AT(launch.socket)},
	{.name = "daemon_memory", .type = CONF_U64, .offset = AT(launch.daemon_memory_bytes),
	 .required = true},
	{.name = "daemon_threads", .type = CONF_U64, .offset = AT(launch.daemon_threads),
	 .required = true},
	{.name = "daemon_paths", .type = CONF_STRINGS, .offset = AT(launch.daemon_paths)},
	{.name = "worker_path", .type = CONF_STRING, .offset = AT(launch.worker_path),
	 .required = true},
	{.name = "daemon_path", .type = CONF_STRING, .offset = AT(launch.daemon_path),
	 .required = true},
	{.name = "grace_ns", .type = CONF_U64, .offset = AT(launch.grace_ns), .required = true},
	{.name = "log_level", .type = CONF_U64, .offset = AT(log_level), .required = true, .min = 0,
	 .max = 3},
	{.name = "log_format", .type = CONF_U64, .offset = AT(log_format), .required = true,
	 .min = 0, .max = 3},
	{.type = CONF_END},
};

int launch_parse(const char *text, size_t len, struct launch *ret, struct conf_doc **ret_doc,
		 struct err *err)
{
	struct numbers numbers = {0};
	struct conf_doc *doc = NULL;
	int rc = conf_parse("launch", text, len, launch_keys, &numbers, &doc, err);

	if (rc == ERR_CONFIG) {
		err->code = ERR_PROTOCOL;
		return ERR_PROTOCOL;
	}
	if (rc < 0)
		return rc;

	struct launch *launch = &numbers.launch;
	launch->daemon = (int)numbers.daemon;
	launch->log_level = (int)numbers.log_level;
	launch->log_format = (int)numbers.log_format;
	if (launch->daemon == LAUNCH_DAEMON_AUTO || launch->daemon == LAUNCH_DAEMON_NAMED) {
		if (!launch->socket) {
			conf_free(doc);
			return err_set(err, ERR_PROTOCOL, "launch: a daemon without a socket");
		}
	}
	*ret = *launch;
	*ret_doc = doc;
	return 0;
}
