/*
 * Every operation as plain loops over doubles: what a reader checks against the mathematics and a
 * test checks every backend against. Arrays lie as in the operation's own header. Backward
 * functions take NULL for a result that is not wanted. Any thread; nothing is allocated.
 */
#ifndef KERNELS_REFERENCE_H
#define KERNELS_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reference_linear {
	size_t rows, in, out;
	bool w_transposed;
	const double *w, *bias, *x, *dy; /* bias may be NULL */
	double *y;                       /* forward */
	double *dx;                      /* backward: overwritten */
	double *dw, *dbias;              /* backward: added to */
};
void reference_linear_forward(const struct reference_linear *l);
void reference_linear_backward(const struct reference_linear *l);

struct reference_layernorm {
	size_t rows, width;
	double eps;
	const double *gain, *bias, *x, *dy;
	double *y, *mean, *rstd;    /* written by forward */
	double *dx, *dgain, *dbias; /* backward: added to */
};
void reference_layernorm_forward(const struct reference_layernorm *l);
void reference_layernorm_backward(const struct reference_layernorm *l);

struct reference_rmsnorm {
	size_t rows, width;
	double eps;
	const double *gain, *x, *dy;
	double *y, *rstd;   /* written by forward */
	double *dx, *dgain; /* backward: added to */
};
void reference_rmsnorm_forward(const struct reference_rmsnorm *l);
void reference_rmsnorm_backward(const struct reference_rmsnorm *l);

/* With angles of its own, not those of rotary_host_table. */
struct reference_rotary {
	size_t batch, seq, heads, head_dim, row;
	double theta;
	bool inverse;
	double *x; /* in place */
};
void reference_rotary(const struct reference_rotary *r);

struct reference_attention {
	size_t batch, seq, heads, head_dim;
	const double *qkv, *dout;
	double *out, *lse; /* written by forward */
	double *dqkv;      /* backward: overwritten */
};
void reference_attention_forward(const struct reference_attention *a);
void reference_attention_backward(const struct reference_attention *a);

double reference_gelu(double x);
double reference_gelu_slope(double x);

struct reference_swiglu {
	size_t rows, width;
	const double *x, *dy;
	double *y;  /* forward */
	double *dx; /* backward: overwritten */
};
void reference_swiglu_forward(const struct reference_swiglu *s);
void reference_swiglu_backward(const struct reference_swiglu *s);

struct reference_embedding {
	size_t batch, seq, width;
	const uint32_t *tokens;
	const double *token_table, *position_table, *dout;
	double *out;                /* forward */
	double *dtoken, *dposition; /* backward: added to */
};
void reference_embedding_forward(const struct reference_embedding *e);
void reference_embedding_backward(const struct reference_embedding *e);

/* Returns the sum of -log p(target); dlogits, if any, becomes scale times its gradient. */
double reference_cross_entropy(size_t rows, size_t vocab, const double *logits,
			       const uint32_t *targets, double scale, double *dlogits);

struct reference_adam {
	size_t count, decay_count;
	double lr, beta1, beta2, eps, weight_decay, grad_scale;
	uint64_t step; /* from 1 */
	const double *grad;
	double *param, *m, *v;
};
void reference_adam_step(const struct reference_adam *a);

#endif
