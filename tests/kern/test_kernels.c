/* SPDX-License-Identifier: BSD-2-Clause */
/* The kernels without sums over rows, at every level and pool size: the same bits everywhere, and
 * the values of twins written here in F64. Gradients are compared with central differences of the
 * twins. The files test_rows.c and test_attention.c do the same for the rest of the table. */
#include "config.h"

#include "kern.h"

static const int64_t lengths[] = {1, 3, 15, 16, 17, 511, 512, 513, 16384, 33000};

/* ---- Exponential and sigmoid ----------------------------------------------------------------- */

static double sigma(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

typedef struct gate_case {
    int64_t n;
    float strength;
    buffer gate, add, u, dy;
    npt_dtype out;
    bool in_place;
} gate_case;

static int swiglu_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    gate_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->gate) : buffer_new(c->out, c->n);
    npt_swiglu_args args = {.rows = 1,
                            .width = c->n,
                            .g = in_of(c->in_place ? &out[0] : &c->gate),
                            .up = in_of(&c->add),
                            .dst = out_of(&out[0])};
    k->swiglu(run, &args);
    return 1;
}

/* silu(x)·1: F32 outcomes for arguments all over the range in which e^-x is finite and beyond. */
static void sigmoid_is_within_two_ulp(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    gate_case c = {
        .n = N, .gate = buffer_new(NPT_F32, N), .add = buffer_new(NPT_F32, N), .out = NPT_F32};
    float *x = c.gate.data, *one = c.add.data;
    for (int i = 0; i < N; i++) {
        x[i] = i % 4 == 0 ? (float)draw() : (float)((double)i / N * 220.0 - 110.0);
        one[i] = 1.0f;
    }
    buffer out[MAX_OUT];
    run_everywhere("sigmoid", swiglu_is_run, &c, out, false);
    double worst = 0.0;
    for (int i = 0; i < N; i++) {
        double want = (double)x[i] * sigma((double)x[i]);
        if (fabs(want) < 0x1p-120) continue; /* the twin's own e^-x nears the end of its digits */
        double off = fabs((double)((float *)out[0].data)[i] / want - 1.0) * 0x1p23;
        if (off > worst) worst = off;
    }
    printf("# silu: at worst %.2f × 2^-23\n", worst);
    assert_true(worst <= 2.5); /* two of the sigmoid, half a one of the product */
    float edges[8] = {-INFINITY, INFINITY, -200.0f, 200.0f, 0.0f, -0.0f, NAN, -88.0f}, dst[8];
    float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    npt_swiglu_args args = {1, 8, {edges, NPT_F32}, {ones, NPT_F32}, {dst, NPT_F32}};
    the_lab.kernels[the_lab.levels - 1].swiglu(&the_lab.run[0], &args);
    assert_true(isnan(dst[0]) && isinf(dst[1]) && dst[2] == 0.0f && dst[3] == 200.0f);
    assert_true(dst[4] == 0.0f && dst[5] == 0.0f && isnan(dst[6]));
    assert_true(fabs((double)dst[7] - -88.0 * exp(-88.0)) < 1e-6 * 88.0 * exp(-88.0));
    buffer_free(&out[0]);
    buffer_free(&c.gate);
    buffer_free(&c.add);
}

/* ---- SwiGLU ---------------------------------------------------------------------------------- */

static void swiglu_equals_its_twin(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++) {
        for (int d = 0; d < 4; d++) {
            npt_dtype dtype = float_dtypes[d % 3];
            int64_t n = lengths[l];
            gate_case c = {.n = n,
                           .gate = buffer_random(dtype, n, 3.0),
                           .add = buffer_random(dtype, n, 1.0),
                           .out = dtype,
                           .in_place = d == 3};
            buffer out[MAX_OUT];
            run_everywhere("swiglu", swiglu_is_run, &c, out, false);
            for (int64_t i = 0; i < n; i++) {
                double g = at(&c.gate, i), want = g * sigma(g) * at(&c.add, i);
                check_value("swiglu", &out[0], i, want, fabs(want), 1.0);
            }
            buffer_free(&out[0]);
            buffer_free(&c.gate);
            buffer_free(&c.add);
        }
    }
}

