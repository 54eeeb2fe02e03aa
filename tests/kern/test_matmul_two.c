/* SPDX-License-Identifier: BSD-2-Clause */
/* Two products of one W at once: the bits of two calls, at every level and pool size, also where
 * values make a panel go to FMA. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../npt_test.h"
#include "matmul_rig.h"

static uint64_t seed = 7;

/* Uniform in -1 … 1. */
static float draw(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((int64_t)seed >> 11) * 0x1p-52f;
}

static void fill(void *data, npt_dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) npt_store(data, dtype, (size_t)i, draw());
}

typedef struct operands {
    void *a[2], *w, *c[4];
    float *absmax, levels[16], *bias;
} operands;

static void *bytes(int64_t n)
{
    void *data = malloc((size_t)n);
    if (data == NULL) exit(2);
    return data;
}

static operands make(const npt_matmul_desc *d)
{
    operands o;
    const int64_t weights = d->n * d->k, results = d->m * d->n * (int64_t)npt_dtype_bytes(d->c);
    for (int i = 0; i < 2; i++) {
        o.a[i] = bytes(d->m * d->k * (int64_t)npt_dtype_bytes(d->a));
        fill(o.a[i], d->a, d->m * d->k);
    }
    for (int i = 0; i < 4; i++) o.c[i] = bytes(results);
    o.w = bytes(weights * 4);
    o.absmax = bytes((weights / 64 + 1) * 4);
    o.bias = bytes(d->n * 4);
    fill(o.bias, NPT_F32, d->n);
    if (d->w == NPT_NF4)
        for (int64_t i = 0; i < weights / 2; i++) ((uint8_t *)o.w)[i] = (uint8_t)(draw() * 127);
    else
        fill(o.w, d->w, weights);
    for (int64_t i = 0; i <= weights / 64; i++) o.absmax[i] = 1 + draw() / 2;
    for (int i = 0; i < 16; i++) o.levels[i] = (float)(i - 8) / 8;
    return o;
}

static void release(operands *o)
{
    free(o->a[0]);
    free(o->a[1]);
    for (int i = 0; i < 4; i++) free(o->c[i]);
    free(o->w);
    free(o->absmax);
    free(o->bias);
}

static npt_matmul_args args_of(const operands *o, int a, int c)
{
    return (npt_matmul_args){.a = o->a[a],
                             .w = o->w,
                             .absmax = o->absmax,
                             .levels = o->levels,
                             .bias = o->bias,
                             .c = o->c[c]};
}

static void compare(npt_rig *rig, const npt_matmul_desc *d, operands *o)
{
    const npt_matmul_backend *native = npt_rig_backend(&rig->cpu, "native");
    const size_t size = (size_t)(d->m * d->n) * npt_dtype_bytes(d->c);
    const npt_matmul_args two[2] = {args_of(o, 0, 0), args_of(o, 1, 1)};
    npt_matmul_counts alone = {0};
    for (int i = 0; i < 4; i++) memset(o->c[i], 0, size); /* some products are added */
    for (int i = 0; i < 2; i++) {
        const npt_matmul_args one = args_of(o, i, 2 + i);
        rig->counts = (npt_matmul_counts){0};
        assert_int_equal(npt_rig_run(rig, native, d, &one), NPT_OK);
        alone.panels += rig->counts.panels;
        alone.by_fma += rig->counts.by_fma;
    }
    rig->counts = (npt_matmul_counts){0};
    assert_int_equal(npt_rig_run_some(rig, native, d, two, 2), NPT_OK);
    for (int i = 0; i < 2; i++)
        if (memcmp(o->c[i], o->c[2 + i], size) != 0)
            fail_msg("%s x %s, m %d, n %d, k %d, %s, level %d: product %d differs",
                     npt_dtype_name(d->a), npt_dtype_name(d->w), (int)d->m, (int)d->n, (int)d->k,
                     d->trans_w ? "forward" : "dX", (int)rig->cpu.level, i);
    assert_int_equal(rig->counts.panels, alone.panels);
    assert_int_equal(rig->counts.by_fma, alone.by_fma);
}

