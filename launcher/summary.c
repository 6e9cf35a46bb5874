/*
 * One JSON object out of what dsrun knows and what the worker wrote. The worker's object is text
 * from another process: it is scanned, not trusted, and only whole members are copied.
 */
#include "launcher/summary.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"

#define DEPTH_MAX 32

/* Members that dsrun itself writes. */
static const char *const reserved[] = {"status", "exit_status", "failure", "stopped_by", "trace"};

static void skip_space(const char **at, const char *end)
{
	while (*at < end && memchr(" \t\r\n", **at, 4))
		(*at)++;
}

/* Behind the string that begins at *at, or -EBADMSG. */
static int skip_string(const char **at, const char *end)
{
	if (*at >= end || **at != '"')
		return -EBADMSG;
	for ((*at)++; *at < end; (*at)++) {
		if (**at == '"') {
			(*at)++;
			return 0;
		}
		if ((unsigned char)**at < 0x20)
			return -EBADMSG;
		if (**at == '\\' && ++*at >= end)
			return -EBADMSG;
	}
	return -EBADMSG;
}

static void skip_digits(const char **at, const char *end)
{
	while (*at < end && isdigit((unsigned char)**at))
		(*at)++;
}

static int skip_number(const char **at, const char *end)
{
	const char *p = *at;

	if (p < end && *p == '-')
		p++;
	if (p >= end || !isdigit((unsigned char)*p))
		return -EBADMSG;
	if (*p == '0')
		p++;
	else
		skip_digits(&p, end);
	if (p < end && *p == '.') {
		if (++p >= end || !isdigit((unsigned char)*p))
			return -EBADMSG;
		skip_digits(&p, end);
	}
	if (p < end && (*p == 'e' || *p == 'E')) {
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (p >= end || !isdigit((unsigned char)*p))
			return -EBADMSG;
		skip_digits(&p, end);
	}
	*at = p;
	return 0;
}

static int skip_word(const char **at, const char *end)
{
	static const char *const words[] = {"true", "false", "null"};

	for (size_t i = 0; i < 3; i++) {
		size_t len = strlen(words[i]);

		if ((size_t)(end - *at) >= len && memcmp(*at, words[i], len) == 0) {
			*at += len;
			return 0;
		}
	}
	return -EBADMSG;
}

static int skip_value(const char **at, const char *end, unsigned depth);

/* A list or an object, from behind its opening bracket. */
static int skip_group(const char **at, const char *end, char close, unsigned depth)
{
	bool first = true;

	if (depth > DEPTH_MAX)
		return -EBADMSG;
	for (;; first = false) {
		skip_space(at, end);
		if (first && *at < end && **at == close)
			break;
		if (close == '}') {
			if (skip_string(at, end) < 0)
				return -EBADMSG;
			skip_space(at, end);
			if (*at >= end || *(*at)++ != ':')
				return -EBADMSG;
			skip_space(at, end);
		}
		if (skip_value(at, end, depth) < 0)
			return -EBADMSG;
		skip_space(at, end);
		if (*at >= end || (**at != ',' && **at != close))
			return -EBADMSG;
		if (**at == close)
			break;
		(*at)++;
	}
	(*at)++;
	return 0;
}

static int skip_value(const char **at, const char *end, unsigned depth)
{
	if (*at >= end)
		return -EBADMSG;
	switch (**at) {
	case '"':
		return skip_string(at, end);
	case '{':
		(*at)++;
		return skip_group(at, end, '}', depth + 1);
	case '[':
		(*at)++;
		return skip_group(at, end, ']', depth + 1);
	case 't':
	case 'f':
	case 'n':
		return skip_word(at, end);
	default:
		return skip_number(at, end);
	}
}