static int swiglu_backward_is_run(const npt_kernels *k, const npt_run *run, void *context,
                                  buffer *out)
{
    gate_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->dy) : buffer_new(c->out, c->n);
    out[1] = buffer_new(c->out, c->n);
    npt_swiglu_backward_args args = {.rows = 1,
                                     .width = c->n,
                                     .dy = in_of(c->in_place ? &out[0] : &c->dy),
                                     .g = in_of(&c->gate),
                                     .up = in_of(&c->add),
                                     .dg = out_of(&out[0]),
                                     .dup = out_of(&out[1])};
    k->swiglu_backward(run, &args);
    return 2;
}

static void swiglu_backward_equals_differences(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++) {
        for (int d = 0; d < 4; d++) {
            npt_dtype dtype = float_dtypes[d % 3];
            int64_t n = lengths[l];
            gate_case c = {.n = n,
                           .gate = buffer_random(dtype, n, 3.0),
                           .add = buffer_random(dtype, n, 1.0),
                           .dy = buffer_random(dtype, n, 1.0),
                           .out = dtype,
                           .in_place = d == 3};
            buffer out[MAX_OUT];
            run_everywhere("swiglu_backward", swiglu_backward_is_run, &c, out, false);
            for (int64_t i = 0; i < n; i++) {
                double g = at(&c.gate, i), up = at(&c.add, i), dy = at(&c.dy, i), h = 1e-5;
                double slope = ((g + h) * sigma(g + h) - (g - h) * sigma(g - h)) / (2.0 * h);
                check_value("dg", &out[0], i, dy * up * slope, fabs(dy * up), 1.0);
                check_value("dup", &out[1], i, dy * g * sigma(g), fabs(dy * g), 1.0);
            }
            free_all(out, 2);
            buffer_free(&c.gate);
            buffer_free(&c.add);
            buffer_free(&c.dy);
        }
    }
}

static void swiglu_backward_without_dup(void **state)
{
    (void)state;
    float dy[5] = {1, 2, 3, 4, 5}, g[5] = {1, -1, 0, 2, -2}, up[5] = {1, 1, 1, 2, 2}, both[5],
          one[5];
    float dup[5];
    npt_swiglu_backward_args args = {
        1, 5, {dy, NPT_F32}, {g, NPT_F32}, {up, NPT_F32}, {both, NPT_F32}, {dup, NPT_F32}};
    for (int level = 0; level < the_lab.levels; level++) {
        the_lab.kernels[level].swiglu_backward(&the_lab.run[0], &args);
        npt_swiglu_backward_args alone = args;
        alone.dg.data = one;
        alone.dup.data = NULL;
        the_lab.kernels[level].swiglu_backward(&the_lab.run[0], &alone);
        assert_memory_equal(one, both, sizeof one);
    }
}

/* ---- Modulation ------------------------------------------------------------------------------ */

static int modulate_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    gate_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->gate) : buffer_new(c->out, c->n);
    npt_modulate_args args = {.rows = 1,
                              .width = c->n,
                              .strength = c->strength,
                              .gate = in_of(c->in_place ? &out[0] : &c->gate),
                              .add = in_of(&c->add),
                              .u = in_of(&c->u),
                              .dst = out_of(&out[0])};
    k->modulate(run, &args);
    return 1;
}

/* 0.5·σ(u) + 0.5, rounded to u's dtype as the site says. */
static double multiplier(const buffer *u, int64_t i)
{
    float value = (float)(0.5 * sigma(at(u, i)) + 0.5);
    if (u->dtype == NPT_F16) return (double)npt_f32_from_f16(npt_f16_from_f32(value));
    if (u->dtype == NPT_BF16) return (double)npt_f32_from_bf16(npt_bf16_from_f32(value));
    return (double)value;
}

/* terms: bit 0 additive, bit 1 multiplicative. The twin's multiplier may differ by one unit of u's
 * dtype where its F64 value lies next to a tie. */
static gate_case make_gate(int64_t n, int terms, npt_dtype h, npt_dtype p)
{
    gate_case c = {.n = n,
                   .strength = 0.1f,
                   .gate = buffer_random(h, n, 2.0),
                   .dy = buffer_random(h, n, 1.0),
                   .out = h};
    if (terms & 1) c.add = buffer_random(p, n, 2.0);
    if (terms & 2) c.u = buffer_random(p, n, 2.0);
    return c;
}

static void free_gate(gate_case *c)
{
    buffer_free(&c->gate);
    buffer_free(&c->dy);
    buffer_free(&c->add);
    buffer_free(&c->u);
}

