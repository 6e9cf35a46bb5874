/*
 * Frames between dsrun and its agent: see link.h for what they mean. Both event loops call this,
 * each from its only thread.
 *
 * 1. Nothing here blocks: reading takes what is there, writing what the pipe has room for.
 * 2. A buffer holds at most one frame that is not whole; its size is bounded by LINK_BYTES_MAX.
 * 3. A head is checked before its length is believed.
 */
#include "launcher/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES ((size_t)64 << 10)

void link_in_init(struct link_in *in, int fd)
{
	*in = (struct link_in){.fd = fd};
}

void link_in_done(struct link_in *in)
{
	free(in->buf);
	*in = (struct link_in){.fd = -1};
}

/* Room for `bytes` behind what is buffered, which moves to the front. */
static int make_room(uint8_t **buf, size_t *start, size_t len, size_t *room, size_t bytes)
{
	if (*start > 0) {
		memmove(*buf, *buf + *start, len);
		*start = 0;
	}
	if (*room - len >= bytes)
		return 0;

	size_t want = *room < READ_BYTES ? READ_BYTES : *room;
	while (want < len + bytes)
		want *= 2;
	uint8_t *grown = realloc(*buf, want);
	if (!grown)
		return -ENOMEM;
	*buf = grown;
	*room = want;
	return 0;
}

int link_read(struct link_in *in, struct err *err)
{
	int rc = make_room(&in->buf, &in->start, in->len, &in->room, READ_BYTES);

	if (rc < 0)
		return err_sys(err, rc, "link");
	ssize_t got = read(in->fd, in->buf + in->len, in->room - in->len);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got < 0)
		return err_sys(err, -errno, "link: read");
	if (got == 0)
		return err_set(err, -EPIPE, "link: the other side is gone");
	in->len += (size_t)got;
	return 1;
}

int link_next(struct link_in *in, struct link_frame *ret, struct err *err)
{
	struct link_head head;

	if (in->len < sizeof(head))
		return 0;
	memcpy(&head, in->buf + in->start, sizeof(head));
	if (head.type == 0 || head.type >= LINK_TYPE_COUNT || head.bytes > LINK_BYTES_MAX)
		return err_set(err, ERR_PROTOCOL, "link: a frame of type %u with %u bytes",
			       head.type, head.bytes);

	size_t bytes = sizeof(head) + head.bytes;
	if (in->len < bytes)
		return 0;
	ret->head = head;
	ret->payload = in->buf + in->start + sizeof(head);
	in->start += bytes;
	in->len -= bytes;
	return 1;
}

void link_out_init(struct link_out *out, int fd)
{
	*out = (struct link_out){.fd = fd};
}

void link_out_done(struct link_out *out)
{
	free(out->buf);
	*out = (struct link_out){.fd = -1, .broken = true};
}

int link_put(struct link_out *out, enum link_type type, uint32_t rank, const void *head,
	     size_t head_bytes, const void *text, size_t text_bytes)
{
	if (head_bytes > LINK_BYTES_MAX || text_bytes > LINK_BYTES_MAX - head_bytes)
		return -E2BIG;
	if (out->broken)
		return 0;

	size_t bytes = head_bytes + text_bytes;
	struct link_head frame = {.type = type, .rank = rank, .bytes = (uint32_t)bytes};
	int rc = make_room(&out->buf, &out->start, out->len, &out->room, sizeof(frame) + bytes);
	if (rc < 0)
		return rc;

	uint8_t *at = out->buf + out->len;
	memcpy(at, &frame, sizeof(frame));
	at += sizeof(frame);
	if (head_bytes)
		memcpy(at, head, head_bytes);
	if (text_bytes)
		memcpy(at + head_bytes, text, text_bytes);
	out->len += sizeof(frame) + bytes;
	return 0;
}

int link_flush(struct link_out *out)
{
	while (out->len > 0 && !out->broken) {
		ssize_t put = write(out->fd, out->buf + out->start, out->len);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			return 0;
		if (put < 0) {
			out->broken = true;
			out->len = 0;
			break;
		}
		out->start += (size_t)put;
		out->len -= (size_t)put;
	}
	if (out->len == 0)
		out->start = 0;
	return out->broken ? -EPIPE : 0;
}

size_t link_pending(const struct link_out *out)
{
	return out->len;
}

int link_take(const struct link_frame *frame, void *ret_head, size_t head_bytes,
	      const char **ret_text, size_t *ret_text_bytes, struct err *err)
{
	size_t bytes = frame->head.bytes;

	if (bytes < head_bytes || (!ret_text && bytes != head_bytes))
		return err_set(err, ERR_PROTOCOL, "link: a frame of type %u has %zu bytes, not %zu",
			       frame->head.type, bytes, head_bytes);
	if (head_bytes)
		memcpy(ret_head, frame->payload, head_bytes);
	if (ret_text) {
		*ret_text = (const char *)frame->payload + head_bytes;
		*ret_text_bytes = bytes - head_bytes;
	}
	return 0;
}
