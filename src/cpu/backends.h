/* SPDX-License-Identifier: BSD-2-Clause */
/* The matmul backends of cpu/; which of them exist depends on configure. Their order of preference
 * is in backends.c. */
#ifndef NPT_CPU_BACKENDS_H
#define NPT_CPU_BACKENDS_H

#include "tensor/matmul.h"

extern const npt_matmul_backend npt_matmul_native;      /* HAVE_ISA_AVX2 */
extern const npt_matmul_backend npt_matmul_openblas;    /* HAVE_OPENBLAS */
extern const npt_matmul_backend npt_matmul_onednn;      /* HAVE_ONEDNN, HAVE_ISA_AVX2 */
extern const npt_matmul_backend npt_matmul_onednn_bf16; /* the same, for BF16 × BF16 alone */

#endif