static void modulate_equals_its_twin(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int variant = 0; variant < 4 * 6; variant++) {
            int terms = variant % 4, pair = variant / 4;
            gate_case c = make_gate(lengths[l], terms, float_dtypes[pair % 3],
                                    pair < 3 ? float_dtypes[pair % 3] : NPT_F32);
            c.in_place = pair == 4;
            buffer out[MAX_OUT];
            run_everywhere("modulate", modulate_is_run, &c, out, false);
            for (int64_t i = 0; i < c.n; i++) {
                double g = at(&c.gate, i), want = g, slack = 0.0, add = 0.0;
                if (terms & 2) want = g * multiplier(&c.u, i);
                if ((terms & 2) && c.u.dtype != NPT_F32) {
                    double exact = 0.5 * sigma(at(&c.u, i)) + 0.5;
                    double off = fabs(exact - multiplier(&c.u, i)) / unit(c.u.dtype);
                    if (off > 0.4999) slack = 2.0 * unit(c.u.dtype) * fabs(g) / 4e-6;
                }
                if (terms & 1) add = (double)0.1f * at(&c.add, i);
                check_value("modulate", &out[0], i, want + add, fabs(g) + fabs(add) + slack, 1.0);
            }
            buffer_free(&out[0]);
            free_gate(&c);
        }
}

static int modulate_backward_is_run(const npt_kernels *k, const npt_run *run, void *context,
                                    buffer *out)
{
    gate_case *c = context;
    npt_dtype p = c->add.dtype != NPT_DTYPE_NONE ? c->add.dtype : c->u.dtype;
    int count = 1;
    npt_modulate_backward_args args = {.rows = 1,
                                       .width = c->n,
                                       .strength = c->strength,
                                       .penalty = 0.25f,
                                       .gate = in_of(&c->gate),
                                       .add = in_of(&c->add),
                                       .u = in_of(&c->u)};
    out[0] = c->in_place ? buffer_copy(&c->dy) : buffer_new(c->out, c->n);
    args.dy = in_of(c->in_place ? &out[0] : &c->dy);
    args.dgate = out_of(&out[0]);
    if (c->add.data != NULL) {
        out[count] = buffer_new(p, c->n);
        args.dadd = out_of(&out[count++]);
    }
    if (c->u.data != NULL) {
        out[count] = buffer_new(p, c->n);
        args.du = out_of(&out[count++]);
    }
    k->modulate_backward(run, &args);
    return count;
}

static void check_modulate_backward(const gate_case *c, int terms, const buffer *out)
{
    for (int64_t i = 0; i < c->n; i++) {
        double dy = at(&c->dy, i), g = at(&c->gate, i), h = 1e-5;
        double mult = 1.0, width = 0.0;
        int next = 1;
        if (terms & 2) mult = multiplier(&c->u, i);
        if ((terms & 2) && c->u.dtype != NPT_F32) width = 2.0 * unit(c->u.dtype) / 4e-6;
        check_value("dgate", &out[0], i, dy * mult, fabs(dy) * (1.0 + width), 1.0);
        if (terms & 1) {
            double a = at(&c->add, i), part = (double)0.1f * dy;
            check_value("dadd", &out[next++], i, part + 0.25 * a, fabs(part) + fabs(a), 1.0);
        }
        if (terms & 2) {
            double u = at(&c->u, i), slope = 0.5 * (sigma(u + h) - sigma(u - h)) / (2.0 * h);
            double part = dy * g * slope;
            check_value("du", &out[next], i, part + 0.25 * u, fabs(dy * g) + fabs(u), 1.0);
        }
    }
}

static void modulate_backward_equals_differences(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int variant = 0; variant < 4 * 5; variant++) {
            int terms = variant % 4, pair = variant / 4;
            gate_case c = make_gate(lengths[l], terms, float_dtypes[pair % 3],
                                    pair < 3 ? float_dtypes[pair % 3] : NPT_F32);
            c.in_place = pair == 4;
            buffer out[MAX_OUT];
            int count =
                run_everywhere("modulate_backward", modulate_backward_is_run, &c, out, false);
            check_modulate_backward(&c, terms, out);
            free_all(out, count);
            free_gate(&c);
        }
}

