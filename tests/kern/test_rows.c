/* SPDX-License-Identifier: BSD-2-Clause */
/* The kernels with sums (norm, distances, totals, comparison) and the optimizer, at every level and
 * pool size: the same bits everywhere, and the values of twins in F64; gradients against central
 * differences of the twins. */
#include "config.h"

#include "kern.h"

typedef struct row_case {
    int64_t rows, width;
    bool normalized, in_place;
    float eps, factor;
    buffer x, y, weight, base;
    npt_dtype out;
} row_case;

static const int64_t shapes[][2] = {{1, 1},   {3, 7},    {40, 16},  {5, 100},
                                    {2, 513}, {33, 600}, {1, 20000}};

static row_case make_rows(const int64_t shape[2], npt_dtype dtype)
{
    int64_t n = shape[0] * shape[1];
    return (row_case){.rows = shape[0],
                      .width = shape[1],
                      .eps = 1e-5f,
                      .factor = 0.37f,
                      .x = buffer_random(dtype, n, 1.5),
                      .y = buffer_random(dtype, n, 1.0),
                      .weight = buffer_random(dtype, shape[1], 1.0),
                      .base = buffer_random(dtype, n, 0.5),
                      .out = dtype};
}

static void free_rows(row_case *c)
{
    buffer_free(&c->x);
    buffer_free(&c->y);
    buffer_free(&c->weight);
    buffer_free(&c->base);
}

/* ---- RMSNorm --------------------------------------------------------------------------------- */

static int norm_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    row_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->x) : buffer_new(c->out, c->x.n);
    npt_norm_args args = {
        c->rows,           c->width,       c->eps, in_of(c->in_place ? &out[0] : &c->x),
        in_of(&c->weight), out_of(&out[0])};
    k->norm(run, &args);
    return 1;
}

static double mean_square(const row_case *c, int64_t row)
{
    double sum = 0.0;
    for (int64_t i = 0; i < c->width; i++) sum += pow(at(&c->x, row * c->width + i), 2.0);
    return sum / (double)c->width;
}

static void norm_equals_its_twin(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(shapes); s++)
        for (int d = 0; d < 4; d++) {
            row_case c = make_rows(shapes[s], float_dtypes[d % 3]);
            c.in_place = d == 3;
            buffer out[MAX_OUT];
            run_everywhere("norm", norm_is_run, &c, out, false);
            for (int64_t i = 0; i < c.x.n; i++) {
                double r = 1.0 / sqrt(mean_square(&c, i / c.width) + (double)c.eps);
                double want = at(&c.x, i) * r * at(&c.weight, i % c.width);
                check_value("norm", &out[0], i, want, fabs(want), 2.1);
                if (c.width > 1000) i += 97; /* the twin is slow */
            }
            buffer_free(&out[0]);
            free_rows(&c);
        }
}

/* x·r is rounded before the weight: with a weight of 3 two roundings show. */
static void norm_rounds_before_the_weight(void **state)
{
    (void)state;
    enum { N = 64 };
    uint16_t x[N], w[N], got[N];
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        x[i] = npt_f16_from_f32((float)draw());
        w[i] = npt_f16_from_f32(3.0f);
        sum += pow((double)npt_f32_from_f16(x[i]), 2.0);
    }
    float r = 1.0f / sqrtf((float)(sum / N) + 1e-6f);
    npt_norm_args args = {1, N, 1e-6f, {x, NPT_F16}, {w, NPT_F16}, {got, NPT_F16}};
    the_lab.kernels[the_lab.levels - 1].norm(&the_lab.run[0], &args);
    for (int i = 0; i < N; i++) {
        float scaled = npt_f32_from_f16(npt_f16_from_f32(npt_f32_from_f16(x[i]) * r));
        assert_int_equal(got[i], npt_f16_from_f32(3.0f * scaled));
    }
}

static int norm_backward_is_run(const npt_kernels *k, const npt_run *run, void *context,
                                buffer *out)
{
    row_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->base) : buffer_new(c->out, c->x.n);
    npt_norm_backward_args args = {c->rows,
                                   c->width,
                                   c->eps,
                                   in_of(&c->x),
                                   in_of(&c->weight),
                                   in_of(&c->y),
                                   in_of(c->in_place ? &out[0] : &c->base),
                                   out_of(&out[0])};
    k->norm_backward(run, &args);
    return 1;
}

