/* SPDX-License-Identifier: BSD-2-Clause */
/* The gated unit and its modulation, at every level and pool size: the same bits everywhere but for
 * the terms' products, and the values of twins written here in F64. Gradients are compared with
 * central differences of the twins. */
#include "config.h"

#include "kern.h"

static const int64_t lengths[] = {1, 3, 15, 16, 17, 255, 256, 257, 511, 512, 513, 16384, 33000};

/* ---- Sigmoid ----------------------------------------------------------------- */

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
    npt_gate_args args = {.rows = 1,
                          .width = c->n,
                          .gate = in_of(c->in_place ? &out[0] : &c->gate),
                          .up = in_of(&c->add),
                          .dst = out_of(&out[0])};
    k->gate(run, &args);
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
    npt_gate_args args = {.rows = 1,
                          .width = 8,
                          .gate = {edges, NPT_F32},
                          .up = {ones, NPT_F32},
                          .dst = {dst, NPT_F32}};
    the_lab.kernels[the_lab.levels - 1].gate(&the_lab.run[0], &args);
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
    npt_gate_backward_args args = {.rows = 1,
                                   .width = c->n,
                                   .dy = in_of(c->in_place ? &out[0] : &c->dy),
                                   .gate = in_of(&c->gate),
                                   .up = in_of(&c->add),
                                   .dgate = out_of(&out[0]),
                                   .dup = out_of(&out[1])};
    k->gate_backward(run, &args);
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
    npt_gate_backward_args args = {.rows = 1,
                                   .width = 5,
                                   .dy = {dy, NPT_F32},
                                   .gate = {g, NPT_F32},
                                   .up = {up, NPT_F32},
                                   .dgate = {both, NPT_F32},
                                   .dup = {dup, NPT_F32}};
    for (int level = 0; level < the_lab.levels; level++) {
        the_lab.kernels[level].gate_backward(&the_lab.run[0], &args);
        npt_gate_backward_args alone = args;
        alone.dgate.data = one;
        alone.dup.data = NULL;
        the_lab.kernels[level].gate_backward(&the_lab.run[0], &alone);
        assert_memory_equal(one, both, sizeof one);
    }
}

/* ---- Modulation ------------------------------------------------------------------------------ */

static int modulate_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    gate_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->gate) : buffer_new(c->out, c->n);
    out[1] = buffer_new(NPT_F64, 1);
    npt_gate_args args = {.rows = 1,
                          .width = c->n,
                          .strength = c->strength,
                          .gate = in_of(c->in_place ? &out[0] : &c->gate),
                          .add = {.value = in_of(&c->add), .dtype = c->add.dtype},
                          .u = {.value = in_of(&c->u), .dtype = c->u.dtype},
                          .dst = out_of(&out[0]),
                          .squares = out[1].data};
    k->gate(run, &args);
    return 2;
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
            double squares = 0;
            const int count = run_everywhere("modulate", modulate_is_run, &c, out, false);
            for (int64_t i = 0; i < c.n; i++) {
                double g = at(&c.gate, i), want = g, slack = 0.0, add = 0.0;
                if (terms & 2) want = g * multiplier(&c.u, i);
                if ((terms & 2) && c.u.dtype != NPT_F32) {
                    double exact = 0.5 * sigma(at(&c.u, i)) + 0.5;
                    double off = fabs(exact - multiplier(&c.u, i)) / unit(c.u.dtype);
                    if (off > 0.4999) slack = 2.0 * unit(c.u.dtype) * fabs(g) / 4e-6;
                }
                if (terms & 1) add = (double)0.1f * at(&c.add, i);
                if (terms & 1) squares += at(&c.add, i) * at(&c.add, i);
                if (terms & 2) squares += at(&c.u, i) * at(&c.u, i);
                check_value("modulate", &out[0], i, want + add, fabs(g) + fabs(add) + slack, 1.0);
            }
            assert_true(fabs(*(double *)out[1].data - squares) <= 1e-12 * squares);
            free_all(out, count);
            free_gate(&c);
        }
}

