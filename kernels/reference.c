/* Every operation as plain loops over doubles; see reference.h. Called by tests. */
#include "kernels/reference.h"

#include <math.h>

static size_t weight_at(const struct reference_linear *l, size_t i, size_t o)
{
	return l->w_transposed ? o * l->in + i : i * l->out + o;
}

void reference_linear_forward(const struct reference_linear *l)
{
	for (size_t r = 0; r < l->rows; r++)
		for (size_t o = 0; o < l->out; o++) {
			double sum = l->bias ? l->bias[o] : 0;

			for (size_t i = 0; i < l->in; i++)
				sum += l->x[r * l->in + i] * l->w[weight_at(l, i, o)];
			l->y[r * l->out + o] = sum;
		}
}

static void linear_backward_input(const struct reference_linear *l)
{
	for (size_t r = 0; r < l->rows; r++)
		for (size_t i = 0; i < l->in; i++) {
			double sum = 0;

			for (size_t o = 0; o < l->out; o++)
				sum += l->dy[r * l->out + o] * l->w[weight_at(l, i, o)];
			l->dx[r * l->in + i] = sum;
		}
}

void reference_linear_backward(const struct reference_linear *l)
{
	if (l->dx)
		linear_backward_input(l);
	for (size_t r = 0; r < l->rows; r++)
		for (size_t o = 0; o < l->out; o++) {
			double dy = l->dy[r * l->out + o];

			for (size_t i = 0; l->dw && i < l->in; i++)
				l->dw[weight_at(l, i, o)] += l->x[r * l->in + i] * dy;
			if (l->dbias)
				l->dbias[o] += dy;
		}
}

void reference_layernorm_forward(const struct reference_layernorm *l)
{
	for (size_t r = 0; r < l->rows; r++) {
		const double *x = l->x + r * l->width;
		double mean = 0, variance = 0;

		for (size_t j = 0; j < l->width; j++)
			mean += x[j];
		mean /= (double)l->width;
		for (size_t j = 0; j < l->width; j++)
			variance += (x[j] - mean) * (x[j] - mean);
		variance /= (double)l->width;
		l->mean[r] = mean;
		l->rstd[r] = 1 / sqrt(variance + l->eps);
		for (size_t j = 0; j < l->width; j++)
			l->y[r * l->width + j] =
				(x[j] - mean) * l->rstd[r] * l->gain[j] + l->bias[j];
	}
}

void reference_layernorm_backward(const struct reference_layernorm *l)
{
	for (size_t r = 0; r < l->rows; r++) {
		const double *x = l->x + r * l->width, *dy = l->dy + r * l->width;
		double mean_d = 0, mean_dh = 0;

		for (size_t j = 0; j < l->width; j++) {
			double h = (x[j] - l->mean[r]) * l->rstd[r];

			mean_d += dy[j] * l->gain[j] / (double)l->width;
			mean_dh += dy[j] * l->gain[j] * h / (double)l->width;
			if (l->dgain)
				l->dgain[j] += dy[j] * h;
			if (l->dbias)
				l->dbias[j] += dy[j];
		}
		for (size_t j = 0; l->dx && j < l->width; j++) {
			double h = (x[j] - l->mean[r]) * l->rstd[r];

			l->dx[r * l->width + j] +=
				l->rstd[r] * (dy[j] * l->gain[j] - mean_d - h * mean_dh);
		}
	}
}

void reference_rmsnorm_forward(const struct reference_rmsnorm *l)
{
	for (size_t r = 0; r < l->rows; r++) {
		const double *x = l->x + r * l->width;
		double square = 0;

		for (size_t j = 0; j < l->width; j++)
			square += x[j] * x[j] / (double)l->width;
		l->rstd[r] = 1 / sqrt(square + l->eps);
		for (size_t j = 0; j < l->width; j++)
			l->y[r * l->width + j] = x[j] * l->rstd[r] * l->gain[j];
	}
}

