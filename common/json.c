/*
 * JSON out: a growing text, and a comma where one is due.
 *
 * A struct json belongs to one thread at a time. Invariants:
 * 1. What json_text returns is well formed once every begin has met its end, whatever bytes the
 *    strings held: invalid UTF-8 becomes U+FFFD.
 * 2. After memory ran out every call is harmless and json_text returns NULL.
 * 3. Numbers do not depend on the locale.
 */
#include "common/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 256

static bool grow(struct json *j, size_t more)
{
	size_t room = j->room ? j->room : ROOM_FIRST;
	char *text;

	if (j->broken)
		return false;
	if (more >= SIZE_MAX / 2 - j->len) {
		j->broken = true;
		return false;
	}
	while (room < j->len + more + 1)
		room *= 2;
	if (room == j->room)
		return true;
	text = realloc(j->text, room);
	if (!text) {
		j->broken = true;
		return false;
	}
	j->text = text;
	j->room = room;
	return true;
}

static void put_bytes(struct json *j, const char *bytes, size_t len)
{
	if (!grow(j, len))
		return;
	memcpy(j->text + j->len, bytes, len);
	j->len += len;
	j->text[j->len] = '\0';
}

static void put(struct json *j, const char *text)
{
	put_bytes(j, text, strlen(text));
}

/* Bytes of the UTF-8 character at `p` (RFC 3629, no surrogates, no overlong forms), 0 if none. */
static size_t utf8_len(const unsigned char *p)
{
	unsigned char lo = 0x80, hi = 0xbf;
	size_t len;

	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (p[0] == 0xe0)
		lo = 0xa0;
	else if (p[0] == 0xed)
		hi = 0x9f;
	else if (p[0] == 0xf0)
		lo = 0x90;
	else if (p[0] == 0xf4)
		hi = 0x8f;
	if (p[1] < lo || p[1] > hi)
		return 0;
	/* A terminating NUL is no continuation byte, so this stops at the end of the string. */
	for (size_t i = 2; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

static void put_quoted(struct json *j, const char *text)
{
	char code[8];

	put(j, "\"");
	while (*text) {
		unsigned char c = (unsigned char)*text;
		size_t len = utf8_len((const unsigned char *)text);

		if (len == 0) {
			put(j, "\xef\xbf\xbd");
			len = 1;
		} else if (c == '"' || c == '\\') {
			put(j, "\\");
			put_bytes(j, text, 1);
		} else if (c == '\n') {
			put(j, "\\n");
		} else if (c == '\t') {
			put(j, "\\t");
		} else if (c < 0x20 || c == 0x7f) {
			snprintf(code, sizeof(code), "\\u%04x", c);
			put(j, code);
		} else {
			put_bytes(j, text, len);
		}
		text += len;
	}
	put(j, "\"");
}

/* What stands before every value: a comma, the line and the key. */
static void value_begin(struct json *j, const char *key)
{
	if (j->comma)
		put(j, ",");
	j->comma = true;
	if (key) {
		put_quoted(j, key);
		put(j, ":");
	}
}

static void nest(struct json *j, const char *key, const char *open)
{
	value_begin(j, key);
	put(j, open);
	j->comma = false;
	j->depth++;
}

static void unnest(struct json *j, const char *close)
{
	put(j, close);
	j->comma = true;
	j->depth--;
}

void json_init(struct json *j)
{
	memset(j, 0, sizeof(*j));
}

void json_done(struct json *j)
{
	free(j->text);
	json_init(j);
}

void json_object_begin(struct json *j, const char *key)
{
	nest(j, key, "{");
}

void json_object_end(struct json *j)
{
	unnest(j, "}");
}

void json_array_begin(struct json *j, const char *key)
{
	nest(j, key, "[");
}

void json_array_end(struct json *j)
{
	unnest(j, "]");
}

void json_string(struct json *j, const char *key, const char *value)
{
	value_begin(j, key);
	put_quoted(j, value);
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
	char text[24];

	value_begin(j, key);
	snprintf(text, sizeof(text), "%" PRIu64, value);
	put(j, text);
}

void json_i64(struct json *j, const char *key, int64_t value)
{
	char text[24];

	value_begin(j, key);
	snprintf(text, sizeof(text), "%" PRId64, value);
	put(j, text);
}

void json_double(struct json *j, const char *key, double value)
{
	char text[40], *comma;

	value_begin(j, key);
	if (!isfinite(value)) {
		put(j, "null");
		return;
	}
	/* 17 digits always read back; most numbers need fewer. */
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	comma = strchr(text, ',');
	if (comma)
		*comma = '.';
	put(j, text);
}

void json_bool(struct json *j, const char *key, bool value)
{
	value_begin(j, key);
	put(j, value ? "true" : "false");
}

void json_raw(struct json *j, const char *key, const char *json_text)
{
	value_begin(j, key);
	put(j, json_text);
}

const char *json_text(const struct json *j)
{
	return j->broken ? NULL : j->text;
}
