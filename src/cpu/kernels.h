/* SPDX-License-Identifier: BSD-2-Clause */
/* The fillers of the kernel table above the reference; each is compiled where configure found that
 * the compiler can be asked for the level. All entries are filled, but by the last one, which
 * replaces attention in what npt_kernels_fill_avx512() filled. */
#ifndef NPT_CPU_KERNELS_H
#define NPT_CPU_KERNELS_H

#include "tensor/kernels.h"

void npt_kernels_fill_avx2(npt_kernels *kernels);
void npt_kernels_fill_avx512(npt_kernels *kernels);
void npt_attention_fill_amx(npt_kernels *kernels);

#endif