void reference_rmsnorm_backward(const struct reference_rmsnorm *l)
{
	for (size_t r = 0; r < l->rows; r++) {
		const double *x = l->x + r * l->width, *dy = l->dy + r * l->width;
		double mean_dh = 0;

		for (size_t j = 0; j < l->width; j++) {
			double h = x[j] * l->rstd[r];

			mean_dh += dy[j] * l->gain[j] * h / (double)l->width;
			if (l->dgain)
				l->dgain[j] += dy[j] * h;
		}
		for (size_t j = 0; l->dx && j < l->width; j++) {
			double h = x[j] * l->rstd[r];

			l->dx[r * l->width + j] += l->rstd[r] * (dy[j] * l->gain[j] - h * mean_dh);
		}
	}
}

static void rotary_head(double *x, size_t dim, double position, double theta, bool inverse)
{
	for (size_t j = 0; j < dim / 2; j++) {
		double angle = position / pow(theta, (double)j / (double)(dim / 2));
		double a = x[j], b = x[j + dim / 2];

		if (inverse)
			angle = -angle;
		x[j] = a * cos(angle) - b * sin(angle);
		x[j + dim / 2] = b * cos(angle) + a * sin(angle);
	}
}

void reference_rotary(const struct reference_rotary *r)
{
	for (size_t i = 0; i < r->batch * r->seq; i++)
		for (size_t n = 0; n < r->heads; n++)
			rotary_head(r->x + i * r->row + n * r->head_dim, r->head_dim,
				    (double)(i % r->seq), r->theta, r->inverse);
}

/* One head of one sequence: rows of q, k, v and of out. */
struct head {
	size_t seq, dim, in_row, out_row, qkv_at, out_at, lse_at;
	const double *q, *k, *v;
	double scale;
};

static struct head head_of(const struct reference_attention *a, size_t batch, size_t head)
{
	size_t width = a->heads * a->head_dim;
	struct head h = {
		.seq = a->seq,
		.dim = a->head_dim,
		.in_row = 3 * width,
		.out_row = width,
		.qkv_at = batch * a->seq * 3 * width + head * a->head_dim,
		.out_at = batch * a->seq * width + head * a->head_dim,
		.lse_at = (batch * a->heads + head) * a->seq,
		.scale = 1 / sqrt((double)a->head_dim),
	};

	h.q = a->qkv + h.qkv_at;
	h.k = h.q + width;
	h.v = h.k + width;
	return h;
}

static double dot(const double *a, const double *b, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += a[i] * b[i];
	return sum;
}

static double score(const struct head *h, size_t i, size_t j)
{
	return h->scale * dot(h->q + i * h->in_row, h->k + j * h->in_row, h->dim);
}

static void attention_forward_head(const struct reference_attention *a, const struct head *h)
{
	for (size_t i = 0; i < h->seq; i++) {
		double *out = a->out + h->out_at + i * h->out_row;
		double greatest = -INFINITY, sum = 0, lse;

		for (size_t j = 0; j <= i; j++)
			greatest = fmax(greatest, score(h, i, j));
		for (size_t j = 0; j <= i; j++)
			sum += exp(score(h, i, j) - greatest);
		lse = a->lse[h->lse_at + i] = greatest + log(sum);
		for (size_t d = 0; d < h->dim; d++)
			out[d] = 0;
		for (size_t j = 0; j <= i; j++) {
			double p = exp(score(h, i, j) - lse);

			for (size_t d = 0; d < h->dim; d++)
				out[d] += p * h->v[j * h->in_row + d];
		}
	}
}

void reference_attention_forward(const struct reference_attention *a)
{
	for (size_t b = 0; b < a->batch; b++)
		for (size_t n = 0; n < a->heads; n++) {
			struct head h = head_of(a, b, n);

			attention_forward_head(a, &h);
		}
}

static void attention_backward_head(const struct reference_attention *a, const struct head *h)
{
	size_t width = h->out_row;
	double *dq = a->dqkv + h->qkv_at, *dk = dq + width, *dv = dk + width;

	for (size_t i = 0; i < h->seq; i++)
		for (size_t d = 0; d < h->dim; d++)
			dq[i * h->in_row + d] = dk[i * h->in_row + d] = dv[i * h->in_row + d] = 0;
	for (size_t i = 0; i < h->seq; i++) {
		const double *dout = a->dout + h->out_at + i * h->out_row;
		double delta = dot(dout, a->out + h->out_at + i * h->out_row, h->dim);

		for (size_t j = 0; j <= i; j++) {
			size_t at_i = i * h->in_row, at_j = j * h->in_row;
			double p = exp(score(h, i, j) - a->lse[h->lse_at + i]);
			double ds = p * (dot(dout, h->v + at_j, h->dim) - delta) * h->scale;

			for (size_t d = 0; d < h->dim; d++) {
				dq[at_i + d] += ds * h->k[at_j + d];
				dk[at_j + d] += ds * h->q[at_i + d];
				dv[at_j + d] += p * dout[d];
			}
		}
	}
}

