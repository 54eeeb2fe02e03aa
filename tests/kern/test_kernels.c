/* SPDX-License-Identifier: BSD-2-Clause */
/* The kernels without sums over rows, at every level and pool size: the same bits everywhere, and
 * the values of twins written here in F64. The files test_gate.c, test_rows.c and test_attention.c
 * do the same for the rest of the table. */
#include "config.h"

#include "kern.h"

static const int64_t lengths[] = {1, 3, 15, 16, 17, 511, 512, 513, 16384, 33000};

/* ---- Addition, casts, embedding, rotation ---------------------------------------------------- */

typedef struct add_case {
    int64_t n;
    buffer x, y;
    npt_dtype out;
    bool in_place;
} add_case;

static int add_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    add_case *c = context;
    out[0] = c->in_place ? buffer_copy(&c->x) : buffer_new(c->out, c->n);
    k->add(run, c->n, in_of(c->in_place ? &out[0] : &c->x), in_of(&c->y), out_of(&out[0]));
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
            add_case c = {.n = n,
                          .x = buffer_random(dtype, n, 1.0),
                          .y = buffer_random(dtype, n, 1.0),
                          .out = dtype,
                          .in_place = d == 3};
            buffer out[MAX_OUT], want = buffer_new(dtype, n);
            run_everywhere("add", add_is_run, &c, out, false);
            for (int64_t i = 0; i < n; i++)
                npt_store(want.data, dtype, (size_t)i, (float)(at(&c.x, i) + at(&c.y, i)));
            assert_memory_equal(out[0].data, want.data, want.bytes);
            buffer_free(&out[0]);
            buffer_free(&want);
            buffer_free(&c.x);
            buffer_free(&c.y);
        }
}

static int cast_is_run(const npt_kernels *k, const npt_run *run, void *context, buffer *out)
{
    add_case *c = context;
    out[0] = buffer_new(c->out, c->n);
    out[1] = buffer_bytes(sizeof(npt_cast_stats));
    npt_cast_stats stats = {0};
    k->cast(run, c->n, in_of(&c->x), out_of(&out[0]), &stats);
    memcpy(out[1].data, &stats, sizeof stats);
    return 2;
}

static void casts_are_the_scalar_ones_and_counted(void **state)
{
    (void)state;
    for (size_t l = 0; l < NPT_COUNT(lengths); l++)
        for (int pair = 0; pair < 9; pair++) {
            int64_t n = lengths[l];
            add_case c = {.n = n,
                          .x = buffer_random(float_dtypes[pair / 3], n, 1.0),
                          .out = float_dtypes[pair % 3]};
            for (int64_t i = 0; i < n; i += 3)
                npt_store(c.x.data, c.x.dtype, (size_t)i,
                          ldexpf((float)draw(), (int)(next_random() % 250) - 125));
            buffer out[MAX_OUT];
            run_everywhere("cast", cast_is_run, &c, out, false);
            npt_cast_stats want = {0}, *got = out[1].data;
            for (int64_t i = 0; i < n; i++) {
                float x = npt_load(c.x.data, c.x.dtype, (size_t)i), y;
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
            buffer_free(&c.x);
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
