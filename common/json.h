/* Writes JSON into memory: always well formed, strings escaped, NaN and infinity as null. */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
	char *text; /* NUL-terminated, grows; NULL before the first write */
	size_t len, room;
	unsigned depth;
	bool comma, broken; /* broken: out of memory; text then is not to be used */
};

void json_init(struct json *j);
void json_done(struct json *j); /* frees the text */

/* `key` is NULL inside arrays and at the top. */
void json_object_begin(struct json *j, const char *key);
void json_object_end(struct json *j);
void json_array_begin(struct json *j, const char *key);
void json_array_end(struct json *j);
void json_string(struct json *j, const char *key, const char *value);
void json_u64(struct json *j, const char *key, uint64_t value);
void json_i64(struct json *j, const char *key, int64_t value);
/* The shortest of %.1g to %.17g that reads back the same. */
void json_double(struct json *j, const char *key, double value);
void json_bool(struct json *j, const char *key, bool value);
void json_raw(struct json *j, const char *key, const char *json_text); /* a value made elsewhere */

/* The text, or NULL when memory ran out. Stays j's. */
const char *json_text(const struct json *j);

#endif
