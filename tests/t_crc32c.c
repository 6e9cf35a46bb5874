/*
 * Goal: the instruction and the table give CRC-32C, for every length, alignment and cut.
 * Method: the values of RFC 3720, a bit-by-bit form written here, all lengths around the block
 * sizes at all alignments, random cuts, a page that faults behind the last byte. Prints the speed;
 * nothing depends on it.
 */
#include "common/crc32c.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/rng.h"

#define SEED      7u
#define DATA_SIZE 20000u

static uint8_t data[DATA_SIZE + 16];

static void fill(void)
{
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rng_u64(SEED, 0, i);
}

static uint32_t bit_by_bit(uint32_t crc, const uint8_t *p, size_t len)
{
	crc = ~crc;
	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (int k = 0; k < 8; k++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

START_TEST(known_answers)
{
	uint8_t buf[32];

	ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283u);
	ck_assert_uint_eq(crc32c_table(0, "123456789", 9), 0xe3069283u);
	ck_assert_uint_eq(crc32c(0, "", 0), 0);
	memset(buf, 0, sizeof(buf));
	ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x8a9136aau);
	memset(buf, 0xff, sizeof(buf));
	ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x62a8ab43u);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)i;
	ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x46dd794eu);
}
END_TEST

START_TEST(every_length_and_alignment)
{
	/* Around 3 * 128 and 3 * 1024, where streams begin and end. */
	static const size_t around[] = {0, 384, 768, 3072, 3456, 6144, 6528, 12288, 12672};

	fill();
	for (size_t k = 0; k < sizeof(around) / sizeof(around[0]); k++)
		for (size_t len = around[k] > 20 ? around[k] - 20 : 0; len < around[k] + 40; len++)
			for (size_t at = 0; at < 9; at++) {
				uint32_t expected = bit_by_bit((uint32_t)len, data + at, len);

				ck_assert_uint_eq(crc32c((uint32_t)len, data + at, len), expected);
				ck_assert_uint_eq(crc32c_table((uint32_t)len, data + at, len),
						  expected);
			}
}
END_TEST

START_TEST(cuts_do_not_matter)
{
	uint32_t whole, part;
	size_t cut;

	fill();
	whole = crc32c_table(0, data, DATA_SIZE);
	for (uint64_t i = 0; i < 500; i++) {
		cut = rng_below(SEED, 1, i, DATA_SIZE + 1);
		part = crc32c(0, data, cut);
		ck_assert_msg(crc32c(part, data + cut, DATA_SIZE - cut) == whole,
			      "cut at %zu (seed %u)", cut, SEED);
	}
}
END_TEST

START_TEST(up_to_the_end_of_memory)
{
	/* Asking for lines ahead must not touch what is not there. */
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const size_t len = (DATA_SIZE + page - 1) / page * page;
	uint8_t *at =
		mmap(NULL, len + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *end = at + len;

	ck_assert_ptr_ne(at, MAP_FAILED);
	ck_assert_int_eq(mprotect(end, page, PROT_NONE), 0);
	fill();
	memcpy(end - DATA_SIZE, data, DATA_SIZE);
	for (size_t n = 1; n <= DATA_SIZE; n += 61)
		ck_assert_uint_eq(crc32c(0, end - n, n), crc32c_table(0, end - n, n));
	munmap(at, len + page);
}
END_TEST

static double gigabytes_per_second(uint32_t (*form)(uint32_t, const void *, size_t), size_t len,
				   int rounds)
{
	uint8_t *buf = malloc(len);
	struct timespec begin, end;
	uint32_t crc = 0;

	ck_assert_ptr_nonnull(buf);
	memset(buf, 1, len);
	form(0, buf, len);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int i = 0; i < rounds; i++)
		crc = form(crc, buf, len);
	clock_gettime(CLOCK_MONOTONIC, &end);
	ck_assert_uint_ne(crc, 1);
	free(buf);
	return (double)len * rounds /
	       (1e9 * (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec));
}

START_TEST(speed)
{
	printf("crc32c %.1f GB/s in a cache, %.1f from memory (instruction %s), table %.1f GB/s\n",
	       gigabytes_per_second(crc32c, (size_t)128 << 10, 400),
	       gigabytes_per_second(crc32c, (size_t)128 << 20, 2),
	       cpu_has_crc32() ? "present" : "absent",
	       gigabytes_per_second(crc32c_table, (size_t)4 << 20, 5));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("crc32c");
	TCase *tcase = tcase_create("crc32c");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, known_answers);
	tcase_add_test(tcase, every_length_and_alignment);
	tcase_add_test(tcase, cuts_do_not_matter);
	tcase_add_test(tcase, up_to_the_end_of_memory);
	tcase_add_test(tcase, speed);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
