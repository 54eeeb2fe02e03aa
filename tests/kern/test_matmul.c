/* SPDX-License-Identifier: BSD-2-Clause */
/* Every matmul backend, at every level this CPU has, against sums in F64. Inputs are dyadic-free
 * random numbers; the allowed normalized mean square error of a product over k terms in F32 is
 * (EPS·(8 + sqrt(k)))², EPS = 2^-24: several times what random rounding gives, far below what a
 * half-precision sum or one wrong element would. */
#include "config.h"

#include "tests/npt_test.h"
#include "tests/kern/matmul_rig.h"

#include "tensor/nf4.h"

#include <math.h>

enum { GUARD_BYTES = 64, GUARD = 0x5a, MAX_WAYS = 16, MAX_THREADS = 3 };

typedef struct npt_problem {
    npt_matmul_desc desc;
    npt_matmul_args args;
    void *a, *w;
    float *absmax, *bias, *start; /* start: what C holds before */
    double *wanted;               /* [m, n] in F64, nothing rounded */
} npt_problem;

/* A way to compute: a backend at a level. */
typedef struct npt_way {
    const npt_matmul_backend *backend;
    npt_cpu cpu;
    char name[48];
} npt_way;

static uint64_t random_state;

static float random_value(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(random_state >> 32) * 0x1p-31f;
}

/* Exactly the bytes, so that a sanitizer sees a read beyond them. */
static void *random_matrix(npt_dtype dtype, int64_t count)
{
    const size_t bytes =
        dtype == NPT_NF4 ? (size_t)(count + 1) / 2 : (size_t)count * npt_dtype_bytes(dtype);
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    if (dtype == NPT_NF4)
        for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(random_value() * 127.0f + 128.0f);
    else
        for (int64_t i = 0; i < count; i++) npt_store(data, dtype, (size_t)i, random_value());
    return data;
}

static double weight(const npt_problem *p, int64_t index)
{
    const uint8_t *packed = p->w;
    if (p->desc.w != NPT_NF4) return npt_load(p->w, p->desc.w, (size_t)index);
    const unsigned byte = packed[index / 2];
    const float level = npt_nf4_levels[index % 2 == 0 ? byte >> 4 : byte & 15u];
    return level * p->absmax[index / 64]; /* the product is F32 by definition */
}

static void fill_wanted(npt_problem *p)
{
    const int64_t m = p->desc.m, n = p->desc.n, k = p->desc.k;
    double *a = malloc((size_t)(m * k) * sizeof(double));
    double *w = malloc((size_t)(k * n) * sizeof(double)); /* [n, k] */
    assert_true(a != NULL && w != NULL);
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++)
            a[i * k + l] =
                npt_load(p->a, p->desc.a, (size_t)(p->desc.trans_a ? l * m + i : i * k + l));
    for (int64_t j = 0; j < n; j++)
        for (int64_t l = 0; l < k; l++)
            w[j * k + l] = weight(p, p->desc.trans_w ? j * k + l : l * n + j);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (int64_t l = 0; l < k; l++) sum += a[i * k + l] * w[j * k + l];
            if (p->desc.bias) sum += p->bias[j];
            if (p->desc.accumulate) sum += p->start[i * n + j];
            p->wanted[i * n + j] = sum;
        }
    free(a);
    free(w);
}

static npt_problem problem_of(npt_matmul_desc desc)
{
    npt_problem p = {.desc = desc};
    random_state = (uint64_t)(desc.m * 1000003 + desc.n * 1009 + desc.k);
    p.a = random_matrix(desc.a, desc.m * desc.k);
    p.w = random_matrix(desc.w, desc.n * desc.k);
    p.absmax = random_matrix(NPT_F32, (desc.n * desc.k + 63) / 64);
    p.bias = random_matrix(NPT_F32, desc.n);
    p.start = random_matrix(NPT_F32, desc.m * desc.n);
    p.wanted = malloc((size_t)(desc.m * desc.n) * sizeof(double));
    assert_non_null(p.wanted);
    fill_wanted(&p);
    p.args = (npt_matmul_args){.a = p.a,
                               .w = p.w,
                               .absmax = desc.w == NPT_NF4 ? p.absmax : NULL,
                               .levels = desc.w == NPT_NF4 ? npt_nf4_levels : NULL,
                               .bias = desc.bias ? p.bias : NULL};
    return p;
}

