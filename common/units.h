/* Sizes and durations as people write them, and back. */
#ifndef COMMON_UNITS_H
#define COMMON_UNITS_H

#include <stddef.h>
#include <stdint.h>

/*
 * "4MiB", "1.5GiB", "512KiB", "1TB" (powers of ten without the i), "4096". Case of the unit does
 * not matter but the i does. Returns 0, -EINVAL for anything else, -ERANGE past 2^64. Writes
 * *ret_bytes on success only.
 */
int units_parse_bytes(const char *text, uint64_t *ret_bytes);

/* "250ms", "5s", "2m", "1h", "1.5s"; a unit is needed unless the value is 0. Errors as above. */
int units_parse_duration(const char *text, uint64_t *ret_ns);

#define UNITS_TEXT_BYTES 32

/* "512MiB", "1.50GiB", "913B": at most three significant digits after rounding. Returns buf. */
const char *units_format_bytes(char buf[UNITS_TEXT_BYTES], uint64_t bytes);

/* "1h02m", "3m20s", "4.2s", "12ms". Returns buf. */
const char *units_format_duration(char buf[UNITS_TEXT_BYTES], uint64_t ns);

#endif
