/* SPDX-License-Identifier: BSD-2-Clause */
/* The tiles of attention live in registers only when their loops are unrolled. */
#if defined(__OPTIMIZE__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif
#include "config.h"

#include "cpu/kernels.h"

/* AVX2, FMA and F16C. */

#define NPT_VECTOR_FLOATS 8
#define NPT_KERNELS_LEVEL "avx2"
#define NPT_KERNELS_FILL  npt_kernels_fill_avx2
#include "cpu/kernels.inc.h"
