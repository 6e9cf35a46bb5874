/*
 * NCCL, loaded when the first communicator of a process is opened: a program that opens none starts
 * and runs where NCCL is not. Called by nccl.c.
 *
 * 1. The library stays loaded: it leaves threads behind that run its code.
 * 2. What is called is what nccl.h, which this was built with, declares; a library of another major
 *    version has another soname.
 */
#include <dlfcn.h>
#include <string.h>

#include "comm/nccl_internal.h"

#define SONAME "libnccl.so.2"

#define FUNCTION(name)                                                                             \
	{                                                                                          \
		"nccl" #name, offsetof(struct nccl_lib, name)                                      \
	}

/* GetVersion comes first: an older library may lack some of the rest. */
static const struct {
	const char *name;
	size_t offset;
} functions[] = {
	FUNCTION(GetVersion),   FUNCTION(GetErrorString),     FUNCTION(GetLastError),
	FUNCTION(GetUniqueId),  FUNCTION(CommInitRankConfig), FUNCTION(CommGetAsyncError),
	FUNCTION(CommFinalize), FUNCTION(CommDestroy),        FUNCTION(CommAbort),
	FUNCTION(AllGather),    FUNCTION(ReduceScatter),      FUNCTION(AllReduce),
	FUNCTION(Broadcast),
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nccl_lib loaded; /* version 0: not yet */

/* 2.18.3 is 21803; before 2.9 it was 2804. */
static int too_old(int version, struct err *err)
{
	int major = version < 10000 ? version / 1000 : version / 10000;
	int minor = version < 10000 ? version / 100 % 10 : version / 100 % 100;

	return err_set(err, ERR_CONFIG, "%s is NCCL %d.%d.%d, too old: %d.%d or later is needed",
		       SONAME, major, minor, version % 100, NCCL_LEAST / 10000,
		       NCCL_LEAST / 100 % 100);
}

static int find(void *handle, size_t i, struct nccl_lib *lib, struct err *err)
{
	void *at = dlsym(handle, functions[i].name);

	if (!at)
		return err_set(err, ERR_CONFIG, "%s has no %s", SONAME, functions[i].name);
	memcpy((char *)lib + functions[i].offset, &at, sizeof(at));
	return 0;
}

static int load(struct nccl_lib *lib, struct err *err)
{
	void *handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
	ncclResult_t result;
	int rc;

	if (!handle)
		return err_set(err, ERR_CONFIG,
			       "the collectives of several cuda devices are NCCL's (%d.%d or "
			       "later), which cannot be loaded: %s (LD_LIBRARY_PATH or ldconfig "
			       "says where libraries are)",
			       NCCL_LEAST / 10000, NCCL_LEAST / 100 % 100, dlerror());
	rc = find(handle, 0, lib, err);
	if (rc < 0)
		return rc;
	result = lib->GetVersion(&lib->version);
	if (result != ncclSuccess)
		return err_set(err, err_nccl((int)result), "%s: ncclGetVersion: result %d", SONAME,
			       (int)result);
	if (lib->version < NCCL_LEAST)
		return too_old(lib->version, err);
	for (size_t i = 1; rc == 0 && i < sizeof(functions) / sizeof(functions[0]); i++)
		rc = find(handle, i, lib, err);
	return rc;
}

int nccl_lib_open(const struct nccl_lib **ret, struct err *err)
{
	struct nccl_lib lib = {0};
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (!loaded.version) {
		rc = load(&lib, err);
		if (rc == 0)
			loaded = lib;
	}
	pthread_mutex_unlock(&lock);
	if (rc == 0)
		*ret = &loaded;
	return rc;
}

int nccl_error(const struct nccl_lib *lib, ncclComm_t comm, const char *call, ncclResult_t result,
	       struct err *err)
{
	const char *more = lib->GetLastError(comm);

	return err_set(err, err_nccl((int)result), "%s: %s (%d)%s%s", call,
		       lib->GetErrorString(result), (int)result, more && *more ? ": " : "",
		       more ? more : "");
}
