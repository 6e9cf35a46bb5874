/*
 * Goal: what is mapped cannot be pulled from under us, and nothing but the right object is mapped.
 * Method: objects with each seal missing, too short, or not shared memory at all.
 */
#include "common/shm.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES 8192u

START_TEST(created_is_zeroed_sealed_and_shared)
{
	struct err err = {0};
	int fd = shm_create("t_shm", BYTES, &err);
	uint8_t *a, *b;
	void *base;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	ck_assert_int_eq(ftruncate(fd, BYTES / 2), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ftruncate(fd, 2 * BYTES), -1);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), 0);
	a = base;
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), 0);
	b = base;
	close(fd);
	for (size_t i = 0; i < BYTES; i++)
		ck_assert_uint_eq(a[i], 0);
	a[BYTES - 1] = 42;
	ck_assert_uint_eq(b[BYTES - 1], 42);
	shm_unmap(a, BYTES);
	shm_unmap(b, BYTES);
	shm_unmap(NULL, BYTES);
}
END_TEST

START_TEST(map_refuses)
{
	struct err err = {0};
	void *base = NULL;
	int fd = shm_create("t_shm", BYTES, &err);

	ck_assert_int_eq(shm_map(fd, BYTES + 1, &base, &err), ERR_PROTOCOL);
	ck_assert_str_eq(err.text, "shared memory has 8192 bytes, 8193 are needed");
	ck_assert_int_eq(shm_map(fd, 0, &base, &err), -EINVAL);
	close(fd);

	fd = memfd_create("t_shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_eq(ftruncate(fd, BYTES), 0);
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), ERR_PROTOCOL);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), ERR_PROTOCOL);
	close(fd);

	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), ERR_PROTOCOL);
	close(fd);
	ck_assert_int_eq(shm_map(fd, BYTES, &base, &err), -EBADF);
	ck_assert_int_eq(shm_create("t_shm", 0, &err), -EINVAL);
	ck_assert_int_lt(shm_create("t_shm", SIZE_MAX, &err), 0);
	ck_assert_ptr_null(base);
}
END_TEST

START_TEST(copy_is_fixed)
{
	struct err err = {0};
	char buf[16] = "";
	int fd = shm_copy("t_shm", "content", 7, &err);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, buf, sizeof(buf)), 7);
	ck_assert_str_eq(buf, "content");
	ck_assert_int_eq(write(fd, "x", 1), -1);
	ck_assert_int_eq(errno, EPERM);
	close(fd);
	fd = shm_copy("t_shm", "", 0, &err);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, buf, sizeof(buf)), 0);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("shm");
	TCase *tcase = tcase_create("shm");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, created_is_zeroed_sealed_and_shared);
	tcase_add_test(tcase, map_refuses);
	tcase_add_test(tcase, copy_is_fixed);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
