/* SPDX-License-Identifier: BSD-2-Clause */
/* The most that the arithmetic units of this CPU do, for measurements to be held against. */
#ifndef NPT_CPU_PEAKS_H
#define NPT_CPU_PEAKS_H

#include "base/cpu.h"

enum { NPT_MAX_PEAKS = 5, NPT_PEAK_DATA = 2048 /* elements, BF16 */ };

/* A loop without loads on independent sums in registers. */
typedef struct npt_peak {
    const char *name; /* "FMA, avx512" */
    double flops;     /* of a round */
    /* `data`: NPT_PEAK_DATA random numbers in BF16, 64-byte aligned: tiles of zeros run faster
     * than real ones. Returns a value that depends on all of it. */
    float (*run)(const uint16_t *data, int64_t rounds);
} npt_peak;

/* Those that are compiled in and that `cpu` has; plain C first. Returns how many. */
size_t npt_cpu_peaks(const npt_cpu *cpu, npt_peak peaks[NPT_MAX_PEAKS]);

void npt_peak_fill_avx2(npt_peak *peak);
void npt_peak_fill_avx512(npt_peak *peak);
void npt_peak_fill_bf16(npt_peak *peak);
void npt_peak_fill_amx(npt_peak *peak);

#endif
