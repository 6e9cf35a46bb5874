/*
 * GPT-2 (Radford et al., 2019): token and learned position embeddings, pre-LayerNorm blocks of
 * causal attention and a GELU MLP, a final LayerNorm, and a head tied to the token table. Here is
 * what the shape (arch_gpt2.c) and the arithmetic (worker/gpt2.c) must agree on: the order of
 * tensors in a unit, the kinds of phases, and the layout of the workspace.
 */
#ifndef OFFLOAD_ARCH_GPT2_H
#define OFFLOAD_ARCH_GPT2_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/dtype.h"
#include "offload/arch.h"
#include "offload/train_config.h"

enum gpt2_phase {
	GPT2_EMBED,
	GPT2_BLOCK,
	GPT2_HEAD,           /* loss; in training its gradient too */
	GPT2_BLOCK_BACKWARD, /* recomputes the block from its input first */
	GPT2_EMBED_BACKWARD,
};

/* Unit 0. The final norm lives with the head's table, so that the head needs one unit. */
enum gpt2_embedding_tensor {
	GPT2_WTE,
	GPT2_WPE,
	GPT2_LNF_GAIN,
	GPT2_LNF_BIAS,
	GPT2_EMBEDDING_TENSORS
};

/* Units 1..layers. */
enum gpt2_block_tensor {
	GPT2_ATTN_W,
	GPT2_ATTN_PROJ_W,
	GPT2_FC_W,
	GPT2_MLP_PROJ_W,
	GPT2_LN1_GAIN,
	GPT2_LN1_BIAS,
	GPT2_ATTN_B,
	GPT2_ATTN_PROJ_B,
	GPT2_LN2_GAIN,
	GPT2_LN2_BIAS,
	GPT2_FC_B,
	GPT2_MLP_PROJ_B,
	GPT2_BLOCK_TENSORS,
};

#define GPT2_NORM_EPS 1e-5f

/* A worker's device shares an operation among at most this many threads: attention's scratch is
 * sized for it, so that a plan holds on every host. */
#define GPT2_THREADS_MAX 16u

/*
 * Rows of the MLP's hidden layer in memory at a time, and bytes of logits, but for the least rows
 * of a large vocabulary: enough for products at full speed. Each chunk of logits reads the token
 * table twice and its gradient once, and writes that: below some 200 rows a CPU waits for memory,
 * not for the products. A GPU wants a hundred tiles of 128 rows by 256 columns in each product,
 * also in the one whose columns are only `hidden`.
 */
#define GPT2_MLP_ROWS_MAX          512u
#define GPT2_MLP_ROWS_MAX_CUDA     16384u
#define GPT2_LOGITS_BYTES_MAX      (4u << 20)
#define GPT2_LOGITS_ROWS_MIN       256u
#define GPT2_LOGITS_BYTES_MAX_CUDA (256u << 20)

/* Elements that a row of logits is padded to on a GPU, which wants rows to begin aligned. */
#define GPT2_LOGITS_ROW_CUDA 64u

/* Weights in bf16 are widened for products in panels of at most this many floats: 1 MiB, in L2. */
#define GPT2_PANEL_FLOATS 262144u

/*
 * What a block computes between its input and its output and its backward reads, in bytes from the
 * area's start. `act` is the type below. A block that is recomputed uses the workspace's own area,
 * with some rows of the MLP at a time; a kept block has one of its own, with all rows.
 */
struct gpt2_area {
	size_t mlp_rows; /* of hidden and gelu */
	uint64_t lse;    /* float [batch][heads][seq] */
	uint64_t qkv;    /* act [tokens][3 hidden] */
	uint64_t attn;   /* act [tokens][hidden] */
	uint64_t res;    /* float [tokens][hidden]: the stream between attention and MLP */
	uint64_t hidden; /* act [mlp_rows][4 hidden], before the GELU */
	uint64_t gelu;   /* the same, behind it */
	uint64_t dqkv;   /* act [tokens][3 hidden], over hidden and gelu */
	uint64_t bytes;
};

/*
 * What a micro-batch carries from phase to phase, and the workspace, each in bytes from its start,
 * each part aligned to GPT2_WORKSPACE_ALIGN. The workspace's loss_sum grows from micro-batch to
 * micro-batch, the rest of it lives within a phase. `area` is shared by turns: a block's
 * intermediates in block phases, logits in the head's.
 */
#define GPT2_WORKSPACE_ALIGN 256u

struct gpt2_layout {
	enum dtype act;            /* of activations but the residual stream, which is fp32 */
	size_t batch, seq, tokens; /* of a micro-batch */
	size_t mlp_rows, logits_rows;
	size_t logits_row;    /* elements from row to row of logits */
	size_t scratch_count; /* floats, of linear and of attention */
	/* carried */
	uint64_t ids, targets; /* uint32_t [tokens] */
	uint64_t dres;         /* float [tokens][hidden]: gradient of the residual stream */
	uint64_t dres_act;     /* the same as `act`; dres itself in fp32 */
	uint64_t carry_bytes;
	/* in the workspace */
	uint64_t loss_sum;   /* double */
	uint64_t norm;       /* act [tokens][hidden]: a LayerNorm's output, then its gradient */
	uint64_t mean, rstd; /* float [tokens] */
	uint64_t scratch;
	uint64_t area;   /* as `recomputed` says */
	uint64_t logits; /* act [logits_rows][logits_row], over area */
	uint64_t bytes;
	struct gpt2_area recomputed, kept;
};

void gpt2_layout_make(const struct train_config *config, struct gpt2_layout *ret);

/* What arch_make calls for `arch: gpt2`. */
int arch_gpt2_make(const struct train_config *config, struct arch **ret, struct err *err);

#endif