int summary_next(const char **at, const char *end, struct summary_member *ret)
{
	const char *p = *at;

	skip_space(&p, end);
	if (p < end && *p == ',') {
		p++;
		skip_space(&p, end);
	} else if (p < end && *p == '}') {
		p++;
		skip_space(&p, end);
		*at = p;
		return p == end ? 0 : -EBADMSG;
	}

	struct summary_member member = {.key = p + 1};
	if (skip_string(&p, end) < 0)
		return -EBADMSG;
	member.key_len = (size_t)(p - 1 - member.key);
	skip_space(&p, end);
	if (p >= end || *p++ != ':' || memchr(member.key, '\\', member.key_len))
		return -EBADMSG;
	skip_space(&p, end);
	member.value = p;
	if (skip_value(&p, end, 0) < 0)
		return -EBADMSG;
	member.value_len = (size_t)(p - member.value);
	skip_space(&p, end);
	if (p >= end || (*p != ',' && *p != '}'))
		return -EBADMSG;
	*at = p;
	*ret = member;
	return 1;
}

int summary_is_number(const char *text)
{
	const char *at = text, *end = text + strlen(text);

	return skip_number(&at, end) == 0 && at == end;
}

bool summary_is_reserved(const char *key, size_t len)
{
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
		if (strlen(reserved[i]) == len && memcmp(reserved[i], key, len) == 0)
			return true;
	}
	return false;
}

static bool taken(const struct summary_member *member, const char *const *adds, size_t add_count)
{
	if (summary_is_reserved(member->key, member->key_len))
		return true;
	for (size_t i = 0; i < add_count; i++) {
		if (strcspn(adds[i], "=") == member->key_len &&
		    memcmp(adds[i], member->key, member->key_len) == 0)
			return true;
	}
	return false;
}

static void put_member(struct json *j, const char *key, size_t key_len, const char *value,
		       size_t value_len)
{
	char *text = malloc(key_len + value_len + 2);

	if (!text) {
		j->broken = true;
		return;
	}
	memcpy(text, key, key_len);
	text[key_len] = '\0';
	memcpy(text + key_len + 1, value, value_len);
	text[key_len + 1 + value_len] = '\0';
	json_raw(j, text, text + key_len + 1);
	free(text);
}

/* The worker's members, all or none: half a summary would look like a whole one. */
static void put_worker(struct json *j, const char *text, const char *const *adds, size_t add_count)
{
	const char *end = text + strlen(text), *at = text;
	struct summary_member member;
	int rc = -EBADMSG;

	skip_space(&at, end);
	if (at < end && *at == '{') {
		const char *first = ++at;

		while ((rc = summary_next(&at, end, &member)) > 0)
			continue;
		at = first;
	}
	if (rc < 0) {
		log_warn("launcher", "rank 0's summary is no JSON object, ignoring");
		return;
	}
	while (summary_next(&at, end, &member) > 0) {
		if (!taken(&member, adds, add_count))
			put_member(j, member.key, member.key_len, member.value, member.value_len);
	}
}

static void put_add(struct json *j, const char *add)
{
	const char *value = strchr(add, '=') + 1;
	char *key = strndup(add, (size_t)(value - 1 - add));

	if (!key) {
		j->broken = true;
		return;
	}
	if (summary_is_number(value) || strcmp(value, "true") == 0 || strcmp(value, "false") == 0)
		json_raw(j, key, value);
	else
		json_string(j, key, value);
	free(key);
}

int summary_write(const char *path, const struct outcome *o, const char *const *adds,
		  size_t add_count, const struct summary_trace *trace, struct err *err)
{
	static const char *const status[] = {"ok", "stopped", "failed"};
	char name[32];
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "status", status[o->status]);
	json_i64(&j, "exit_status", o->exit_status);
	if (o->stop_signal)
		json_string(&j, "stopped_by", outcome_signal_name(o->stop_signal, name));
	if (o->status == OUTCOME_FAILED) {
		json_object_begin(&j, "failure");
		outcome_json(o, &j);
		json_object_end(&j);
	}
	for (size_t i = 0; i < add_count; i++)
		put_add(&j, adds[i]);
	if (trace) {
		json_object_begin(&j, "trace");
		json_string(&j, "file", trace->file);
		trace_table_json(trace->table, &j);
		json_object_end(&j);
	}
	if (o->summary)
		put_worker(&j, o->summary, adds, add_count);
	json_object_end(&j);

	const char *text = json_text(&j);
	int rc = text ? file_replace(path, text, strlen(text), err)
		      : err_sys(err, -ENOMEM, "%s", path);
	json_done(&j);
	return rc < 0 ? err_add(err, "summary") : 0;
}
