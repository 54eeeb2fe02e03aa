/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "tensor/exec.h"

/* The order of preference. onednn comes first only where it has a unit that native does not drive
 * (AMX) and then refuses everything else; native is ahead of both libraries otherwise. */

static bool has_amx(const npt_cpu *cpu)
{
    return (cpu->features & NPT_CPU_AMX_BF16) != 0;
}

size_t npt_cpu_backends(const npt_cpu *cpu, const npt_matmul_backend *list[NPT_MAX_BACKENDS])
{
    size_t count = 0;
    (void)has_amx;
    (void)cpu;
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
