/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"

#include <cblas.h>
#include <limits.h>

/* "openblas": cblas_sgemm for F32 throughout. The bias is put into C beforehand. OpenBLAS has one
 * number of threads per process; it is set to the pool's before each product. */

static const char *openblas_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)cpu;
    (void)reason;
    if (desc->w != NPT_F32) return "weights are not F32";
    if (desc->a != NPT_F32) return "activations are not F32";
    if (desc->c != NPT_F32) return "the result is not F32";
    if (desc->m > INT_MAX || desc->n > INT_MAX || desc->k > INT_MAX) return "sizes beyond int";
    return NULL;
}

/* C before the product: as it is, the bias, or nothing. Returns what C is multiplied by. */
static float prepare(const npt_matmul_desc *desc, const npt_matmul_args *args)
{
    float *c = args->c;
    if (!desc->bias || args->bias == NULL) return desc->accumulate ? 1.0f : 0.0f;
    for (int64_t m = 0; m < desc->m; m++, c += desc->n)
        if (desc->accumulate)
            for (int64_t n = 0; n < desc->n; n++) c[n] += args->bias[n];
        else
            memcpy(c, args->bias, (size_t)desc->n * sizeof(float));
    return 1.0f;
}

static npt_status openblas_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                               const npt_matmul_scratch *scratch)
{
    const int m = (int)desc->m, n = (int)desc->n, k = (int)desc->k;
    const int threads = npt_threads_count(scratch->threads);
    const float keep = prepare(desc, args);
    if (openblas_get_num_threads() != threads) openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, desc->trans_a ? CblasTrans : CblasNoTrans,
                desc->trans_w ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, args->a,
                desc->trans_a ? m : k, args->w, desc->trans_w ? k : n, keep, args->c, n);
    return NPT_OK;
}

/* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH NO_AFFINITY SkylakeX MAX_THREADS=64" */
static const char *openblas_library(char *text)
{
    (void)text;
    return openblas_get_config();
}

const npt_matmul_backend npt_matmul_openblas = {
    .name = "openblas",
    .refuse = openblas_refuse,
    .plan = NULL,
    .run = openblas_run,
    .library = openblas_library,
};
