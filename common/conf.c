/*
 * YAML to a typed struct: a walk over libyaml's events along a table of keys.
 *
 * Called by dsrun, the workers and the daemon at their start, from one thread at a time.
 * Invariants:
 * 1. Recursion goes as deep as the table, never as deep as the text: a value of the wrong kind is
 *    refused at its first event, so nesting in the text costs nothing.
 * 2. Every refusal is one line that begins with file:line:column. Bytes of the text appear in it
 *    only through conf_shown().
 * 3. Each key that was read has one entry in the document (conf_doc.c), with the place of its
 *    value, and is refused when it has one already.
 * 4. The text is checked to be UTF-8 without control characters before libyaml sees it, so that
 *    strings can end at NUL.
 */
#include "common/conf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "common/file.h"
#include "common/internal.h"

#define TEXT_MAX_BYTES ((size_t)1 << 20)
/* Decimals that add up to 1 do not quite, as doubles: CONF_SHARES_MAX of them err by 2^-50. */
#define SHARES_SLACK 1e-12

struct reader {
	yaml_parser_t yaml;
	yaml_event_t event; /* the current one; zeroed before the first */
	const struct conf_key *root;
	struct conf_doc *doc;
	struct err *err;
};

static int value_read(struct reader *r, const struct conf_key *key, void *base, const char *path);

static int no_memory(struct reader *r)
{
	return err_sys(r->err, -ENOMEM, "%s", conf_doc_name(r->doc));
}

static int entry_add(struct reader *r, const char *path, yaml_mark_t mark)
{
	return conf_doc_add(r->doc, path, mark.line + 1, mark.column + 1) < 0 ? no_memory(r) : 0;
}

__attribute__((format(printf, 4, 5))) static int fail(struct reader *r, yaml_mark_t mark,
						      const char *path, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(r->err, ERR_CONFIG, fmt, ap);
	va_end(ap);
	if (r->err && *path)
		err_add(r->err, "%s", path);
	if (r->err)
		err_add(r->err, "%s:%zu:%zu", conf_doc_name(r->doc), mark.line + 1,
			mark.column + 1);
	return ERR_CONFIG;
}

/* The place of byte `offset`: columns count characters, as libyaml's marks do. */
static yaml_mark_t mark_at(const char *text, size_t offset)
{
	yaml_mark_t mark = {0};

	for (size_t i = 0; i < offset; i++) {
		if (text[i] == '\n') {
			mark.line++;
			mark.column = 0;
		} else if (((unsigned char)text[i] & 0xc0) != 0x80) {
			mark.column++;
		}
	}
	return mark;
}

static int fail_syntax(struct reader *r, const char *text, size_t len)
{
	const yaml_parser_t *yaml = &r->yaml;
	yaml_mark_t mark = yaml->problem_mark;
	const char *problem = yaml->problem ? yaml->problem : "not YAML";
	size_t offset;

	if (yaml->error == YAML_MEMORY_ERROR)
		return no_memory(r);
	if (yaml->error == YAML_READER_ERROR) {
		offset = yaml->problem_offset < len ? yaml->problem_offset : len;
		return fail(r, mark_at(text, offset), "", "%s", problem);
	}
	/* libyaml's own words for a tab are "found character that cannot start any token". */
	if (mark.index < len && text[mark.index] == '\t')
		return fail(r, mark, "", "a tab cannot stand here; indent with spaces");
	if (yaml->context)
		return fail(r, mark, "", "%s %s (line %zu)", problem, yaml->context,
			    yaml->context_mark.line + 1);
	return fail(r, mark, "", "%s", problem);
}

/* The next event becomes r->event. */
static int next(struct reader *r)
{
	const unsigned char *text = r->yaml.input.string.start;

	yaml_event_delete(&r->event);
	memset(&r->event, 0, sizeof(r->event));
	if (!yaml_parser_parse(&r->yaml, &r->event))
		return fail_syntax(r, (const char *)text,
				   (size_t)(r->yaml.input.string.end - text));
	return 0;
}