/* Σ dy·norm(x) of a row with x[moved] + h. */
static double norm_loss(const row_case *c, int64_t row, int64_t moved, double h)
{
    double squares = 0.0, dot = 0.0;
    for (int64_t i = 0; i < c->width; i++) {
        double x = at(&c->x, row * c->width + i) + (i == moved ? h : 0.0);
        squares += x * x;
        dot += x * at(&c->weight, i) * at(&c->y, row * c->width + i);
    }
    return dot / sqrt(squares / (double)c->width + (double)c->eps);
}

static void norm_backward_equals_differences(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(shapes); s++)
        for (int d = 0; d < 5; d++) {
            row_case c = make_rows(shapes[s], float_dtypes[d % 3]);
            c.in_place = d == 3;
            if (d == 4) buffer_free(&c.base); /* absent: 0 */
            buffer out[MAX_OUT];
            run_everywhere("norm_backward", norm_backward_is_run, &c, out, false);
            for (int64_t i = 0; i<c.x.n; i += c.width> 50 ? 1 + c.width / 7 : 1) {
                int64_t row = i / c.width, j = i % c.width;
                double h = 1e-5;
                double slope = (norm_loss(&c, row, j, h) - norm_loss(&c, row, j, -h)) / (2.0 * h);
                double base = d == 4 ? 0.0 : at(&c.base, i);
                double scale = fabs(base) + fabs(at(&c.x, i)) + fabs(at(&c.y, i)) + 1.0;
                check_value("norm_backward", &out[0], i, base + slope, scale, 1.0);
            }
            buffer_free(&out[0]);
            free_rows(&c);
        }
}

/* ---- Distance -------------------------------------------------------------------------------- */

static int distance_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    row_case *c = context;
    out[0] = buffer_bytes((size_t)c->rows * sizeof(double));
    out[1] = buffer_bytes(sizeof(double));
    npt_distance_args args = {c->rows,      c->width,     c->normalized,
                              in_of(&c->x), in_of(&c->y), out[0].data};
    double total = k->distance(run, &args);
    memcpy(out[1].data, &total, sizeof total);
    return 2;
}

/* The distance of one row with s[moved] + h. */
static double row_distance(const row_case *c, int64_t row, int64_t moved, double h)
{
    double ns = 0.0, nt = 0.0, sum = 0.0;
    for (int64_t i = 0; i < c->width; i++) {
        ns += pow(at(&c->x, row * c->width + i) + (i == moved ? h : 0.0), 2.0);
        nt += pow(at(&c->y, row * c->width + i), 2.0);
    }
    ns = c->normalized ? fmax(sqrt(ns), 1e-6) : 1.0;
    nt = c->normalized ? fmax(sqrt(nt), 1e-6) : 1.0;
    for (int64_t i = 0; i < c->width; i++) {
        double s = at(&c->x, row * c->width + i) + (i == moved ? h : 0.0);
        sum += pow(s / ns - at(&c->y, row * c->width + i) / nt, 2.0);
    }
    return sum;
}

/* A row of zeros and one below the floor, where there are enough rows. */
static void add_degenerate_rows(row_case *c)
{
    for (int64_t i = 0; i < c->width && c->rows >= 3; i++) {
        npt_store(c->x.data, c->x.dtype, (size_t)i, 0.0f);
        npt_store(c->x.data, c->x.dtype, (size_t)(c->width + i), i == 0 ? 1e-7f : 0.0f);
    }
}

static void distance_equals_its_twin(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(shapes); s++)
        for (int d = 0; d < 6; d++) {
            row_case c = make_rows(shapes[s], float_dtypes[d % 3]);
            c.normalized = d < 3;
            add_degenerate_rows(&c);
            buffer out[MAX_OUT];
            run_everywhere("distance", distance_is_run, &c, out, false);
            double total = 0.0, *sums = out[0].data;
            for (int64_t row = 0; row < c.rows; row++) {
                double want = row_distance(&c, row, -1, 0.0);
                assert_true(fabs(sums[row] - want) <= 1e-6 * want + 1e-12);
                total += sums[row];
            }
            assert_true(total == *(double *)out[1].data);
            free_all(out, 2);
            free_rows(&c);
        }
}

