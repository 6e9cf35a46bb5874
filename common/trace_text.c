/*
 * Events as text and back; see trace_text.h for the form. Written by whoever records, once an
 * event, so it does without printf; read by dsrun, which believes nothing of it.
 *
 * Invariants
 *  1. A line that was written is read back as it was, but for names longer than TRACE_NAME_BYTES.
 *  2. Reading looks at no byte past `end`, and a line that it accepts has every field in range.
 */
#include "common/trace_text.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* Seven numbers of 16 digits at most, or two and a name of which every byte is coded. */
static_assert(TRACE_TEXT_LINE_BYTES >= 4 + 7 * 17 + 1 &&
		      TRACE_TEXT_LINE_BYTES >= 4 + 2 * 17 + 3 * TRACE_NAME_BYTES,
	      "a line fits");

static const char digits[] = "0123456789abcdef";

/* " 1f" */
static char *put_number(char *at, uint64_t value)
{
	unsigned places = value ? (67u - (unsigned)__builtin_clzll(value)) / 4 : 1;

	*at++ = ' ';
	for (unsigned i = places; i-- > 0; value >>= 4)
		at[i] = digits[value & 15];
	return at + places;
}

static bool is_plain(char c)
{
	return c > 0x20 && c < 0x7f && c != '%';
}

static char *put_name(char *at, const char *name)
{
	*at++ = ' ';
	for (size_t i = 0; name[i] && i < TRACE_NAME_BYTES - 1; i++) {
		unsigned char c = (unsigned char)name[i];

		if (is_plain((char)c)) {
			*at++ = (char)c;
			continue;
		}
		*at++ = '%';
		*at++ = digits[c >> 4];
		*at++ = digits[c & 15];
	}
	return at;
}

char *trace_text_lane(char *at, uint32_t lane, enum trace_kind kind, const char *name)
{
	*at++ = 'l';
	at = put_number(at, lane);
	at = put_number(at, kind);
	at = put_name(at, name);
	*at++ = '\n';
	return at;
}

char *trace_text_name(char *at, uint32_t id, const char *name)
{
	*at++ = 'n';
	at = put_number(at, id);
	at = put_name(at, name);
	*at++ = '\n';
	return at;
}

char *trace_text_event(char *at, uint32_t lane, uint32_t id, const struct trace_event *event)
{
	*at++ = 'e';
	at = put_number(at, lane);
	at = put_number(at, event->state);
	at = put_number(at, id);
	at = put_number(at, event->begin_ns);
	at = put_number(at, event->end_ns - event->begin_ns);
	at = put_number(at, event->unit);
	at = put_number(at, event->bytes);
	*at++ = '\n';
	return at;
}

char *trace_text_dropped(char *at, uint32_t lane, uint64_t count)
{
	*at++ = 'x';
	at = put_number(at, lane);
	at = put_number(at, count);
	*at++ = '\n';
	return at;
}

/* ---- reading ---- */

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* " 1f", at most `max`. */
static bool take_number(const char **at, const char *end, uint64_t max, uint64_t *ret)
{
	const char *p = *at;
	uint64_t value = 0;
	int digit;

	if (p == end || *p++ != ' ')
		return false;
	const char *first = p;
	for (; p < end && (digit = digit_of(*p)) >= 0; p++) {
		if (value > UINT64_MAX >> 4)
			return false;
		value = value << 4 | (uint64_t)digit;
	}
	if (p == first || value > max || (*first == '0' && p - first > 1))
		return false;
	*at = p;
	*ret = value;
	return true;
}

static bool take_u32(const char **at, const char *end, uint32_t max, uint32_t *ret)
{
	uint64_t value;

	if (!take_number(at, end, max, &value))
		return false;
	*ret = (uint32_t)value;
	return true;
}

/* One byte of a name, coded or not; 0 for what is neither. */
static char take_byte(const char **at, const char *end)
{
	const char *p = *at;
	int high, low;

	if (is_plain(*p)) {
		(*at)++;
		return *p;
	}
	if (*p != '%' || end - p < 3)
		return '\0';
	high = digit_of(p[1]);
	low = digit_of(p[2]);
	if (high < 0 || low < 0)
		return '\0';
	*at = p + 3;
	return (char)(high << 4 | low);
}

static bool take_name(const char **at, const char *end, char ret[TRACE_NAME_BYTES])
{
	const char *p = *at;
	size_t len = 0;

	if (p == end || *p++ != ' ')
		return false;
	while (p < end && *p != '\n') {
		char c = take_byte(&p, end);

		if (c == '\0' || len == TRACE_NAME_BYTES - 1)
			return false;
		ret[len++] = c;
	}
	ret[len] = '\0';
	*at = p;
	return true;
}

static bool take_event(const char **at, const char *end, struct trace_line *ret)
{
	uint64_t duration;

	if (!take_u32(at, end, TRACE_LANES_MAX - 1, &ret->lane) ||
	    !take_u32(at, end, TRACE_STATE_COUNT - 1, &ret->state) ||
	    !take_u32(at, end, TRACE_NAME_IDS - 1, &ret->id) ||
	    !take_number(at, end, INT64_MAX, &ret->begin_ns) ||
	    !take_number(at, end, INT64_MAX - ret->begin_ns, &duration) ||
	    !take_u32(at, end, UINT32_MAX, &ret->unit) ||
	    !take_number(at, end, UINT64_MAX, &ret->bytes))
		return false;
	ret->end_ns = ret->begin_ns + duration;
	return true;
}

static bool take_fields(char type, const char **at, const char *end, struct trace_line *ret)
{
	switch (type) {
	case 'l':
		ret->type = TRACE_LINE_LANE;
		return take_u32(at, end, TRACE_LANES_MAX - 1, &ret->lane) &&
		       take_u32(at, end, TRACE_KIND_COUNT - 1, &ret->kind) &&
		       take_name(at, end, ret->name);
	case 'n':
		ret->type = TRACE_LINE_NAME;
		return take_u32(at, end, TRACE_NAME_IDS - 1, &ret->id) &&
		       take_name(at, end, ret->name);
	case 'e':
		ret->type = TRACE_LINE_EVENT;
		return take_event(at, end, ret);
	case 'x':
		ret->type = TRACE_LINE_DROPPED;
		return take_u32(at, end, TRACE_LANES_MAX - 1, &ret->lane) &&
		       take_number(at, end, UINT64_MAX, &ret->dropped);
	default:
		return false;
	}
}

int trace_text_next(const char **at, const char *end, struct trace_line *ret)
{
	const char *p = *at;

	if (p == end)
		return 0;
	char type = *p++;
	if (!take_fields(type, &p, end, ret) || p == end || *p != '\n')
		return -EBADMSG;
	*at = p + 1;
	return 1;
}
