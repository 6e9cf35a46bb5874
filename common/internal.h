/* Between the files of common/ only. */
#ifndef COMMON_INTERNAL_H
#define COMMON_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/conf.h"

#define CONF_WHY_BYTES 512

/*
 * One number, boolean, size, duration or word of an enum out of a scalar's text into `field`, of
 * the type that conf.h gives for key->type. `quoted`: the text stood in quotes. Returns 0,
 * or a negative code with the reason in `why`. Writes `field` on success only.
 */
int conf_scalar_parse(const struct conf_key *key, const char *text, bool quoted, void *field,
		      char why[CONF_WHY_BYTES]);

#define CONF_PATH_BYTES 256 /* of a key's full name, "jobs[0].name" */

/* Where the value of one key stood. */
struct conf_entry {
	char *path;
	size_t line, column;
};

/* An empty document; conf_free() ends it. NULL when there is no memory. */
struct conf_doc *conf_doc_open(const char *name);
const char *conf_doc_name(const struct conf_doc *doc);

/* Zeroed memory, or a copy, that lives as long as the document; NULL when there is none. */
void *conf_doc_alloc(struct conf_doc *doc, size_t bytes);
char *conf_doc_string(struct conf_doc *doc, const char *text);

/* Remembers where the value of `path` stands. 0 or -ENOMEM. */
int conf_doc_add(struct conf_doc *doc, const char *path, size_t line, size_t column);
/* Its entry until the next conf_doc_add(), NULL when there is none. */
const struct conf_entry *conf_doc_find(const struct conf_doc *doc, const char *path);

#define CONF_SHOWN_BYTES 80

/* `text` fit to stand in a message: one line, no control characters, not too long. Returns buf. */
const char *conf_shown(char buf[CONF_SHOWN_BYTES], const char *text, size_t len);

/* Bytes of the UTF-8 character at the front, 0 when those bytes are none or a control character. */
size_t conf_character_len(const char *bytes, size_t len);

#endif
