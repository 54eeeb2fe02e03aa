/* SPDX-License-Identifier: BSD-2-Clause */
/* Products of F32 activations in bf16 pieces (AMX): the splitting, the error beside that of plain
 * FMA and of the F32 libraries, and the panels that must go to FMA instead. Skipped where the CPU
 * has no AMX. NPT_VERBOSE=1 prints the errors. */
#include "config.h"

#include "tests/npt_test.h"
#include "tests/kern/matmul_rig.h"

#include "base/log.h"
#include "cpu/matmul_native.h"
#include "tensor/nf4.h"

#include <math.h>

static npt_cpu cpu;

static uint64_t random_state = 1;

/* In (-1, 1). */
static float random_value(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((float)(int32_t)(random_state >> 40) - 8388607.5f) * 0x1p-23f;
}

/* Sum of twelve: nearly normal. */
static float random_normal(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += random_value();
    return sum * 0.5f;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- Splitting ------------------------------------------------------------------------------ */

enum { SPLIT_ROWS = 16, SPLIT_DEPTH = 128, SPLIT = SPLIT_ROWS * SPLIT_DEPTH, PIECES = 3 };

/* What the packer for rows makes of 16 × 128 values; pieces in F64, those that tiles flush as 0. */
typedef struct npt_split {
    double piece[PIECES][SPLIT];
    bool flushed[SPLIT];
} npt_split;

static void split_values(const npt_native_operand *src, int pieces, npt_split *split)
{
    static uint16_t packed[SPLIT * PIECES] __attribute__((aligned(64)));
    npt_native_ops ops = {0};
    const npt_native_packing packing = {
        .src = src, .count = SPLIT_ROWS, .depth = SPLIT_DEPTH, .block = SPLIT_DEPTH, .dst = packed};
    npt_matmul_fill_amx(&ops, 3, 3);
    ops.pack_rows(&packing, 0, SPLIT_ROWS);
    memset(split->flushed, 0, sizeof(split->flushed));
    for (int r = 0; r < SPLIT_ROWS; r++)
        for (int k = 0; k < SPLIT_DEPTH; k++)
            for (int p = 0; p < pieces; p++) {
                const int at = ((k / 32 * pieces + p) * SPLIT_ROWS + r) * 32 + k % 32;
                const float value = from_bits((uint32_t)packed[at] << 16);
                const bool flushed = value != 0 && fabsf(value) < 0x1p-126f;
                split->piece[p][r * SPLIT_DEPTH + k] = flushed ? 0 : value;
                split->flushed[r * SPLIT_DEPTH + k] |= flushed;
            }
}

static void check_split_f32(const float *values)
{
    static npt_split split;
    const npt_native_operand src = {.data = values,
                                    .dtype = NPT_F32,
                                    .count = SPLIT_ROWS,
                                    .depth = SPLIT_DEPTH,
                                    .k_inside = true};
    split_values(&src, 3, &split);
    for (int i = 0; i < SPLIT; i++) {
        const double x = values[i], hi = split.piece[0][i], mid = split.piece[1][i];
        const double lo = split.piece[2][i], bound = fabs(x) < 0x1p-103 ? 0x1p-125 : 0;
        if (!(fabs(x - (hi + mid + lo)) <= bound))
            fail_msg("%a became %a + %a + %a", x, hi, mid, lo);
        if (bound == 0 && split.flushed[i]) fail_msg("%a has a piece that tiles flush", x);
        if (bound == 0 && (fabs(mid) > 0x1p-8 * fabs(hi) || fabs(lo) > 0x1p-16 * fabs(hi)))
            fail_msg("%a: pieces %a, %a, %a are not each below the last", x, hi, mid, lo);
    }
}

/* All exponents below the one that rounds to infinity; both signs; mantissas at the edges of every
 * rounding; then every mantissa of one exponent. */
static void splits_f32(void **state)
{
    static const uint32_t edges[] = {0x000000, 0x000001, 0x00007f, 0x000080, 0x000081, 0x0000ff,
                                     0x007fff, 0x008000, 0x008001, 0x00ffff, 0x017fff, 0x018000,
                                     0x3f8080, 0x40ff7f, 0x7f7fff, 0x7f8000, 0x7fffff, 0x2aaaaa};
    static float values[SPLIT];
    size_t count = 0;
    (void)state;
    for (uint32_t exponent = 0; exponent < 255; exponent++)
        for (uint32_t sign = 0; sign < 2; sign++)
            for (size_t e = 0; e < 2 * NPT_COUNT(edges); e++) {
                random_value();
                const uint32_t some = (uint32_t)(random_state >> 41);
                const uint32_t bits =
                    exponent << 23 | (e < NPT_COUNT(edges) ? edges[e] : some & 0x7fffff);
                if (bits >= 0x7f7f8000u) continue;
                values[count++] = from_bits(sign << 31 | bits);
                if (count == SPLIT) check_split_f32(values);
                count %= SPLIT;
            }
    check_split_f32(values);
    for (uint32_t mantissa = 0; mantissa < 1u << 23; mantissa += SPLIT) {
        for (uint32_t i = 0; i < SPLIT; i++)
            values[i] = from_bits((i % 2) << 31 | 127u << 23 | (mantissa + i));
        check_split_f32(values);
    }
}

static void splits_f16(void **state)
{
    static npt_split split;
    uint16_t values[SPLIT];
    (void)state;
    for (uint32_t first = 0; first < 1u << 16; first += SPLIT) {
        for (uint32_t i = 0; i < SPLIT; i++) values[i] = (uint16_t)(first + i);
        const npt_native_operand src = {.data = values,
                                        .dtype = NPT_F16,
                                        .count = SPLIT_ROWS,
                                        .depth = SPLIT_DEPTH,
                                        .k_inside = true};
        split_values(&src, 2, &split);
        for (int i = 0; i < SPLIT; i++) {
            const float x = npt_load(values, NPT_F16, (size_t)i);
            if (!isfinite(x)) continue;
            if (split.piece[0][i] + split.piece[1][i] != x || split.flushed[i])
                fail_msg("%a became %a + %a", (double)x, split.piece[0][i], split.piece[1][i]);
        }
    }
}

static void splits_nf4(void **state)
{
    static npt_split split;
    uint8_t packed[SPLIT / 2];
    float absmax[SPLIT / 64];
    (void)state;
    for (int i = 0; i < SPLIT / 2; i++) packed[i] = (uint8_t)(i * 37 + i / 256);
    for (int i = 0; i < SPLIT / 64; i++) absmax[i] = fabsf(random_value()) * ldexpf(1, i % 40 - 30);
    const npt_native_operand src = {.data = packed,
                                    .dtype = NPT_NF4,
                                    .absmax = absmax,
                                    .levels = npt_nf4_levels,
                                    .count = SPLIT_ROWS,
                                    .depth = SPLIT_DEPTH,
                                    .k_inside = true};
    split_values(&src, 3, &split);
    for (int i = 0; i < SPLIT; i++) {
        const unsigned level = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15u;
        const float x = npt_nf4_levels[level] * absmax[i / 64];
        if (split.piece[0][i] + split.piece[1][i] + split.piece[2][i] != x)
            fail_msg("element %d: %a became %a + %a + %a", i, (double)x, split.piece[0][i],
                     split.piece[1][i], split.piece[2][i]);
    }
}

/* ---- Products ------------------------------------------------------------------------------- */

typedef struct npt_product_case {
    npt_matmul_desc desc;
    float *a;
    void *w;
    float *absmax;
    double *wanted; /* NULL until asked for */
} npt_product_case;

typedef float npt_draw(int64_t index);

static float draw_normal(int64_t index)
{
    (void)index;
    return random_normal();
}

static float draw_positive(int64_t index)
{
    (void)index;
    return fabsf(random_value());
}

/* Twenty binary orders of magnitude. */
static float draw_wide(int64_t index)
{
    (void)index;
    return random_normal() * exp2f(10 * random_value());
}

/* Neighbours all but cancel, where W's do not differ much (see below). */
static float draw_cancelling(int64_t index)
{
    static float last;
    last = index % 2 == 0 ? random_normal() : -last * (1 + 0x1p-10f * random_value());
    return last;
}

static float draw_tiny(int64_t index)
{
    (void)index;
    return random_normal() * 1e-20f;
}

static float draw_huge(int64_t index)
{
    (void)index;
    return random_normal() * 1e25f;
}

static const struct npt_data {
    const char *name;
    npt_draw *draw;
    bool paired; /* neighbours in k have the same weight */
} data[] = {{"normal", draw_normal, false},   {"positive", draw_positive, false},
            {"wide range", draw_wide, false}, {"cancelling", draw_cancelling, true},
            {"tiny", draw_tiny, false},       {"huge", draw_huge, false}};

static const npt_dtype dtypes[] = {NPT_F32, NPT_BF16, NPT_F16, NPT_NF4};

static double weight_at(const npt_product_case *p, int64_t index)
{
    const uint8_t *packed = p->w;
    if (p->desc.w != NPT_NF4) return npt_load(p->w, p->desc.w, (size_t)index);
    const unsigned byte = packed[index / 2];
    const float level = npt_nf4_levels[index % 2 == 0 ? byte >> 4 : byte & 15u];
    return level * p->absmax[index / 64];
}

/* Positive data get positive weights. */
static void fill_weights(npt_product_case *p, const struct npt_data *kind)
{
    const int64_t n = p->desc.n, k = p->desc.k;
    uint8_t *packed = p->w;
    for (int64_t i = 0; i < n * k / 64 + 1; i++) p->absmax[i] = 1 + 0.5f * random_value();
    for (int64_t i = 0; i < n * k; i++) {
        const int64_t in_k = p->desc.trans_w ? i % k : i / n;
        const int64_t twin = in_k % 2 == 1 && kind->paired ? i - (p->desc.trans_w ? 1 : n) : i;
        float value = kind->draw == draw_positive ? draw_positive(i) : random_normal();
        if (p->desc.w == NPT_NF4) {
            const unsigned before = packed[twin / 2] >> (twin % 2 == 0 ? 4 : 0);
            const unsigned level = (twin != i ? before : (unsigned)(random_state >> 40)) & 15u;
            packed[i / 2] = (uint8_t)(i % 2 == 0 ? level << 4 : packed[i / 2] | level);
        } else {
            if (twin != i) value = npt_load(p->w, p->desc.w, (size_t)twin);
            npt_store(p->w, p->desc.w, (size_t)i, value);
        }
    }
}

static npt_product_case make_case(npt_matmul_desc desc, const struct npt_data *kind)
{
    npt_product_case p = {.desc = desc};
    p.a = malloc((size_t)(desc.m * desc.k) * sizeof(float));
    p.w = malloc((size_t)(desc.n * desc.k) * sizeof(float) + 16);
    p.absmax = malloc((size_t)(desc.n * desc.k / 64 + 1) * sizeof(float));
    assert_true(p.a != NULL && p.w != NULL && p.absmax != NULL);
    for (int64_t i = 0; i < desc.m * desc.k; i++) p.a[i] = kind->draw(i);
    fill_weights(&p, kind);
    return p;
}

static void free_case(npt_product_case *p)
{
    free(p->a);
    free(p->w);
    free(p->absmax);
    free(p->wanted);
}

static void fill_wanted(npt_product_case *p)
{
    const int64_t m = p->desc.m, n = p->desc.n, k = p->desc.k;
    double *column = malloc((size_t)k * sizeof(double));
    p->wanted = malloc((size_t)(m * n) * sizeof(double));
    assert_true(column != NULL && p->wanted != NULL);
    for (int64_t j = 0; j < n; j++) {
        for (int64_t l = 0; l < k; l++)
            column[l] = weight_at(p, p->desc.trans_w ? j * k + l : l * n + j);
        for (int64_t i = 0; i < m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++) sum += (double)p->a[i * k + l] * column[l];
            p->wanted[i * n + j] = sum;
        }
    }
    free(column);
}

