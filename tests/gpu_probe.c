/*
 * Usage: gpu_probe copies [MIB] | product [SIDE]. What this GPU and its link give, as one JSON
 * object. By default copies are of 256 MiB, and the side of the product is 8192.
 *
 * copies: host to device and back through device_copy, from memory of the daemon's kind (a sealed
 * memfd, mapped and registered with the device), beside plain cudaMemcpyAsync from memory that
 * CUDA pinned itself. The two alternate; figures are medians.
 *
 * product: TFLOP/s of a bf16 product of SIDE x SIDE x SIDE through linear_forward, on random
 * values: what utilisations are measured against.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rng.h"
#include "common/shm.h"
#include "kernels/device.h"
#include "kernels/linear.h"

#define ROUNDS   15
#define PRODUCTS 10

static struct err err;

static void must(int rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "gpu_probe: %s\n", err.text);
	exit(1);
}

static void must_cuda(cudaError_t e, const char *call)
{
	if (e == cudaSuccess)
		return;
	fprintf(stderr, "gpu_probe: %s: %s\n", call, cudaGetErrorString(e));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

static void device_make(uint64_t bytes, struct device **device, struct device_stream **stream)
{
	const struct device_config config = {
		.type = DEVICE_CUDA, .memory_bytes = bytes, .threads = 1};

	must(device_open(&config, device, &err));
	must(device_stream_open(*device, "probe", stream, &err));
}

/* GB/s of one copy, waited for. */
static double copy_rate(struct device_stream *stream, void *dst, const void *src, size_t bytes,
			enum device_copy direction)
{
	double start = now();

	device_copy(stream, dst, src, bytes, direction);
	must(device_stream_sync(stream, &err));
	return (double)bytes / (now() - start) / 1e9;
}

static double plain_rate(cudaStream_t stream, void *dst, const void *src, size_t bytes,
			 enum cudaMemcpyKind kind)
{
	double start = now();

	must_cuda(cudaMemcpyAsync(dst, src, bytes, kind, stream), "cudaMemcpyAsync");
	must_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
	return (double)bytes / (now() - start) / 1e9;
}

static void copies(size_t bytes)
{
	double rates[4][ROUNDS];
	struct device_stream *stream;
	struct device *device;
	cudaStream_t plain;
	void *arena, *pinned, *mem;
	int fd;

	device_make(device_own_bytes(DEVICE_CUDA) + bytes + (1u << 20), &device, &stream);
	plain = device_stream_native(stream);
	mem = device_alloc(device, bytes, "the probe's buffer", &err);
	must(mem ? 0 : err.code);
	fd = shm_create("gpu_probe", bytes, &err);
	must(fd);
	must(shm_map(fd, bytes, &arena, &err));
	memset(arena, 1, bytes);
	must(device_host_register(device, arena, bytes, &err));
	must_cuda(cudaMallocHost(&pinned, bytes), "cudaMallocHost");
	memset(pinned, 2, bytes);
	for (int i = -1; i < ROUNDS; i++) {
		/* Round -1 warms up, and is overwritten by round 0. */
		size_t at = i < 0 ? 0 : (size_t)i;

		rates[0][at] = copy_rate(stream, mem, arena, bytes, DEVICE_COPY_IN);
		rates[1][at] = plain_rate(plain, mem, pinned, bytes, cudaMemcpyHostToDevice);
		rates[2][at] = copy_rate(stream, arena, mem, bytes, DEVICE_COPY_OUT);
		rates[3][at] = plain_rate(plain, pinned, mem, bytes, cudaMemcpyDeviceToHost);
	}
	double in = median(rates[0], ROUNDS), plain_in = median(rates[1], ROUNDS);
	double out = median(rates[2], ROUNDS), plain_out = median(rates[3], ROUNDS);

	printf("{\"arena_in_GBps\":%.3f,\"pinned_in_GBps\":%.3f,\"ratio_in\":%.4f,"
	       "\"arena_out_GBps\":%.3f,\"pinned_out_GBps\":%.3f,\"ratio_out\":%.4f}\n",
	       in, plain_in, in / plain_in, out, plain_out, out / plain_out);
	must_cuda(cudaFreeHost(pinned), "cudaFreeHost");
	device_free(device);
	shm_unmap(arena, bytes);
}

/* Random bf16 values in [-1, 1) on the device. */
static void *values(struct device *device, struct device_stream *stream, size_t count, uint64_t id)
{
	uint16_t *host = malloc(count * sizeof(*host));
	void *mem = device_alloc(device, count * sizeof(*host), "a matrix", &err);

	if (!host || !mem) {
		fprintf(stderr, "gpu_probe: %s\n", host ? err.text : "out of memory");
		exit(1);
	}
	for (size_t i = 0; i < count; i++)
		host[i] = bf16_from_float((float)(2 * rng_uniform(7, id, i) - 1));
	device_copy(stream, mem, host, count * sizeof(*host), DEVICE_COPY_IN);
	must(device_stream_sync(stream, &err));
	free(host);
	return mem;
}

static void product(size_t side)
{
	const size_t count = side * side;
	const uint64_t matrix = 2 * count;
	double rates[ROUNDS];
	struct device_stream *stream;
	struct device *device;
	struct linear l = {
		.rows = side, .in = side, .out = side, .w_type = DTYPE_BF16, .act = DTYPE_BF16};

	device_make(device_own_bytes(DEVICE_CUDA) + 3 * matrix + (1u << 20), &device, &stream);
	l.x = values(device, stream, count, 0);
	l.w = values(device, stream, count, 1);
	l.y = device_alloc(device, matrix, "the product", &err);
	must(l.y ? 0 : err.code);
	for (int i = -1; i < ROUNDS; i++) {
		double start = now();

		for (unsigned k = 0; k < PRODUCTS; k++)
			linear_forward(stream, &l);
		must(device_stream_sync(stream, &err));
		rates[i < 0 ? 0 : i] =
			2.0 * (double)side * (double)count * PRODUCTS / (now() - start) / 1e12;
	}
	printf("{\"side\":%zu,\"tflops\":%.6g}\n", side, median(rates, ROUNDS));
	device_free(device);
}

int main(int argc, char **argv)
{
	unsigned long size = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

	if (argc > 3 || (argc == 3 && (size == 0 || size > 65536)))
		argc = 0;
	if (argc >= 2 && strcmp(argv[1], "copies") == 0)
		copies((size ? size : 256) << 20);
	else if (argc >= 2 && strcmp(argv[1], "product") == 0)
		product(size ? size : 8192);
	else {
		fprintf(stderr, "usage: gpu_probe copies [MIB] | product [SIDE]\n");
		return 64;
	}
	return 0;
}
