/*
 * Errors: codes, their texts, and the text that grows on the way up.
 *
 * Called from every room and any thread; a struct err belongs to one thread at a time.
 * Invariants:
 * 1. text is always NUL-terminated; what does not fit is cut at the end.
 * 2. Arguments may point into err->text itself: everything is formatted beside it, then copied.
 * 3. A NULL err costs only the text, except in err_add, which has nothing else to return.
 */
#include "common/err.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static const struct {
	int code, exit_status;
	const char *text;
} ours[] = {
	{ERR_USAGE, EX_USAGE, "wrong command line"},
	{ERR_DATA, EX_DATAERR, "wrong data"},
	{ERR_NOINPUT, EX_NOINPUT, "no such input"},
	{ERR_UNAVAILABLE, EX_UNAVAILABLE, "service unavailable"},
	{ERR_INTERNAL, EX_SOFTWARE, "internal error"},
	{ERR_CANTCREAT, EX_CANTCREAT, "cannot create output"},
	{ERR_IO, EX_IOERR, "input/output error"},
	{ERR_PROTOCOL, EX_PROTOCOL, "protocol error"},
	{ERR_CONFIG, EX_CONFIG, "wrong configuration"},
	{ERR_INTERRUPTED, 130, "interrupted"},
};

/* Each library has a range of its own: its result is `base` minus the code. */
#define LIBRARY_CODES 10000
enum library_base {
	BASE_CUDA = -10000,
	BASE_NCCL = -20000,
	BASE_CUBLAS = -30000,
	BASE_CUDNN = -40000,
};
static const struct {
	int base;
	const char *text;
} libraries[] = {
	{BASE_CUDA, "a CUDA call failed"},
	{BASE_NCCL, "an NCCL call failed"},
	{BASE_CUBLAS, "a cuBLAS call failed"},
	{BASE_CUDNN, "a cuDNN call failed"},
};

/* What a script should see for the system's own errors; the rest is EX_OSERR. */
static const struct {
	int code, exit_status;
} system_status[] = {
	{-ENOENT, EX_NOINPUT},
	{-ENOTDIR, EX_NOINPUT},
	{-EISDIR, EX_NOINPUT},
	{-ENOSPC, EX_CANTCREAT},
	{-EDQUOT, EX_CANTCREAT},
	{-EROFS, EX_CANTCREAT},
	{-EEXIST, EX_CANTCREAT},
	{-EFBIG, EX_CANTCREAT},
	{-EIO, EX_IOERR},
	{-ENODATA, EX_IOERR},
	{-ENXIO, EX_IOERR},
	{-EACCES, EX_NOPERM},
	{-EPERM, EX_NOPERM},
	{-ENOMEM, EX_UNAVAILABLE},
	{-ECONNREFUSED, EX_UNAVAILABLE},
	{-EPIPE, EX_UNAVAILABLE},
	{-EPROTO, EX_PROTOCOL},
	{-EBADMSG, EX_PROTOCOL},
	{-EINTR, 130},
	{-ECANCELED, 130},
	{-EINVAL, EX_SOFTWARE},
	{-ENOSYS, EX_UNAVAILABLE},
	{-ETIMEDOUT, EX_UNAVAILABLE},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Cuts what does not fit. */
static void append(char text[ERR_TEXT_BYTES], const char *more)
{
	size_t len = strlen(text), more_len = strlen(more);

	if (more_len > ERR_TEXT_BYTES - 1 - len)
		more_len = ERR_TEXT_BYTES - 1 - len;
	memcpy(text + len, more, more_len);
	text[len + more_len] = '\0';
}

static void format(char text[ERR_TEXT_BYTES], const char *fmt, va_list ap)
{
	/* Fails for a wide string that is not one; the format itself still says most. */
	if (vsnprintf(text, ERR_TEXT_BYTES, fmt, ap) < 0) {
		text[0] = '\0';
		append(text, fmt);
	}
}

int err_vset(struct err *err, int code, const char *fmt, va_list ap)
{
	char text[ERR_TEXT_BYTES];

	assert(code < 0);
	if (!err)
		return code;
	format(text, fmt, ap);
	memcpy(err->text, text, strlen(text) + 1);
	err->code = code;
	return code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int err_add(struct err *err, const char *fmt, ...)
{
	char text[ERR_TEXT_BYTES];
	va_list ap;

	assert(err && err->code < 0);
	va_start(ap, fmt);
	format(text, fmt, ap);
	va_end(ap);
	append(text, ": ");
	append(text, err->text);
	memcpy(err->text, text, strlen(text) + 1);
	return err->code;
}

int err_sys(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(err, code, fmt, ap);
	va_end(ap);
	if (err) {
		append(err->text, ": ");
		append(err->text, err_str(code));
	}
	return code;
}

const char *err_str(int code)
{
	const char *text;

	if (code >= 0)
		return "success";
	for (size_t i = 0; i < COUNT(ours); i++)
		if (ours[i].code == code)
			return ours[i].text;
	for (size_t i = 0; i < COUNT(libraries); i++)
		if (code < libraries[i].base && code > libraries[i].base - LIBRARY_CODES)
			return libraries[i].text;
	/* Unlike strerror() this never writes to shared storage. */
	text = code >= -4095 ? strerrordesc_np(-code) : NULL;
	return text ? text : "unknown error";
}

static int library_code(enum library_base base, int result)
{
	assert(result > 0);
	return base - (result < LIBRARY_CODES ? result : LIBRARY_CODES - 1);
}

int err_cuda(int result)
{
	return library_code(BASE_CUDA, result);
}

int err_nccl(int result)
{
	return library_code(BASE_NCCL, result);
}

int err_cublas(int result)
{
	return library_code(BASE_CUBLAS, result);
}

int err_cudnn(int result)
{
	return library_code(BASE_CUDNN, result);
}

int err_exit_status(int code)
{
	if (code >= 0)
		return 0;
	for (size_t i = 0; i < COUNT(ours); i++)
		if (ours[i].code == code)
			return ours[i].exit_status;
	for (size_t i = 0; i < COUNT(system_status); i++)
		if (system_status[i].code == code)
			return system_status[i].exit_status;
	return code >= -4095 ? EX_OSERR : EX_SOFTWARE;
}
