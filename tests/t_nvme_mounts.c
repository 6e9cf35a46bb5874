/*
 * Goal: filesystems that are small, full, in memory, or without what the store likes best get a
 * clear answer when the store opens, and lose nothing.
 *
 * Method: a mount namespace of our own with a tmpfs of 8 MiB and, where the tools and a loop device
 * are there, an ext4 of 16 MiB. Needs root.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/nvme_bed.h"

static const char *tmpfs, *ext4;

static uint64_t free_bytes(const char *dir)
{
	struct statvfs vfs;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* ext4 gives blocks back when its journal commits. */
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(syncfs(fd), 0);
	close(fd);
	ck_assert_int_eq(statvfs(dir, &vfs), 0);
	return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* One object too large by a page: refused with the figures; one that fits exactly: taken. */
static void to_the_brim(const char *dir, uint64_t slack)
{
	uint64_t room = free_bytes(dir);
	struct nvme_object object = {(room + slack) / 4096 * 4096, 1u << 20};
	struct nvme_config config = {.paths = &dir,
				     .path_count = 1,
				     .engine = NVME_AUTO,
				     .queue_depth = 4,
				     .objects = &object,
				     .object_count = 1};
	struct nvme_store *store = NULL;
	struct nvme_info info;
	struct err err;
	char figure[64];

	ck_assert_int_eq(nvme_store_open(&config, &store, &info, &err), ERR_CANTCREAT);
	ck_assert_ptr_null(store);
	ck_assert_ptr_nonnull(strstr(err.text, dir));
	snprintf(figure, sizeof(figure), "(%llu bytes), ", (unsigned long long)object.bytes);
	ck_assert_msg(strstr(err.text, figure) != NULL, "%s", err.text);
	ck_assert_msg(strstr(err.text, " bytes) are free: ") != NULL, "%s", err.text);
	ck_assert_uint_eq(free_bytes(dir), room);
	object.bytes = room > slack ? room - slack : 4096;
	ck_assert_msg(nvme_store_open(&config, &store, &info, &err) == 0, "%s", err.text);
	ck_assert_uint_lt(free_bytes(dir), room);
	nvme_store_free(store);
	ck_assert_uint_eq(free_bytes(dir), room);
	ck_assert_uint_eq(bed_dir_entries(dir), 0);
}

START_TEST(a_full_tmpfs)
{
	to_the_brim(tmpfs, 4096);
}
END_TEST

START_TEST(a_full_ext4)
{
	/* ext4 keeps up to 2 % of its blocks for itself and counts them as free, for root. */
	to_the_brim(ext4, 2 << 20);
}
END_TEST

static void round_trip(const char *const *paths, size_t path_count, enum nvme_engine engine,
		       const char *warned)
{
	struct bed b;
	unsigned i;

	ck_assert_msg(bed_open(&b, engine, 8, paths, path_count) == 0, "%s", b.err.text);
	if (warned) {
		ck_assert_ptr_nonnull(b.info.direct_warning);
		ck_assert_ptr_nonnull(strstr(b.info.direct_warning, warned));
	} else {
		ck_assert_ptr_null(b.info.direct_warning);
	}
	ck_assert_ptr_null(b.info.space_warning);
	bed_write(&b, 1, 1);
	bed_read(&b, 2);
	ck_assert_msg(b.failed_count == 0, "%s", nvme_store_error(b.store));
	for (i = 0; i < b.extent_count; i++)
		ck_assert(bed_holds(&b, i, 1));
	bed_close(&b);
}

START_TEST(in_memory_with_a_warning)
{
	round_trip(&tmpfs, 1, bed_engines[_i], tmpfs);
}
END_TEST

START_TEST(on_a_small_disk)
{
	const char *both[2] = {ext4, tmpfs};

	round_trip(&ext4, 1, bed_engines[_i], NULL);
	round_trip(both, 2, bed_engines[_i], tmpfs);
}
END_TEST

START_TEST(read_only)
{
	struct bed b;

	ck_assert_int_eq(mount("none", tmpfs, "", MS_REMOUNT | MS_RDONLY, NULL), 0);
	ck_assert_int_eq(bed_open(&b, NVME_AUTO, 1, &tmpfs, 1), ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(b.err.text, tmpfs));
	ck_assert_int_eq(mount("none", tmpfs, "", MS_REMOUNT, NULL), 0);
}
END_TEST

/* The mounts go with the namespace, so with the last process of this test. */
static int make_tmpfs(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "", MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("t_nvme", bed_dir(0), "tmpfs", 0, "size=8m") < 0)
		return -errno;
	tmpfs = bed_dir(0);
	return 0;
}

static const char *make_ext4(void)
{
	char command[BED_DIR_BYTES * 3];
	const char *dir = bed_dir(1);

	snprintf(command, sizeof(command),
		 "exec 2>&1; f='%s.img'; truncate -s 32M \"$f\" && mkfs.ext4 -q -m 0 \"$f\" && "
		 "mount -o loop \"$f\" '%s' && rm \"$f\" && rmdir '%s/lost+found' || "
		 "{ rm -f \"$f\"; exit 1; }",
		 dir, dir, dir);
	return system(command) == 0 ? dir : NULL;
}

int main(void)
{
	Suite *suite = suite_create("nvme_mounts");
	TCase *t = tcase_create("mounts");
	SRunner *runner;
	int failed, rc;

	bed_setup();
	rc = make_tmpfs();
	if (rc < 0) {
		printf("cannot run here: no mount of our own: %s\n", err_str(rc));
		return 77;
	}
	ext4 = make_ext4();
	tcase_set_timeout(t, 60);
	tcase_add_test(t, a_full_tmpfs);
	tcase_add_loop_test(t, in_memory_with_a_warning, 0, bed_engine_count);
	tcase_add_test(t, read_only);
	if (ext4) {
		tcase_add_test(t, a_full_ext4);
		tcase_add_loop_test(t, on_a_small_disk, 0, bed_engine_count);
	} else {
		printf("skipped: no ext4 on a loop device can be mounted here\n");
	}
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	umount2(bed_dir(0), MNT_DETACH);
	umount2(bed_dir(1), MNT_DETACH);
	return failed ? 1 : 0;
}
