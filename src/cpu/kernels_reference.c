/* SPDX-License-Identifier: BSD-2-Clause */
/* The tiles of attention live in registers only when their loops are unrolled. */
#if defined(__OPTIMIZE__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif
#include "config.h"

#include "tensor/kernels.h"

/* Plain C, in the vectors of four floats that every 64-bit CPU has. */

#define NPT_VECTOR_FLOATS 4
#define NPT_KERNELS_LEVEL "reference"
#define NPT_KERNELS_FILL  npt_kernels_fill_reference
#include "cpu/kernels.inc.h"