/* C; the caller frees. */
static float *compute(const npt_product_case *p, const char *backend,
                      npt_matmul_precision precision, int threads, npt_matmul_counts *counts)
{
    npt_rig rig = {.cpu = cpu, .precision = precision, .threads = npt_threads_create(threads)};
    float *c = calloc((size_t)(p->desc.m * p->desc.n), sizeof(float));
    assert_true(rig.threads != NULL && c != NULL);
    const npt_matmul_args args = {
        .a = p->a, .w = p->w, .absmax = p->absmax, .levels = npt_nf4_levels, .c = c};
    if (npt_rig_run(&rig, npt_rig_backend(&cpu, backend), &p->desc, &args) != NPT_OK)
        fail_msg("%s: %s", backend, npt_error_message());
    npt_threads_destroy(rig.threads);
    if (counts != NULL) *counts = rig.counts;
    return c;
}

/* Root of the mean square error over that of the exact sums. */
static double relative_error(const npt_product_case *p, const float *c)
{
    double error = 0, norm = 0;
    for (int64_t i = 0; i < p->desc.m * p->desc.n; i++) {
        error += (c[i] - p->wanted[i]) * (c[i] - p->wanted[i]);
        norm += p->wanted[i] * p->wanted[i];
    }
    return sqrt(error / norm);
}

