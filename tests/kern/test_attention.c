/* SPDX-License-Identifier: BSD-2-Clause */
/* Attention against a naive version in F64 that forms every row of scores: windows, shared kv
 * heads, ragged sequences, a single token, head sizes that fill no vector or no tile. The naive
 * gradients are themselves compared with central differences of the naive forward pass. Levels may
 * differ in the last bits here, pools of different size may not. */
#include "config.h"

#include "kern.h"

typedef struct shape {
    int64_t sequences, heads, kv_heads, dim, window;
    int64_t lengths[5];
} shape;

static const shape shapes[] = {
    {1, 1, 1, 1, 0, {1}},
    {1, 2, 1, 4, 0, {5}},
    {2, 4, 2, 8, 3, {6, 1}},
    {3, 3, 1, 20, 0, {1, 9, 30}},
    {1, 4, 4, 64, 0, {130}},
    {4, 8, 2, 64, 0, {64, 1, 17, 65}},
    {2, 6, 2, 80, 16, {100, 70}},
    {1, 2, 2, 128, 70, {300}},
    {1, 71, 1, 16, 5, {21}},
    {2, 4, 1, 100, 1, {50, 3}},
    {3, 4, 2, 32, 0, {0, 40, 0}},
    {1, 2, 1, 256, 0, {90}},
    /* where AMX has tiles: blocks of 128 keys and of 128 rows, strips of 32 rows, cut everywhere */
    {1, 5, 1, 32, 0, {70}},
    {2, 8, 2, 96, 0, {77, 2}},
    {3, 2, 1, 64, 0, {127, 128, 129}},
    {1, 2, 1, 64, 1, {40}},
    {2, 4, 4, 128, 33, {170, 35}},
    {1, 2, 1, 64, 200, {299}},
    {1, 3, 1, 128, 129, {300}},
    {1, 6, 2, 288, 0, {40}},
    {5, 4, 1, 128, 0, {31, 1, 0, 32, 33}},
};

/* Operands and results. Those of halves in F32 show what tiles lose: of the weights, which are F32,
 * 2^-17. */
static const npt_dtype dtypes[][2] = {{NPT_F32, NPT_F32},
                                      {NPT_F16, NPT_F16},
                                      {NPT_F16, NPT_F32},
                                      {NPT_BF16, NPT_BF16},
                                      {NPT_BF16, NPT_F32}};

typedef struct attention_case {
    shape s;
    int64_t offsets[6], tokens;
    double scale;
    npt_dtype dtype, result;
    buffer q, k, v, out, dout;
    float *lse;
} attention_case;

/* The naive version, in F64: values and gradients. */
typedef struct naive {
    double *q, *k, *v, *dout, *out, *lse, *dq, *dk, *dv;
} naive;

static attention_case make_case(const shape *s, npt_dtype dtype, npt_dtype result)
{
    attention_case c = {
        .s = *s, .dtype = dtype, .result = result, .scale = 1.0 / sqrt((double)s->dim)};
    for (int64_t i = 0; i < s->sequences; i++) c.offsets[i + 1] = c.offsets[i] + s->lengths[i];
    c.tokens = c.offsets[s->sequences];
    c.q = buffer_random(dtype, c.tokens * s->heads * s->dim, 2.0);
    c.k = buffer_random(dtype, c.tokens * s->kv_heads * s->dim, 2.0);
    c.v = buffer_random(dtype, c.tokens * s->kv_heads * s->dim, 1.0);
    c.dout = buffer_random(dtype, c.tokens * s->heads * s->dim, 1.0);
    return c;
}

static void free_case(attention_case *c)
{
    buffer_free(&c->q);
    buffer_free(&c->k);
    buffer_free(&c->v);
    buffer_free(&c->dout);
}

static double *doubles(const buffer *b, int64_t n)
{
    double *values = calloc((size_t)n + 1, sizeof *values);
    for (int64_t i = 0; b != NULL && i < n; i++) values[i] = at(b, i);
    return values;
}

