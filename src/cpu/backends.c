/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "tensor/exec.h"

/* The order of preference, as measured (performance.md): native is level with or ahead of both
 * libraries in everything but BF16 on a CPU that has AVX512_BF16 without AMX, where oneDNN's dot
 * products beat our FMA two to one. */

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