/* Of a library, which gets W as F32; 0 where there is none. */
static double library_error(const npt_product_case *p, const char *backend)
{
    npt_product_case f32 = *p;
    char reason[128];
    const npt_matmul_backend *library = npt_rig_backend(&cpu, backend);
    f32.desc.w = NPT_F32;
    if (library == NULL || library->refuse(&f32.desc, &cpu, reason) != NULL) return 0;
    float *w = malloc((size_t)(p->desc.n * p->desc.k) * sizeof(float));
    assert_non_null(w);
    for (int64_t i = 0; i < p->desc.n * p->desc.k; i++) w[i] = (float)weight_at(p, i);
    f32.w = w;
    float *c = compute(&f32, backend, NPT_MATMUL_AUTO, 1, NULL);
    const double error = relative_error(p, c);
    free(c);
    free(w);
    return error;
}

static void compare_errors(npt_matmul_desc desc, const struct npt_data *kind)
{
    npt_matmul_counts counts;
    npt_product_case p = make_case(desc, kind);
    fill_wanted(&p);
    float *pieces = compute(&p, "native", NPT_MATMUL_AUTO, 1, &counts);
    float *plain = compute(&p, "native", NPT_MATMUL_FMA, 1, NULL);
    const double error = relative_error(&p, pieces), fma = relative_error(&p, plain);
    npt_log(NPT_LOG_VERBOSE,
            "%s, %s, k %d: pieces %.2e, FMA %.2e (x%.2f), OpenBLAS %.2e, oneDNN %.2e", kind->name,
            npt_dtype_name(desc.w), (int)desc.k, error, fma, error / fma,
            library_error(&p, "openblas"), library_error(&p, "onednn"));
    assert_true(counts.panels > 0);
    if (counts.by_fma != 0) fail_msg("%s: %d panels by FMA", kind->name, (int)counts.by_fma);
    if (!(error <= fma))
        fail_msg("%s, %s, m %d k %d%s: error %g, by FMA %g", kind->name, npt_dtype_name(desc.w),
                 (int)desc.m, (int)desc.k, desc.trans_w ? "" : " dX", error, fma);
    free(pieces);
    free(plain);
    free_case(&p);
}