static naive naive_of(const attention_case *c)
{
    int64_t nq = c->q.n, nk = c->k.n;
    return (naive){doubles(&c->q, nq),    doubles(&c->k, nk), doubles(&c->v, nk),
                   doubles(&c->dout, nq), doubles(NULL, nq),  doubles(NULL, c->tokens * c->s.heads),
                   doubles(NULL, nq),     doubles(NULL, nk),  doubles(NULL, nk)};
}

static void free_naive(naive *n)
{
    double *all[] = {n->q, n->k, n->v, n->dout, n->out, n->lse, n->dq, n->dk, n->dv};
    for (size_t i = 0; i < NPT_COUNT(all); i++) free(all[i]);
}

/* Probabilities of one query of one head; returns the first key, fills p[key − first]. */
static int64_t naive_row(const attention_case *c, naive *n, int64_t sequence, int64_t i, int64_t h,
                         double *p)
{
    const shape *s = &c->s;
    int64_t first = c->offsets[sequence], kv = h / (s->heads / s->kv_heads);
    if (s->window > 0 && i - s->window + 1 > first) first = i - s->window + 1;
    double top = -INFINITY, sum = 0.0;
    for (int64_t j = first; j <= i; j++) {
        double dot = 0.0;
        for (int64_t d = 0; d < s->dim; d++)
            dot +=
                n->q[(i * s->heads + h) * s->dim + d] * n->k[(j * s->kv_heads + kv) * s->dim + d];
        p[j - first] = dot * c->scale;
        if (p[j - first] > top) top = p[j - first];
    }
    for (int64_t j = first; j <= i; j++) sum += exp(p[j - first] - top);
    n->lse[i * s->heads + h] = top + log(sum);
    for (int64_t j = first; j <= i; j++) p[j - first] = exp(p[j - first] - top) / sum;
    return first;
}

static void naive_backward_row(const attention_case *c, naive *n, int64_t i, int64_t h,
                               int64_t first, const double *p)
{
    const shape *s = &c->s;
    int64_t kv = h / (s->heads / s->kv_heads), row = (i * s->heads + h) * s->dim;
    double delta = 0.0;
    for (int64_t d = 0; d < s->dim; d++) /* of the output as it was stored, where it was */
        delta += n->dout[row + d] * (c->out.data != NULL ? at(&c->out, row + d) : n->out[row + d]);
    for (int64_t j = first; j <= i; j++) {
        int64_t key = (j * s->kv_heads + kv) * s->dim;
        double dp = 0.0;
        for (int64_t d = 0; d < s->dim; d++) dp += n->dout[row + d] * n->v[key + d];
        double ds = p[j - first] * (dp - delta) * c->scale;
        for (int64_t d = 0; d < s->dim; d++) {
            n->dv[key + d] += p[j - first] * n->dout[row + d];
            n->dk[key + d] += ds * n->q[row + d];
            n->dq[row + d] += ds * n->k[key + d];
        }
    }
}

/* Σ dout·out, with everything filled on the way. */
static double naive_attention(const attention_case *c, naive *n, bool backward)
{
    const shape *s = &c->s;
    double *p = calloc((size_t)c->tokens + 1, sizeof *p), loss = 0.0;
    for (int64_t sequence = 0; sequence < s->sequences; sequence++)
        for (int64_t i = c->offsets[sequence]; i < c->offsets[sequence + 1]; i++)
            for (int64_t h = 0; h < s->heads; h++) {
                int64_t first = naive_row(c, n, sequence, i, h, p);
                int64_t kv = h / (s->heads / s->kv_heads), row = (i * s->heads + h) * s->dim;
                for (int64_t d = 0; d < s->dim; d++) {
                    double sum = 0.0;
                    for (int64_t j = first; j <= i; j++)
                        sum += p[j - first] * n->v[(j * s->kv_heads + kv) * s->dim + d];
                    n->out[row + d] = sum;
                    loss += sum * n->dout[row + d];
                }
                if (backward) naive_backward_row(c, n, i, h, first, p);
            }
    free(p);
    return loss;
}