static void penalty_alone_needs_no_gradient(void **state)
{
    (void)state;
    float add[3] = {1, -2, 3}, u[3] = {0.5f, 1, -1}, gate[3] = {1, 1, 1}, dadd[3], du[3];
    npt_modulate_backward_args args = {.rows = 1,
                                       .width = 3,
                                       .strength = 0.1f,
                                       .penalty = 2.0f,
                                       .gate = {gate, NPT_F32},
                                       .add = {add, NPT_F32},
                                       .u = {u, NPT_F32},
                                       .dadd = {dadd, NPT_F32},
                                       .du = {du, NPT_F32}};
    for (int level = 0; level < the_lab.levels; level++) {
        the_lab.kernels[level].modulate_backward(&the_lab.run[0], &args);
        for (int i = 0; i < 3; i++) {
            assert_true(dadd[i] == 2.0f * add[i]);
            assert_true(du[i] == 2.0f * u[i]);
        }
    }
}

/* ---- Addition, casts, embedding, rotation ---------------------------------------------------- */

static int add_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    gate_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->gate) : buffer_new(c->out, c->n);
    k->add(run, c->n, in_of(c->in_place ? &out[0] : &c->gate), in_of(&c->add), out_of(&out[0]));
    return 1;
}

/* F64 adds two floats exactly enough for one rounding to F32 to be right; so to the halves. */
static void addition_rounds_once(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int d = 0; d < 4; d++) {
            npt_dtype dtype = float_dtypes[d % 3];
            int64_t n = lengths[l];
            gate_case c = {.n = n,
                           .gate = buffer_random(dtype, n, 1.0),
                           .add = buffer_random(dtype, n, 1.0),
                           .out = dtype,
                           .in_place = d == 3};
            buffer out[MAX_OUT], want = buffer_new(dtype, n);
            run_everywhere("add", add_is_run, &c, out, false);
            for (int64_t i = 0; i < n; i++)
                npt_store(want.data, dtype, (size_t)i, (float)(at(&c.gate, i) + at(&c.add, i)));
            assert_memory_equal(out[0].data, want.data, want.bytes);
            buffer_free(&out[0]);
            buffer_free(&want);
            buffer_free(&c.gate);
            buffer_free(&c.add);
        }
}

static int cast_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    gate_case *c = context;
    out[0] = buffer_new(c->out, c->n);
    out[1] = buffer_bytes(sizeof(npt_cast_stats));
    npt_cast_stats stats = {0};
    k->cast(run, c->n, in_of(&c->gate), out_of(&out[0]), &stats);
    memcpy(out[1].data, &stats, sizeof stats);
    return 2;
}

static void casts_are_the_scalar_ones_and_counted(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int pair = 0; pair < 9; pair++) {
            int64_t n = lengths[l];
            gate_case c = {.n = n,
                           .gate = buffer_random(float_dtypes[pair / 3], n, 1.0),
                           .out = float_dtypes[pair % 3]};
            for (int64_t i = 0; i < n; i += 3)
                npt_store(c.gate.data, c.gate.dtype, (size_t)i,
                          ldexpf((float)draw(), (int)(next_random() % 250) - 125));
            buffer out[MAX_OUT];
            run_everywhere("cast", cast_is_run, &c, out, false);
            npt_cast_stats want = {0}, *got = out[1].data;
            for (int64_t i = 0; i < n; i++) {
                float x = npt_load(c.gate.data, c.gate.dtype, (size_t)i), y;
                uint16_t half[2] = {0};
                float copy = x;
                void *slot = c.out == NPT_F32 ? (void *)&copy : (void *)half;
                npt_store(slot, c.out, 0, x);
                y = npt_load(slot, c.out, 0);
                assert_true(npt_float_bits(npt_load(out[0].data, c.out, (size_t)i)) ==
                            npt_float_bits(y));
                want.overflowed += isfinite(x) && !isfinite(y);
                want.flushed += x != 0.0f && y == 0.0f;
            }
            assert_int_equal(got->overflowed, want.overflowed);
            assert_int_equal(got->flushed, want.flushed);
            free_all(out, 2);
            buffer_free(&c.gate);
        }
}

typedef struct table_case {
    int64_t tokens, width;
    const int32_t *ids;
    buffer table;
    npt_dtype out;
} table_case;

static int embed_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    table_case *c = context;
    out[0] = buffer_new(c->out, c->tokens * c->width);
    k->embed(run, c->tokens, c->width, c->ids, in_of(&c->table), out_of(&out[0]));
    return 1;
}