static bool scalar_is_quoted(const yaml_event_t *e)
{
	return e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

static const char *scalar_text(const yaml_event_t *e)
{
	return (const char *)e->data.scalar.value;
}

static bool scalar_is_null(const yaml_event_t *e)
{
	const char *text = scalar_text(e);

	return !scalar_is_quoted(e) && (!*text || !strcmp(text, "~") || !strcmp(text, "null") ||
					!strcmp(text, "Null") || !strcmp(text, "NULL"));
}

/* What the event looks like to a person: "a list", "'four'". */
static const char *found(char buf[CONF_SHOWN_BYTES + 8], const yaml_event_t *e)
{
	char shown[CONF_SHOWN_BYTES];

	switch (e->type) {
	case YAML_MAPPING_START_EVENT:
		return "a mapping";
	case YAML_SEQUENCE_START_EVENT:
		return "a list";
	case YAML_SCALAR_EVENT:
		if (scalar_is_null(e))
			return "nothing";
		conf_shown(shown, scalar_text(e), e->data.scalar.length);
		snprintf(buf, CONF_SHOWN_BYTES + 8, "'%s'", shown);
		return buf;
	default:
		return "something else";
	}
}

static int fail_kind(struct reader *r, const char *path, const char *expected)
{
	char buf[CONF_SHOWN_BYTES + 8];

	return fail(r, r->event.start_mark, path, "expected %s, found %s", expected,
		    found(buf, &r->event));
}

/* Refuses what no value of ours may carry. */
static int value_check(struct reader *r, const char *path)
{
	const yaml_event_t *e = &r->event;
	const yaml_char_t *anchor = NULL, *tag = NULL;

	switch (e->type) {
	case YAML_ALIAS_EVENT:
		return fail(r, e->start_mark, path, "aliases (*name) are not used here");
	case YAML_SCALAR_EVENT:
		anchor = e->data.scalar.anchor;
		tag = e->data.scalar.tag;
		if (memchr(e->data.scalar.value, '\0', e->data.scalar.length))
			return fail(r, e->start_mark, path, "the text holds a NUL");
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = e->data.sequence_start.anchor;
		tag = e->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = e->data.mapping_start.anchor;
		tag = e->data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor)
		return fail(r, e->start_mark, path, "anchors (&name) are not used here");
	if (tag)
		return fail(r, e->start_mark, path, "tags (!name) are not used here");
	return 0;
}

static size_t keys_count(const struct conf_key *keys)
{
	size_t count = 0;

	while (keys[count].type != CONF_END)
		count++;
	return count;
}

/* The section, other than at the top, that knows `name`: people forget where a key goes. */
static const struct conf_key *home_find(const struct conf_key *root, const char *name)
{
	for (; root->type != CONF_END; root++)
		if (root->type == CONF_SECTION)
			for (const struct conf_key *k = root->keys; k->type != CONF_END; k++)
				if (!strcmp(k->name, name))
					return root;
	return NULL;
}

static int fail_unknown(struct reader *r, const struct conf_key *keys, const char *prefix)
{
	const char *word = scalar_text(&r->event), *names[CONF_LIST_MAX], *near;
	size_t count = keys_count(keys), len = 0;
	char shown[CONF_SHOWN_BYTES], path[CONF_PATH_BYTES + CONF_SHOWN_BYTES], known[1024] = "";
	const struct conf_key *home;

	assert(count <= CONF_LIST_MAX);
	conf_shown(shown, word, r->event.data.scalar.length);
	snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", shown);
	for (size_t i = 0; i < count; i++) {
		names[i] = keys[i].name;
		if (len < sizeof(known))
			len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
						i ? ", " : "", names[i]);
	}
	near = conf_nearest(word, names, count);
	if (near)
		return fail(r, r->event.start_mark, path, "unknown key (did you mean '%s'?)", near);
	home = home_find(r->root, word);
	if (home)
		return fail(r, r->event.start_mark, path, "unknown key (did you mean '%s.%s'?)",
			    home->name, shown);
	return fail(r, r->event.start_mark, path, "unknown key (known here: %s)", known);
}

