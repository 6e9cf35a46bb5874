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

#define CONF_SHOWN_BYTES 80

/* `text` fit to stand in a message: one line, no control characters, not too long. Returns buf. */
const char *conf_shown(char buf[CONF_SHOWN_BYTES], const char *text, size_t len);

/* Bytes of the UTF-8 character at the front, 0 when those bytes are none or a control character. */
size_t conf_character_len(const char *bytes, size_t len);

#endif
