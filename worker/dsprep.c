/*
 * dsprep: text files to token shards, a byte a token; looks into shards; computes the bigram
 * baseline. See dsprep(1). One thread.
 *
 * 1. Text goes through in pieces: memory does not grow with it, and standard input is as good as a
 *    file. Where to cut off the validation part is known at the end only, so all of it is
 *    written as training text first, and the tail is then moved.
 * 2. Neither name changes before both shards are written.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "common/json.h"
#include "common/units.h"
#include "worker/bigram.h"
#include "worker/data.h"
#include "worker/outfile.h"

#define PIECE_BYTES       ((size_t)1 << 20)
#define LINE_SEARCH_BYTES ((size_t)1 << 16) /* the cut moves on to a line's start within this */
#define BYTE_VOCAB        256u

struct options {
	const char *out, *train, *validation;
	double fraction;
	bool bigram, info, json, quiet;
};

static uint8_t piece[PIECE_BYTES];

/* One text onto the end of `f`. */
static int append_fd(struct outfile *f, int fd, const char *name, uint64_t *count, struct err *err)
{
	for (;;) {
		ssize_t n = read(fd, piece, sizeof(piece));
		int rc;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, ERR_NOINPUT, "%s: %s", name, err_str(-errno));
		if (n == 0)
			return 0;
		rc = outfile_write(f, piece, (size_t)n, err);
		if (rc < 0)
			return rc;
		*count += (uint64_t)n;
	}
}

static int append_text(struct outfile *f, const char *path, uint64_t *count, struct err *err)
{
	int fd, rc;

	if (!strcmp(path, "-"))
		return append_fd(f, STDIN_FILENO, "standard input", count, err);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, ERR_NOINPUT, "%s: %s", path, err_str(-errno));
	rc = append_fd(f, fd, path, count, err);
	close(fd);
	return rc;
}

/* Opens `path` with room for a header, which finish() fills. */
static int begin(struct outfile *f, const char *path, struct err *err)
{
	static const uint8_t zeros[SHARD_HEADER_BYTES];
	int rc = outfile_open(f, path, err);

	if (rc < 0)
		return rc;
	rc = outfile_write(f, zeros, sizeof(zeros), err);
	if (rc < 0)
		outfile_abort(f);
	return rc;
}

/* Writes the header of `count` tokens, which are read back for their checksum. */
static int finish(struct outfile *f, uint64_t count, struct err *err)
{
	struct shard_header h = {.token_bytes = 1, .vocab = BYTE_VOCAB, .count = count};
	uint8_t bytes[SHARD_HEADER_BYTES];
	int rc = 0;

	if (!count)
		return err_set(err, ERR_DATA, "%s: no text, the shard would be empty", f->path);
	for (uint64_t at = 0; !rc && at < count;) {
		size_t len = count - at < sizeof(piece) ? (size_t)(count - at) : sizeof(piece);

		rc = file_pread_all(f->fd, piece, len, SHARD_HEADER_BYTES + at, err);
		if (!rc)
			h.crc = crc32c(h.crc, piece, len);
		at += len;
	}
	shard_header_encode(&h, bytes);
	if (!rc)
		rc = file_pwrite_all(f->fd, bytes, sizeof(bytes), 0, err);
	return rc < 0 ? err_add(err, "%s", f->path) : 0;
}

/* Where the validation part begins: the first line that starts at or behind the exact cut. */
static int find_cut(struct outfile *f, uint64_t count, double fraction, uint64_t *ret,
		    struct err *err)
{
	uint64_t exact = count - (uint64_t)((double)count * fraction);
	uint64_t from = exact ? exact - 1 : 0;
	size_t len = count - from < LINE_SEARCH_BYTES ? (size_t)(count - from) : LINE_SEARCH_BYTES;
	const uint8_t *newline;
	int rc = file_pread_all(f->fd, piece, len, SHARD_HEADER_BYTES + from, err);

	if (rc < 0)
		return err_add(err, "%s", f->path);
	newline = memchr(piece, '\n', len);
	*ret = newline && from + (uint64_t)(newline - piece) + 1 < count
		       ? from + (uint64_t)(newline - piece) + 1
		       : exact;
	return 0;
}