static void *field_at(void *base, const struct conf_key *key)
{
	return (char *)base + key->offset;
}

static int key_read(struct reader *r, const struct conf_key *keys, void *base, const char *prefix)
{
	const struct conf_key *key = keys;
	const struct conf_entry *first;
	char path[CONF_PATH_BYTES];
	yaml_mark_t mark = r->event.start_mark;
	int rc;

	rc = value_check(r, prefix);
	if (rc < 0)
		return rc;
	if (r->event.type != YAML_SCALAR_EVENT)
		return fail_kind(r, prefix, "a key");
	while (key->type != CONF_END && strcmp(key->name, scalar_text(&r->event)))
		key++;
	if (key->type == CONF_END)
		return fail_unknown(r, keys, prefix);
	if (snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key->name) >=
	    (int)sizeof(path))
		return fail(r, mark, prefix, "key name too long");
	first = conf_doc_find(r->doc, path);
	if (first)
		return fail(r, mark, path, "given twice (first at line %zu)", first->line);
	rc = next(r);
	if (rc == 0)
		rc = value_check(r, path);
	if (rc == 0)
		rc = entry_add(r, path, r->event.start_mark);
	return rc < 0 ? rc : value_read(r, key, base, path);
}

static int required_check(struct reader *r, const struct conf_key *keys, const char *prefix,
			  yaml_mark_t mark)
{
	char path[CONF_PATH_BYTES];

	for (; keys->type != CONF_END; keys++) {
		if (!keys->required)
			continue;
		snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", keys->name);
		if (!conf_doc_find(r->doc, path))
			return fail(r, mark, path, "missing");
	}
	return 0;
}

static int mapping_read(struct reader *r, const struct conf_key *keys, void *base,
			const char *prefix)
{
	yaml_mark_t mark = r->event.start_mark;
	int rc;

	if (r->event.type != YAML_MAPPING_START_EVENT)
		return fail_kind(r, prefix, "a mapping");
	for (;;) {
		rc = next(r);
		if (rc < 0)
			return rc;
		if (r->event.type == YAML_MAPPING_END_EVENT)
			return required_check(r, keys, prefix, mark);
		rc = key_read(r, keys, base, prefix);
		if (rc < 0)
			return rc;
	}
}

/* Checks that the event is a scalar with something in it. */
static int scalar_check(struct reader *r, const char *path, const char *expected)
{
	if (r->event.type != YAML_SCALAR_EVENT)
		return fail_kind(r, path, expected);
	if (scalar_is_null(&r->event))
		return fail(r, r->event.start_mark, path, "no value given, expected %s", expected);
	return 0;
}

static const char *expected_text(const struct conf_key *key)
{
	static const char *const texts[] = {
		[CONF_U64] = "a whole number",
		[CONF_DOUBLE] = "a number",
		[CONF_BOOL] = "true or false",
		[CONF_STRING] = "text",
		[CONF_BYTES] = "a size",
		[CONF_DURATION] = "a duration",
		[CONF_ENUM] = "a word",
		[CONF_STRINGS] = "text or a list of texts",
		[CONF_DOUBLES] = "a list of numbers",
		[CONF_SECTIONS] = "a list of mappings",
		[CONF_SHARES] = "a word or a mapping of shares",
	};

	return texts[key->type];
}

static int scalar_read(struct reader *r, const struct conf_key *key, void *field, const char *path)
{
	char why[CONF_WHY_BYTES];
	int rc;

	rc = scalar_check(r, path, key->type == CONF_DOUBLES ? "a number" : expected_text(key));
	if (rc < 0)
		return rc;
	rc = conf_scalar_parse(key, scalar_text(&r->event), scalar_is_quoted(&r->event), field,
			       why);
	if (rc == 0)
		return 0;
	fail(r, r->event.start_mark, path, "%s", why);
	if (r->err)
		r->err->code = rc;
	return rc;
}