static void errors_are_smaller(void **state)
{
    (void)state;
    for (size_t d = 0; d < NPT_COUNT(data); d++)
        for (size_t w = 0; w < NPT_COUNT(dtypes); w++)
            for (int turned = 0; turned < 2; turned++)
                compare_errors((npt_matmul_desc){.m = turned == 0 ? 48 : 80,
                                                 .n = 192,
                                                 .k = 1024,
                                                 .trans_w = turned == 0,
                                                 .a = NPT_F32,
                                                 .w = dtypes[w],
                                                 .c = NPT_F32},
                               &data[d]);
}

static void errors_of_long_sums(void **state)
{
    (void)state;
    for (size_t w = 0; w < NPT_COUNT(dtypes); w++)
        compare_errors((npt_matmul_desc){.m = 66,
                                         .n = 128,
                                         .k = 14336,
                                         .trans_w = w % 2 == 0,
                                         .a = NPT_F32,
                                         .w = dtypes[w],
                                         .c = NPT_F32},
                       &data[0]);
}

static void every_count_of_rows(void **state)
{
    (void)state;
    for (int64_t m = 1; m <= 70; m++)
        for (size_t w = 0; w < NPT_COUNT(dtypes); w++) {
            npt_product_case p = make_case((npt_matmul_desc){.m = m,
                                                             .n = m % 4 < 2 ? 131 : 192,
                                                             .k = m % 4 < 2 ? 141 : 128,
                                                             .trans_w = m % 2 == 0,
                                                             .a = NPT_F32,
                                                             .w = dtypes[w],
                                                             .c = NPT_F32},
                                           &data[0]);
            fill_wanted(&p);
            for (int precision = NPT_MATMUL_AUTO; precision <= NPT_MATMUL_PIECES; precision++) {
                npt_matmul_counts counts;
                float *c = compute(&p, "native", (npt_matmul_precision)precision, 1, &counts);
                const double error = relative_error(&p, c);
                if (!(error < 5e-7)) fail_msg("m %d: error %g", (int)m, error);
                if (precision == NPT_MATMUL_PIECES) assert_true(counts.panels > 0);
                free(c);
            }
            free_case(&p);
        }
}