/* Moves what is behind token `cut` of `from` to `to`. */
static int move_tail(struct outfile *from, struct outfile *to, uint64_t cut, uint64_t count,
		     struct err *err)
{
	for (uint64_t at = cut; at < count;) {
		size_t len = count - at < sizeof(piece) ? (size_t)(count - at) : sizeof(piece);
		int rc = file_pread_all(from->fd, piece, len, SHARD_HEADER_BYTES + at, err);

		if (rc < 0)
			return err_add(err, "%s", from->path);
		rc = outfile_write(to, piece, len, err);
		if (rc < 0)
			return rc;
		at += len;
	}
	if (ftruncate(from->fd, (off_t)(SHARD_HEADER_BYTES + cut)) < 0)
		return err_sys(err, -errno, "%s", from->path);
	return 0;
}

static void say(const struct options *o, const char *path, uint64_t count)
{
	if (!o->quiet)
		printf("%s: %ju tokens, vocabulary %u\n", path, (uintmax_t)count, BYTE_VOCAB);
}

static int split_off(const struct options *o, struct outfile *train, uint64_t count,
		     struct err *err)
{
	struct outfile validation;
	uint64_t cut = 0;
	int rc = begin(&validation, o->validation, err);

	if (rc < 0)
		return rc;
	rc = find_cut(train, count, o->fraction, &cut, err);
	if (!rc)
		rc = move_tail(train, &validation, cut, count, err);
	if (!rc)
		rc = finish(train, cut, err);
	if (!rc)
		rc = finish(&validation, count - cut, err);
	if (!rc)
		rc = outfile_commit(&validation, err);
	if (!rc)
		rc = outfile_commit(train, err);
	outfile_abort(&validation);
	if (rc < 0)
		return rc;
	say(o, o->train, cut);
	say(o, o->validation, count - cut);
	return 0;
}

static int prepare(const struct options *o, char **texts, int text_count, struct err *err)
{
	struct outfile f;
	uint64_t count = 0;
	int rc = begin(&f, o->out ? o->out : o->train, err);

	if (rc < 0)
		return rc;
	for (int i = 0; !rc && i < text_count; i++)
		rc = append_text(&f, texts[i], &count, err);
	if (!rc && o->validation) {
		rc = count ? split_off(o, &f, count, err) : finish(&f, 0, err);
	} else if (!rc) {
		rc = finish(&f, count, err);
		if (!rc)
			rc = outfile_commit(&f, err);
		if (!rc)
			say(o, f.path, count);
	}
	outfile_abort(&f);
	return rc;
}

static int print_json(struct json *j, struct err *err)
{
	const char *text = json_text(j);
	int rc = text ? 0 : err_sys(err, -ENOMEM, "writing JSON");

	if (text)
		puts(text);
	json_done(j);
	return rc;
}

static int bigram(const struct options *o, const char *train_path, const char *validation_path,
		  struct err *err)
{
	struct shard train = {0}, validation = {0};
	struct json j;
	double loss = 0;
	int rc = shard_open(train_path, true, &train, err);

	if (!rc)
		rc = shard_open(validation_path, true, &validation, err);
	if (!rc)
		rc = bigram_loss(&train, &validation, &loss, err);
	if (!rc && o->json) {
		json_init(&j);
		json_object_begin(&j, NULL);
		json_double(&j, "bigram_loss", loss);
		json_string(&j, "smoothing", "add-one");
		json_u64(&j, "predicted", validation.header.count - 1);
		json_u64(&j, "vocab", train.header.vocab);
		json_object_end(&j);
		rc = print_json(&j, err);
	} else if (!rc) {
		printf("bigrams (add-one smoothing): %.4f nats a %s over %ju tokens of %s\n", loss,
		       train.header.token_bytes == 1 ? "byte" : "token",
		       (uintmax_t)(validation.header.count - 1), validation_path);
	}
	shard_close(&train);
	shard_close(&validation);
	return rc;
}

static int info(const struct options *o, const char *path, struct err *err)
{
	char size[UNITS_TEXT_BYTES];
	struct shard s;
	struct json j;
	int rc = shard_open(path, true, &s, err);

	if (rc < 0)
		return rc;
	if (o->json) {
		json_init(&j);
		json_object_begin(&j, NULL);
		json_string(&j, "path", path);
		json_u64(&j, "version", SHARD_VERSION);
		json_u64(&j, "tokens", s.header.count);
		json_u64(&j, "token_bytes", s.header.token_bytes);
		json_u64(&j, "vocab", s.header.vocab);
		json_object_end(&j);
		rc = print_json(&j, err);
	} else {
		printf("%s: %ju tokens of %u byte%s (%s), vocabulary %u, checksum %08x is right\n",
		       path, (uintmax_t)s.header.count, s.header.token_bytes,
		       s.header.token_bytes == 1 ? "" : "s",
		       units_format_bytes(size, s.header.count * s.header.token_bytes),
		       s.header.vocab, s.header.crc);
	}
	shard_close(&s);
	return rc;
}