static int string_read(struct reader *r, const char **ret, const char *path)
{
	const char *text;
	int rc;

	rc = scalar_check(r, path, "text");
	if (rc < 0)
		return rc;
	text = scalar_text(&r->event);
	if (!*text)
		return fail(r, r->event.start_mark, path, "the text is empty");
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return fail(r, r->event.start_mark, path, "a control character inside");
	*ret = conf_doc_string(r->doc, text);
	return *ret ? 0 : no_memory(r);
}

/* The path of entry `index` of the list at `path`. */
static const char *item_path(char buf[CONF_PATH_BYTES], const char *path, size_t index)
{
	char number[32];
	int len = snprintf(number, sizeof(number), "[%zu]", index);

	/* Tables are ours: a path that did not fit would have been refused at its key. */
	snprintf(buf, CONF_PATH_BYTES, "%.*s%s", CONF_PATH_BYTES - 1 - len, path, number);
	return buf;
}

/* Goes to the next item of a list; *ret_more is false at its end. */
static int item_next(struct reader *r, const char *path, size_t index, bool *ret_more)
{
	int rc = next(r);

	if (rc < 0)
		return rc;
	*ret_more = r->event.type != YAML_SEQUENCE_END_EVENT;
	if (*ret_more && index >= CONF_LIST_MAX)
		return fail(r, r->event.start_mark, path, "more than %d entries", CONF_LIST_MAX);
	return *ret_more ? value_check(r, path) : 0;
}

static int list_end(struct reader *r, const struct conf_key *key, yaml_mark_t mark, size_t count,
		    const char *path)
{
	if (count == 0 && key->required)
		return fail(r, mark, path, "the list is empty");
	return 0;
}

static int strings_read(struct reader *r, const struct conf_key *key, struct conf_strings *out,
			const char *path)
{
	const char *at[CONF_LIST_MAX];
	yaml_mark_t mark = r->event.start_mark;
	char item[CONF_PATH_BYTES];
	size_t count = 0;
	bool more = true;
	int rc = 0;

	if (r->event.type == YAML_SCALAR_EVENT) {
		rc = string_read(r, &at[count++], path);
	} else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
		while (rc == 0) {
			rc = item_next(r, path, count, &more);
			if (rc < 0 || !more)
				break;
			rc = string_read(r, &at[count], item_path(item, path, count));
			count++;
		}
	} else {
		return fail_kind(r, path, expected_text(key));
	}
	if (rc == 0)
		rc = list_end(r, key, mark, count, path);
	if (rc < 0)
		return rc;
	out->at = conf_doc_alloc(r->doc, (count + 1) * sizeof(*out->at));
	if (!out->at)
		return no_memory(r);
	memcpy(out->at, at, count * sizeof(*at));
	out->count = count;
	return 0;
}

static int doubles_read(struct reader *r, const struct conf_key *key, struct conf_doubles *out,
			const char *path)
{
	const size_t most = sizeof(out->at) / sizeof(out->at[0]);
	yaml_mark_t mark = r->event.start_mark;
	struct conf_doubles list = {.count = 0};
	char item[CONF_PATH_BYTES];
	bool more = true;
	int rc;

	assert(key->count <= most);
	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return fail_kind(r, path, expected_text(key));
	for (;;) {
		rc = item_next(r, path, list.count, &more);
		if (rc < 0)
			return rc;
		if (!more)
			break;
		if (list.count == (key->count ? key->count : most))
			return fail(r, r->event.start_mark, path, "more than %zu entries",
				    list.count);
		rc = scalar_read(r, key, &list.at[list.count], item_path(item, path, list.count));
		if (rc < 0)
			return rc;
		list.count++;
	}
	if (list.count < key->count)
		return fail(r, mark, path, "expected %zu entries, found %zu", key->count,
			    list.count);
	rc = list_end(r, key, mark, list.count, path);
	if (rc == 0)
		*out = list;
	return rc;
}