static const npt_dtype pairs[][2] = {{NPT_F32, NPT_F32},  {NPT_BF16, NPT_BF16}, {NPT_F16, NPT_F16},
                                     {NPT_F32, NPT_BF16}, {NPT_F32, NPT_F16},   {NPT_F32, NPT_NF4}};

typedef void with_operands(npt_rig *rig, const npt_matmul_desc *d, operands *o);

/* Every level of this CPU (the top one with AMX and without) and two pools. */
static void everywhere(const npt_matmul_desc *d, with_operands *go)
{
    npt_cpu cpu;
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    operands o = make(d);
    for (int level = NPT_CPU_AVX2; level <= (int)cpu.level; level++)
        for (int amx = 0; amx < 2; amx++)
            for (int threads = 1; threads <= 3; threads += 2) {
                npt_rig rig = {.cpu = cpu, .threads = npt_threads_create(threads)};
                rig.cpu.level = (npt_cpu_level)level;
                if (amx == 0 || level < (int)cpu.level) rig.cpu.features &= ~NPT_CPU_AMX_BF16;
                go(&rig, d, &o);
                npt_threads_destroy(rig.threads);
            }
    release(&o);
}

static void two_are_as_one_and_one(void **state)
{
    static const int64_t ms[] = {1, 7, 16, 17, 31, 32, 33, 70, 100, 128, 200, 256, 257, 300};
    static const int64_t nk[][2] = {{128, 128}, {192, 320}, {330, 130}, {64, 40}, {576, 64}};
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(ms); i++)
        for (size_t j = 0; j < NPT_COUNT(nk); j++)
            for (size_t p = 0; p < NPT_COUNT(pairs); p++) {
                const bool nf4 = pairs[p][1] == NPT_NF4;
                npt_matmul_desc d = {.m = ms[i],
                                     .n = nf4 ? (nk[j][0] + 63) / 64 * 64 : nk[j][0],
                                     .k = nf4 ? (nk[j][1] + 63) / 64 * 64 : nk[j][1],
                                     .trans_w = (i + j + p) % 2 == 0,
                                     .a = pairs[p][0],
                                     .w = pairs[p][1],
                                     .c = pairs[p][0]};
                d.bias = d.trans_w;
                d.accumulate = d.c == NPT_F32 && i % 2 == 0;
                everywhere(&d, compare);
            }
}

/* A few values that pieces cannot be, in the first A, the second or both. */
static void compare_odd(npt_rig *rig, const npt_matmul_desc *d, operands *o)
{
    static const float odd[] = {0x1p-120f, 0x1.ffp127f, INFINITY, NAN};
    for (int where = 1; where <= 3; where++) {
        for (int i = 0; i < 2; i++) {
            float *a = o->a[i];
            if ((where & (i + 1)) == 0) continue;
            a[(d->m - 1) * d->k + 5] = odd[where % 4];
            a[d->m / 2 * d->k + d->k - 1] = odd[(where + i) % 4];
        }
        compare(rig, d, o);
    }
}

static void odd_values_are_found_in_both(void **state)
{
    static const int64_t ms[] = {48, 65, 100, 128, 250};
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(ms); i++)
        for (int trans_w = 0; trans_w < 2; trans_w++)
            for (int w = 0; w < 2; w++) {
                const npt_matmul_desc d = {.m = ms[i],
                                           .n = 192,
                                           .k = 192,
                                           .trans_w = trans_w,
                                           .a = NPT_F32,
                                           .w = w == 0 ? NPT_F32 : NPT_NF4,
                                           .c = NPT_F32};
                everywhere(&d, compare_odd);
            }
}

int main(void)
{
    npt_cpu cpu;
    const npt_case cases[] = {
        NPT_CASE("two products at once are those of two calls", two_are_as_one_and_one),
        NPT_CASE("values that pieces cannot be are found in both", odd_values_are_found_in_both),
    };
    if (npt_cpu_detect(&cpu) != NPT_OK || cpu.level < NPT_CPU_AVX2)
        return npt_test_skip_all("the native backend needs AVX2");
    return npt_test_run("two", cases, NPT_COUNT(cases));
}
