/* Element-wise work on the cpu device: vector.c's functions, a piece to a thread. */
#include "kernels/vector.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* Elements a thread takes at a time: a multiple of VECTOR_BLOCK. */
#define PIECE (8 * VECTOR_BLOCK)

struct piece {
	size_t begin, count;
	const uint8_t *a;
	uint8_t *out;
};

static struct piece piece_of(const struct vector *v, size_t part)
{
	size_t begin = part * PIECE, left = v->count - begin;

	return (struct piece){
		.begin = begin,
		.count = left < PIECE ? left : PIECE,
		.a = (const uint8_t *)v->a + begin * dtype_bytes(v->a_type),
		.out = (uint8_t *)v->out + begin * dtype_bytes(v->out_type),
	};
}

static void add_piece(void *arg, size_t part, unsigned worker)
{
	const struct vector *v = arg;
	struct piece p = piece_of(v, part);
	float *out = v->out;

	(void)worker;
	simd_get()->add(out + p.begin, (const float *)v->a + p.begin, (const float *)v->b + p.begin,
			p.count);
}

void cpu_vector_add(struct cpu_team *team, const void *args)
{
	const struct vector *v = args;

	cpu_team_run(team, add_piece, (void *)v, parts_of(v->count, PIECE));
}

static void convert_piece(void *arg, size_t part, unsigned worker)
{
	const struct vector *v = arg;
	struct piece p = piece_of(v, part);

	(void)worker;
	vector_host_convert(p.out, v->out_type, p.a, v->a_type, p.count);
}

void cpu_vector_convert(struct cpu_team *team, const void *args)
{
	const struct vector *v = args;

	cpu_team_run(team, convert_piece, (void *)v, parts_of(v->count, PIECE));
}

static void accumulate_piece(void *arg, size_t part, unsigned worker)
{
	const struct vector *v = arg;
	struct piece p = piece_of(v, part);
	float *out = v->out;

	(void)worker;
	vector_host_accumulate(out + p.begin, p.a, v->a_type, p.count);
}

void cpu_vector_accumulate(struct cpu_team *team, const void *args)
{
	const struct vector *v = args;

	cpu_team_run(team, accumulate_piece, (void *)v, parts_of(v->count, PIECE));
}

static void sumsq_piece(void *arg, size_t part, unsigned worker)
{
	const struct vector *v = arg;
	size_t begin = part * PIECE, left = v->count - begin;
	const uint8_t *a = (const uint8_t *)v->a + begin * dtype_bytes(v->a_type);

	(void)worker;
	vector_host_sumsq(v->blocks + begin / VECTOR_BLOCK, a, v->a_type,
			  left < PIECE ? left : PIECE);
}

void cpu_vector_sumsq(struct cpu_team *team, const void *args)
{
	const struct vector *v = args;

	cpu_team_run(team, sumsq_piece, (void *)v, parts_of(v->count, PIECE));
}