static void free_problem(npt_problem *p)
{
    free(p->a);
    free(p->w);
    free(p->absmax);
    free(p->bias);
    free(p->start);
    free(p->wanted);
}

/* Kept for the whole program. */
static npt_threads *pool(int threads)
{
    static npt_threads *pools[MAX_THREADS + 1];
    if (pools[threads] == NULL) pools[threads] = npt_threads_create(threads);
    return pools[threads];
}

/* C as a way computes it with so many threads; the caller frees. Guard bytes on both sides. */
static void *compute(const npt_problem *p, const npt_way *way, npt_dtype c, int threads)
{
    npt_rig rig = {.cpu = way->cpu, .threads = pool(threads)};
    npt_matmul_desc desc = p->desc;
    npt_matmul_args args = p->args;
    desc.c = c;
    const size_t bytes = (size_t)(desc.m * desc.n) * npt_dtype_bytes(c);
    uint8_t *block = malloc(bytes + 2 * GUARD_BYTES);
    assert_true(rig.threads != NULL && block != NULL);
    memset(block, GUARD, bytes + 2 * GUARD_BYTES);
    args.c = block + GUARD_BYTES;
    if (desc.accumulate) memcpy(args.c, p->start, bytes);
    if (npt_rig_run(&rig, way->backend, &desc, &args) != NPT_OK)
        fail_msg("%s: %s", way->name, npt_error_message());
    for (int i = 0; i < GUARD_BYTES; i++)
        if (block[i] != GUARD || block[GUARD_BYTES + bytes + (size_t)i] != GUARD)
            fail_msg("%s wrote beyond C", way->name);
    memmove(block, args.c, bytes);
    return block;
}

static void describe(const npt_matmul_desc *d, char text[128])
{
    snprintf(text, 128, "m %d n %d k %d %s%s a %s w %s%s%s", (int)d->m, (int)d->n, (int)d->k,
             d->trans_a ? "trans_a " : "", d->trans_w ? "trans_w" : "", npt_dtype_name(d->a),
             npt_dtype_name(d->w), d->accumulate ? " added" : "", d->bias ? " bias" : "");
}

static void check_error(const npt_problem *p, const npt_way *way, const float *c)
{
    double error = 0.0, norm = 0.0;
    char text[128];
    for (int64_t i = 0; i < p->desc.m * p->desc.n; i++) {
        const double d = c[i] - p->wanted[i];
        error += d * d;
        norm += p->wanted[i] * p->wanted[i];
    }
    const double relative = 0x1p-24 * (8.0 + sqrt((double)p->desc.k));
    /* sums that cancel are judged by the size of their terms, a third each */
    const double terms = (double)(p->desc.m * p->desc.n * p->desc.k) / 9.0 * 0.2;
    const double allowed = relative * relative * (norm > terms ? norm : terms);
    describe(&p->desc, text);
    if (!(error <= allowed))
        fail_msg("%s: %s: error %g, allowed %g", way->name, text, error, allowed);
}

/* The F32 result within tolerance; the halves its exact rounding; our own bits the same with any
 * number of threads (those of the libraries are not). */