static int distance_backward_is_run(const npt_kernels *k, const npt_run *run, void *context,
                                    buffer *out)
{
    row_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->base) : buffer_new(c->out, c->x.n);
    npt_distance_backward_args args = {c->rows,
                                       c->width,
                                       c->normalized,
                                       c->factor,
                                       in_of(&c->x),
                                       in_of(&c->y),
                                       in_of(c->in_place ? &out[0] : &c->base),
                                       out_of(&out[0])};
    k->distance_backward(run, &args);
    return 1;
}

static void distance_backward_equals_differences(void **state)
{
    (void)state;
    for (size_t s = 0; s < NPT_COUNT(shapes); s++)
        for (int d = 0; d < 8; d++) {
            row_case c = make_rows(shapes[s], float_dtypes[d % 3]);
            c.normalized = d % 2 == 0;
            c.in_place = d == 6;
            if (d == 7) buffer_free(&c.base);
            buffer out[MAX_OUT];
            run_everywhere("distance_backward", distance_backward_is_run, &c, out, false);
            for (int64_t i = 0; i<c.x.n; i += c.width> 50 ? 1 + c.width / 7 : 1) {
                int64_t row = i / c.width, j = i % c.width;
                double h = 1e-5, base = d == 7 ? 0.0 : at(&c.base, i);
                double slope =
                    (row_distance(&c, row, j, h) - row_distance(&c, row, j, -h)) / (2 * h);
                slope *= (double)c.factor;
                check_value("distance_backward", &out[0], i, base + slope,
                            fabs(base) + fabs(slope) + (c.width == 1 ? 1.0 : 0.02), 1.0);
            }
            buffer_free(&out[0]);
            free_rows(&c);
        }
}

static void distance_backward_below_the_floor_is_linear(void **state)
{
    (void)state;
    float s[4] = {3e-7f, 0, 0, 0}, t[4] = {0.6f, 0.8f, 0, 0}, dst[4];
    npt_distance_backward_args args = {
        1, 4, true, 1.0f, {s, NPT_F32}, {t, NPT_F32}, {NULL, NPT_F32}, {dst, NPT_F32}};
    for (int level = 0; level < the_lab.levels; level++) {
        the_lab.kernels[level].distance_backward(&the_lab.run[0], &args);
        assert_true(fabs((double)dst[0] - 2e6 * (0.3 - 0.6)) < 1.0);
        assert_true(fabs((double)dst[1] - 2e6 * -0.8) < 1.0);
        assert_true(dst[2] == 0.0f);
    }
}

/* ---- Totals ---------------------------------------------------------------------------------- */

static const float TINY = 0.01f;

static int totals_are_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    row_case *c = context;
    npt_survey s;
    k->survey(run, c->x.n, in_of(&c->x), TINY, &s);
    double results[8] = {k->sum_squares(run, c->x.n, in_of(&c->x)),
                         s.sum_squares,
                         (double)s.min,
                         (double)s.max,
                         (double)s.nonfinite,
                         (double)s.nan,
                         (double)s.zeros,
                         (double)s.tiny};
    out[0] = buffer_bytes(sizeof results);
    memcpy(out[0].data, results, sizeof results);
    return 1;
}

static void totals_equal_their_twins(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 17, 513, 16384, 16385, 100001, 5000001};
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int d = 0; d < 6; d++) {
            if (lengths[l] > 1000000 && d != 0) continue;
            row_case c = {.x = buffer_random(float_dtypes[d % 3], lengths[l], 1.0)};
            bool broken = d >= 3;
            for (int64_t i = 0; broken && i < c.x.n; i += 41)
                npt_store(c.x.data, c.x.dtype, (size_t)i, i % 2 ? NAN : -INFINITY);
            for (int64_t i = 7; i < c.x.n; i += 59) npt_store(c.x.data, c.x.dtype, (size_t)i, 0.0f);
            buffer out[MAX_OUT];
            run_everywhere("totals", totals_are_run, &c, out, false);
            double want[8] = {0, 0, INFINITY, -INFINITY}, *got = out[0].data;
            for (int64_t i = 0; i < c.x.n; i++) {
                double x = at(&c.x, i);
                want[0] += x * x;
                want[4] += !isfinite(x);
                want[5] += isnan(x);
                want[6] += x == 0.0;
                want[7] += fabs(x) < (double)TINY && x != 0.0;
                if (!isfinite(x)) continue;
                want[1] += x * x;
                want[2] = fmin(want[2], x);
                want[3] = fmax(want[3], x);
            }
            if (want[2] > want[3]) want[2] = want[3] = 0.0;
            if (!broken) assert_true(fabs(got[0] - want[0]) <= 1e-12 * want[0]);
            if (broken) assert_true(!isfinite(got[0]));
            assert_true(fabs(got[1] - want[1]) <= 1e-12 * want[1]);
            for (int i = 2; i < 8; i++) assert_true(got[i] == want[i]);
            buffer_free(&out[0]);
            buffer_free(&c.x);
        }
    npt_kernels *k = &the_lab.kernels[0];
    assert_true(k->sum_squares(&the_lab.run[0], 0, (npt_in){NULL, NPT_F32}) == 0.0);
}

