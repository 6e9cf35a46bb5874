/*
 * What the CPU and the operating system can run.
 *
 * Called from any thread. The answer is found once and cached; two threads that find it at the same
 * time find the same, so the cache needs no order.
 * Invariants:
 * 1. A set is present only when CPUID has all of its features and the system saves its registers.
 * 2. The mask only ever lowers the answer.
 */
#include "common/cpu.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const isa_names[CPU_ISA_COUNT] = {
	[CPU_SCALAR] = "scalar",
	[CPU_AVX2] = "avx2",
	[CPU_AVX512] = "avx512",
};

#if defined(__x86_64__)

#define XCR0_YMM 0x06u /* SSE and AVX state */
#define XCR0_ZMM 0xe6u /* and the mask registers, the upper halves and registers 16 to 31 */

/* _xgetbv() would need -mxsave for the whole file. */
static uint32_t xcr0(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo;
}

static enum cpu_isa probe(void)
{
	const uint32_t leaf1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
	const uint32_t wide = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
	uint32_t a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1)
		return CPU_SCALAR;
	if ((xcr0() & XCR0_YMM) != XCR0_YMM)
		return CPU_SCALAR;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
		return CPU_SCALAR;
	if ((b & wide) != wide || (xcr0() & XCR0_ZMM) != XCR0_ZMM)
		return CPU_AVX2;
	return CPU_AVX512;
}

bool cpu_has_crc32(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
}

#else

static enum cpu_isa probe(void)
{
	return CPU_SCALAR;
}

bool cpu_has_crc32(void)
{
	return false;
}

#endif

enum cpu_isa cpu_isa_present(void)
{
	static _Atomic int cached = -1;
	int isa = atomic_load_explicit(&cached, memory_order_relaxed);

	if (isa < 0) {
		isa = (int)probe();
		atomic_store_explicit(&cached, isa, memory_order_relaxed);
	}
	return (enum cpu_isa)isa;
}

/* A word we do not know lowers to scalar, which is right everywhere. */
static enum cpu_isa mask(void)
{
	const char *word = getenv("DSRUN_CPU_MASK");

	if (!word || !*word)
		return CPU_ISA_COUNT - 1;
	for (int i = 0; i < CPU_ISA_COUNT; i++)
		if (!strcmp(word, isa_names[i]))
			return (enum cpu_isa)i;
	return CPU_SCALAR;
}

enum cpu_isa cpu_isa(void)
{
	static _Atomic int cached = -1;
	int isa = atomic_load_explicit(&cached, memory_order_relaxed);

	if (isa < 0) {
		enum cpu_isa present = cpu_isa_present(), allowed = mask();

		isa = (int)(present < allowed ? present : allowed);
		atomic_store_explicit(&cached, isa, memory_order_relaxed);
	}
	return (enum cpu_isa)isa;
}

const char *cpu_isa_name(enum cpu_isa isa)
{
	return isa >= 0 && isa < CPU_ISA_COUNT ? isa_names[isa] : "unknown";
}