static void check_way(const npt_problem *p, const npt_way *way, bool own)
{
    const npt_dtype halves[] = {NPT_F16, NPT_BF16};
    const size_t count = (size_t)(p->desc.m * p->desc.n);
    float *c = compute(p, way, NPT_F32, 1);
    check_error(p, way, c);
    for (int threads = 2; own && threads <= 3; threads++) {
        float *again = compute(p, way, NPT_F32, threads);
        if (memcmp(c, again, count * sizeof(float)) != 0)
            fail_msg("%s: bits differ with %d threads", way->name, threads);
        free(again);
    }
    for (size_t h = 0; h < NPT_COUNT(halves) && !p->desc.accumulate; h++) {
        npt_matmul_desc desc = p->desc;
        char reason[128];
        desc.c = halves[h];
        if (way->backend->refuse(&desc, &way->cpu, reason) != NULL) continue;
        uint16_t *half = compute(p, way, halves[h], own ? 2 : 1);
        for (size_t i = 0; i < count; i++) {
            uint16_t wanted;
            npt_store(&wanted, halves[h], 0, c[i]);
            if (half[i] != wanted)
                fail_msg("%s: %g became %s %04x, not %04x", way->name, (double)c[i],
                         npt_dtype_name(halves[h]), half[i], wanted);
        }
        free(half);
    }
    free(c);
}

/* Native at every level up to what the CPU has, with and without its other features; the others,
 * which do not look at the level, once. NPT_BACKEND=name leaves only that one: what the libraries
 * generate at run time is not always to the taste of valgrind. */
static size_t list_ways(npt_way ways[MAX_WAYS])
{
    const char *only = getenv("NPT_BACKEND");
    npt_cpu cpu;
    size_t count = 0;
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    for (int level = NPT_CPU_REFERENCE; level <= (int)cpu.level + 1; level++) {
        const bool top = level > (int)cpu.level;
        npt_cpu lowered = cpu;
        const npt_matmul_backend *list[NPT_MAX_BACKENDS];
        if (!top) {
            lowered.level = (npt_cpu_level)level;
            lowered.features = 0;
        }
        const size_t some = npt_cpu_backends(&lowered, list);
        for (size_t i = 0; i < some; i++) {
            if (!top && (strcmp(list[i]->name, "native") != 0 || level == NPT_CPU_REFERENCE))
                continue;
            if (only != NULL && strcmp(list[i]->name, only) != 0) continue;
            npt_way *way = &ways[count++];
            *way = (npt_way){.backend = list[i], .cpu = lowered};
            snprintf(way->name, sizeof(way->name), "%s at %s%s", list[i]->name,
                     npt_cpu_level_name(lowered.level), top ? " and all else" : "");
        }
    }
    return count;
}

static void check_desc(npt_matmul_desc desc)
{
    npt_way ways[MAX_WAYS];
    const size_t count = list_ways(ways);
    npt_problem p = problem_of(desc);
    char reason[128];
    for (size_t i = 0; i < count; i++) {
        const char *name = ways[i].backend->name;
        const bool own = strcmp(name, "native") == 0 || strcmp(name, "reference") == 0;
        if (ways[i].backend->refuse(&p.desc, &ways[i].cpu, reason) == NULL)
            check_way(&p, &ways[i], own);
    }
    free_problem(&p);
}

/* ---- Cases ---------------------------------------------------------------------------------- */

static const int64_t shapes[][3] = {
    {1, 1, 1},       {1, 3, 17},      {3, 1, 63},     {2, 65, 129},  {8, 17, 65},
    {9, 63, 33},     {17, 129, 65},   {63, 17, 257},  {65, 65, 63},  {129, 33, 17},
    {16, 200, 64},   {200, 16, 129},  {300, 16, 70},  {5, 130, 513}, {31, 131, 300},
    {12, 1088, 520}, {16, 1100, 600}, {3, 2113, 300}, /* stripes and parts of dX */
    {33, 257, 16},   {520, 9, 16},    {14, 28, 256},  {1, 64, 320},  {7, 5, 1030},
    {1, 67, 1088},   {1, 2, 64},      {3, 6, 1088}, /* W as it is stored, rows left over */
    {1, 4160, 35},   {1, 192, 531},                 /* the same in stripes and parts of dX */
};

