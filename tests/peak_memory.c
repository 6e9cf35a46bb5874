/*
 * Usage: peak_memory OUT COMMAND [ARG ...]. Runs the command and writes to OUT the peak, in bytes,
 * of the memory of it and all its descendants, shared memory counted once: the sum of Pss in
 * /proc/PID/smaps_rollup, sampled every 20 ms. Exits as the command does.
 *
 * Descendants are found by walking parents in /proc, so processes that called setsid count too.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIDS_MAX 4096

struct process {
	pid_t pid, parent;
	int ours;
};

static pid_t parent_of(pid_t pid)
{
	char path[64], line[512], *end;
	int parent = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fgets(line, sizeof(line), f)) {
		end = strrchr(line, ')');
		if (!end || sscanf(end + 1, " %*c %d", &parent) != 1)
			parent = -1;
	}
	fclose(f);
	return parent;
}

static uint64_t pss_of(pid_t pid)
{
	unsigned long long kib = 0;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Pss: %llu kB", &kib) == 1)
			break;
	fclose(f);
	return kib * 1024;
}

static size_t processes(struct process *list)
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	size_t n = 0;

	if (!dir)
		return 0;
	while ((d = readdir(dir)) && n < PIDS_MAX) {
		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		list[n].pid = (pid_t)atoi(d->d_name);
		list[n].parent = parent_of(list[n].pid);
		list[n].ours = 0;
		n++;
	}
	closedir(dir);
	return n;
}

static uint64_t tree_bytes(pid_t root)
{
	static struct process list[PIDS_MAX];
	size_t n = processes(list);
	uint64_t sum = 0;
	int found = 1;

	for (size_t i = 0; i < n; i++)
		list[i].ours = list[i].pid == root;
	while (found) {
		found = 0;
		for (size_t i = 0; i < n; i++)
			for (size_t k = 0; !list[i].ours && k < n; k++)
				if (list[k].ours && list[k].pid == list[i].parent)
					found = list[i].ours = 1;
	}
	for (size_t i = 0; i < n; i++)
		if (list[i].ours)
			sum += pss_of(list[i].pid);
	return sum;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	uint64_t peak = 0;
	int status;
	pid_t pid;
	FILE *out;

	if (argc < 3)
		return 64;
	/* Orphans of the command stay in our tree. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return 71;
	pid = fork();
	if (pid < 0)
		return 71;
	if (pid == 0) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		uint64_t now = tree_bytes(pid);

		if (now > peak)
			peak = now;
		nanosleep(&pause, NULL);
	}
	out = fopen(argv[1], "w");
	if (!out || fprintf(out, "%llu\n", (unsigned long long)peak) < 0 || fclose(out) != 0)
		return 74;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
