/*
 * What the configuration reader does with plain text: which bytes are text at all, how a value is
 * shown in a message, and which known word is nearest to a misspelt one. Called by conf.c.
 *
 * Pure functions, any thread. Invariant: time and stack are bounded, whatever the text.
 */
#include "common/internal.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_MAX 60
#define WORD_MAX  64 /* no key of ours is longer; longer words are near to nothing */

size_t conf_character_len(const char *bytes, size_t len)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *text = (const unsigned char *)bytes;
	uint32_t code = text[0];
	size_t n;

	if (code < 0x80)
		return code >= 0x20 ? code != 0x7f : code == '\t' || code == '\n' || code == '\r';
	n = code >= 0xf0 ? 4 : code >= 0xe0 ? 3 : 2;
	if (code < 0xc2 || code > 0xf4 || n > len)
		return 0;
	code &= 0x7fu >> n;
	for (size_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3fu);
	}
	if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	return n;
}

const char *conf_shown(char buf[CONF_SHOWN_BYTES], const char *text, size_t len)
{
	size_t shown = len < SHOWN_MAX ? len : SHOWN_MAX;

	/* Never half a character. */
	while (shown < len && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80)
		shown--;
	for (size_t i = 0; i < shown; i++)
		buf[i] = (char)(iscntrl((unsigned char)text[i]) ? '?' : text[i]);
	snprintf(buf + shown, CONF_SHOWN_BYTES - shown, "%s", shown < len ? "..." : "");
	return buf;
}

static size_t least3(size_t a, size_t b, size_t c)
{
	size_t ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* Edits that make b of a: insert, delete, replace, or swap two neighbours. */
static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t rows[3][WORD_MAX + 1];
	size_t *before = rows[0], *last = rows[1], *row = rows[2], *spare;

	for (size_t j = 0; j <= b_len; j++)
		last[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		row[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			row[j] = least3(last[j] + 1, row[j - 1] + 1,
					last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    before[j - 2] + 1 < row[j])
				row[j] = before[j - 2] + 1;
		}
		spare = before;
		before = last;
		last = row;
		row = spare;
	}
	return last[b_len];
}

const char *conf_nearest(const char *word, const char *const *known, size_t known_count)
{
	size_t len = strlen(word), best = len / 3 + 2, d;
	const char *near = NULL;

	if (len == 0 || len > WORD_MAX)
		return NULL;
	for (size_t i = 0; i < known_count; i++) {
		if (strlen(known[i]) > WORD_MAX)
			continue;
		d = distance(word, len, known[i], strlen(known[i]));
		if (d < best) {
			best = d;
			near = known[i];
		}
	}
	return near;
}