static void embedding_copies_rows(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 7, 64, 1100};
    int32_t ids[50];
    for (int i = 0; i < 50; i++) ids[i] = (int32_t)(next_random() % 11);
    for (size_t w = 0; w < NPT_COUNT(widths); w++)
        for (int pair = 0; pair < 9; pair++) {
            table_case c = {50, widths[w], ids,
                            buffer_random(float_dtypes[pair / 3], 11 * widths[w], 1.0),
                            float_dtypes[pair % 3]};
            buffer out[MAX_OUT];
            run_everywhere("embed", embed_is_run, &c, out, false);
            for (int64_t t = 0; t < 50; t++)
                for (int64_t i = 0; i < c.width; i++) {
                    double want = at(&c.table, ids[t] * c.width + i);
                    check_value("embed", &out[0], t * c.width + i, want, 0.0, 1.0);
                }
            buffer_free(&out[0]);
            buffer_free(&c.table);
        }
}

typedef struct rope_case {
    npt_rope_args args;
    buffer src;
    bool in_place;
} rope_case;

static int rope_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    rope_case *c = context;
    npt_rope_args args = c->args;
    out[0] = c->in_place ? buffer_copy(&c->src) : buffer_new(c->src.dtype, c->src.n);
    args.src = in_of(c->in_place ? &out[0] : &c->src);
    args.dst = out_of(&out[0]);
    k->rope(run, &args);
    return 1;
}

static void rotation_turns_and_turns_back(void **state)
{
    (void)state;
    enum { TOKENS = 37, HEADS = 3, POSITIONS = 64 };
    static const int64_t dims[] = {2, 10, 64, 128, 250};
    static float cosine[POSITIONS * 128], sine[POSITIONS * 128];
    int32_t positions[TOKENS];
    for (int t = 0; t < TOKENS; t++) positions[t] = (int32_t)(next_random() % POSITIONS);
    for (size_t d = 0; d < NPT_COUNT(dims); d++)
        for (int variant = 0; variant < 12; variant++) {
            int64_t dim = dims[d], half = dim / 2;
            for (int64_t i = 0; i < POSITIONS * half; i++) {
                double angle =
                    (double)(i / half) * pow(10000.0, -(double)(i % half) / (double)half);
                cosine[i] = (float)cos(angle);
                sine[i] = (float)sin(angle);
            }
            bool inverse = variant / 3 % 2;
            rope_case c = {.args = {.tokens = TOKENS,
                                    .heads = HEADS,
                                    .head_dim = dim,
                                    .positions = positions,
                                    .cos = cosine,
                                    .sin = sine,
                                    .inverse = inverse},
                           .src =
                               buffer_random(float_dtypes[variant % 3], TOKENS * HEADS * dim, 1.0),
                           .in_place = variant >= 6};
            buffer out[MAX_OUT];
            run_everywhere("rope", rope_is_run, &c, out, false);
            for (int64_t i = 0; i < c.src.n; i++) {
                int64_t t = i / (HEADS * dim), at_dim = i % dim, pair = at_dim % half;
                double co = cosine[positions[t] * half + pair];
                double si = sine[positions[t] * half + pair] * (inverse ? -1.0 : 1.0);
                double own = at(&c.src, i);
                double other = at(&c.src, at_dim < half ? i + half : i - half);
                double want = at_dim < half ? own * co - other * si : own * co + other * si;
                check_value("rope", &out[0], i, want, fabs(own) + fabs(other), 1.0);
            }
            buffer_free(&out[0]);
            buffer_free(&c.src);
        }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the sigmoid is within two ulp and right at the edges", sigmoid_is_within_two_ulp),
        NPT_CASE("swiglu equals its twin", swiglu_equals_its_twin),
        NPT_CASE("swiglu backward equals central differences", swiglu_backward_equals_differences),
        NPT_CASE("swiglu backward may leave dup out", swiglu_backward_without_dup),
        NPT_CASE("modulation equals its twin, each term present or not", modulate_equals_its_twin),
        NPT_CASE("modulation backward equals central differences",
                 modulate_backward_equals_differences),
        NPT_CASE("a penalty alone needs no gradient from above", penalty_alone_needs_no_gradient),
        NPT_CASE("addition rounds once", addition_rounds_once),
        NPT_CASE("casts are the scalar ones, and counted", casts_are_the_scalar_ones_and_counted),
        NPT_CASE("embedding copies rows", embedding_copies_rows),
        NPT_CASE("rotation turns, and back, in place or not", rotation_turns_and_turns_back),
    };
    lab_open(1, 1);
    int status = npt_test_run("kernels", cases, NPT_COUNT(cases));
    lab_close();
    return status;
}