static const npt_dtype floats[] = {NPT_F32, NPT_F16, NPT_BF16};
static const npt_dtype weights[] = {NPT_F32, NPT_F16, NPT_BF16, NPT_NF4};

static void check_layout(bool trans_a, bool trans_w)
{
    size_t turn = 0;
    for (size_t s = 0; s < NPT_COUNT(shapes); s++)
        for (size_t w = 0; w < NPT_COUNT(weights); w++, turn++)
            for (size_t same = 0; same < 2; same++) {
                npt_matmul_desc desc = {.m = shapes[s][0],
                                        .n = shapes[s][1],
                                        .k = shapes[s][2],
                                        .trans_a = trans_a,
                                        .trans_w = trans_w,
                                        .a = floats[turn % 3],
                                        .w = weights[w],
                                        .c = NPT_F32,
                                        .bias = turn % 2 == 0,
                                        .accumulate = turn % 5 == 0};
                if (same == 1 && (weights[w] == NPT_NF4 || weights[w] == desc.a)) continue;
                if (same == 1) desc.a = weights[w];
                check_desc(desc);
            }
}

static void forward_products(void **state)
{
    (void)state;
    check_layout(false, true);
}

static void backward_products(void **state)
{
    (void)state;
    check_layout(false, false);
}

static void gradient_products(void **state)
{
    (void)state;
    check_layout(true, false);
}

static void both_turned(void **state)
{
    (void)state;
    check_layout(true, true);
}

static void many_tokens(void **state)
{
    (void)state;
    check_desc((npt_matmul_desc){
        .m = 1100, .n = 70, .k = 40, .trans_w = true, .a = NPT_F32, .w = NPT_F32, .c = NPT_F32});
    check_desc((npt_matmul_desc){
        .m = 700, .n = 150, .k = 80, .trans_w = true, .a = NPT_BF16, .w = NPT_BF16, .c = NPT_F32});
    check_desc((npt_matmul_desc){.m = 1500,
                                 .n = 20,
                                 .k = 90,
                                 .trans_a = true,
                                 .a = NPT_F16,
                                 .w = NPT_F32,
                                 .c = NPT_F32,
                                 .accumulate = true});
    check_desc(
        (npt_matmul_desc){.m = 700, .n = 640, .k = 64, .a = NPT_F16, .w = NPT_NF4, .c = NPT_F32});
    check_desc(
        (npt_matmul_desc){.m = 90, .n = 700, .k = 600, .a = NPT_BF16, .w = NPT_BF16, .c = NPT_F32});
}

/* Large enough for the AMX tiles where there are any; every edge of them is cut. */
static void tiled_products(void **state)
{
    static const int64_t sizes[][3] = {{9, 128, 128},  {16, 160, 131},  {33, 129, 520},
                                       {40, 300, 200}, {64, 257, 1041}, {529, 130, 160}};
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(sizes); s++)
        for (int turned = 0; turned < 2; turned++)
            for (size_t d = 1; d < NPT_COUNT(floats); d++)
                check_desc((npt_matmul_desc){.m = sizes[s][0],
                                             .n = sizes[s][1],
                                             .k = sizes[s][2],
                                             .trans_w = turned == 0,
                                             .a = floats[d],
                                             .w = floats[d],
                                             .c = NPT_F32,
                                             .bias = s % 2 == 0,
                                             .accumulate = s % 3 == 1});
}

/* F32 activations: the same, with every dtype of weights. */
static void tiled_f32_products(void **state)
{
    static const int64_t sizes[][3] = {
        {24, 192, 192}, {64, 129, 131}, {65, 320, 640}, {100, 257, 300}, {530, 192, 128}};
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(sizes); s++)
        for (int turned = 0; turned < 2; turned++)
            for (size_t w = 0; w < NPT_COUNT(weights); w++)
                check_desc((npt_matmul_desc){.m = sizes[s][0],
                                             .n = sizes[s][1],
                                             .k = sizes[s][2],
                                             .trans_w = turned == 0,
                                             .a = NPT_F32,
                                             .w = weights[w],
                                             .c = NPT_F32,
                                             .bias = s % 2 == 0,
                                             .accumulate = s % 3 == 1});
}

