/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/backends.h"
#include "cpu/matmul_native.h"

/* "native": our own products for AVX2, AVX-512 and AMX. Three routes: for few tokens, W read once
 * against all of them (matmul_few.c); blocked on FMA; blocked on AMX tiles, F16 and F32 in bf16
 * pieces, which gives way to FMA panel by panel where the pieces are not enough (matmul_patch.c).
 * Invariant: the route follows from the descriptor, the CPU, the wish for plain F32 and the data,
 * never from the number of threads. */

/* ---- The backend ---------------------------------------------------------------------------- */

/* Sizes of the FMA route; runs on any CPU. */
static npt_native_ops fma_form(npt_cpu_level level)
{
    const bool wide = level >= NPT_CPU_AVX512;
    return (npt_native_ops){.lanes = wide ? NPT_NATIVE_AVX512_LANES : NPT_NATIVE_AVX2_LANES,
                            .max_rows = wide ? NPT_NATIVE_AVX512_ROWS : NPT_NATIVE_AVX2_ROWS,
                            .row_unit = 2,
                            .depth = NPT_NATIVE_DEPTH,
                            .depth_unit = 1,
                            .lane_step = NPT_NATIVE_LANE_STEP,
                            .row_bytes = sizeof(float),
                            .lane_bytes = sizeof(float),
                            .products = 1,
                            .lanes_stay = !wide};
}

void npt_matmul_native_ops(const npt_cpu *cpu, npt_native_ops *ops)
{
#ifdef HAVE_ISA_AVX512
    if (cpu->level >= NPT_CPU_AVX512) {
        *ops = fma_form(NPT_CPU_AVX512);
        npt_matmul_fill_avx512(ops);
        return;
    }
#endif
    (void)cpu;
    *ops = fma_form(NPT_CPU_AVX2);
    npt_matmul_fill_avx2(ops);
}

#ifdef HAVE_ISA_AMX

/* Sizes of the AMX route; runs on any CPU. Blocks of 128, of F16 256, keep a panel in first-level
 * cache; for few tokens it is memory that limits, and the longer stretches of a row that 256 reads
 * are faster. Their BF16 rows are read where they lie; for more tokens that costs more than packing
 * them, since the rows of a file begin anywhere in a line. */
static npt_native_ops amx_form(const npt_matmul_desc *desc)
{
    enum { FEW = 64 };
    const int a = npt_bf16_pieces(desc->a), w = npt_bf16_pieces(desc->w);
    const bool plain = a + w == 2, halves = a == 2 || w == 2;
    const bool few = desc->trans_w && desc->m <= FEW;
    const int depth = few ? (plain ? 512 : 256) : halves ? 256 : 128;
    return (npt_native_ops){.lanes = NPT_NATIVE_AVX512_LANES,
                            .max_rows = NPT_NATIVE_AMX_ROWS,
                            .row_unit = NPT_NATIVE_AMX_ROWS / 2,
                            .depth = depth,
                            .lane_step = depth,
                            .depth_unit = NPT_NATIVE_AMX_STEP,
                            .row_bytes = 2 * (desc->trans_w ? w : a),
                            .lane_bytes = 2 * (desc->trans_w ? a : w),
                            .products = npt_matmul_piece_products(desc),
                            .rows_in_place = few && w == 1,
                            .packs_ahead = true,
                            .checked = !plain};
}

#endif

/* Rows of A in F32 from which on AMX was faster than FMA (Sapphire Rapids), forward and dX. */
static int64_t rows_wanted(const npt_matmul_desc *desc)
{
    if (npt_matmul_few(desc)) return desc->m + 1;
    if (desc->a != NPT_F32) return 0;
    switch (desc->w) {
    case NPT_NF4: /* faster from 9 and 32 on, but its bits are to be those of decoded weights */
    case NPT_F32: return desc->trans_w ? 48 : 64;
    case NPT_F16: return desc->trans_w ? 24 : 32;
    default: return 0;
    }
}

/* NULL where AMX tiles do it, given that the CPU has them; else why not. */
static const char *amx_refuse(const npt_matmul_desc *desc, npt_matmul_precision precision)
{
    enum { WORTHWHILE = 128, POSSIBLE = 64 };
    const bool anyway = precision == NPT_MATMUL_PIECES;
    const int64_t least = anyway ? POSSIBLE : WORTHWHILE;
    if (desc->a != desc->w && desc->a != NPT_F32) return "operands of two half types";
    if (desc->a == NPT_F32 && precision == NPT_MATMUL_FMA) return "plain F32 is asked for";
    if (desc->trans_a) return "A is stored turned";
    if (desc->n < least || desc->k < least) return "n or k is below 128";
    if (desc->n < WORTHWHILE && desc->n < desc->m) return "A is streamed";
    if (desc->m < rows_wanted(desc) && !anyway) return "faster for so few rows";
    return NULL;
}