static void naive_gradients_equal_differences(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        attention_case c = make_case(&shapes[i], NPT_F32, NPT_F32);
        naive n = naive_of(&c);
        naive_attention(&c, &n, true);
        double *inputs[] = {n.q, n.k, n.v}, *gradients[] = {n.dq, n.dk, n.dv};
        int64_t sizes[] = {c.q.n, c.k.n, c.v.n};
        for (int which = 0; which < 3; which++)
            for (int64_t e = 0; e < sizes[which]; e += i == 3 ? 37 : 1) {
                double keep = inputs[which][e], h = 1e-5, difference;
                inputs[which][e] = keep + h;
                difference = naive_attention(&c, &n, false);
                inputs[which][e] = keep - h;
                difference = (difference - naive_attention(&c, &n, false)) / (2.0 * h);
                inputs[which][e] = keep;
                assert_true(fabs(difference - gradients[which][e]) < 1e-7);
            }
        free_naive(&n);
        free_case(&c);
    }
}

static int forward_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    attention_case *c = context;
    const shape *s = &c->s;
    out[0] = buffer_new(c->result, c->q.n);
    out[1] = buffer_new(NPT_F32, c->tokens * s->heads);
    npt_attention_args args = {s->sequences, s->heads,     s->kv_heads,     s->dim,
                               s->window,    c->offsets,   (float)c->scale, in_of(&c->q),
                               in_of(&c->k), in_of(&c->v), out_of(&out[0]), out[1].data};
    k->attention(run, &args);
    return 2;
}

static int backward_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    attention_case *c = context;
    const shape *s = &c->s;
    out[0] = buffer_new(c->result, c->q.n);
    out[1] = buffer_new(c->result, c->k.n);
    out[2] = buffer_new(c->result, c->v.n);
    npt_attention_backward_args args = {
        s->sequences, s->heads,        s->kv_heads,     s->dim,
        s->window,    c->offsets,      (float)c->scale, in_of(&c->q),
        in_of(&c->k), in_of(&c->v),    in_of(&c->out),  in_of(&c->dout),
        c->lse,       out_of(&out[0]), out_of(&out[1]), out_of(&out[2])};
    k->attention_backward(run, &args);
    return 3;
}

static double slack(const attention_case *c)
{
    return c->dtype != NPT_F32 && c->result == NPT_F32 ? 4.0 : 1.0;
}

static void check_all(const char *what, const buffer *got, const double *want, double scale)
{
    for (int64_t i = 0; i < got->n; i++) check_value(what, got, i, want[i], scale, 1.0);
}

static void forward_equals_naive(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(shapes); i++)
        for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
            attention_case c = make_case(&shapes[i], dtypes[d][0], dtypes[d][1]);
            naive n = naive_of(&c);
            naive_attention(&c, &n, false);
            for (int level = 0; level < the_lab.levels; level++) {
                buffer out[MAX_OUT];
                int top = the_lab.levels;
                the_lab.levels = level + 1; /* the outputs of this level are the ones kept */
                run_everywhere("attention", forward_is_run, &c, out, true);
                the_lab.levels = top;
                check_all("attention", &out[0], n.out, 4.0 * slack(&c));
                check_all("lse", &out[1], n.lse, 4.0);
                free_all(out, 2);
            }
            free_naive(&n);
            free_case(&c);
        }
}

