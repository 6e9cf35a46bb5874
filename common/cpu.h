/*
 * What the CPU and the operating system can run, asked once. DSRUN_CPU_MASK in the environment
 * (scalar, avx2 or avx512: the best allowed) lowers the answer so that every path is tested
 * on every host; a word it does not know means scalar.
 */
#ifndef COMMON_CPU_H
#define COMMON_CPU_H

#include <stdbool.h>

enum cpu_isa {
	CPU_SCALAR,
	CPU_AVX2,   /* AVX2, FMA, F16C */
	CPU_AVX512, /* AVX-512 F, BW, DQ, VL */
	CPU_ISA_COUNT,
};

/* The best instruction set to use. Any thread. */
enum cpu_isa cpu_isa(void);

/* The best the machine has, whatever the mask says: tests skip what is not there. */
enum cpu_isa cpu_isa_present(void);

const char *cpu_isa_name(enum cpu_isa isa);

bool cpu_has_crc32(void);

#endif
