/*
 * YAML to a typed struct, by a table of keys. Every message names file:line:column, the value, what
 * was expected, and for an unknown key the nearest known one. Nothing is ignored: an unknown key, a
 * key given twice, an anchor or alias, a second document, a tab in the indentation are errors.
 * JSON is read by the same code, since flow YAML contains it.
 */
#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define CONF_LIST_MAX   256
#define CONF_SHARES_MAX 8 /* names of a CONF_SHARES */

/* What the word auto gives, where a key allows it (`automatic`): a CONF_U64 or CONF_BYTES this, the
 * first of CONF_SHARES that, and the others 0. */
#define CONF_AUTO        UINT64_MAX
#define CONF_SHARES_AUTO (-1.0)

enum conf_type {
	CONF_END,      /* closes a table */
	CONF_SECTION,  /* a mapping: `keys` */
	CONF_U64,      /* uint64_t, min..max */
	CONF_DOUBLE,   /* double, min..max; "3e-4" and "1" both do */
	CONF_BOOL,     /* bool: true or false */
	CONF_STRING,   /* char * (owned by the doc), not empty */
	CONF_BYTES,    /* uint64_t, units_parse_bytes, min..max */
	CONF_DURATION, /* uint64_t nanoseconds */
	CONF_ENUM,     /* int: index into `names` (NULL-terminated) */
	CONF_STRINGS,  /* struct conf_strings; a single scalar counts as a list of one */
	CONF_DOUBLES,  /* struct conf_doubles; exactly `count` entries when count > 0 */
	CONF_SECTIONS, /* struct conf_items: a list of mappings, each of `item_bytes`, by `keys` */
	CONF_SHARES,   /* double for each of `names`, 1 in all, how something is divided among them:
			* "b" gives it all to b; "{b: 0.5, c: 0.3}" gives the first name the rest */
};

struct conf_strings {
	const char **at; /* owned by the doc */
	size_t count;
};

struct conf_doubles {
	double at[16];
	size_t count;
};

struct conf_items {
	void *at; /* array of item_bytes each, owned by the doc */
	size_t count;
};

struct conf_key {
	const char *name;
	enum conf_type type;
	size_t offset;   /* in the struct of the enclosing table, also for keys of sections:
			  * offsets of a section's keys count from the outermost struct, those of
			  * CONF_SECTIONS from the item */
	bool required;   /* a missing key is an error; otherwise the default in the struct stays */
	bool automatic;  /* the word auto is a value, too */
	double min, max; /* inclusive, for numbers; both 0: no bound */
	const char *const *names;
	const struct conf_key *keys;
	size_t count, item_bytes;
};

struct conf_doc; /* opaque: owns strings and remembers where each key stood */

/*
 * Parses `len` bytes of `text`, named `name` in messages, into `out`, which the caller has filled
 * with defaults. On success *ret_doc owns every string in `out`: free it last. Returns 0,
 * ERR_CONFIG with the text in err, or -ENOMEM. `out` may be partly written on failure.
 */
int conf_parse(const char *name, const char *text, size_t len, const struct conf_key *keys,
	       void *out, struct conf_doc **ret_doc, struct err *err);

/* conf_parse of a file; ERR_NOINPUT when it cannot be read, ERR_CONFIG when it is no text. */
int conf_load(const char *path, const struct conf_key *keys, void *out, struct conf_doc **ret_doc,
	      struct err *err);

/* Was "zero.stage" written in the document? */
bool conf_has(const struct conf_doc *doc, const char *key);

/*
 * An error at the value of `key` ("zero.stage"; where the key is absent, at its section, or at the
 * top): "file:line:col: zero.stage: " and the message. Returns ERR_CONFIG.
 */
int conf_error(const struct conf_doc *doc, const char *key, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* NULL is fine. Returns NULL. */
struct conf_doc *conf_free(struct conf_doc *doc);

/* The known word nearest to `word` within an edit distance of 1/3 of its length + 1, or NULL. */
const char *conf_nearest(const char *word, const char *const *known, size_t known_count);

#endif