static void backward_equals_naive(void **state)
{
    (void)state;
    for (size_t i = 0; i < NPT_COUNT(shapes); i++)
        for (size_t d = 0; d < NPT_COUNT(dtypes); d++) {
            attention_case c = make_case(&shapes[i], dtypes[d][0], dtypes[d][1]);
            naive n = naive_of(&c);
            naive_attention(&c, &n, false);
            c.out = buffer_new(c.dtype, c.q.n);
            c.lse = calloc((size_t)(c.tokens * c.s.heads) + 1, sizeof *c.lse);
            for (int64_t e = 0; e < c.q.n; e++)
                npt_store(c.out.data, c.dtype, (size_t)e, (float)n.out[e]);
            for (int64_t e = 0; e < c.tokens * c.s.heads; e++) c.lse[e] = (float)n.lse[e];
            naive_attention(&c, &n, true);
            for (int level = 0; level < the_lab.levels; level++) {
                buffer out[MAX_OUT];
                int top = the_lab.levels;
                the_lab.levels = level + 1;
                run_everywhere("attention_backward", backward_is_run, &c, out, true);
                the_lab.levels = top;
                check_all("dq", &out[0], n.dq, 8.0 * slack(&c));
                check_all("dk", &out[1], n.dk, 16.0 * slack(&c));
                check_all("dv", &out[2], n.dv, 8.0 * slack(&c));
                free_all(out, 3);
            }
            free(c.lse);
            buffer_free(&c.out);
            free_naive(&n);
            free_case(&c);
        }
}

/* Scores in the thousands: the largest is subtracted before any exponential. */
static void large_scores_stay_finite(void **state)
{
    (void)state;
    float q[2] = {100.0f, 100.0f}, k[2] = {50.0f, -50.0f}, v[2] = {3.0f, 7.0f}, out[2], lse[2];
    int64_t offsets[2] = {0, 2};
    npt_attention_args args = {
        1,  1, 1, 1, 0, offsets, 1.0f, {q, NPT_F32}, {k, NPT_F32}, {v, NPT_F32}, {out, NPT_F32},
        lse};
    for (int level = 0; level < the_lab.levels; level++) {
        the_lab.kernels[level].attention(&the_lab.run[0], &args);
        assert_true(out[0] == 3.0f && out[1] == 3.0f && lse[1] == 5000.0f);
    }
}

static void log_sums_may_be_absent(void **state)
{
    (void)state;
    const shape s = {1, 2, 1, 64, 0, {140}};
    attention_case c = make_case(&s, NPT_BF16, NPT_BF16);
    for (int level = 0; level < the_lab.levels; level++) {
        const npt_kernels *k = &the_lab.kernels[level];
        buffer out[MAX_OUT], alone = buffer_new(NPT_BF16, c.q.n);
        forward_is_run(k, &the_lab.run[0], &c, out);
        npt_attention_args args = {1,
                                   2,
                                   1,
                                   64,
                                   0,
                                   c.offsets,
                                   (float)c.scale,
                                   in_of(&c.q),
                                   in_of(&c.k),
                                   in_of(&c.v),
                                   out_of(&alone),
                                   NULL};
        k->attention(&the_lab.run[0], &args);
        assert_memory_equal(alone.data, out[0].data, alone.bytes);
        free_all(out, 2);
        buffer_free(&alone);
    }
    free_case(&c);
}

/* A NaN in one sequence stays in it. */
static void sequences_do_not_touch(void **state)
{
    (void)state;
    shape s = {2, 2, 1, 8, 0, {5, 6}};
    attention_case c = make_case(&s, NPT_F32, NPT_F32);
    for (int64_t i = 0; i < 5 * 8; i++) ((float *)c.v.data)[i] = NAN;
    buffer out[MAX_OUT];
    run_everywhere("attention", forward_is_run, &c, out, true);
    for (int64_t i = 0; i < c.q.n; i++) assert_true(isnan(at(&out[0], i)) == (i < 5 * 2 * 8));
    free_all(out, 2);
    free_case(&c);
}

/* Finite or not, as at the level below: infinities stay what they are forward, and a NaN is not
 * lost, though tiles multiply pieces of which one is often zero. */
static void compare_kinds(const char *what, const buffer *got, const buffer *want)
{
    for (int64_t i = 0; i < got->n; i++)
        if (isnan(at(got, i)) != isnan(at(want, i)) || isinf(at(got, i)) != isinf(at(want, i)))
            fail_msg("%s: element %lld of %lld is %g, by FMA %g", what, (long long)i,
                     (long long)got->n, at(got, i), at(want, i));
}