void reference_attention_backward(const struct reference_attention *a)
{
	for (size_t b = 0; b < a->batch; b++)
		for (size_t n = 0; n < a->heads; n++) {
			struct head h = head_of(a, b, n);

			attention_backward_head(a, &h);
		}
}

/* sqrt(2/pi) (x + 0.044715 x^3) */
static double gelu_inner(double x)
{
	return 0.79788456080286535588 * (x + 0.044715 * x * x * x);
}

double reference_gelu(double x)
{
	return 0.5 * x * (1 + tanh(gelu_inner(x)));
}

double reference_gelu_slope(double x)
{
	double t = tanh(gelu_inner(x));
	double du = 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);

	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du;
}

void reference_swiglu_forward(const struct reference_swiglu *s)
{
	for (size_t r = 0; r < s->rows; r++) {
		const double *gate = s->x + r * 2 * s->width, *up = gate + s->width;

		for (size_t j = 0; j < s->width; j++)
			s->y[r * s->width + j] = gate[j] / (1 + exp(-gate[j])) * up[j];
	}
}

void reference_swiglu_backward(const struct reference_swiglu *s)
{
	for (size_t r = 0; r < s->rows; r++) {
		const double *gate = s->x + r * 2 * s->width, *up = gate + s->width;
		const double *dy = s->dy + r * s->width;
		double *dgate = s->dx + r * 2 * s->width, *dup = dgate + s->width;

		for (size_t j = 0; j < s->width; j++) {
			double sigmoid = 1 / (1 + exp(-gate[j])), u = up[j];

			dup[j] = dy[j] * gate[j] * sigmoid;
			dgate[j] = dy[j] * u * sigmoid * (1 + gate[j] * (1 - sigmoid));
		}
	}
}

void reference_embedding_forward(const struct reference_embedding *e)
{
	for (size_t i = 0; i < e->batch * e->seq; i++)
		for (size_t j = 0; j < e->width; j++)
			e->out[i * e->width + j] = e->token_table[e->tokens[i] * e->width + j] +
						   e->position_table[i % e->seq * e->width + j];
}

void reference_embedding_backward(const struct reference_embedding *e)
{
	for (size_t i = 0; i < e->batch * e->seq; i++)
		for (size_t j = 0; j < e->width; j++) {
			e->dtoken[e->tokens[i] * e->width + j] += e->dout[i * e->width + j];
			e->dposition[i % e->seq * e->width + j] += e->dout[i * e->width + j];
		}
}

double reference_cross_entropy(size_t rows, size_t vocab, const double *logits,
			       const uint32_t *targets, double scale, double *dlogits)
{
	double loss = 0;

	for (size_t r = 0; r < rows; r++) {
		const double *x = logits + r * vocab;
		double greatest = -INFINITY, sum = 0;

		for (size_t j = 0; j < vocab; j++)
			greatest = fmax(greatest, x[j]);
		for (size_t j = 0; j < vocab; j++)
			sum += exp(x[j] - greatest);
		loss += greatest + log(sum) - x[targets[r]];
		for (size_t j = 0; dlogits && j < vocab; j++)
			dlogits[r * vocab + j] =
				scale * (exp(x[j] - greatest) / sum - (j == targets[r]));
	}
	return loss;
}

void reference_adam_step(const struct reference_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step);
	double bias2 = 1 - pow(a->beta2, (double)a->step);

	for (size_t i = 0; i < a->count; i++) {
		double g = a->grad[i] * a->grad_scale;

		a->m[i] = a->beta1 * a->m[i] + (1 - a->beta1) * g;
		a->v[i] = a->beta2 * a->v[i] + (1 - a->beta2) * g * g;
		if (i < a->decay_count)
			a->param[i] -= a->lr * a->weight_decay * a->param[i];
		a->param[i] -= a->lr * (a->m[i] / bias1) / (sqrt(a->v[i] / bias2) + a->eps);
	}
}