/* ---- Optimizer ------------------------------------------------------------------------------- */

typedef struct adam_case {
    npt_adam_args args;
    buffer weight, m, v, grad;
} adam_case;

static int adam_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    adam_case *c = context;
    npt_adam_args args = c->args;
    out[0] = buffer_copy(&c->weight);
    out[1] = buffer_copy(&c->m);
    out[2] = buffer_copy(&c->v);
    args.weight = out[0].data;
    args.moment1 = out[1].data;
    args.moment2 = out[2].data;
    args.grad = c->grad.data;
    k->adam(run, &args);
    return 3;
}

static void check_adam(const adam_case *c, const buffer *out)
{
    const npt_adam_args *a = &c->args;
    for (int64_t i = 0; i < a->n; i++) {
        double w = at(&c->weight, i), g = at(&c->grad, i) * a->grad_factor;
        if (a->decoupled)
            w *= 1.0 - a->learning_rate * a->weight_decay;
        else
            g += a->weight_decay * w;
        double m = a->beta1 * at(&c->m, i) + (1.0 - a->beta1) * g;
        double v = a->beta2 * at(&c->v, i) + (1.0 - a->beta2) * g * g;
        double hat = m / (1.0 - pow(a->beta1, (double)a->step));
        double root = sqrt(v / (1.0 - pow(a->beta2, (double)a->step)));
        double move = a->learning_rate * hat / (root + a->epsilon);
        check_value("moment1", &out[1], i, m, fabs(at(&c->m, i)) + fabs(g), 1.0);
        check_value("moment2", &out[2], i, v, v, 1.0);
        check_value("weight", &out[0], i, w - move, 0.0, 4.0 + 8.0 * fabs(move / (w - move)));
    }
}

static void adam_equals_its_twin(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 15, 64, 515, 40000};
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int variant = 0; variant < 4; variant++) {
            int64_t n = lengths[l];
            adam_case c = {.args = {.n = n,
                                    .step = variant < 2 ? 1 : 1000,
                                    .decoupled = variant % 2 == 0,
                                    .learning_rate = 1e-3,
                                    .beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .epsilon = 1e-8,
                                    .weight_decay = 0.01,
                                    .grad_factor = 1.0 / 1024},
                           .weight = buffer_random(NPT_F32, n, 0.1),
                           .m = buffer_random(NPT_F32, n, 0.01),
                           .v = buffer_random(NPT_F32, n, 0.01),
                           .grad = buffer_random(NPT_F32, n, 10.0)};
            float *v = c.v.data;
            for (int64_t i = 0; i < n; i++) v[i] *= v[i];
            buffer out[MAX_OUT];
            run_everywhere("adam", adam_is_run, &c, out, false);
            check_adam(&c, out);
            free_all(out, 3);
            buffer_free(&c.weight);
            buffer_free(&c.m);
            buffer_free(&c.v);
            buffer_free(&c.grad);
        }
}

/* A first step moves by the rate against the gradient's sign; a zero gradient moves by nothing. */
static void adam_first_step_is_the_rate(void **state)
{
    (void)state;
    float w[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0}, g[3] = {5, -1e-3f, 0};
    npt_adam_args args = {.n = 3,
                          .step = 1,
                          .decoupled = true,
                          .learning_rate = 0.125,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .grad_factor = 1.0,
                          .weight = w,
                          .moment1 = m,
                          .moment2 = v,
                          .grad = g};
    the_lab.kernels[the_lab.levels - 1].adam(&the_lab.run[0], &args);
    assert_true(fabsf(w[0] - 0.875f) < 1e-6f && fabsf(w[1] - 1.125f) < 1e-5f && w[2] == 1.0f);
}

