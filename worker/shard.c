/*
 * Token shards on disk: header, mapping, verification. Called by dsprep, and by the worker's main
 * thread before training; tokens are read from the mapping by any thread.
 *
 * 1. Nothing of a header is believed before its own checksum and the size of the file agree with
 *    it.
 * 2. Verification reads through a buffer, not the mapping: a shard that was looked at whole must
 *    not count as the worker's resident memory.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "worker/data.h"

#define VERIFY_BYTES  ((size_t)1 << 20)
#define HEADER_CRC_AT 28

/* A multiple of any page size and of Linux' fault_around_bytes, 64 KiB. */
#define FAULT_AROUND_BYTES ((uint64_t)1 << 16)

static void put_le(uint8_t *at, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get_le(const uint8_t *at, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)at[i] << 8 * i;
	return value;
}

void shard_header_encode(const struct shard_header *header, uint8_t ret[SHARD_HEADER_BYTES])
{
	memset(ret, 0, SHARD_HEADER_BYTES);
	memcpy(ret, SHARD_MAGIC, 4);
	put_le(ret + 4, SHARD_VERSION, 4);
	put_le(ret + 8, header->token_bytes, 4);
	put_le(ret + 12, header->vocab, 4);
	put_le(ret + 16, header->count, 8);
	put_le(ret + 24, header->crc, 4);
	put_le(ret + HEADER_CRC_AT, crc32c(0, ret, HEADER_CRC_AT), 4);
}

int shard_header_decode(const uint8_t bytes[SHARD_HEADER_BYTES], const char *path,
			struct shard_header *ret, struct err *err)
{
	struct shard_header h = {
		.token_bytes = (uint32_t)get_le(bytes + 8, 4),
		.vocab = (uint32_t)get_le(bytes + 12, 4),
		.count = get_le(bytes + 16, 8),
		.crc = (uint32_t)get_le(bytes + 24, 4),
	};
	uint32_t version = (uint32_t)get_le(bytes + 4, 4);

	if (memcmp(bytes, SHARD_MAGIC, 4))
		return err_set(err, ERR_DATA, "%s: not a token shard (dsprep makes them)", path);
	if (version != SHARD_VERSION)
		return err_set(err, ERR_DATA, "%s: shard of version %u, this program reads %u",
			       path, version, SHARD_VERSION);
	if (get_le(bytes + HEADER_CRC_AT, 4) != crc32c(0, bytes, HEADER_CRC_AT))
		return err_set(err, ERR_DATA, "%s: the shard's header is damaged", path);
	if (h.token_bytes != 1 && h.token_bytes != 2 && h.token_bytes != 4)
		return err_set(err, ERR_DATA, "%s: tokens of %u bytes, expected 1, 2 or 4", path,
			       h.token_bytes);
	if (h.vocab < 1 || ((uint64_t)h.vocab - 1) >> (8 * h.token_bytes))
		return err_set(err, ERR_DATA, "%s: a vocabulary of %u in tokens of %u bytes", path,
			       h.vocab, h.token_bytes);
	if (!h.count)
		return err_set(err, ERR_DATA, "%s: the shard is empty", path);
	if (h.count > (UINT64_MAX >> 1) / h.token_bytes)
		return err_set(err, ERR_DATA, "%s: %ju tokens are more than a file can hold", path,
			       (uintmax_t)h.count);
	*ret = h;
	return 0;
}

static uint32_t token_at(const uint8_t *tokens, uint32_t token_bytes, uint64_t index)
{
	const uint8_t *at = tokens + index * token_bytes;

	if (token_bytes == 1)
		return at[0];
	return (uint32_t)get_le(at, token_bytes);
}

uint32_t shard_token(const struct shard *shard, uint64_t index)
{
	assert(index < shard->header.count);
	return token_at(shard->tokens, shard->header.token_bytes, index);
}