/* ---- Panels that go to FMA ------------------------------------------------------------------- */

enum { PANEL = 32, ROWS = 2 * PANEL, DAMAGED = 5 }; /* DAMAGED: a row of the first panel */

/* Whether rows first … end-1 of both are the same bits. */
static bool same_rows(const npt_product_case *p, const float *x, const float *y, int64_t first,
                      int64_t end)
{
    return memcmp(x + first * p->desc.n, y + first * p->desc.n,
                  (size_t)((end - first) * p->desc.n) * sizeof(float)) == 0;
}

/* How many of the two panels FMA makes, and that it does make the same of them as it does alone,
 * with any number of threads. */
static void check_panels(const npt_product_case *p, int by_fma, const char *what)
{
    npt_matmul_counts counts;
    float *plain = compute(p, "native", NPT_MATMUL_FMA, 1, NULL);
    float *c = compute(p, "native", NPT_MATMUL_AUTO, 1, &counts);
    if (counts.by_fma * 2 != counts.panels * by_fma)
        fail_msg("%s (%s, %s): %d panels of %d by FMA, not %d of 2", what,
                 npt_dtype_name(p->desc.w), p->desc.trans_w ? "forward" : "dX", (int)counts.by_fma,
                 (int)counts.panels, by_fma);
    if (by_fma > 0 && !same_rows(p, c, plain, 0, by_fma * PANEL))
        fail_msg("%s: not what FMA alone makes", what);
    if (by_fma == 1 && same_rows(p, c, plain, PANEL, ROWS))
        fail_msg("%s: the other panel is FMA's, too", what);
    for (int threads = 2; threads <= 3; threads++) {
        float *again = compute(p, "native", NPT_MATMUL_AUTO, threads, NULL);
        if (!same_rows(p, c, again, 0, ROWS))
            fail_msg("%s: other bits with %d threads", what, threads);
        free(again);
    }
    free(c);
    free(plain);
}

static npt_product_case panel_case(npt_dtype w, bool forward)
{
    return make_case(
        (npt_matmul_desc){
            .m = ROWS, .n = 192, .k = 192, .trans_w = forward, .a = NPT_F32, .w = w, .c = NPT_F32},
        &data[0]);
}