static int modulate_backward_is_run(const npt_kernels *k, const npt_run *run, void *context,
                                    buffer *out)
{
    gate_case *c = context;
    npt_dtype p = c->add.dtype != NPT_DTYPE_NONE ? c->add.dtype : c->u.dtype;
    int count = 1;
    npt_gate_backward_args args = {.rows = 1,
                                   .width = c->n,
                                   .strength = c->strength,
                                   .penalty = 0.25f,
                                   .gate = in_of(&c->gate),
                                   .add = {.value = in_of(&c->add), .dtype = c->add.dtype},
                                   .u = {.value = in_of(&c->u), .dtype = c->u.dtype}};
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
    k->gate_backward(run, &args);
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

/* ---- All at once ----------------------------------------------------------------------------- */

/* Both terms from z, and the gated unit on top, of a few rows. */
typedef struct unit_case {
    int64_t rows, width, rank;
    npt_dtype h, p;
    buffer gate, up, dy, z, w[2];
    bool apart; /* result by result, as for somebody who watches */
} unit_case;

static unit_case make_unit(int64_t rows, int64_t width, int64_t rank, npt_dtype h, npt_dtype p)
{
    const double scale = 1 / sqrt((double)rank);
    return (unit_case){
        .rows = rows,
        .width = width,
        .rank = rank,
        .h = h,
        .p = p,
        .gate = buffer_random(h, rows * width, 2.0),
        .up = buffer_random(h, rows * width, 1.0),
        .dy = buffer_random(h, rows * width, 1.0),
        .z = buffer_random(p, rows * rank, 1.0),
        .w = {buffer_random(p, width * rank, scale), buffer_random(p, width * rank, scale)}};
}

static void free_unit(unit_case *c)
{
    buffer_free(&c->gate);
    buffer_free(&c->up);
    buffer_free(&c->dy);
    buffer_free(&c->z);
    free_all(c->w, 2);
}

static npt_gate_term turned_term(const npt_kernels *k, const npt_run *run, const unit_case *c,
                                 int term, buffer *turned)
{
    const int64_t stride = (c->width + NPT_TURNED_ROW - 1) / NPT_TURNED_ROW * NPT_TURNED_ROW;
    *turned = buffer_new(NPT_F32, stride * c->rank);
    k->turn(run, c->width, c->rank, in_of(&c->w[term]), turned->data);
    for (int64_t i = 0; i < stride; i++)
        for (int64_t j = 0; j < c->rank; j++) {
            const double want = i < c->width ? at(&c->w[term], i * c->rank + j) : 0.0;
            assert_true(at(turned, j * stride + i) == want);
        }
    check_guards(turned, "turn");
    return (npt_gate_term){.dtype = c->p, .rank = c->rank, .x = in_of(&c->z), .w = turned->data};
}

/* dst, squares; dgate, dup, dadd, du. */
enum { UNIT_DST, UNIT_SQUARES, UNIT_DGATE, UNIT_DUP, UNIT_DADD, UNIT_DU, UNIT_OUT };
_Static_assert((int)UNIT_OUT <= MAX_OUT, "all have a place");

static int unit_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    const unit_case *c = context;
    const int64_t n = c->rows * c->width;
    buffer turned[2], value[2] = {buffer_new(c->p, n), buffer_new(c->p, n)};
    npt_gate_term terms[2];
    for (int i = 0; i < UNIT_OUT; i++)
        out[i] = i == UNIT_SQUARES ? buffer_new(NPT_F64, c->rows)
                                   : buffer_new(i >= UNIT_DADD ? c->p : c->h, n);
    for (int i = 0; i < 2; i++) terms[i] = turned_term(k, run, c, i, &turned[i]);
    npt_gate_args forward = {.rows = c->rows,
                             .width = c->width,
                             .strength = 0.1f,
                             .gate = in_of(&c->gate),
                             .up = in_of(&c->up),
                             .add = terms[0],
                             .u = terms[1],
                             .dst = out_of(&out[UNIT_DST]),
                             .squares = out[UNIT_SQUARES].data};
    npt_gate_backward_args backward = {.rows = c->rows,
                                       .width = c->width,
                                       .strength = 0.1f,
                                       .penalty = 0.25f,
                                       .dy = in_of(&c->dy),
                                       .gate = in_of(&c->gate),
                                       .up = in_of(&c->up),
                                       .add = terms[0],
                                       .u = terms[1],
                                       .dgate = out_of(&out[UNIT_DGATE]),
                                       .dup = out_of(&out[UNIT_DUP]),
                                       .dadd = out_of(&out[UNIT_DADD]),
                                       .du = out_of(&out[UNIT_DU])};
    if (!c->apart) {
        k->gate(run, &forward);
        k->gate_backward(run, &backward);
    } else {
        npt_gate_args one = forward;
        for (int i = 0; i < 2; i++) {
            k->lowrank(run, c->rows, c->width, &terms[i], out_of(&value[i]));
            terms[i].value = in_of(&value[i]);
        }
        one.add = terms[0];
        one.u = terms[1];
        one.up.data = NULL;
        k->gate(run, &one); /* g' */
        npt_gate_backward_args back = backward;
        back.add = back.u = (npt_gate_term){0};
        back.gate = in_of(&out[UNIT_DST]);
        back.dadd = back.du = (npt_out){0};
        k->gate_backward(run, &back); /* dg', where dgate will be, and dup */
        back = backward;
        back.add = terms[0];
        back.u = terms[1];
        back.dy = in_of(&out[UNIT_DGATE]);
        back.up.data = NULL;
        back.dup.data = NULL;
        k->gate_backward(run, &back);
        one = forward;
        one.add = one.u = (npt_gate_term){0};
        one.gate = in_of(&out[UNIT_DST]);
        one.squares = NULL;
        k->gate(run, &one);
    }
    free_all(turned, 2);
    for (int i = 0; i < 2; i++) check_guards(&value[i], "lowrank");
    free_all(value, 2);
    return UNIT_OUT;
}