/* ---- Comparison of logits -------------------------------------------------------------------- */

typedef struct compare_case {
    int64_t rows, width;
    buffer teacher, student;
    int32_t targets[8];
} compare_case;

static int compare_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    compare_case *c = context;
    for (int i = 0; i < 3; i++) out[i] = buffer_bytes((size_t)c->rows * sizeof(double));
    out[3] = buffer_bytes((size_t)c->rows);
    npt_compare_args args = {c->rows,     c->width,    c->teacher.data, c->student.data, c->targets,
                             out[0].data, out[1].data, out[2].data,     out[3].data};
    k->compare(run, &args);
    return 4;
}

static double log_sum(const buffer *b, int64_t first, int64_t n, int64_t *best)
{
    double top = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        if (at(b, first + i) > top) top = at(b, first + i), *best = i;
    for (int64_t i = 0; i < n; i++) sum += exp(at(b, first + i) - top);
    return top + log(sum);
}

static void check_compared_row(const compare_case *c, const buffer *out, int64_t row)
{
    int64_t first = row * c->width, bt = 0, bs = 0;
    double lt = log_sum(&c->teacher, first, c->width, &bt);
    double ls = log_sum(&c->student, first, c->width, &bs), kl = 0.0;
    const double *nt = out[0].data, *ns = out[1].data, *got = out[2].data;
    const uint8_t *agree = out[3].data;
    if (c->targets[row] < 0) {
        assert_true(nt[row] == 0.0 && ns[row] == 0.0 && got[row] == 0.0 && agree[row] == 0);
        return;
    }
    for (int64_t i = first; i < first + c->width; i++) {
        double log_p = at(&c->teacher, i) - lt;
        kl += exp(log_p) * (log_p - (at(&c->student, i) - ls));
    }
    assert_true(fabs(nt[row] - (lt - at(&c->teacher, first + c->targets[row]))) < 1e-6);
    assert_true(fabs(ns[row] - (ls - at(&c->student, first + c->targets[row]))) < 1e-6);
    assert_true(fabs(got[row] - kl) < 2e-6 + 1e-6 * kl);
    assert_int_equal(agree[row], bt == bs);
}

static void comparison_equals_its_twin(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 5, 16, 511, 2000};
    for (size_t w = 0; w < NPT_COUNT(widths); w++) {
        int64_t width = widths[w];
        compare_case c = {.rows = 8,
                          .width = width,
                          .teacher = buffer_random(NPT_F32, 8 * width, 5.0),
                          .student = buffer_random(NPT_F32, 8 * width, 5.0)};
        for (int i = 0; i < 8; i++) c.targets[i] = i == 3 ? -1 : (int32_t)(i * 7 % width);
        memcpy(c.student.data, c.teacher.data, (size_t)width * 2 * sizeof(float)); /* rows 0, 1 */
        buffer out[MAX_OUT];
        run_everywhere("compare", compare_is_run, &c, out, false);
        for (int64_t row = 0; row < 8; row++) check_compared_row(&c, out, row);
        assert_int_equal(((uint8_t *)out[3].data)[0], 1);
        free_all(out, 4);
        buffer_free(&c.teacher);
        buffer_free(&c.student);
    }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("norm equals its twin", norm_equals_its_twin),
        NPT_CASE("norm rounds before the weight", norm_rounds_before_the_weight),
        NPT_CASE("norm backward equals central differences", norm_backward_equals_differences),
        NPT_CASE("both distances equal their twins", distance_equals_its_twin),
        NPT_CASE("distance backward equals central differences",
                 distance_backward_equals_differences),
        NPT_CASE("below the floor the distance's gradient is linear",
                 distance_backward_below_the_floor_is_linear),
        NPT_CASE("sums, counts and extremes of arrays", totals_equal_their_twins),
        NPT_CASE("Adam and AdamW equal their twins", adam_equals_its_twin),
        NPT_CASE("Adam's first step is the rate", adam_first_step_is_the_rate),
        NPT_CASE("comparison of logits equals its twin", comparison_equals_its_twin),
    };
    lab_open(1, 1);
    int status = npt_test_run("rows", cases, NPT_COUNT(cases));
    lab_close();
    return status;
}
