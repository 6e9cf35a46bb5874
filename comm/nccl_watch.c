/*
 * What ends a communicator while its ranks wait for each other: an error of its own, the death of a
 * peer, the end of the launcher. NCCL would wait for half an hour, a kernel on the GPU for ever.
 *
 * One thread, from the time that the ranks have met to the end. It waits for news and looks at the
 * communicator every LOOK_MS.
 *
 * 1. The cause is the device's error before anything is aborted: what the abort makes fail, or
 *    return, finds the cause there.
 * 2. Of several causes the one that names a rank is told, when it is there or about to come: what
 *    NCCL says of a peer that died names nobody.
 * 3. Once aborted, a communicator is gone: `comm` is NULL, and nobody calls into it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "comm/nccl_internal.h"
#include "comm/news.h"

/* Fifty looks a second cost nothing that can be measured, and are what a person calls at once. */
#define LOOK_MS 20
/* The agent hears of a death, and tells of it, at once: this is for a machine that is busy. */
#define BLAME_MS 300

int nccl_news(struct nccl *n, int timeout_ms, struct err *err)
{
	struct comm_news news;
	int rc = comm_news_read(n->news_fd, n->world, timeout_ms, &news, err);

	if (rc <= 0)
		return rc;
	if (news.type != COMM_NEWS_FAILED)
		return err_set(err, ERR_PROTOCOL, "news: a second id of the collectives");
	return err_set(err, ERR_IO, "rank %u has failed, and the collectives with it", news.rank);
}

void nccl_blame(struct nccl *n, ncclResult_t result, struct err *err)
{
	struct err news = {0};

	if ((result == ncclRemoteError || result == ncclSystemError) &&
	    nccl_news(n, BLAME_MS, &news) < 0)
		*err = news;
}

ncclResult_t nccl_state(struct nccl *n)
{
	ncclResult_t state = ncclSuccess, result = ncclSuccess;

	pthread_mutex_lock(&n->lock);
	if (n->comm)
		result = n->lib->CommGetAsyncError(n->comm, &state);
	pthread_mutex_unlock(&n->lock);
	return result == ncclSuccess ? state : result;
}

void nccl_abort(struct nccl *n)
{
	pthread_mutex_lock(&n->lock);
	/* Whatever it returns, the communicator is not ours any more, and the cause is known. */
	if (n->comm)
		(void)n->lib->CommAbort(n->comm);
	n->comm = NULL;
	pthread_mutex_unlock(&n->lock);
}

/* 0: all is well; 1: told to stop; or the error that ends the communicator. */
static int look(struct nccl *n, struct err *err)
{
	struct pollfd fds[] = {{.fd = n->stop_fd, .events = POLLIN},
			       {.fd = n->news_fd, .events = POLLIN}};
	ncclResult_t state;

	if (poll(fds, 2, LOOK_MS) < 0 && errno != EINTR)
		return err_sys(err, -errno, "watching the collectives: poll");
	if (fds[0].revents)
		return 1;
	if (fds[1].revents)
		return nccl_news(n, 0, err);
	state = nccl_state(n);
	if (state == ncclSuccess || state == ncclInProgress)
		return 0;
	nccl_error(n->lib, n->comm, __FILE__ ": ncclCommGetAsyncError", state, err);
	nccl_blame(n, state, err);
	return err->code;
}

static void *watch(void *arg)
{
	struct nccl *n = arg;
	struct err err = {0};
	int rc;

	do
		rc = look(n, &err);
	while (rc == 0);
	if (rc < 0) {
		device_fail(n->device, &err);
		nccl_abort(n);
	}
	return NULL;
}

int nccl_watch_start(struct nccl *n, struct err *err)
{
	sigset_t all, old;
	int rc;

	n->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (n->stop_fd < 0)
		return err_sys(err, -errno, "eventfd");
	/* Signals are for the process's own threads to take. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = -pthread_create(&n->watcher, NULL, watch, n);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		close(n->stop_fd);
		return err_sys(err, rc, "the thread that watches the collectives");
	}
	/* A name that cannot be set is a thread without a name, and works. */
	(void)pthread_setname_np(n->watcher, "comm-watch");
	return 0;
}

void nccl_watch_stop(struct nccl *n)
{
	/* An eventfd at 0 takes a 1: this fails for no reason there is. */
	(void)eventfd_write(n->stop_fd, 1);
	pthread_join(n->watcher, NULL);
	close(n->stop_fd);
}
