/*
 * The job's cgroup. The agent makes it before the first worker, workers enter it themselves between
 * fork and exec, and the agent removes it when everything has ended; dsrun does where the agent is
 * gone.
 *
 * A cgroup tree has one writer. Ours to write is what was delegated: the directory belongs to this
 * user, or carries systemd's delegation mark, or is the root of our cgroup namespace. Anywhere else
 * there is no cgroup, and descendants are killed by walking the process tree alone.
 */
#include "launcher/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Our path in the unified hierarchy, from "0::/path". */
static int own_path(char *ret, size_t bytes, struct err *err)
{
	char line[1024];
	FILE *f = fopen("/proc/self/cgroup", "re");
	int rc = err_set(err, -ENOENT, "no unified cgroup hierarchy");

	if (!f)
		return rc;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "0::", 3) == 0) {
			int len = snprintf(ret, bytes, "%s", line + 3);

			rc = (size_t)len < bytes ? 0 : err_sys(err, -ENAMETOOLONG, "cgroup");
			break;
		}
	}
	fclose(f);
	return rc;
}

/* Where the unified hierarchy is mounted, and which of its directories is mounted there. */
static int mount_point(char *ret_point, char *ret_root, size_t bytes, struct err *err)
{
	char line[2048], root[512], point[512], type[64];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	int rc = err_set(err, -ENOENT, "no unified cgroup hierarchy is mounted");

	if (!f)
		return rc;
	while (fgets(line, sizeof(line), f)) {
		const char *dash = strstr(line, " - ");

		if (!dash || sscanf(dash, " - %63s", type) != 1 || strcmp(type, "cgroup2") != 0 ||
		    sscanf(line, "%*s %*s %*s %511s %511s", root, point) != 2)
			continue;
		snprintf(ret_root, bytes, "%s", root);
		snprintf(ret_point, bytes, "%s", point);
		rc = 0;
		break;
	}
	fclose(f);
	return rc;
}

static bool delegated(const char *dir, const char *path)
{
	struct stat st;
	char mark[4];

	if (strcmp(path, "/") == 0)
		return true;
	if (stat(dir, &st) == 0 && geteuid() != 0 && st.st_uid == geteuid())
		return true;
	return (getxattr(dir, "trusted.delegate", mark, sizeof(mark)) == 1 && mark[0] == '1') ||
	       (getxattr(dir, "user.delegate", mark, sizeof(mark)) == 1 && mark[0] == '1');
}

/* The directory of the cgroup at `own`, and in ret_point where the hierarchy is mounted. */
static int dir_of(const char *own, char ret[CGROUP_DIR_BYTES], char ret_point[CGROUP_DIR_BYTES],
		  struct err *err)
{
	char point[CGROUP_DIR_BYTES / 2], root[CGROUP_DIR_BYTES / 2];
	int rc = mount_point(point, root, sizeof(point), err);

	if (rc < 0)
		return rc;

	const char *below = own;
	size_t root_len = strcmp(root, "/") == 0 ? 0 : strlen(root);
	if (strncmp(own, root, root_len) != 0)
		return err_set(err, -ENOENT, "our cgroup %s is not mounted", own);
	below += root_len;
	if (strcmp(below, "/") == 0)
		below = "";
	snprintf(ret, CGROUP_DIR_BYTES, "%s%s", point, below);
	snprintf(ret_point, CGROUP_DIR_BYTES, "%s", point);
	return 0;
}

int cgroup_own_dir(char ret[CGROUP_DIR_BYTES], char ret_point[CGROUP_DIR_BYTES], struct err *err)
{
	char own[CGROUP_DIR_BYTES / 2];
	int rc = own_path(own, sizeof(own), err);

	return rc < 0 ? rc : dir_of(own, ret, ret_point, err);
}

/* The directory of the job's cgroup, when it is ours to make. */
static int job_path(const char *job, char *ret, size_t bytes, struct err *err)
{
	char own[CGROUP_DIR_BYTES / 2], dir[CGROUP_DIR_BYTES], point[CGROUP_DIR_BYTES];
	int rc = own_path(own, sizeof(own), err);

	if (rc == 0)
		rc = dir_of(own, dir, point, err);
	if (rc < 0)
		return rc;
	if (!delegated(dir, own))
		return err_set(err, -EPERM, "cgroup %s is not delegated to us", dir);
	if ((size_t)snprintf(ret, bytes, "%s/dsrun-%s", dir, job) >= bytes)
		return err_set(err, -ENAMETOOLONG, "cgroup %s", dir);
	return 0;
}

int cgroup_open(const char *job, struct cgroup *ret, struct err *err)
{
	char path[sizeof(ret->path)], file[600];

	*ret = (struct cgroup){.procs_fd = -1, .kill_fd = -1};
	int rc = job_path(job, path, sizeof(path), err);
	if (rc < 0)
		return rc;
	if (mkdir(path, 0755) < 0)
		return err_sys(err, -errno, "%s", path);

	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	int procs = open(file, O_WRONLY | O_CLOEXEC);
	if (procs < 0) {
		rc = err_sys(err, -errno, "%s", file);
		goto fail_dir;
	}
	snprintf(file, sizeof(file), "%s/cgroup.kill", path);
	int kill_fd = open(file, O_WRONLY | O_CLOEXEC);
	if (kill_fd < 0) {
		rc = err_sys(err, -errno, "%s", file);
		goto fail_procs;
	}
	*ret = (struct cgroup){.procs_fd = procs, .kill_fd = kill_fd};
	snprintf(ret->path, sizeof(ret->path), "%s", path);
	return 0;
fail_procs:
	close(procs);
fail_dir:
	if (rmdir(path) < 0)
		return err_add(err, "%s stays behind", path);
	return rc;
}

int cgroup_kill(const struct cgroup *cgroup, struct err *err)
{
	if (cgroup->kill_fd < 0)
		return 0;
	if (write(cgroup->kill_fd, "1", 1) != 1)
		return err_sys(err, -errno, "%s/cgroup.kill", cgroup->path);
	return 0;
}

int cgroup_remove(struct cgroup *cgroup, struct err *err)
{
	if (!cgroup->path[0])
		return 0;
	if (rmdir(cgroup->path) < 0 && errno != ENOENT)
		return err_sys(err, -errno, "%s", cgroup->path);
	close(cgroup->procs_fd);
	close(cgroup->kill_fd);
	*cgroup = (struct cgroup){.procs_fd = -1, .kill_fd = -1};
	return 0;
}

void cgroup_remove_left(const char *job)
{
	char path[512];
	struct err err = {0};

	/* Mostly there is none: the agent had removed it, or had made none. */
	if (job_path(job, path, sizeof(path), &err) == 0)
		(void)rmdir(path);
}
