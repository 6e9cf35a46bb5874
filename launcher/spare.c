/*
 * How much memory this host can spare, for `host: {memory: auto}`. Called by dsrun before it plans,
 * from its one thread; it reads proc and the cgroup tree, and nothing of ours.
 *
 * 1. What is counted is what a new process could get without swapping: the kernel's estimate for
 *    the host, and for each cgroup above us its limit less what is used and is not page cache of
 *    files (which goes away before a limit is hit). The least of them counts.
 * 2. A cgroup without a limit, or a file that is not there (the root has none), limits nothing; one
 *    that is there and says nothing we know is an error.
 */
#include "launcher/spare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "launcher/cgroup.h"

#define RESERVE_PART  16u
#define RESERVE_BYTES (UINT64_C(256) << 20)

/* The number behind `key` in a file of lines "key number"; -ENOENT: no file; -ENODATA: no key. */
static int figure_of(const char *path, const char *key, uint64_t *ret)
{
	const size_t len = strlen(key);
	char line[256];
	FILE *f = fopen(path, "re");
	int rc = -ENODATA;

	if (!f)
		return -errno;
	while (rc == -ENODATA && fgets(line, sizeof(line), f))
		if (strncmp(line, key, len) == 0 && sscanf(line + len, " %" SCNu64, ret) == 1)
			rc = 0;
	fclose(f);
	return rc;
}

/* A file that is one number, or "max". */
static int limit_of(const char *path, uint64_t *ret)
{
	char line[64] = "";
	FILE *f = fopen(path, "re");
	int rc = f ? 0 : -errno;

	if (!f)
		return rc;
	if (!fgets(line, sizeof(line), f))
		rc = -ENODATA;
	else if (strcmp(line, "max\n") == 0)
		*ret = UINT64_MAX;
	else if (sscanf(line, "%" SCNu64, ret) != 1)
		rc = -ENODATA;
	fclose(f);
	return rc;
}

/* Lowers *spare to what the cgroup `dir` still allows. */
static int cgroup_spare(const char *dir, uint64_t *spare, struct err *err)
{
	char path[CGROUP_DIR_BYTES + 32];
	uint64_t max, used, files = 0;
	int rc;

	snprintf(path, sizeof(path), "%s/memory.max", dir);
	rc = limit_of(path, &max);
	if (rc == -ENOENT || (rc == 0 && max == UINT64_MAX))
		return 0;
	if (rc == 0) {
		snprintf(path, sizeof(path), "%s/memory.current", dir);
		rc = limit_of(path, &used);
	}
	if (rc == 0) {
		snprintf(path, sizeof(path), "%s/memory.stat", dir);
		rc = figure_of(path, "inactive_file ", &files);
	}
	if (rc < 0)
		return err_sys(err, rc, "%s", path);
	used -= files < used ? files : used;
	max -= used < max ? used : max;
	if (max < *spare)
		*spare = max;
	return 0;
}

int spare_memory_of(const char *meminfo, const char *dir, const char *point, uint64_t *ret_bytes,
		    struct err *err)
{
	char at[CGROUP_DIR_BYTES];
	uint64_t spare, reserve;
	int rc = figure_of(meminfo, "MemAvailable:", &spare);

	if (rc < 0)
		return err_sys(err, rc, "%s: MemAvailable", meminfo);
	spare *= 1024;
	snprintf(at, sizeof(at), "%s", dir ? dir : "");
	while (dir && rc == 0 && strlen(at) >= strlen(point)) {
		rc = cgroup_spare(at, &spare, err);
		if (strrchr(at, '/') == NULL)
			break;
		*strrchr(at, '/') = '\0';
	}
	if (rc < 0)
		return rc;
	reserve = spare / RESERVE_PART > RESERVE_BYTES ? spare / RESERVE_PART : RESERVE_BYTES;
	*ret_bytes = spare > reserve ? spare - reserve : 0;
	return 0;
}

int spare_memory(uint64_t *ret_bytes, struct err *err)
{
	char dir[CGROUP_DIR_BYTES], point[CGROUP_DIR_BYTES];
	struct err none = {0};
	bool grouped = cgroup_own_dir(dir, point, &none) == 0;

	return spare_memory_of("/proc/meminfo", grouped ? dir : NULL, grouped ? point : NULL,
			       ret_bytes, err);
}