static int sections_read(struct reader *r, const struct conf_key *key, struct conf_items *out,
			 const char *path)
{
	yaml_mark_t mark = r->event.start_mark;
	char item[CONF_PATH_BYTES];
	struct conf_items list = {.count = 0};
	bool more = true;
	int rc;

	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return fail_kind(r, path, expected_text(key));
	list.at = conf_doc_alloc(r->doc, CONF_LIST_MAX * key->item_bytes);
	if (!list.at)
		return no_memory(r);
	for (;;) {
		rc = item_next(r, path, list.count, &more);
		if (rc < 0)
			return rc;
		if (!more)
			break;
		item_path(item, path, list.count);
		rc = entry_add(r, item, r->event.start_mark);
		if (rc == 0)
			rc = mapping_read(r, key->keys,
					  (char *)list.at + list.count * key->item_bytes, item);
		if (rc < 0)
			return rc;
		list.count++;
	}
	rc = list_end(r, key, mark, list.count, path);
	if (rc == 0)
		*out = list;
	return rc;
}

/* Checks the shares of a mapping that began at `mark`. The first name takes what is left of the
 * whole, unless its share is given, too: then nothing may be left. */
static int shares_complete(struct reader *r, const struct conf_key *key, double *shares,
			   size_t count, yaml_mark_t mark, const char *path)
{
	char first[CONF_PATH_BYTES];
	double sum = 0;
	bool given;

	snprintf(first, sizeof(first), "%.*s.%s", CONF_PATH_BYTES / 2, path, key->names[0]);
	given = conf_doc_find(r->doc, first) != NULL;
	for (size_t i = 0; i < count; i++)
		sum += shares[i];
	if (sum > 1 + SHARES_SLACK || (given && sum < 1 - SHARES_SLACK))
		return fail(r, mark, path, "the shares add up to %.15g, expected %s1", sum,
			    given ? "" : "at most ");
	if (!given && sum <= 0)
		return fail(r, mark, path, "no share is above 0; for that, write '%s'",
			    key->names[0]);
	if (!given)
		shares[0] = 1 - sum > SHARES_SLACK ? 1 - sum : 0;
	return 0;
}

static int shares_read(struct reader *r, const struct conf_key *key, double *out, const char *path)
{
	const char *words[CONF_SHARES_MAX + 2] = {NULL}; /* the names, and auto */
	struct conf_key word = {.type = CONF_ENUM, .names = words};
	struct conf_key table[CONF_SHARES_MAX + 1] = {{0}};
	double shares[CONF_SHARES_MAX] = {0};
	yaml_mark_t mark = r->event.start_mark;
	size_t count = 0;
	int whole, rc;

	for (; key->names[count]; count++) {
		assert(count < CONF_SHARES_MAX);
		words[count] = key->names[count];
		table[count] = (struct conf_key){.name = key->names[count],
						 .type = CONF_DOUBLE,
						 .offset = count * sizeof(*shares),
						 .max = 1};
	}
	if (key->automatic)
		words[count] = "auto";
	if (r->event.type == YAML_MAPPING_START_EVENT) {
		rc = mapping_read(r, table, shares, path);
		if (rc == 0)
			rc = shares_complete(r, key, shares, count, mark, path);
	} else if (r->event.type == YAML_SCALAR_EVENT) {
		rc = scalar_read(r, &word, &whole, path);
		if (rc == 0 && (size_t)whole < count)
			shares[whole] = 1;
		else if (rc == 0)
			shares[0] = CONF_SHARES_AUTO;
	} else {
		rc = fail_kind(r, path, expected_text(key));
	}
	if (rc == 0)
		memcpy(out, shares, count * sizeof(*shares));
	return rc;
}