/* One element of A. */
static void odd_activations(void **state)
{
    static const struct {
        const char *what;
        float value;
        float scale; /* of all the rest of A */
        int by_fma;
    } cases[] = {
        {"2^-103", 0x1p-103f, 1, 0},
        {"-2^-103", -0x1p-103f, 1, 0},
        {"below 2^-103", 0x1.fffffep-104f, 1, 1},
        {"subnormal", -0x1p-149f, 1, 1},
        {"zero", 0, 1, 0},
        {"minus zero", -0.0f, 1, 0},
        {"infinity", INFINITY, 1, 1},
        {"minus infinity", -INFINITY, 1, 1},
        {"NaN", NAN, 1, 1},
        {"largest that stays finite", 0x1.feffep+127f, 1, 0},
        {"0x7f7f8000", 0x1.ffp+127f, 1, 1},
        {"largest", -0x1.fffffep+127f, 1, 1},
    };
    (void)state;
    for (size_t w = 0; w < NPT_COUNT(dtypes); w++)
        for (int forward = 0; forward < 2; forward++) {
            npt_product_case p = panel_case(dtypes[w], forward);
            /* small weights, so that the largest activation overflows nothing */
            for (int64_t i = 0; i < p.desc.n * p.desc.k && dtypes[w] != NPT_NF4; i++)
                npt_store(p.w, dtypes[w], (size_t)i, 0.01f * npt_load(p.w, dtypes[w], (size_t)i));
            for (int64_t i = 0; i <= p.desc.n * p.desc.k / 64; i++) p.absmax[i] *= 0.01f;
            for (size_t i = 0; i < NPT_COUNT(cases); i++) {
                const float kept = p.a[DAMAGED * p.desc.k + 77];
                p.a[DAMAGED * p.desc.k + 77] = cases[i].value;
                /* NF4 has weights of 0: sums without the huge activation, perhaps too small */
                const bool unclear = dtypes[w] == NPT_NF4 && fabsf(cases[i].value) > 1;
                if (!unclear || cases[i].by_fma > 0)
                    check_panels(&p, cases[i].by_fma, cases[i].what);
                p.a[DAMAGED * p.desc.k + 77] = kept;
            }
            free_case(&p);
        }
}

/* One element of W enters sums of both panels, in one chunk of W. */
static void odd_weights(void **state)
{
    enum { PLACE = 1000 };
    static const float bad[] = {INFINITY, -INFINITY, NAN, 0x1.fffffep+127f};
    (void)state;
    for (size_t w = 0; w < 3; w++)
        for (int forward = 0; forward < 2; forward++)
            for (size_t b = 0; b < NPT_COUNT(bad); b++) {
                npt_product_case p = panel_case(dtypes[w], forward);
                npt_store(p.w, dtypes[w], PLACE, bad[b]);
                npt_matmul_counts counts;
                float *plain = compute(&p, "native", NPT_MATMUL_FMA, 1, NULL);
                float *c = compute(&p, "native", NPT_MATMUL_AUTO, 2, &counts);
                assert_int_equal(counts.by_fma, 2);
                const int64_t column = forward ? PLACE / p.desc.k : PLACE % p.desc.n;
                for (int64_t i = column; i < ROWS * p.desc.n; i += p.desc.n)
                    assert_memory_equal(&c[i], &plain[i], sizeof(float));
                free(c);
                free(plain);
                free_case(&p);
            }
}

/* They are lost in the tiles, which does not matter: the sums are not small. */
static void tiny_weights(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (int forward = 0; forward < 2; forward++) {
            npt_matmul_counts counts;
            npt_product_case p = panel_case(dtypes[w], forward);
            for (int64_t i = 0; i < p.desc.n * p.desc.k; i += 5)
                npt_store(p.w, dtypes[w], (size_t)i, 0x1.3p-127f * random_value());
            fill_wanted(&p);
            float *c = compute(&p, "native", NPT_MATMUL_AUTO, 1, &counts);
            float *plain = compute(&p, "native", NPT_MATMUL_FMA, 1, NULL);
            assert_int_equal(counts.by_fma, 0);
            assert_true(counts.panels > 0);
            assert_true(relative_error(&p, c) <= relative_error(&p, plain));
            free(c);
            free(plain);
            free_case(&p);
        }
}

/* Sums below 2^-86, in one row; then zeros by rows of zeros, then by weights. */
static void small_sums(void **state)
{
    (void)state;
    for (size_t w = 0; w < NPT_COUNT(dtypes); w++)
        for (int forward = 0; forward < 2; forward++) {
            npt_product_case p = panel_case(dtypes[w], forward);
            float *row = p.a + DAMAGED * p.desc.k;
            for (int64_t i = 0; i < p.desc.k; i++) row[i] *= 0x1p-70f;
            check_panels(&p, 0, "sums of 2^-70");
            for (int64_t i = 0; i < p.desc.k; i++) row[i] *= 0x1p-18f;
            check_panels(&p, 1, "sums of 2^-88");
            memset(row, 0, (size_t)p.desc.k * sizeof(float));
            check_panels(&p, 0, "a row of zeros");
            for (int64_t i = 0; i < ROWS * p.desc.k; i++) p.a[i] = -0.0f;
            check_panels(&p, 0, "nothing but zeros");
            free_case(&p);
            p = panel_case(dtypes[w], forward);
            memset(p.absmax, 0, (size_t)(p.desc.n * p.desc.k / 64 + 1) * sizeof(float));
            if (dtypes[w] != NPT_NF4)
                memset(p.w, 0, (size_t)(p.desc.n * p.desc.k) * npt_dtype_bytes(dtypes[w]));
            check_panels(&p, 2, "no weights");
            free_case(&p);
        }
}