/* NULL: by AMX tiles; else why not. */
static const char *why_fma(const npt_matmul_desc *desc, const npt_cpu *cpu,
                           npt_matmul_precision precision)
{
#ifdef HAVE_ISA_AMX
    if ((cpu->features & NPT_CPU_AMX_BF16) == 0) return "the CPU has no AMX";
#else
    (void)cpu;
    return "compiled without AMX";
#endif
    return amx_refuse(desc, precision);
}

static const char *native_route(const npt_matmul_desc *desc, const npt_cpu *cpu,
                                npt_matmul_precision precision, char *text)
{
    const char *why = why_fma(desc, cpu, precision);
    const int count = npt_matmul_piece_products(desc);
    if (why != NULL)
        snprintf(text, 128, "FMA: %s", why);
    else if (count == 1)
        snprintf(text, 128, "AMX");
    else
        snprintf(text, 128, "AMX: %d products of bf16 pieces", count);
    return text;
}

static const char *native_refuse(const npt_matmul_desc *desc, const npt_cpu *cpu, char *reason)
{
    (void)desc;
    (void)reason;
    return cpu->level >= NPT_CPU_AVX2 ? NULL : "needs AVX2, FMA and F16C";
}

static void at_least(const npt_matmul_desc *desc, const npt_native_ops *ops, int workers,
                     size_t *worker_bytes, size_t *shared_bytes)
{
    for (int two = 0; two <= npt_matmul_blocked_takes_two(desc, ops); two++) {
        size_t mine, all;
        npt_matmul_blocked_plan(desc, ops, two, workers, &mine, &all);
        if (mine > *worker_bytes) *worker_bytes = mine;
        if (all > *shared_bytes) *shared_bytes = all;
    }
}

/* The CPU is not known here: room for whichever route needs most. */
static void native_plan(const npt_matmul_desc *desc, int workers, size_t *worker_bytes,
                        size_t *shared_bytes)
{
    *worker_bytes = *shared_bytes = 0;
    if (npt_matmul_few(desc)) npt_matmul_few_plan(desc, worker_bytes, shared_bytes);
    for (int level = NPT_CPU_AVX2; level <= NPT_CPU_AVX512 && !npt_matmul_few(desc); level++) {
        const npt_native_ops form = fma_form((npt_cpu_level)level);
        at_least(desc, &form, workers, worker_bytes, shared_bytes);
    }
#ifdef HAVE_ISA_AMX
    if (amx_refuse(desc, NPT_MATMUL_PIECES) == NULL) {
        const npt_native_ops form = amx_form(desc);
        at_least(desc, &form, workers, worker_bytes, shared_bytes);
    }
#endif
}

/* True where the blocked route does it, with these ops; else that for few tokens. */
static bool is_blocked(const npt_matmul_desc *desc, const npt_matmul_scratch *scratch,
                       npt_native_ops *ops)
{
    const bool fma = why_fma(desc, scratch->cpu, scratch->precision) != NULL;
    npt_matmul_native_ops(scratch->cpu, ops);
    if (fma) return !npt_matmul_few(desc);
#ifdef HAVE_ISA_AMX
    *ops = amx_form(desc);
    npt_matmul_fill_amx(ops, ops->row_bytes / 2, ops->lane_bytes / 2);
#endif
    return true;
}

static npt_status native_run(const npt_matmul_desc *desc, const npt_matmul_args *args,
                             const npt_matmul_scratch *scratch)
{
    npt_native_ops ops;
    if (is_blocked(desc, scratch, &ops))
        npt_matmul_blocked_run(desc, args, false, scratch, &ops);
    else
        npt_matmul_few_run(desc, args, scratch, &ops);
    return NPT_OK;
}

static npt_status native_run_two(const npt_matmul_desc *desc, const npt_matmul_args args[2],
                                 const npt_matmul_scratch *scratch)
{
    npt_native_ops ops;
    if (is_blocked(desc, scratch, &ops) && npt_matmul_blocked_takes_two(desc, &ops)) {
        npt_matmul_blocked_run(desc, args, true, scratch, &ops);
        return NPT_OK;
    }
    NPT_TRY(native_run(desc, &args[0], scratch));
    return native_run(desc, &args[1], scratch);
}

const npt_matmul_backend npt_matmul_native = {
    .name = "native",
    .refuse = native_refuse,
    .plan = native_plan,
    .run = native_run,
    .run_two = native_run_two,
    .route = native_route,
};
