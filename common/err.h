/*
 * An error on its way to the one place that prints it.
 *
 * What can fail returns 0 (or a count) or a negative code. Functions whose failures a person reads
 * also fill the caller's `struct err`: the callee says what failed and why (err_set), each caller
 * on the way up adds what it was doing (err_add), and only the top prints the text. A caller that
 * wants only the code may pass NULL to err_set, err_vset and err_sys, and to what is built on them
 * in this room.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

#include <stdarg.h>

#define ERR_TEXT_BYTES 2048

/*
 * Codes -1..-4095 are -errno. Ours follow; those of the accelerator's libraries sit below -10000.
 * Each of ours stands for one exit status of sysexits(3), which is what a user's script sees.
 */
enum err_code {
	ERR_USAGE = -5001,       /* 64: command line */
	ERR_DATA = -5002,        /* 65: a shard, checkpoint or text file is not what it should be */
	ERR_NOINPUT = -5003,     /* 66: an input is missing or unreadable */
	ERR_UNAVAILABLE = -5004, /* 69: the daemon refuses or is gone, a quota is too small */
	ERR_INTERNAL = -5005,    /* 70: our own bug */
	ERR_CANTCREAT = -5006,   /* 73: an output cannot be made, no space */
	ERR_IO = -5007,          /* 74: a transfer failed or its checksum does not match */
	ERR_PROTOCOL = -5008,    /* 76: two of our processes do not understand each other */
	ERR_CONFIG = -5009,      /* 78: the configuration is wrong or does not fit the machine */
	ERR_INTERRUPTED = -5010, /* 130: stopped because a user asked */
};

struct err {
	int code; /* 0: nothing failed yet */
	char text[ERR_TEXT_BYTES];
};

/* Replaces what is there. Returns `code`, so that `return err_set(...)` reads well. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* err_set for callers that are themselves variadic. */
int err_vset(struct err *err, int code, const char *fmt, va_list ap);

/* Puts "context: " before the text; `err` holds an error. Returns err->code. */
int err_add(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* err_set with ": " and the text of the code behind the message, for system calls. */
int err_sys(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A short text for any code; static storage, any thread. */
const char *err_str(int code);

/*
 * What a call of an accelerator's library returned (not its "success") as a code of ours; a result
 * past what its library has codes for counts as the last one. The caller's text has the library's
 * own words for it: common/ knows none of those libraries.
 */
int err_cuda(int result);
int err_nccl(int result);
int err_cublas(int result);
int err_cudnn(int result);

/* The exit status for a code: 0 for 0, sysexits for ours, the nearest of sysexits for the rest. */
int err_exit_status(int code);

#endif