/* A row of nothing but zeros against an infinity or what becomes one on the way. */
static void zeros_times_infinity(void **state)
{
    static const float values[] = {INFINITY, NAN, -0x1.fffffep+127f};
    (void)state;
    for (int forward = 0; forward < 2; forward++)
        for (size_t v = 0; v < NPT_COUNT(values); v++) {
            npt_product_case p = panel_case(NPT_F32, forward);
            memset(p.a + DAMAGED * p.desc.k, 0, (size_t)p.desc.k * sizeof(float));
            npt_store(p.w, NPT_F32, 77, values[v]);
            float *plain = compute(&p, "native", NPT_MATMUL_FMA, 1, NULL);
            float *c = compute(&p, "native", NPT_MATMUL_AUTO, 1, NULL);
            for (int64_t i = 0; i < ROWS * p.desc.n; i++)
                if (isnan(c[i]) != isnan(plain[i]) ||
                    (!isnan(c[i]) && !isfinite(c[i]) && c[i] != plain[i]) ||
                    (isfinite(c[i]) && fabsf(c[i] - plain[i]) > 1e-4f * (1 + fabsf(plain[i]))))
                    fail_msg("%g where FMA has %g", (double)c[i], (double)plain[i]);
            free(c);
            free(plain);
            free_case(&p);
        }
}

static void says_its_route(void **state)
{
    npt_matmul_desc desc = {
        .m = 128, .n = 256, .k = 256, .trans_w = true, .a = NPT_F32, .w = NPT_F32, .c = NPT_F32};
    const npt_matmul_backend *native = npt_rig_backend(&cpu, "native");
    const npt_cpu old = {.level = NPT_CPU_AVX512};
    char text[128];
    (void)state;
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_AUTO, text),
                        "AMX: 6 products of bf16 pieces");
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_FMA, text),
                        "FMA: plain F32 is asked for");
    assert_string_equal(native->route(&desc, &old, NPT_MATMUL_AUTO, text),
                        "FMA: the CPU has no AMX");
    desc.w = NPT_BF16;
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_AUTO, text),
                        "AMX: 3 products of bf16 pieces");
    desc.w = NPT_F16;
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_AUTO, text),
                        "AMX: 5 products of bf16 pieces");
    desc.a = NPT_F16;
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_FMA, text),
                        "AMX: 4 products of bf16 pieces");
    desc.n = 16;
    assert_string_equal(native->route(&desc, &cpu, NPT_MATMUL_AUTO, text),
                        "FMA: n or k is below 128");
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("F32 is the sum of its pieces", splits_f32),
        NPT_CASE("F16 is the sum of its pieces", splits_f16),
        NPT_CASE("NF4 is the sum of its pieces", splits_nf4),
        NPT_CASE("the error is not larger than that of FMA", errors_are_smaller),
        NPT_CASE("nor is it in sums of 14336 terms", errors_of_long_sums),
        NPT_CASE("every count of rows from 1 to 70", every_count_of_rows),
        NPT_CASE("activations that pieces cannot hold go to FMA", odd_activations),
        NPT_CASE("so do weights", odd_weights),
        NPT_CASE("tiny weights need not", tiny_weights),
        NPT_CASE("sums that are too small go to FMA", small_sums),
        NPT_CASE("zeros times infinity are what FMA makes of them", zeros_times_infinity),
        NPT_CASE("the backend says by what arithmetic", says_its_route),
    };
    if (npt_cpu_detect(&cpu) != NPT_OK || (cpu.features & NPT_CPU_AMX_BF16) == 0)
        return npt_test_skip_all("this CPU has no AMX");
    return npt_test_run("matmul_pieces", cases, NPT_COUNT(cases));
}