static int value_read(struct reader *r, const struct conf_key *key, void *base, const char *path)
{
	void *field = field_at(base, key);

	switch (key->type) {
	case CONF_SECTION:
		return mapping_read(r, key->keys, base, path);
	case CONF_STRING:
		return string_read(r, field, path);
	case CONF_STRINGS:
		return strings_read(r, key, field, path);
	case CONF_DOUBLES:
		return doubles_read(r, key, field, path);
	case CONF_SECTIONS:
		return sections_read(r, key, field, path);
	case CONF_SHARES:
		return shares_read(r, key, field, path);
	default:
		return scalar_read(r, key, field, path);
	}
}

static int event_is(struct reader *r, yaml_event_type_t type, const char *otherwise)
{
	int rc = next(r);

	if (rc == 0 && r->event.type != type)
		rc = fail(r, r->event.start_mark, "", "%s", otherwise);
	return rc;
}

static int document_read(struct reader *r, void *out)
{
	int rc;

	rc = event_is(r, YAML_STREAM_START_EVENT, "not YAML");
	if (rc == 0)
		rc = event_is(r, YAML_DOCUMENT_START_EVENT, "the file is empty");
	if (rc < 0)
		return rc;
	if (r->event.data.document_start.version_directive ||
	    r->event.data.document_start.tag_directives.start !=
		    r->event.data.document_start.tag_directives.end)
		return fail(r, r->event.start_mark, "", "directives (%%) are not used here");
	rc = next(r);
	if (rc == 0)
		rc = value_check(r, "");
	if (rc == 0)
		rc = mapping_read(r, r->root, out, "");
	if (rc == 0)
		rc = event_is(r, YAML_DOCUMENT_END_EVENT, "something after the document's end");
	if (rc == 0)
		rc = event_is(r, YAML_STREAM_END_EVENT, "a second document in the file");
	return rc;
}

static int text_check(struct reader *r, const char *text, size_t len)
{
	size_t n;

	if (len > TEXT_MAX_BYTES)
		return fail(r, (yaml_mark_t){0}, "", "%zu bytes; a configuration has at most %zu",
			    len, TEXT_MAX_BYTES);
	for (size_t i = 0; i < len; i += n) {
		n = conf_character_len(text + i, len - i);
		if (n == 0)
			return fail(r, mark_at(text, i), "", "byte 0x%02x is not text in UTF-8",
				    (unsigned char)text[i]);
	}
	return 0;
}

int conf_parse(const char *name, const char *text, size_t len, const struct conf_key *keys,
	       void *out, struct conf_doc **ret_doc, struct err *err)
{
	struct reader r = {.root = keys, .err = err};
	int rc;

	r.doc = conf_doc_open(name);
	if (!r.doc)
		return err_sys(err, -ENOMEM, "%s", name);
	rc = text_check(&r, text, len);
	if (rc < 0)
		goto fail_doc;
	if (!yaml_parser_initialize(&r.yaml)) {
		rc = no_memory(&r);
		goto fail_doc;
	}
	yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, len);
	rc = document_read(&r, out);
	yaml_event_delete(&r.event);
	yaml_parser_delete(&r.yaml);
	if (rc < 0)
		goto fail_doc;
	*ret_doc = r.doc;
	return 0;
fail_doc:
	conf_free(r.doc);
	return rc;
}

int conf_load(const char *path, const struct conf_key *keys, void *out, struct conf_doc **ret_doc,
	      struct err *err)
{
	struct err why = {0};
	size_t len;
	char *text;
	int rc;

	rc = file_load(path, TEXT_MAX_BYTES, &text, &len, &why);
	if (rc < 0)
		return err_set(err, rc == ERR_DATA ? ERR_CONFIG : rc, "%s", why.text);
	rc = conf_parse(path, text, len, keys, out, ret_doc, err);
	free(text);
	return rc;
}
