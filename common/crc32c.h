/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), by SSE4.2 where the CPU has it. */
#ifndef COMMON_CRC32C_H
#define COMMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over `len` bytes. Any thread. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

/* The table-driven form, which tests compare with. */
uint32_t crc32c_table(uint32_t crc, const void *buf, size_t len);

#endif
