/*
 * Sizes and durations: a decimal number, then a unit out of a table.
 *
 * Pure functions, any thread. Invariants:
 * 1. No floating point in parsing: the value is whole * unit + fraction * unit / 10^d in 128 bits,
 *    rounded down to a whole byte or nanosecond.
 * 2. The locale changes nothing: the point is a point.
 */
#include "common/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define FRACTION_DIGITS_MAX 9
#define NS_PER_US           1000ull
#define NS_PER_MS           1000000ull
#define NS_PER_S            1000000000ull
#define NS_PER_MIN          (60 * NS_PER_S)
#define NS_PER_HOUR         (60 * NS_PER_MIN)
#define NS_PER_DAY          (24 * NS_PER_HOUR)

struct unit {
	const char *name;
	uint64_t size;
};

static const struct unit byte_units[] = {
	{"", 1},
	{"B", 1},
	{"KiB", 1ull << 10},
	{"MiB", 1ull << 20},
	{"GiB", 1ull << 30},
	{"TiB", 1ull << 40},
	{"PiB", 1ull << 50},
	{"EiB", 1ull << 60},
	{"KB", 1000ull},
	{"MB", 1000000ull},
	{"GB", 1000000000ull},
	{"TB", 1000000000000ull},
	{"PB", 1000000000000000ull},
	{"EB", 1000000000000000000ull},
	{NULL, 0},
};

static const struct unit time_units[] = {
	{"ns", 1},         {"us", NS_PER_US},  {"ms", NS_PER_MS}, {"s", NS_PER_S},
	{"m", NS_PER_MIN}, {"h", NS_PER_HOUR}, {"d", NS_PER_DAY}, {NULL, 0},
};

static const struct unit *unit_find(const struct unit *units, const char *name, bool any_case)
{
	for (; units->name; units++)
		if (any_case ? !strcasecmp(units->name, name) : !strcmp(units->name, name))
			return units;
	return NULL;
}

/* Reads digits into *value; true when there was at least one. *overflow tells a value past 2^64. */
static bool digits(const char **p, uint64_t *value, unsigned *count, bool *overflow)
{
	unsigned n = 0;

	for (; isdigit((unsigned char)**p); (*p)++, n++)
		if (__builtin_mul_overflow(*value, 10u, value) ||
		    __builtin_add_overflow(*value, (unsigned)(**p - '0'), value))
			*overflow = true;
	*count = n;
	return n > 0;
}

static int parse(const char *text, const struct unit *units, bool any_case, uint64_t *ret)
{
	uint64_t whole = 0, fraction = 0, scale = 1;
	unsigned count, fraction_count = 0;
	bool overflow = false, fraction_overflow = false;
	const struct unit *unit;
	unsigned __int128 value;

	if (!digits(&text, &whole, &count, &overflow))
		return -EINVAL;
	if (*text == '.') {
		text++;
		if (!digits(&text, &fraction, &fraction_count, &fraction_overflow) ||
		    fraction_count > FRACTION_DIGITS_MAX)
			return -EINVAL;
	}
	if (*text == '\0' && whole == 0 && fraction == 0)
		unit = &units[0];
	else
		unit = unit_find(units, text, any_case);
	/* Half a byte is nobody's meaning. */
	if (!unit || (fraction_count && unit->size == 1))
		return -EINVAL;
	if (overflow)
		return -ERANGE;
	for (unsigned i = 0; i < fraction_count; i++)
		scale *= 10;
	value = (unsigned __int128)whole * unit->size;
	value += (unsigned __int128)fraction * unit->size / scale;
	if (value > UINT64_MAX)
		return -ERANGE;
	*ret = (uint64_t)value;
	return 0;
}

int units_parse_bytes(const char *text, uint64_t *ret_bytes)
{
	return parse(text, byte_units, true, ret_bytes);
}

int units_parse_duration(const char *text, uint64_t *ret_ns)
{
	return parse(text, time_units, false, ret_ns);
}

const char *units_format_bytes(char buf[UNITS_TEXT_BYTES], uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	unsigned unit = 0;
	int places;

	/* 999.5 would print as 1000. */
	for (; value >= 999.5 && unit < 6; unit++)
		value /= 1024;
	if (bytes % (1ull << 10 * unit) == 0)
		places = 0;
	else
		places = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
	snprintf(buf, UNITS_TEXT_BYTES, "%.*f%s", places, value, names[unit]);
	return buf;
}

static void two_units(char *buf, uint64_t ns, uint64_t big, char big_name, uint64_t small,
		      char small_name)
{
	uint64_t rounded = (ns + small / 2) / small;

	snprintf(buf, UNITS_TEXT_BYTES, "%llu%c%02llu%c",
		 (unsigned long long)(rounded / (big / small)), big_name,
		 (unsigned long long)(rounded % (big / small)), small_name);
}

const char *units_format_duration(char buf[UNITS_TEXT_BYTES], uint64_t ns)
{
	/* Each limit is where the next form would round up to itself. */
	if (ns == 0)
		snprintf(buf, UNITS_TEXT_BYTES, "0s");
	else if (ns < NS_PER_US)
		snprintf(buf, UNITS_TEXT_BYTES, "%lluns", (unsigned long long)ns);
	else if (ns < NS_PER_MS - NS_PER_US / 2)
		snprintf(buf, UNITS_TEXT_BYTES, "%.0fus", (double)ns / 1e3);
	else if (ns < NS_PER_S - NS_PER_MS / 2)
		snprintf(buf, UNITS_TEXT_BYTES, "%.0fms", (double)ns / 1e6);
	else if (ns < NS_PER_MIN - NS_PER_S / 20)
		snprintf(buf, UNITS_TEXT_BYTES, "%.1fs", (double)ns / 1e9);
	else if (ns < NS_PER_HOUR - NS_PER_S / 2)
		two_units(buf, ns, NS_PER_MIN, 'm', NS_PER_S, 's');
	else if (ns < NS_PER_DAY - NS_PER_MIN / 2)
		two_units(buf, ns, NS_PER_HOUR, 'h', NS_PER_MIN, 'm');
	else
		two_units(buf, ns - ns % NS_PER_MIN, NS_PER_DAY, 'd', NS_PER_HOUR, 'h');
	return buf;
}
