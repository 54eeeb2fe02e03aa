/* SPDX-License-Identifier: BSD-2-Clause */
/* What this CPU can run, as CPUID and XGETBV both allow, lowered by NPT_CPU_MAX. */
#ifndef NPT_BASE_CPU_H
#define NPT_BASE_CPU_H

#include "base/status.h"

typedef enum npt_cpu_level {
    NPT_CPU_REFERENCE, /* plain C */
    NPT_CPU_AVX2,      /* AVX2 + FMA + F16C */
    NPT_CPU_AVX512     /* AVX512 F, BW, CD, DQ, VL */
} npt_cpu_level;

/* Feature bits beside the level. */
enum {
    NPT_CPU_AVX512_BF16 = 1 << 0,
    NPT_CPU_AVX512_FP16 = 1 << 1,
    NPT_CPU_AMX_BF16 = 1 << 2, /* tile state granted by the kernel, too */
    NPT_CPU_AVX512_VBMI = 1 << 3
};

typedef struct npt_cpu {
    npt_cpu_level level;
    unsigned features;
    char brand[64]; /* "Intel(R) Xeon(R) Processor"; "" where unknown */
} npt_cpu;

/* NPT_CPU_MAX = reference | avx2 | avx512 | avx512_bf16 | avx512_fp16 | amx (each includes the
 * ones before it); it may only lower. NPT_E_USAGE for another word. */
npt_status npt_cpu_detect(npt_cpu *cpu);
const char *npt_cpu_level_name(npt_cpu_level level);

#endif