static void poison(attention_case *c, double value, const char *operand)
{
    char what[64];
    snprintf(what, sizeof what, "%s of %s", operand, npt_dtype_name(c->dtype));
    const npt_kernels *below = &the_lab.kernels[the_lab.levels - 2], *tiles = below + 1;
    buffer out[2][MAX_OUT], gradient[2][MAX_OUT];
    for (int i = 0; i < 2; i++) {
        forward_is_run(i == 0 ? below : tiles, &the_lab.run[1], c, out[i]);
        if (i == 0) c->out = buffer_copy(&out[0][0]);
        if (i == 0) c->lse = out[0][1].data;
        backward_is_run(i == 0 ? below : tiles, &the_lab.run[1], c, gradient[i]);
    }
    bool any = false;
    for (int64_t i = 0; i < c->q.n; i++) any |= !isfinite(at(&gradient[1][0], i));
    if (!any && value != 0.0) fail_msg("%s: %g was lost", what, value);
    for (int i = 0; i < 2; i++) compare_kinds(what, &out[1][i], &out[0][i]);
    for (int i = 0; i < 3; i++) compare_kinds(what, &gradient[1][i], &gradient[0][i]);
    buffer_free(&c->out);
    for (int i = 0; i < 2; i++) {
        free_all(out[i], 2);
        free_all(gradient[i], 3);
    }
}

static void what_is_not_finite_spreads_alike(void **state)
{
    (void)state;
    const double values[] = {0.0, NAN, INFINITY, -INFINITY, NAN};
    const shape s = {2, 4, 2, 64, 0, {100, 40}};
    for (size_t d = 0; d < NPT_COUNT(dtypes); d++)
        for (int which = 0; which < 4; which++)
            for (size_t v = 0; v < NPT_COUNT(values); v++) {
                attention_case c = make_case(&s, dtypes[d][0], dtypes[d][1]);
                buffer *operands[] = {&c.q, &c.k, &c.v, &c.dout};
                const char *const names[] = {"q", "k", "v", "dout"};
                const size_t width = (size_t)(operands[which]->n / c.tokens);
                npt_store(operands[which]->data, c.dtype, 57 * width + 70, (float)values[v]);
                if (v == 4) { /* a NaN of all ones, which rounding its bits would make a zero */
                    const size_t size = npt_dtype_bytes(c.dtype);
                    memset((char *)operands[which]->data + (57 * width + 70) * size, 0xff, size);
                }
                poison(&c, values[v], names[which]);
                free_case(&c);
            }
}

static bool same_bits(const buffer *a, const buffer *b)
{
    return memcmp(a->data, b->data, a->bytes) == 0;
}

/* Runs forward and back at the topmost level, and at the one below; the distance of each from F64,
 * root of the mean square over all results, is added to `sum`. Whether both gave the same bits. */
static bool run_both(attention_case *c, const npt_run *run, double sum[2])
{
    const npt_kernels *below = &the_lab.kernels[the_lab.levels - 2];
    buffer out[2][MAX_OUT];
    naive n = naive_of(c);
    naive_attention(c, &n, true);
    for (int i = 0; i < 2; i++) {
        forward_is_run(below + i, run, c, out[i]);
        c->out = out[i][0];
        c->lse = out[i][1].data;
        backward_is_run(below + i, run, c, out[i] + 2);
        c->out = (buffer){0};
    }
    const double *const want[] = {n.out, n.lse, n.dq, n.dk, n.dv};
    bool same = true;
    for (int which = 0; which < 5; which++) {
        same &= same_bits(&out[0][which], &out[1][which]);
        for (int i = 0; i < 2; i++) {
            double squares = 0.0, size = 0.0;
            for (int64_t e = 0; e < out[i][which].n; e++) {
                const double error = at(&out[i][which], e) - want[which][e];
                squares += error * error;
                size += want[which][e] * want[which][e];
            }
            sum[i] += sqrt(squares / size);
        }
    }
    for (int i = 0; i < 2; i++) free_all(out[i], 5);
    c->lse = NULL;
    free_naive(&n);
    return same;
}