static void usage(FILE *out)
{
	fputs("usage: dsprep [-q] -o OUT.bin TEXT...\n"
	      "       dsprep [-q] --train A.bin --validation B.bin [--validation-fraction F] "
	      "TEXT...\n"
	      "       dsprep [--json] --bigram TRAIN.bin VALIDATION.bin\n"
	      "       dsprep [--json] --info SHARD.bin\n"
	      "TEXT may be - for standard input. See dsprep(1).\n",
	      out);
}

static int fraction_parse(const char *text, double *ret, struct err *err)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value > 0 && value < 1))
		return err_set(err, ERR_USAGE,
			       "--validation-fraction: %s, expected a number between 0 and 1",
			       text);
	*ret = value;
	return 0;
}

/* Returns 0, 1 when there is nothing more to do, or ERR_USAGE. */
static int options_parse(int argc, char **argv, struct options *o, struct err *err)
{
	static const struct option longs[] = {
		{"train", required_argument, NULL, 't'},
		{"validation", required_argument, NULL, 'v'},
		{"validation-fraction", required_argument, NULL, 'f'},
		{"bigram", no_argument, NULL, 'b'},
		{"info", no_argument, NULL, 'i'},
		{"json", no_argument, NULL, 'j'},
		{"output", required_argument, NULL, 'o'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, rc;

	while ((c = getopt_long(argc, argv, "o:qh", longs, NULL)) != -1) {
		switch (c) {
		case 't':
			o->train = optarg;
			break;
		case 'v':
			o->validation = optarg;
			break;
		case 'f':
			rc = fraction_parse(optarg, &o->fraction, err);
			if (rc < 0)
				return rc;
			break;
		case 'b':
			o->bigram = true;
			break;
		case 'i':
			o->info = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'o':
			o->out = optarg;
			break;
		case 'q':
			o->quiet = true;
			break;
		case 'h':
			usage(stdout);
			return 1;
		default:
			usage(stderr);
			return err_set(err, ERR_USAGE, "cannot read the command line");
		}
	}
	return 0;
}

static int options_check(const struct options *o, int args, struct err *err)
{
	bool preparing = o->out || o->train || o->validation;

	if ((int)preparing + (int)o->bigram + (int)o->info != 1)
		return err_set(err, ERR_USAGE,
			       "expected one of -o, --train with --validation, --bigram, --info");
	if (o->out && (o->train || o->validation))
		return err_set(err, ERR_USAGE, "-o makes one shard: no --train, no --validation");
	if (preparing && !o->out && (!o->train || !o->validation))
		return err_set(err, ERR_USAGE, "--train and --validation go together");
	if (o->train && !strcmp(o->train, o->validation))
		return err_set(err, ERR_USAGE, "--train and --validation are the same file");
	if (o->fraction > 0 && !o->validation)
		return err_set(err, ERR_USAGE, "--validation-fraction goes with --validation");
	if (o->json && preparing)
		return err_set(err, ERR_USAGE, "--json goes with --bigram and --info");
	if (preparing && args < 1)
		return err_set(err, ERR_USAGE, "expected at least one text file");
	if (o->bigram && args != 2)
		return err_set(err, ERR_USAGE, "--bigram takes two shards");
	if (o->info && args != 1)
		return err_set(err, ERR_USAGE, "--info takes one shard");
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {0};
	struct err err = {0};
	int rc = options_parse(argc, argv, &o, &err);

	if (rc > 0)
		return 0;
	if (!rc)
		rc = options_check(&o, argc - optind, &err);
	if (!rc && o.validation && o.fraction <= 0)
		o.fraction = 0.1;
	if (!rc && o.bigram)
		rc = bigram(&o, argv[optind], argv[optind + 1], &err);
	else if (!rc && o.info)
		rc = info(&o, argv[optind], &err);
	else if (!rc)
		rc = prepare(&o, argv + optind, argc - optind, &err);
	if (!rc && (fflush(stdout) || ferror(stdout)))
		rc = err_set(&err, ERR_IO, "standard output: %s", err_str(-errno));
	if (rc < 0)
		fprintf(stderr, "dsprep: %s\n", err.text);
	return err_exit_status(rc);
}
