/*
 * Bytes that a step writes, in days of a drive's life. Called by dsctl bench; pure but for the
 * text it fills.
 */
#include "daemon/endurance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"

#define DAY_SECONDS 86400.0
/* bf16: m and v in fp32, the master's lower half, and its upper half, which is the parameter. */
#define STATE_BYTES 12u
/* Forward and backward each fetch the parameter, 2 bytes; the step then reads it once more. */
#define FETCH_BYTES 4u

int endurance_rating_parse(const char *text, struct endurance_rating *ret)
{
	struct endurance_rating r = {.bytes = 0};
	char *end;

	r.drive_writes = strtod(text, &end);
	if (end != text && *end == '\0' && r.drive_writes > 0 && r.drive_writes <= 1000) {
		*ret = r;
		return 0;
	}
	r.drive_writes = 0;
	if (end == text || *end == '\0' || units_parse_bytes(text, &r.bytes) < 0 || r.bytes == 0)
		return -EINVAL;
	*ret = r;
	return 0;
}

void endurance_of_params(uint64_t params, struct endurance *ret)
{
	ret->params = params;
	ret->step_write_bytes = params * STATE_BYTES;
	ret->step_read_bytes = params * (STATE_BYTES + FETCH_BYTES);
}

static void wear(struct endurance *e, double drive_bytes, uint64_t capacity)
{
	double part, days;

	if (e->rating.drive_writes > 0 && capacity > 0) {
		part = drive_bytes / (e->rating.drive_writes * (double)capacity);
		if (part > e->day_of_rating)
			e->day_of_rating = part;
	}
	if (e->rating.bytes > 0 && drive_bytes > 0) {
		days = (double)e->rating.bytes / drive_bytes;
		if (e->days == 0 || days < e->days)
			e->days = days;
	}
}

void endurance_work_out(struct endurance *e, const struct nvme_figures *f,
			const uint64_t *capacities)
{
	double shares = 0, mine;

	if (e->params == 0) {
		e->day_bytes = f->together.write * DAY_SECONDS;
	} else {
		if (!e->step_given)
			e->step_seconds = (double)(e->step_write_bytes + e->step_read_bytes) /
					  f->together.mixed;
		if (e->step_seconds > 0)
			e->day_bytes = (double)e->step_write_bytes / e->step_seconds * DAY_SECONDS;
	}
	for (size_t i = 0; i < f->path_count; i++)
		shares += f->paths[i].share;
	for (size_t i = 0; i < f->path_count; i++) {
		mine = 0;
		for (size_t k = 0; k < f->path_count; k++)
			if (strcmp(f->paths[k].filesystem, f->paths[i].filesystem) == 0)
				mine += f->paths[k].share;
		wear(e, e->day_bytes * mine / shares, capacities[i]);
	}
}

static const char *bytes_text(char buf[UNITS_TEXT_BYTES], double bytes)
{
	return units_format_bytes(buf, bytes < 0x1p63 ? (uint64_t)bytes : UINT64_C(1) << 63);
}

static void rating_add(char *buf, size_t room, const struct endurance *e)
{
	size_t len = strlen(buf);
	char text[UNITS_TEXT_BYTES];

	if (e->rating.drive_writes > 0 && e->day_of_rating > 0)
		snprintf(buf + len, room - len,
			 ", %.3g times what %.3g drive writes a day allow the busiest drive",
			 e->day_of_rating, e->rating.drive_writes);
	else if (e->days > 0)
		snprintf(buf + len, room - len,
			 ", by which the busiest drive's %s are written in %.3g days",
			 bytes_text(text, (double)e->rating.bytes), e->days);
}

const char *endurance_text(char buf[ENDURANCE_TEXT_BYTES], const struct endurance *e,
			   const struct nvme_figures *f)
{
	char step[UNITS_TEXT_BYTES], day[UNITS_TEXT_BYTES], speed[UNITS_TEXT_BYTES];

	bytes_text(step, (double)e->step_write_bytes);
	bytes_text(day, e->day_bytes);
	bytes_text(speed, f->together.write);
	if (e->params == 0)
		snprintf(buf, ENDURANCE_TEXT_BYTES,
			 "writing without pause, at %s/s, would be %s a day", speed, day);
	else if (e->step_write_bytes == 0)
		snprintf(buf, ENDURANCE_TEXT_BYTES, "a step of this job writes nothing here");
	else if (e->step_given)
		snprintf(buf, ENDURANCE_TEXT_BYTES,
			 "a step writes %s; at %.3g s a step that is %s a day", step,
			 e->step_seconds, day);
	else
		snprintf(buf, ENDURANCE_TEXT_BYTES,
			 "a step writes %s; at %.3g s a step, the least that these disks take for "
			 "it, that is %s a day",
			 step, e->step_seconds, day);
	rating_add(buf, ENDURANCE_TEXT_BYTES, e);
	if (e->params == 0 && strlen(buf) < ENDURANCE_TEXT_BYTES - 64)
		strcat(buf, " (--config or --params: what a step writes)");
	return buf;
}
