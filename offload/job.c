/*
 * The job as text, from the launcher to each worker, and reports back. The launcher formats once,
 * each worker parses once before its threads start; a worker's main thread writes the reports.
 *
 * 1. The text is JSON in printable ASCII. Within strings every other byte, and what JSON escapes,
 *    is %XX: YAML's reader, which is what parses it, folds line breaks, drops marks and refuses
 *    control characters, and the name of a file need not even be UTF-8. So any string arrives byte
 *    by byte.
 * 2. A report is one head and its text, and nothing else is written to that pipe: a reader who
 *    finds a head finds the text behind it, or the end of the pipe.
 */
#include "offload/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/json.h"
#include "nvme/figures.h"

#define AT(field) .offset = offsetof(struct job, field)

static bool is_plain(char c)
{
	return c >= 0x20 && c < 0x7f && c != '%' && c != '"' && c != '\\';
}

/* False when memory ran out. An absent string is an absent key. */
static bool put(struct json *j, const char *key, const char *text)
{
	char *coded, *out;

	if (!text || !*text)
		return true;
	out = coded = malloc(3 * strlen(text) + 1);
	if (!coded)
		return false;
	for (; *text; text++)
		if (is_plain(*text))
			*out++ = *text;
		else
			out += sprintf(out, "%%%02x", (unsigned char)*text);
	*out = '\0';
	json_string(j, key, coded);
	free(coded);
	return true;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes put() in place: the document owns the string, nobody else has seen it, it only shrinks. */
static int take(const char *text, const struct conf_doc *doc, const char *key, struct err *err)
{
	char *out = (char *)(uintptr_t)text;

	while (text && *text) {
		int high, low;

		if (*text != '%') {
			*out++ = *text++;
			continue;
		}
		high = hex_digit(text[1]);
		low = high < 0 ? -1 : hex_digit(text[2]);
		if (low < 0 || high + low == 0)
			return conf_error(doc, key, err, "'%.3s' is not %%XX", text);
		*out++ = (char)(16 * high + low);
		text += 3;
	}
	if (text)
		*out = '\0';
	return 0;
}

char *job_format(const struct job *job)
{
	struct json j;
	char *text = NULL;
	bool ok;

	json_init(&j);
	json_object_begin(&j, NULL);
	ok = put(&j, "id", job->id) && put(&j, "config_name", job->config_name) &&
	     put(&j, "config_text", job->config_text) && put(&j, "socket", job->socket) &&
	     put(&j, "export_path", job->export_path) && put(&j, "prompt", job->prompt);
	json_u64(&j, "host_memory", job->settled.host_memory);
	json_u64(&j, "place_param", job->settled.param);
	json_u64(&j, "place_optimizer", job->settled.optimizer);
	json_u64(&j, "measure", job->measure);
	json_u64(&j, "world", job->world);
	json_bool(&j, "resume", job->resume);
	json_u64(&j, "generate", job->generate);
	json_u64(&j, "trace_first", job->trace_first);
	json_u64(&j, "trace_last", job->trace_last);
	json_u64(&j, "extent", job->settled.extent);
	json_u64(&j, "queue_depth", job->settled.queue_depth);
	json_object_end(&j);
	if (ok && json_text(&j))
		text = strdup(json_text(&j));
	json_done(&j);
	return text;
}

static int check_trace(const struct job *job, const struct conf_doc *doc, struct err *err)
{
	if (job->trace_first <= job->trace_last && (job->trace_first || !job->trace_last))
		return 0;
	return conf_error(doc, "trace_first", err, "steps %ju to %ju cannot be traced",
			  (uintmax_t)job->trace_first, (uintmax_t)job->trace_last);
}

int job_parse(const char *text, size_t len, struct job *ret, struct conf_doc **ret_doc,
	      struct err *err)
{
	static const struct conf_key keys[] = {
		{"id", CONF_STRING, AT(id), .required = true},
		{"config_name", CONF_STRING, AT(config_name), .required = true},
		{"config_text", CONF_STRING, AT(config_text), .required = true},
		{"host_memory", CONF_U64, AT(settled.host_memory)},
		{"place_param", CONF_U64, AT(settled.param), .max = PLACE_COUNT},
		{"place_optimizer", CONF_U64, AT(settled.optimizer), .max = PLACE_COUNT},
		{"measure", CONF_U64, AT(measure)},
		{"world", CONF_U64, AT(world), .required = true, .min = 1, .max = COMM_WORLD_MAX},
		{"socket", CONF_STRING, AT(socket)},
		{"resume", CONF_BOOL, AT(resume)},
		{"export_path", CONF_STRING, AT(export_path)},
		{"generate", CONF_U64, AT(generate)},
		{"prompt", CONF_STRING, AT(prompt)},
		{"trace_first", CONF_U64, AT(trace_first)},
		{"trace_last", CONF_U64, AT(trace_last)},
		{"extent", CONF_U64, AT(settled.extent), .max = NVME_EXTENT_MAX},
		{"queue_depth", CONF_U64, AT(settled.queue_depth), .max = NVME_QUEUE_DEPTH_MAX},
		{.type = CONF_END},
	};
	struct job job = {0};
	struct conf_doc *doc;
	int rc = conf_parse("job", text, len, keys, &job, &doc, err);

	if (rc < 0)
		return rc;
	if ((rc = take(job.id, doc, "id", err)) < 0 ||
	    (rc = take(job.config_name, doc, "config_name", err)) < 0 ||
	    (rc = take(job.config_text, doc, "config_text", err)) < 0 ||
	    (rc = take(job.socket, doc, "socket", err)) < 0 ||
	    (rc = take(job.export_path, doc, "export_path", err)) < 0 ||
	    (rc = take(job.prompt, doc, "prompt", err)) < 0 ||
	    (rc = check_trace(&job, doc, err)) < 0) {
		conf_free(doc);
		return rc;
	}
	*ret = job;
	*ret_doc = doc;
	return 0;
}

int report_write(int fd, enum report_type type, const char *text, struct err *err)
{
	const size_t len = strlen(text);
	struct report_head head = {.type = type, .bytes = (uint32_t)len};
	size_t done = 0;

	if (len > REPORT_BYTES_MAX)
		return err_sys(err, -EMSGSIZE, "report of %zu bytes", len);
	while (done < sizeof(head) + len) {
		size_t of_head = done < sizeof(head) ? done : sizeof(head);
		struct iovec iov[] = {
			{(char *)&head + of_head, sizeof(head) - of_head},
			{(char *)(uintptr_t)text + (done - of_head), len - (done - of_head)},
		};
		ssize_t n = writev(fd, iov, 2);

		if (n < 0 && errno != EINTR)
			return err_sys(err, -errno, "report to the agent");
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}
