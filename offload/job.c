/*
 * The job as text, from the launcher to each worker, and reports back. The launcher formats once,
 * each worker parses once before its threads start; a worker's main thread writes the reports.
 *
 * 1. The text is JSON that YAML reads as JSON does: what YAML takes for a line break, or refuses to
 *    see raw (DEL, C1 controls with NEL, LS, PS, BOM), is escaped, so that every string goes through
 *    byte by byte.
 * 2. A report is one head and its text, and nothing else is written to that pipe: a reader who finds
 *    a head finds the text behind it, or the end of the pipe.
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

#define AT(field) .offset = offsetof(struct job, field)

/* "\uXXXX", the longest that a byte becomes. */
#define ESCAPE_BYTES 6

/*
 * Must the character at `s` be escaped? Returns its bytes, 0 when it may stand as it is, and what it
 * is. Characters beyond U+FFFF may: YAML would not take the pair of escapes that JSON has for them.
 */
static size_t escape_needed(const unsigned char *s, unsigned *ret_code)
{
	static const struct {
		unsigned char bytes[4];
		unsigned code;
	} wide[] = {
		{"\xe2\x80\xa8", 0x2028},
		{"\xe2\x80\xa9", 0x2029},
		{"\xef\xbb\xbf", 0xfeff},
	};

	if (s[0] < 0x20 || s[0] == '"' || s[0] == '\\' || s[0] == 0x7f) {
		*ret_code = s[0];
		return 1;
	}
	if (s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0) {
		*ret_code = s[1];
		return 2;
	}
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
		if (!strncmp((const char *)s, (const char *)wide[i].bytes, 3)) {
			*ret_code = wide[i].code;
			return 3;
		}
	return 0;
}

/* A JSON string, quotes included, which the caller frees; NULL when memory ran out. */
static char *quote(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	char *quoted = malloc(ESCAPE_BYTES * strlen(text) + 3), *out = quoted;

	if (!quoted)
		return NULL;
	*out++ = '"';
	while (*s) {
		unsigned code;
		size_t len = escape_needed(s, &code);

		if (len)
			out += sprintf(out, "\\u%04x", code);
		else
			*out++ = (char)*s;
		s += len ? len : 1;
	}
	*out++ = '"';
	*out = '\0';
	return quoted;
}

/* False when memory ran out. An absent string is an absent key. */
static bool put(struct json *j, const char *key, const char *text)
{
	char *quoted;

	if (!text || !*text)
		return true;
	quoted = quote(text);
	if (!quoted)
		return false;
	json_raw(j, key, quoted);
	free(quoted);
	return true;
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
	json_u64(&j, "world", job->world);
	json_bool(&j, "resume", job->resume);
	json_u64(&j, "generate", job->generate);
	json_object_end(&j);
	if (ok && json_text(&j))
		text = strdup(json_text(&j));
	json_done(&j);
	return text;
}

int job_parse(const char *text, size_t len, struct job *ret, struct conf_doc **ret_doc,
	      struct err *err)
{
	static const struct conf_key keys[] = {
		{"id", CONF_STRING, AT(id), .required = true},
		{"config_name", CONF_STRING, AT(config_name), .required = true},
		{"config_text", CONF_STRING, AT(config_text), .required = true},
		{"world", CONF_U64, AT(world), .required = true, .min = 1, .max = COMM_WORLD_MAX},
		{"socket", CONF_STRING, AT(socket)},
		{"resume", CONF_BOOL, AT(resume)},
		{"export_path", CONF_STRING, AT(export_path)},
		{"generate", CONF_U64, AT(generate)},
		{"prompt", CONF_STRING, AT(prompt)},
		{.type = CONF_END},
	};
	struct job job = {0};
	int rc = conf_parse("job", text, len, keys, &job, ret_doc, err);

	if (rc < 0)
		return rc;
	*ret = job;
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
