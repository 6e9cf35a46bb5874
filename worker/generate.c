/*
 * Sampling from the model: at temperature 0.8, each token from a pass over the window before it.
 * Called by the worker's main thread, on all ranks in step.
 *
 * 1. Token i is drawn by rng_uniform(seed, 2^34, i) from rank 0's logits: the same weights and
 *    seed give the same text.
 * 2. With a vocabulary of at most 256 tokens are bytes; a byte that is no UTF-8 shows as '?'. Other
 *    tokens show as numbers.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "worker/internal.h"

#define TEMPERATURE     0.8
#define STREAM_GENERATE (UINT64_C(1) << 34)
#define NOTE_BYTES_MAX  32768u

/* Index of the token at `uniform` of the cumulated softmax(logits / temperature). */
static uint32_t draw(const float *logits, size_t vocab, double uniform)
{
	double sum = 0, at = 0;
	float top = logits[0];
	uint32_t last = 0;

	for (size_t i = 1; i < vocab; i++)
		top = logits[i] > top ? logits[i] : top;
	for (size_t i = 0; i < vocab; i++)
		sum += exp(((double)logits[i] - (double)top) / TEMPERATURE);
	for (size_t i = 0; i < vocab; i++) {
		double p = exp(((double)logits[i] - (double)top) / TEMPERATURE);

		if (p > 0)
			last = (uint32_t)i;
		at += p;
		if (uniform * sum < at)
			return (uint32_t)i;
	}
	/* Rounding left a gap at the end. */
	return last;
}

static int next_token(struct run *run, const uint32_t *tokens, uint64_t count, uint64_t index,
		      uint32_t *ret, struct err *err)
{
	uint64_t seq = run->config.data.sequence, window = count < seq ? count : seq;
	struct gpt2_pass pass = {.batch = 1, .seq = window, .logits = run->logits};
	uint32_t *ids, *targets, token, *all;
	int rc = run_feed_take(run, &ids, &targets, err);

	if (rc < 0)
		return rc;
	memcpy(ids, tokens + count - window, window * sizeof(*ids));
	pass.ids = ids;
	rc = run_pass(run, &pass, err);
	if (!rc)
		rc = run_result_wait(run, err);
	if (rc < 0)
		return rc;
	all = calloc(run->world, sizeof(*all));
	if (!all)
		return err_sys(err, -ENOMEM, "sampling");
	token = draw(run->logits, run->config.model.vocab,
		     rng_uniform(run->config.seed, STREAM_GENERATE, index));
	rc = engine_exchange(run->engine, &token, sizeof(token), all, err);
	if (!rc)
		*ret = all[0];
	free(all);
	return rc;
}

/* Bytes of the UTF-8 character at `s`, 0 when it is none. NUL and control characters are none. */
static size_t character(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (!n || n > len || s[0] > 0xf4 || s[0] == 0x7f)
		return 0;
	if (n == 1)
		return s[0] >= 0x20 || s[0] == '\n' || s[0] == '\t';
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static char *tokens_text(const uint32_t *tokens, uint64_t count, uint64_t vocab)
{
	char *text = malloc(count * 11 + 1), *out = text;

	if (!text)
		return NULL;
	if (vocab > 256) {
		for (uint64_t i = 0; i < count; i++)
			out += sprintf(out, "%s%u", i ? " " : "", tokens[i]);
		return text;
	}
	for (uint64_t i = 0; i < count; i++)
		text[i] = (char)tokens[i];
	text[count] = '\0';
	for (uint64_t i = 0; i < count;) {
		size_t n = character(text + i, count - i);

		if (!n)
			text[i] = '?';
		i += n ? n : 1;
	}
	return text;
}

/* In notes of at most NOTE_BYTES_MAX, cut behind a newline where there is one. */
static int report(struct run *run, const char *text, struct err *err)
{
	int rc = run_note(run, err, "sample:");

	while (!rc && *text) {
		size_t len = strlen(text);
		const char *newline;

		if (len > NOTE_BYTES_MAX) {
			len = NOTE_BYTES_MAX;
			newline = memrchr(text, '\n', len);
			len = newline ? (size_t)(newline - text) + 1 : len;
		}
		rc = run_note(run, err, "%.*s", (int)len, text);
		text += len;
	}
	return rc;
}

/* The prompt as tokens, with room for what follows. */
static int prompt_tokens(const struct run *run, uint32_t **ret, uint64_t *ret_count,
			 struct err *err)
{
	const bool given = run->job.prompt && *run->job.prompt;
	const char *prompt = given ? run->job.prompt : "\n";
	const uint64_t vocab = run->config.model.vocab, count = strlen(prompt);
	uint32_t *tokens;

	if (run->job.generate > (UINT64_C(1) << 32))
		return err_set(err, ERR_USAGE, "--generate: %ju tokens are too many",
			       (uintmax_t)run->job.generate);
	tokens = calloc(count + run->job.generate, sizeof(*tokens));
	if (!tokens)
		return err_sys(err, -ENOMEM, "sampling");
	for (uint64_t i = 0; i < count; i++) {
		tokens[i] = (unsigned char)prompt[i];
		/* A vocabulary too small for a newline begins with its first token. */
		if (!given && tokens[i] >= vocab)
			tokens[i] = 0;
		if (tokens[i] >= vocab) {
			free(tokens);
			return err_set(err, ERR_USAGE,
				       "--prompt: byte %u is beyond model.vocab, %ju",
				       (unsigned char)prompt[i], (uintmax_t)vocab);
		}
	}
	*ret = tokens;
	*ret_count = count;
	return 0;
}

int generate(struct run *run, char **ret, struct err *err)
{
	double start = run_now();
	uint32_t *tokens = NULL;
	uint64_t count = 0;
	char *text;
	int rc = prompt_tokens(run, &tokens, &count, err);

	if (rc < 0)
		return rc;
	for (uint64_t i = 0; !rc && i < run->job.generate; i++, count++)
		rc = next_token(run, tokens, count, i, &tokens[count], err);
	text = rc < 0 ? NULL : tokens_text(tokens, count, run->config.model.vocab);
	free(tokens);
	if (!rc && !text)
		rc = err_sys(err, -ENOMEM, "sampling");
	if (!rc)
		rc = report(run, text, err);
	run->metrics.seconds[RUN_GENERATE] += run_now() - start;
	if (rc < 0) {
		free(text);
		return rc;
	}
	*ret = text;
	return 0;
}