/* In three pieces F32 is as exact as FMA is, and FMA it is where that was asked for. */
static void pieces_are_as_exact(void **state)
{
    (void)state;
    const shape s = {2, 4, 2, 64, 0, {150, 90}};
    for (int i = 0; i < 3; i++) {
        attention_case c = make_case(&s, NPT_F32, NPT_F32);
        double error[2] = {0.0};
        npt_run run = the_lab.run[1];
        if (i == 1)
            for (int64_t e = 0; e < c.q.n; e++) ((float *)c.q.data)[e] *= 8.0f; /* steep */
        run.fma = i == 2;
        const bool same = run_both(&c, &run, error);
        if (!(error[1] <= 1.2 * error[0]))
            fail_msg("distance from F64 %g, by FMA %g", error[1], error[0]);
        if (i == 2) assert_true(same);
        free_case(&c);
    }
}

/* A piece of so small an F32 would be flushed: that is left to FMA, zeros are not. */
static void small_values_keep_their_bits(void **state)
{
    (void)state;
    const shape s = {1, 2, 1, 64, 0, {50}};
    for (int which = 0; which < 3; which++) {
        attention_case c = make_case(&s, NPT_F32, NPT_F32);
        buffer *operands[] = {&c.k, &c.v, &c.dout};
        double error[2] = {0.0};
        ((float *)operands[which]->data)[70] = 0x1.234568p-110f;
        assert_true(run_both(&c, &the_lab.run[1], error) || which == 2);
        free_case(&c);
    }
}

/* Scratch of exactly the size that was asked for, with guards. */
static void scratch_suffices(void **state)
{
    (void)state;
    for (int level = 0; level < the_lab.levels; level++)
        for (size_t i = 0; i < NPT_COUNT(shapes); i++) {
            const npt_kernels *k = &the_lab.kernels[level];
            attention_case c = make_case(&shapes[i], NPT_BF16, NPT_BF16);
            int64_t longest = 0;
            for (int64_t j = 0; j < c.s.sequences; j++)
                if (c.s.lengths[j] > longest) longest = c.s.lengths[j];
            buffer scratch = buffer_bytes(k->scratch_bytes(longest, c.s.dim, 1)), out[MAX_OUT];
            const npt_run run = {.threads = the_lab.run[0].threads,
                                 .scratch = scratch.data,
                                 .scratch_stride = scratch.bytes};
            forward_is_run(k, &run, &c, out);
            check_guards(&scratch, "scratch");
            c.out = out[0];
            c.lse = out[1].data;
            backward_is_run(k, &run, &c, out + 2);
            check_guards(&scratch, "scratch");
            free_all(out, 5);
            buffer_free(&scratch);
            free_case(&c);
        }
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("the naive gradients equal central differences",
                 naive_gradients_equal_differences),
        NPT_CASE("attention equals the naive version", forward_equals_naive),
        NPT_CASE("attention backward equals the naive version", backward_equals_naive),
        NPT_CASE("large scores stay finite", large_scores_stay_finite),
        NPT_CASE("log-sums may be absent", log_sums_may_be_absent),
        NPT_CASE("sequences do not touch", sequences_do_not_touch),
        NPT_CASE("the scratch that was asked for suffices", scratch_suffices),
        /* this compares two levels */
        NPT_CASE("what is not finite spreads as at the level below",
                 what_is_not_finite_spreads_alike),
        /* and these AMX tiles with the level below */
        NPT_CASE("pieces are as exact as FMA", pieces_are_as_exact),
        NPT_CASE("small values keep their bits", small_values_keep_their_bits),
    };
    lab_levels(true);
    lab_pools(300, 288);
    const size_t absent = the_lab.levels < 2 ? 3 : the_lab.tiles ? 0 : 2;
    if (absent > 0) printf("# the last %zu of %zu cases need AMX\n", absent, NPT_COUNT(cases));
    int status = npt_test_run("attention", cases, NPT_COUNT(cases) - absent);
    lab_close();
    return status;
}
