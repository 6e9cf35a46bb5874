/*
 * What is left of a configuration when it has been read: where each key stood, and the memory of
 * its strings. Filled by conf.c; asked by whoever checks keys against each other.
 *
 * One thread at a time while it is filled, any thread after that. Invariants:
 * 1. Each key that was read has one entry, under its full name ("zero.stage", "jobs[0].name").
 * 2. Whatever was handed out lives until conf_free().
 */
#include "common/conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/internal.h"

struct block {
	struct block *next;
	_Alignas(max_align_t) char bytes[];
};

struct conf_doc {
	const char *name;
	struct conf_entry *entries;
	size_t entry_count, entry_room;
	struct block *blocks; /* everything handed out */
};

struct conf_doc *conf_doc_open(const char *name)
{
	struct conf_doc *doc = calloc(1, sizeof(*doc));

	if (!doc)
		return NULL;
	doc->name = conf_doc_string(doc, name);
	return doc->name ? doc : conf_free(doc);
}

const char *conf_doc_name(const struct conf_doc *doc)
{
	return doc->name;
}

void *conf_doc_alloc(struct conf_doc *doc, size_t bytes)
{
	struct block *block = calloc(1, sizeof(*block) + bytes);

	if (!block)
		return NULL;
	block->next = doc->blocks;
	doc->blocks = block;
	return block->bytes;
}

char *conf_doc_string(struct conf_doc *doc, const char *text)
{
	size_t bytes = strlen(text) + 1;
	char *copy = conf_doc_alloc(doc, bytes);

	if (copy)
		memcpy(copy, text, bytes);
	return copy;
}

int conf_doc_add(struct conf_doc *doc, const char *path, size_t line, size_t column)
{
	struct conf_entry *entries;
	size_t room;
	char *copy;

	if (doc->entry_count == doc->entry_room) {
		room = doc->entry_room ? 2 * doc->entry_room : 32;
		entries = reallocarray(doc->entries, room, sizeof(*entries));
		if (!entries)
			return -ENOMEM;
		doc->entries = entries;
		doc->entry_room = room;
	}
	copy = conf_doc_string(doc, path);
	if (!copy)
		return -ENOMEM;
	doc->entries[doc->entry_count++] = (struct conf_entry){copy, line, column};
	return 0;
}

const struct conf_entry *conf_doc_find(const struct conf_doc *doc, const char *path)
{
	for (size_t i = 0; i < doc->entry_count; i++)
		if (!strcmp(doc->entries[i].path, path))
			return &doc->entries[i];
	return NULL;
}

bool conf_has(const struct conf_doc *doc, const char *key)
{
	return conf_doc_find(doc, key) != NULL;
}

/* The entry of `key`, or of the nearest section around it. */
static const struct conf_entry *entry_around(const struct conf_doc *doc, const char *key)
{
	const struct conf_entry *entry;
	char path[CONF_PATH_BYTES];
	char *cut;

	snprintf(path, sizeof(path), "%s", key);
	for (;;) {
		entry = conf_doc_find(doc, path);
		cut = strrchr(path, '.');
		if (entry || !cut)
			return entry;
		*cut = '\0';
	}
}

int conf_error(const struct conf_doc *doc, const char *key, struct err *err, const char *fmt, ...)
{
	const struct conf_entry *entry = entry_around(doc, key);
	va_list ap;

	va_start(ap, fmt);
	err_vset(err, ERR_CONFIG, fmt, ap);
	va_end(ap);
	if (err)
		err_add(err, "%s:%zu:%zu: %s", doc->name, entry ? entry->line : 1,
			entry ? entry->column : 1, key);
	return ERR_CONFIG;
}

struct conf_doc *conf_free(struct conf_doc *doc)
{
	struct block *block, *after;

	if (!doc)
		return NULL;
	for (block = doc->blocks; block; block = after) {
		after = block->next;
		free(block);
	}
	free(doc->entries);
	free(doc);
	return NULL;
}