/* An infinity times a weight that F16 holds in one bf16 piece must not become a NaN by way of the
 * empty second piece; nor may it vanish. */
static void infinities_travel(void **state)
{
    static const uint16_t odd[] = {0x7c00, 0xfc00, 0x7e01};
    npt_way ways[MAX_WAYS];
    const size_t count = list_ways(ways);
    (void)state;
    for (int where = 0; where < 6; where++) {
        npt_problem p = problem_of((npt_matmul_desc){.m = 20,
                                                     .n = 140,
                                                     .k = 150,
                                                     .trans_w = true,
                                                     .a = NPT_F16,
                                                     .w = NPT_F16,
                                                     .c = NPT_F32,
                                                     .accumulate = where % 2 == 1});
        uint16_t *operand = where < 3 ? p.a : p.w;
        operand[3 * 150 + 77] = odd[where % 3];
        float *plain = NULL;
        for (size_t i = count; i-- > 0;) { /* the last of each level is the reference */
            char reason[128];
            if (ways[i].backend->refuse(&p.desc, &ways[i].cpu, reason) != NULL) continue;
            float *c = compute(&p, &ways[i], NPT_F32, 2);
            for (size_t j = 0; plain != NULL && j < 20 * 140; j++)
                if (isnan(c[j]) != isnan(plain[j]) || isinf(c[j]) != isinf(plain[j]) ||
                    (isinf(c[j]) && c[j] != plain[j]) ||
                    (isfinite(c[j]) && fabsf(c[j] - plain[j]) > 1e-3f * (1 + fabsf(plain[j]))))
                    fail_msg("%s: %g where the reference has %g", ways[i].name, (double)c[j],
                             (double)plain[j]);
            if (plain == NULL)
                plain = c;
            else
                free(c);
        }
        free(plain);
        free_problem(&p);
    }
}

/* What no F32 sum of random numbers shows: ties, overflow, subnormals, infinities, NaN. */
static void special_results(void **state)
{
    static const float values[] = {
        0.0f,       -0.0f,     65504.0f,    65519.99f, 65520.0f, 1e30f,   0x1p-24f,      0x1p-25f,
        0x1.8p-25f, 0x1p-14f,  0x1.ffp-15f, 1e-40f,    2049.0f,  2051.0f, 256.5f,        257.5f,
        0x1.01p0f,  0x1.03p0f, INFINITY,    -INFINITY, NAN,      -NAN,    3.4028235e38f, 1.0f};
    const float one = 1.0f;
    npt_way ways[MAX_WAYS];
    const size_t count = list_ways(ways);
    (void)state;
    for (int64_t m = 1; m <= 9; m += 8)
        for (int h = 0; h < 2; h++) {
            const npt_dtype dtype = h == 0 ? NPT_F16 : NPT_BF16;
            const int64_t n = NPT_COUNT(values);
            float a[9];
            for (int i = 0; i < 9; i++) a[i] = one;
            npt_problem p = {
                .desc = {.m = m, .n = n, .k = 1, .trans_w = true, .a = NPT_F32, .w = NPT_F32},
                .args = {.a = a, .w = values}};
            for (size_t i = 0; i < count; i++) {
                char reason[128];
                p.desc.c = dtype;
                if (ways[i].backend->refuse(&p.desc, &ways[i].cpu, reason) != NULL) continue;
                uint16_t *c = compute(&p, &ways[i], dtype, 1);
                for (int64_t j = 0; j < m * n; j++) {
                    uint16_t wanted;
                    /* a sum from zero makes -0 a +0; both count as right */
                    npt_store(&wanted, dtype, 0, values[j % n]);
                    if (c[j] != wanted && !(values[j % n] == 0.0f && c[j] == 0))
                        fail_msg("%s: %g became %04x, not %04x", ways[i].name,
                                 (double)values[j % n], c[j], wanted);
                }
                free(c);
            }
        }
}