/* Checksum and range of every token. */
static int verify_tokens(int fd, const char *path, const struct shard_header *h, struct err *err)
{
	uint64_t total = h->count * h->token_bytes;
	uint8_t *buf = malloc(VERIFY_BYTES);
	uint32_t crc = 0;
	int rc = buf ? 0 : err_sys(err, -ENOMEM, "%s", path);

	for (uint64_t at = 0; !rc && at < total;) {
		size_t len = total - at < VERIFY_BYTES ? (size_t)(total - at) : VERIFY_BYTES;

		rc = file_pread_all(fd, buf, len, SHARD_HEADER_BYTES + at, err);
		if (rc < 0) {
			err_add(err, "%s", path);
			break;
		}
		crc = crc32c(crc, buf, len);
		for (size_t i = 0; !rc && i < len / h->token_bytes; i++)
			if (token_at(buf, h->token_bytes, i) >= h->vocab)
				rc = err_set(err, ERR_DATA,
					     "%s: token %ju is %u, the shard's vocabulary is %u",
					     path, (uintmax_t)(at / h->token_bytes + i),
					     token_at(buf, h->token_bytes, i), h->vocab);
		at += len;
	}
	free(buf);
	if (!rc && crc != h->crc)
		rc = err_set(err, ERR_DATA,
			     "%s: checksum is %08x, expected %08x: the tokens are damaged", path,
			     crc, h->crc);
	return rc;
}

static int read_header(int fd, const char *path, struct shard_header *ret, struct err *err)
{
	uint8_t bytes[SHARD_HEADER_BYTES];
	struct stat st;
	uint64_t expected;
	int rc;

	if (fstat(fd, &st) < 0)
		return err_set(err, ERR_NOINPUT, "%s: %s", path, err_str(-errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_DATA, "%s: not a regular file", path);
	if ((uint64_t)st.st_size < SHARD_HEADER_BYTES)
		return err_set(err, ERR_DATA, "%s: %ju bytes are no token shard", path,
			       (uintmax_t)st.st_size);
	rc = file_pread_all(fd, bytes, sizeof(bytes), 0, err);
	if (rc < 0) {
		err_add(err, "%s", path);
		return rc;
	}
	rc = shard_header_decode(bytes, path, ret, err);
	if (rc < 0)
		return rc;
	expected = SHARD_HEADER_BYTES + ret->count * ret->token_bytes;
	if ((uint64_t)st.st_size != expected)
		return err_set(err, ERR_DATA, "%s: %ju bytes, expected %ju for its %ju tokens: %s",
			       path, (uintmax_t)st.st_size, (uintmax_t)expected,
			       (uintmax_t)ret->count,
			       (uint64_t)st.st_size < expected ? "truncated" : "too long");
	return 0;
}

int shard_open(const char *path, bool verify, struct shard *ret, struct err *err)
{
	struct shard s = {.path = path};
	void *map;
	int fd, rc;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, ERR_NOINPUT, "%s: %s", path, err_str(-errno));
	rc = read_header(fd, path, &s.header, err);
	if (!rc && verify)
		rc = verify_tokens(fd, path, &s.header, err);
	if (rc < 0)
		goto out;
	s.map_bytes = SHARD_HEADER_BYTES + s.header.count * s.header.token_bytes;
	map = mmap(NULL, s.map_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		rc = err_sys(err, -errno, "%s: mapping %zu bytes", path, s.map_bytes);
		goto out;
	}
	s.tokens = (const uint8_t *)map + SHARD_HEADER_BYTES;
	*ret = s;
out:
	close(fd);
	return rc;
}

int shard_release(const struct shard *shard, uint64_t first, uint64_t count, struct err *err)
{
	uint64_t from = SHARD_HEADER_BYTES + first * shard->header.token_bytes;
	uint64_t end = from + count * shard->header.token_bytes;
	uint8_t *map = (uint8_t *)(uintptr_t)(shard->tokens - SHARD_HEADER_BYTES);

	/* A fault maps what is in the page cache around it, up to a window of the kernel's. */
	from = from / FAULT_AROUND_BYTES * FAULT_AROUND_BYTES;
	end = (end + FAULT_AROUND_BYTES - 1) / FAULT_AROUND_BYTES * FAULT_AROUND_BYTES;
	if (end > shard->map_bytes)
		end = shard->map_bytes;
	if (madvise(map + from, end - from, MADV_DONTNEED) < 0)
		return err_sys(err, -errno, "%s: giving up memory", shard->path);
	return 0;
}

void shard_close(struct shard *shard)
{
	if (shard->tokens)
		munmap((void *)(uintptr_t)(shard->tokens - SHARD_HEADER_BYTES), shard->map_bytes);
	shard->tokens = NULL;
}