static const int64_t unit_shapes[][3] = {{1, 1, 1},    {3, 5, 2},    {8, 16, 4},    {9, 31, 3},
                                         {17, 256, 8}, {5, 257, 64}, {20, 600, 65}, {2, 1100, 130}};

static void one_pass_equals_its_parts(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(unit_shapes); s++)
        for (int pair = 0; pair < 5; pair++) {
            unit_case c = make_unit(unit_shapes[s][0], unit_shapes[s][1], unit_shapes[s][2],
                                    float_dtypes[pair % 3],
                                    pair < 3 ? float_dtypes[pair] : float_dtypes[pair - 2]);
            buffer at_once[MAX_OUT], apart[MAX_OUT];
            int count = run_everywhere("unit", unit_is_run, &c, at_once, true);
            c.apart = true;
            run_everywhere("unit apart", unit_is_run, &c, apart, true);
            for (int i = 0; i < count; i++)
                if (memcmp(at_once[i].data, apart[i].data, apart[i].bytes) != 0)
                    fail_msg("shape %zu, pair %d: output %d differs from its parts'", s, pair, i);
            free_all(at_once, count);
            free_all(apart, count);
            free_unit(&c);
        }
}

static int lowrank_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    const unit_case *c = context;
    buffer turned;
    const npt_gate_term term = turned_term(k, run, c, 0, &turned);
    out[0] = buffer_new(c->p, c->rows * c->width);
    k->lowrank(run, c->rows, c->width, &term, out_of(&out[0]));
    buffer_free(&turned);
    return 1;
}

static void terms_equal_their_twin(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(unit_shapes); s++)
        for (int d = 0; d < 3; d++) {
            unit_case c = make_unit(unit_shapes[s][0], unit_shapes[s][1], unit_shapes[s][2],
                                    NPT_F32, float_dtypes[d]);
            buffer out[MAX_OUT];
            run_everywhere("lowrank", lowrank_is_run, &c, out, true);
            for (int64_t i = 0; i < c.rows * c.width; i++) {
                double want = 0.0, scale = 0.0;
                for (int64_t j = 0; j < c.rank; j++) {
                    const double x =
                        at(&c.z, i / c.width * c.rank + j) * at(&c.w[0], i % c.width * c.rank + j);
                    want += x;
                    scale += fabs(x);
                }
                check_value("lowrank", &out[0], i, want, scale, 1.0);
            }
            buffer_free(&out[0]);
            free_unit(&c);
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
        NPT_CASE("terms from z equal their twin", terms_equal_their_twin),
        NPT_CASE("one pass gives the bits of its parts", one_pass_equals_its_parts),
    };
    lab_open(1, 1);
    int status = npt_test_run("gate", cases, NPT_COUNT(cases));
    lab_close();
    return status;
}
