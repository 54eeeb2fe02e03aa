/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/peaks.h"

#include <string.h>

/* The list, and the peak of a CPU for which nothing else is compiled in: as many sums as plain C
 * keeps in registers. */

enum { SUMS = 8 };

static float run_plain(const uint16_t *data, int64_t rounds)
{
    float sums[SUMS], x[SUMS], total = 0;
    memcpy(x, data, sizeof x);
    memcpy(sums, data, sizeof sums);
    for (int64_t i = 0; i < rounds; i++)
        for (int s = 0; s < SUMS; s++) sums[s] += x[s] * x[SUMS - 1 - s];
    for (int s = 0; s < SUMS; s++) total += sums[s];
    return total;
}

size_t npt_cpu_peaks(const npt_cpu *cpu, npt_peak peaks[NPT_MAX_PEAKS])
{
    size_t count = 0;
    peaks[count++] = (npt_peak){"plain C", 2 * SUMS, run_plain};
#ifdef HAVE_ISA_AVX2
    if (cpu->level >= NPT_CPU_AVX2) npt_peak_fill_avx2(&peaks[count++]);
#endif
#ifdef HAVE_ISA_AVX512
    if (cpu->level >= NPT_CPU_AVX512) npt_peak_fill_avx512(&peaks[count++]);
#endif
#ifdef HAVE_ISA_AMX
    if ((cpu->features & NPT_CPU_AVX512_BF16) != 0) npt_peak_fill_bf16(&peaks[count++]);
    if ((cpu->features & NPT_CPU_AMX_BF16) != 0) npt_peak_fill_amx(&peaks[count++]);
#endif
    (void)cpu;
    return count;
}
