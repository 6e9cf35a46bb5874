/*
 * A scalar's text as a typed value, and why not. Called by conf.c.
 *
 * Pure functions, any thread. Invariants:
 * 1. A value is read whole or refused: nothing follows it, nothing is rounded into range.
 * 2. Neither locale nor YAML 1.1's ideas (010 is eight, yes is true, 1:30 is ninety) have a say.
 * 3. A refusal shows the value and what was expected.
 */
#include "common/internal.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"

static int refuse(char why[CONF_WHY_BYTES], const char *text, const char *expected)
{
	char shown[CONF_SHOWN_BYTES];

	snprintf(why, CONF_WHY_BYTES, "'%s' is not %s", conf_shown(shown, text, strlen(text)),
		 expected);
	return ERR_CONFIG;
}

/* The same, of a key whose value may be auto, too. */
static int refuse_or_auto(char why[CONF_WHY_BYTES], const struct conf_key *key, const char *text,
			  const char *expected)
{
	char either[CONF_WHY_BYTES / 2];

	snprintf(either, sizeof(either), "%s%s", expected, key->automatic ? ", or auto" : "");
	return refuse(why, text, either);
}

static bool is_auto(const struct conf_key *key, const char *text)
{
	return key->automatic && !strcmp(text, "auto");
}

static bool bounded(const struct conf_key *key)
{
	return key->min != 0 || key->max != 0;
}

static bool outside(const struct conf_key *key, double value)
{
	return bounded(key) && (value < key->min || value > key->max);
}

/* A bound as the user would write it. */
static void bound_text(const struct conf_key *key, double bound, char text[UNITS_TEXT_BYTES])
{
	if (key->type == CONF_BYTES)
		units_format_bytes(text, (uint64_t)bound);
	else if (key->type == CONF_DURATION)
		units_format_duration(text, (uint64_t)bound);
	else
		snprintf(text, UNITS_TEXT_BYTES, "%.15g", bound);
}

static int refuse_range(char why[CONF_WHY_BYTES], const struct conf_key *key, const char *text)
{
	char low[UNITS_TEXT_BYTES], high[UNITS_TEXT_BYTES], shown[CONF_SHOWN_BYTES];

	conf_shown(shown, text, strlen(text));
	bound_text(key, key->min, low);
	/* No maximum anybody could reach is worth showing. */
	if (!bounded(key) || key->max >= 0x1p63) {
		snprintf(why, CONF_WHY_BYTES, "%s is out of range (at least %s)", shown, low);
	} else {
		bound_text(key, key->max, high);
		snprintf(why, CONF_WHY_BYTES, "%s is out of range (%s..%s)", shown, low, high);
	}
	return ERR_CONFIG;
}

static bool all_digits(const char *text)
{
	if (!*text)
		return false;
	for (; *text; text++)
		if (!isdigit((unsigned char)*text))
			return false;
	return true;
}

static int parse_u64(const struct conf_key *key, const char *text, uint64_t *ret,
		     char why[CONF_WHY_BYTES])
{
	uint64_t value = 0;

	if (is_auto(key, text)) {
		*ret = CONF_AUTO;
		return 0;
	}
	if (text[0] == '-' && all_digits(text + 1))
		return refuse_range(why, key, text);
	if (!all_digits(text))
		return refuse_or_auto(why, key, text, "a whole number");
	if (text[0] == '0' && text[1])
		return refuse(why, text, "a whole number without leading zeros");
	for (const char *p = text; *p; p++)
		if (__builtin_mul_overflow(value, 10u, &value) ||
		    __builtin_add_overflow(value, (unsigned)(*p - '0'), &value))
			return refuse(why, text, "a number that fits in 64 bits");
	if (outside(key, (double)value))
		return refuse_range(why, key, text);
	*ret = value;
	return 0;
}

/* [+-] digits [. digits] [e [+-] digits], with a digit on one side of the point. */
static bool is_decimal(const char *p)
{
	size_t whole, fraction = 0;

	p += *p == '+' || *p == '-';
	whole = strspn(p, "0123456789");
	p += whole;
	if (*p == '.') {
		fraction = strspn(p + 1, "0123456789");
		p += 1 + fraction;
	}
	if (!whole && !fraction)
		return false;
	if (*p == 'e' || *p == 'E') {
		p++;
		p += *p == '+' || *p == '-';
		return all_digits(p);
	}
	return *p == '\0';
}