static const char *reason_of(const char *name, npt_cpu cpu, npt_matmul_desc desc)
{
    static char reason[128];
    const npt_matmul_backend *backend = npt_rig_backend(&cpu, name);
    return backend == NULL ? "absent" : backend->refuse(&desc, &cpu, reason);
}

static void check_reason(const char *name, npt_cpu cpu, npt_matmul_desc desc, const char *wanted)
{
    const char *reason = reason_of(name, cpu, desc);
    if (reason != NULL && strcmp(reason, "absent") == 0) return;
    if (wanted == NULL && reason != NULL) fail_msg("%s refused: %s", name, reason);
    if (wanted != NULL && reason == NULL)
        fail_msg("%s did not refuse; \"%s\" wanted", name, wanted);
    if (wanted != NULL) assert_string_equal(reason, wanted);
}

static void refusals(void **state)
{
    const npt_cpu plain = {.level = NPT_CPU_REFERENCE}, avx2 = {.level = NPT_CPU_AVX2};
    npt_matmul_desc desc = {
        .m = 4, .n = 4, .k = 4, .trans_w = true, .a = NPT_F32, .w = NPT_F32, .c = NPT_F32};
    (void)state;
    check_reason("reference", plain, desc, NULL);
    check_reason("native", plain, desc, "needs AVX2, FMA and F16C");
    check_reason("native", avx2, desc, NULL);
    check_reason("openblas", plain, desc, NULL);
    check_reason("onednn", plain, desc, "needs AVX2");
    desc.w = NPT_NF4;
    check_reason("reference", plain, desc, NULL);
    check_reason("native", avx2, desc, NULL);
    check_reason("openblas", avx2, desc, "weights are not F32");
    check_reason("onednn", avx2, desc, "weights are NF4");
    desc.w = desc.a = NPT_F16;
    check_reason("onednn", avx2, desc, "operands are F16");
    desc.w = desc.a = NPT_BF16;
    check_reason("onednn", avx2, desc, "BF16 would be emulated: neither AVX512_BF16 nor AMX");
    desc.w = NPT_F32;
    check_reason("onednn", avx2, desc, "operands differ in dtype");
    check_reason("openblas", avx2, desc, "activations are not F32");
    desc.a = NPT_F32;
    desc.c = NPT_F16;
    check_reason("openblas", avx2, desc, "the result is not F32");
}

static void always_somewhere(void **state)
{
    npt_cpu cpu;
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    (void)state;
    assert_int_equal(npt_cpu_detect(&cpu), NPT_OK);
    for (int level = NPT_CPU_REFERENCE; level <= (int)cpu.level; level++) {
        cpu.level = (npt_cpu_level)level;
        const size_t count = npt_cpu_backends(&cpu, list);
        assert_true(count >= 1 && count <= NPT_MAX_BACKENDS);
        assert_true(list[count - 1] == &npt_matmul_reference);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("x times W turned agrees with F64", forward_products),
        NPT_CASE("dY times W agrees with F64", backward_products),
        NPT_CASE("A turned times W agrees with F64", gradient_products),
        NPT_CASE("A turned times W turned agrees with F64", both_turned),
        NPT_CASE("more rows than are packed at once", many_tokens),
        NPT_CASE("products that AMX tiles compute", tiled_products),
        NPT_CASE("F32 products that AMX tiles compute in pieces", tiled_f32_products),
        NPT_CASE("infinities and NaN of F16 operands arrive in the result", infinities_travel),
        NPT_CASE("halves are rounded exactly at the edges", special_results),
        NPT_CASE("a refusal gives its reason", refusals),
        NPT_CASE("the list ends with reference at every level", always_somewhere),
    };
    return npt_test_run("matmul", cases, NPT_COUNT(cases));
}
