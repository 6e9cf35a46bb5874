/*
 * Reads the process tree out of /proc. Called by agent and dsrun, each a subreaper, when the job
 * ends: whatever a worker left behind has become our descendant and nobody else's.
 *
 * 1. A pid is signalled only through a pidfd, and only when the process behind it still has the
 *    start time that was read with its place in the tree: a pid used anew is left alone.
 * 2. One pass is a snapshot with holes. Only a pass that finds nothing says that nothing is left.
 */
#include "launcher/tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PF_EXITING 0x4ul /* of the flags in /proc/PID/stat, proc(5): being shut down */

enum tree_mark { TREE_UNKNOWN, TREE_DESCENDANT, TREE_OTHER };

struct tree_process {
	pid_t pid, parent;
	char state;
	unsigned long flags;
	unsigned long long start;
	enum tree_mark mark;
};

struct tree {
	struct tree_process *at;
	size_t count, room;
};

/* 1, or 0 when there is no such process (any more). */
static int read_process(pid_t pid, struct tree_process *ret)
{
	char path[32], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return 0;
	text[got] = '\0';

	/* The name in brackets may hold anything, brackets too: fields count from its end. */
	char *fields = strrchr(text, ')');
	int parent;
	*ret = (struct tree_process){.pid = pid};
	if (!fields || sscanf(fields + 1,
			      " %c %d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u"
			      " %*d %*d %*d %*d %*d %*d %llu",
			      &ret->state, &parent, &ret->flags, &ret->start) != 4)
		return 0;
	ret->parent = parent;
	return 1;
}

static int tree_add(struct tree *tree, const struct tree_process *process)
{
	if (tree->count == tree->room) {
		size_t room = tree->room ? 2 * tree->room : 256;
		struct tree_process *at = realloc(tree->at, room * sizeof(*at));

		if (!at)
			return -ENOMEM;
		tree->at = at;
		tree->room = room;
	}
	tree->at[tree->count++] = *process;
	return 0;
}

static int tree_read(struct tree *tree, struct err *err)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int rc = 0;

	if (!proc)
		return err_sys(err, -errno, "/proc");
	while (rc == 0 && (errno = 0, entry = readdir(proc)) != NULL) {
		struct tree_process process;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		if (read_process((pid_t)atoi(entry->d_name), &process))
			rc = tree_add(tree, &process);
	}
	if (rc == 0 && errno != 0)
		rc = -errno;
	closedir(proc);
	return rc < 0 ? err_sys(err, rc, "/proc") : 0;
}

static struct tree_process *find(struct tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->count; i++) {
		if (tree->at[i].pid == pid)
			return &tree->at[i];
	}
	return NULL;
}

/* Marks every process on the way up from `process` as what the end of the way says. */
static enum tree_mark mark(struct tree *tree, struct tree_process *process, pid_t root,
			   pid_t except)
{
	enum tree_mark found = TREE_OTHER;
	struct tree_process *p = process;

	/* `count` bounds the way: parents read at different instants could form a circle. */
	for (size_t steps = 0; p && steps <= tree->count; steps++) {
		if (p->mark != TREE_UNKNOWN) {
			found = p->mark;
			break;
		}
		if (p->pid == except || p->pid == root)
			break;
		if (p->parent == root) {
			found = TREE_DESCENDANT;
			break;
		}
		p = find(tree, p->parent);
	}
	for (p = process; p && p->mark == TREE_UNKNOWN && p->pid != root; p = find(tree, p->parent))
		p->mark = found;
	return found;
}

static void kill_process(const struct tree_process *process)
{
	struct tree_process now;
	int pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);

	/* Gone, or out of descriptors: the next pass sees which. */
	if (pidfd < 0)
		return;
	if (read_process(process->pid, &now) && now.start == process->start)
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	close(pidfd);
}

int tree_kill(pid_t except, struct err *err)
{
	struct tree tree = {0};
	int count = 0;
	int rc = tree_read(&tree, err);

	for (size_t i = 0; rc == 0 && i < tree.count; i++) {
		struct tree_process *process = &tree.at[i];

		if (mark(&tree, process, getpid(), except) != TREE_DESCENDANT)
			continue;
		if (process->state != 'Z')
			kill_process(process);
		count++;
	}
	free(tree.at);
	return rc < 0 ? rc : count;
}

bool tree_is_exiting(pid_t pid)
{
	struct tree_process process;

	if (!read_process(pid, &process))
		return true;
	return process.state == 'Z' || process.state == 'X' || (process.flags & PF_EXITING) != 0;
}
