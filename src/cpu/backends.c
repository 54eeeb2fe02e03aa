/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "tensor/exec.h"

/* The order of preference. On Sapphire Rapids native was within about a tenth of the best F32
 * library, or ahead of it, for 128 tokens and more; behind it in dX of few tokens and in some
 * products of rank 16, which are small. A CPU with AVX512_BF16 but without AMX (Zen 4) was not at
 * hand: that oneDNN's dot products beat our FMA there is taken from rates of the libraries. */

/* Sapphire Rapids and later have both, and AVX512_BF16 is slower than FMA there. */
static bool bf16_dots_pay(const npt_cpu *cpu)
{
    return (cpu->features & NPT_CPU_AVX512_BF16) != 0 && (cpu->features & NPT_CPU_AMX_BF16) == 0 &&
           strncmp(cpu->brand, "Intel", 5) != 0;
}

size_t npt_cpu_backends(const npt_cpu *cpu, const npt_matmul_backend *list[NPT_MAX_BACKENDS])
{
    size_t count = 0;
    const bool onednn_first = bf16_dots_pay(cpu);
    (void)onednn_first;
#if defined(HAVE_ONEDNN) && defined(HAVE_ISA_AVX2)
    if (onednn_first) list[count++] = &npt_matmul_onednn_bf16;
#endif
#ifdef HAVE_ISA_AVX2
    list[count++] = &npt_matmul_native;
#endif
#if defined(HAVE_ONEDNN) && defined(HAVE_ISA_AVX2)
    list[count++] = &npt_matmul_onednn;
#endif
#ifdef HAVE_OPENBLAS
    list[count++] = &npt_matmul_openblas;
#endif
    list[count++] = &npt_matmul_reference;
    return count;
}