static int parse_double(const struct conf_key *key, const char *text, double *ret,
			char why[CONF_WHY_BYTES])
{
	locale_t c_locale;
	double value;

	if (!is_decimal(text))
		return refuse(why, text, "a number");
	c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!c_locale) {
		snprintf(why, CONF_WHY_BYTES, "%s", err_str(-errno));
		return -ENOMEM;
	}
	errno = 0;
	value = strtod_l(text, NULL, c_locale);
	freelocale(c_locale);
	if (errno == ERANGE)
		return refuse(why, text, "a number that a double can hold");
	if (outside(key, value))
		return refuse_range(why, key, text);
	*ret = value;
	return 0;
}

static int parse_bytes(const struct conf_key *key, const char *text, uint64_t *ret,
		       char why[CONF_WHY_BYTES])
{
	uint64_t value;
	int rc;

	if (is_auto(key, text)) {
		*ret = CONF_AUTO;
		return 0;
	}
	rc = units_parse_bytes(text, &value);
	if (rc == -ERANGE)
		return refuse(why, text, "a size below 2^64 bytes");
	if (rc < 0)
		return refuse_or_auto(why, key, text, "a size (such as 512MiB, 1.5GiB or 4096)");
	if (outside(key, (double)value))
		return refuse_range(why, key, text);
	*ret = value;
	return 0;
}

static int parse_duration(const struct conf_key *key, const char *text, uint64_t *ret,
			  char why[CONF_WHY_BYTES])
{
	uint64_t value;
	int rc = units_parse_duration(text, &value);

	if (rc == -ERANGE)
		return refuse(why, text, "a duration below 2^64 nanoseconds");
	if (rc < 0)
		return refuse(why, text, "a duration (such as 250ms, 5s or 2m)");
	if (outside(key, (double)value))
		return refuse_range(why, key, text);
	*ret = value;
	return 0;
}

static int parse_enum(const struct conf_key *key, const char *text, int *ret,
		      char why[CONF_WHY_BYTES])
{
	char expected[CONF_WHY_BYTES / 2] = "one of";
	const char *near;
	size_t len, count = 0;

	for (; key->names[count]; count++) {
		if (!strcmp(text, key->names[count])) {
			*ret = (int)count;
			return 0;
		}
		len = strlen(expected);
		snprintf(expected + len, sizeof(expected) - len, "%s %s", count ? "," : "",
			 key->names[count]);
	}
	refuse(why, text, expected);
	near = conf_nearest(text, key->names, count);
	len = strlen(why);
	if (near)
		snprintf(why + len, CONF_WHY_BYTES - len, " (did you mean '%s'?)", near);
	return ERR_CONFIG;
}

int conf_scalar_parse(const struct conf_key *key, const char *text, bool quoted, void *field,
		      char why[CONF_WHY_BYTES])
{
	switch (key->type) {
	case CONF_U64:
		return quoted ? refuse(why, text, "a whole number: it is quoted")
			      : parse_u64(key, text, field, why);
	case CONF_DOUBLE:
	case CONF_DOUBLES:
		return quoted ? refuse(why, text, "a number: it is quoted")
			      : parse_double(key, text, field, why);
	case CONF_BOOL:
		if (quoted || (strcmp(text, "true") && strcmp(text, "false")))
			return refuse(why, text, "true or false");
		*(bool *)field = text[0] == 't';
		return 0;
	case CONF_BYTES:
		return parse_bytes(key, text, field, why);
	case CONF_DURATION:
		return parse_duration(key, text, field, why);
	case CONF_ENUM:
		return parse_enum(key, text, field, why);
	case CONF_END:
	case CONF_SECTION:
	case CONF_STRING:
	case CONF_STRINGS:
	case CONF_SECTIONS:
	case CONF_SHARES:
		break;
	}
	snprintf(why, CONF_WHY_BYTES, "a table asks for a type that is no scalar");
	return ERR_INTERNAL;
}
