/*
 * The log of a recording device: arrays that grow, under the device's lock; and what the driving
 * thread puts into it by itself.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/record_internal.h"

void *record_room(void *array, size_t count, size_t *room, size_t bytes)
{
	if (count < *room)
		return array;
	*room = *room ? 2 * *room : 1024;
	array = realloc(array, *room * bytes);
	if (!array)
		abort();
	return array;
}

static void list_add(struct record_list *list, const void *at, size_t bytes, bool writes)
{
	if (!at || bytes == 0)
		return;
	list->at = record_room(list->at, list->count, &list->room, sizeof(*list->at));
	list->at[list->count++] =
		(struct record_access){.at = (uintptr_t)at, .bytes = bytes, .writes = writes};
}

void record_reads(struct record_list *list, const void *at, size_t bytes)
{
	list_add(list, at, bytes, false);
}

void record_writes(struct record_list *list, const void *at, size_t bytes)
{
	list_add(list, at, bytes, true);
}

struct record_log *record_log_new(void)
{
	struct record_log *log = calloc(1, sizeof(*log));

	if (log)
		record_log_label(log, "opening");
	return log;
}

struct record_log *record_log_free(struct record_log *log)
{
	if (!log)
		return NULL;
	free(log->entries);
	free(log->accesses);
	free(log->labels);
	free(log->regions);
	free(log->event_names);
	free(log);
	return NULL;
}

size_t record_log_entry(struct record_log *log, struct record_entry entry,
			const struct record_list *list)
{
	entry.label = (uint32_t)(log->label_count - 1);
	entry.access_first = log->access_count;
	entry.access_count = list ? list->count : 0;
	for (size_t i = 0; i < entry.access_count; i++) {
		log->accesses = record_room(log->accesses, log->access_count, &log->access_room,
					    sizeof(*log->accesses));
		log->accesses[log->access_count++] = list->at[i];
	}
	log->entries = record_room(log->entries, log->count, &log->room, sizeof(*log->entries));
	log->entries[log->count] = entry;
	return log->count++;
}

void record_log_label(struct record_log *log, const char *text)
{
	log->labels =
		record_room(log->labels, log->label_count, &log->label_room, sizeof(*log->labels));
	snprintf(log->labels[log->label_count++], sizeof(*log->labels), "%s", text);
}

void record_log_region(struct record_log *log, const struct record_region *region)
{
	log->regions = record_room(log->regions, log->region_count, &log->region_room,
				   sizeof(*log->regions));
	log->regions[log->region_count++] = *region;
}

void record_log_event(struct record_log *log)
{
	log->event_names = record_room(log->event_names, log->event_count, &log->event_room,
				       sizeof(*log->event_names));
	snprintf(log->event_names[log->event_count], sizeof(*log->event_names), "event %u",
		 log->event_count);
	log->event_count++;
}

void record_label(const char *fmt, ...)
{
	struct record_device *d = record_driven();
	char text[RECORD_NAME_BYTES];
	va_list ap;

	if (!d)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	record_lock(d);
	record_log_label(record_log_of(d), text);
	record_unlock(d);
}

void record_region(const void *at, size_t bytes, const char *fmt, ...)
{
	struct record_device *d = record_driven();
	struct record_region region = {.at = (uintptr_t)at, .bytes = bytes};
	va_list ap;

	if (!d)
		return;
	va_start(ap, fmt);
	vsnprintf(region.name, sizeof(region.name), fmt, ap);
	va_end(ap);
	record_lock(d);
	record_log_region(record_log_of(d), &region);
	record_unlock(d);
}

static void host_access(const void *at, size_t bytes, const char *what, bool writes)
{
	struct record_device *d = record_driven();
	struct record_access access = {.at = (uintptr_t)at, .bytes = bytes, .writes = writes};
	struct record_list list = {.at = &access, .count = 1};
	struct record_entry e = {.kind = RECORD_HOST, .what = what, .stream = -1, .event = -1};

	if (!d || !at || bytes == 0)
		return;
	record_lock(d);
	record_log_entry(record_log_of(d), e, &list);
	record_unlock(d);
}

void record_host_reads(const void *at, size_t bytes, const char *what)
{
	host_access(at, bytes, what, false);
}

void record_host_writes(const void *at, size_t bytes, const char *what)
{
	host_access(at, bytes, what, true);
}
