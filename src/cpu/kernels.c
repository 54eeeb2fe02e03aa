/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/kernels.h"

#include "tensor/exec.h"

/* Fills the table upward: what a level does not fill keeps the entry of the level below it. */

void npt_cpu_kernels(const npt_cpu *cpu, npt_kernels *kernels)
{
    npt_kernels_fill_reference(kernels);
#ifdef HAVE_ISA_AVX2
    if (cpu->level >= NPT_CPU_AVX2) npt_kernels_fill_avx2(kernels);
#endif
#ifdef HAVE_ISA_AVX512
    if (cpu->level >= NPT_CPU_AVX512) npt_kernels_fill_avx512(kernels);
#endif
#ifdef HAVE_ISA_AMX
    if (cpu->level >= NPT_CPU_AVX512 && (cpu->features & NPT_CPU_AMX_BF16) != 0)
        npt_attention_fill_amx(kernels);
#endif
    (void)cpu;
}
