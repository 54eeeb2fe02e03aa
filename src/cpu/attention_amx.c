/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cpu/kernels.h"

#define NPT_VECTOR_FLOATS 16
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function" /* of these we need few */
#include "cpu/lanes.inc.h"
#pragma GCC diagnostic pop

#include "cpu/matmul_native.h"

#include <stdatomic.h>

/* Attention by AMX tiles; what does not suit them is left to the AVX-512 kernels.
 *
 * Products of bf16 pieces are exact and summed in F32. F16 operands are two pieces and all four
 * products count; of the three pieces of F32 six do. Probabilities and the gradients of scores,
 * which are F32, enter as two pieces beside halves (2^-17 of them is lost; results are halves),
 * else as three. What limits it is, for BF16, no longer the products but what lies between them: an
 * exponential a score, splitting, packing.
 * At 512 tokens of 16 heads of 128 (4 kv heads), 2 threads: 1.3 ms forward and 2.6 backward, where
 * FMA took 4.3 and 8.9 (Sapphire Rapids). */

#define INLINE static inline __attribute__((always_inline))

#include "cpu/avx512.inc.h"

#include "cpu/attention_amx.inc.h"

enum {
    STRIPS = 4, /* of a block of rows */
    ROWS = STRIPS * STEP,
    UNITS = 4, /* of a block of keys */
    KEYS = UNITS * STEP,
    MAX_DIM = 256,
    EVERY = 0xffff /* row of 16 */
};

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct npt_forward_scratch {
    uint16_t *q;      /* [strip][piece][dim / 32][row half] tiles */
    uint16_t *k;      /* [unit][piece][key half][dim / 32] */
    uint16_t *v;      /* [unit][piece][dim / 16] */
    uint16_t *p;      /* [unit][piece][row half] */
    float *score;     /* [KEYS][STEP] */
    float *out;       /* [strip][dim / 16][row half] */
    float *top, *sum; /* [ROWS]: largest score so far, Σ e^(score − top) */
} npt_forward_scratch;

static int64_t forward_bytes(int64_t dim)
{
    return ((ROWS + 2 * KEYS) * dim + KEYS * STEP) * MAX_PIECES * (int64_t)sizeof(uint16_t) +
           (KEYS * STEP + ROWS * dim + 2 * ROWS) * (int64_t)sizeof(float);
}

static npt_forward_scratch cut_forward(char *memory, const npt_group *g)
{
    npt_forward_scratch s = {.q = (uint16_t *)memory};
    s.k = s.q + ROWS * g->packed;
    s.v = s.k + KEYS * g->packed;
    s.p = s.v + KEYS * g->packed;
    s.score = (float *)(s.p + KEYS * STEP * weight_pieces(g->dtype));
    s.out = s.score + KEYS * STEP;
    s.top = s.out + ROWS * g->dim;
    s.sum = s.top + ROWS;
    return s;
}

/* Scores of 16 rows become probabilities relative to the largest so far, in pieces. Gives by how
 * much what was summed so far must shrink. */
INLINE __m512 soften(const bool mask, const int pieces, npt_sight sight, const float *score,
                     float factor, int64_t key, int64_t keys, float *top, float *sum, uint16_t *p)
{
    const __m512 scale = _mm512_set1_ps(factor), lowest = _mm512_set1_ps(-INFINITY);
    const __m512 old = _mm512_loadu_ps(top);
    __m512 some[4] = {old, old, old, old}, total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t j = 0; j < keys; j += 4) {
        UNROLLED
        for (int i = 0; i < 4; i++) {
            __m512 x = _mm512_mul_ps(_mm512_loadu_ps(score + (j + i) * STEP), scale);
            if (mask) x = _mm512_mask_mov_ps(lowest, seen(sight, key + j + i), x);
            some[i] = _mm512_max_ps(x, some[i]);
        }
    }
    const __m512 most =
        _mm512_max_ps(_mm512_max_ps(some[0], some[1]), _mm512_max_ps(some[2], some[3]));
    /* A row that has seen nothing yet keeps weight 0 without computing inf − inf. */
    const __m512 from =
        _mm512_mask_mov_ps(most, _mm512_cmp_ps_mask(most, lowest, _CMP_EQ_OQ), _mm512_setzero_ps());
    const __m512 shrink = fused_exponential(EVERY, _mm512_sub_ps(old, from));
    for (int64_t j = 0; j < keys; j += 2) {
        npt_pieces weight[2];
        UNROLLED
        for (int i = 0; i < 2; i++) {
            const __m512 x = _mm512_loadu_ps(score + (j + i) * STEP);
            const __mmask16 see = mask ? seen(sight, key + j + i) : EVERY;
            const __m512 value = fused_exponential(see, _mm512_fmsub_ps(x, scale, from));
            total[i] = _mm512_add_ps(total[i], value);
            weight[i] = split(pieces, value);
        }
        store_pieces(pieces, join(pieces, weight[0], weight[1]),
                     p + j / STEP * 2 * pieces * HALVES + j % STEP / 2 * STEP, 2 * HALVES);
    }
    total[0] = _mm512_add_ps(total[0], total[1]);
    _mm512_storeu_ps(top, most);
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), shrink, total[0]));
    return shrink;
}

static __m512 soften_any(bool mask, int pieces, npt_sight sight, const float *score, float factor,
                         int64_t key, int64_t keys, float *top, float *sum, uint16_t *p)
{
    if (pieces == 2)
        return mask ? soften(true, 2, sight, score, factor, key, keys, top, sum, p)
                    : soften(false, 2, sight, score, factor, key, keys, top, sum, p);
    return mask ? soften(true, 3, sight, score, factor, key, keys, top, sum, p)
                : soften(false, 3, sight, score, factor, key, keys, top, sum, p);
}

/* out·shrink for the rows of one half. */
static void rescale(const npt_group *g, float *out, __m512 shrink)
{
    if (_mm512_cmp_ps_mask(shrink, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ) == 0) return;
    for (int64_t d = 0; d < g->dim / SIDE; d++, out += 2 * WORDS)
        for (int64_t i = 0; i < WORDS; i += SIDE)
            _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i), shrink));
}

/* Strip `number` of the block against keys key … end-1, units of those packed from key `packed`. */
static void attend_strip(const npt_group *g, float scale, const npt_strip *strip, int64_t number,
                         const npt_forward_scratch *s, int64_t packed, int64_t key, int64_t end)
{
    const int64_t skip = (key - packed) * g->packed, units = (end - key) / STEP;
    float *out = s->out + number * STEP * g->dim;
    const bool first = key == strip->key_first, all_seen = sees_all(strip, key, end - key);
    scores(g, s->k + skip, s->q + number * STEP * g->packed, units, s->score);
    for (int half = 0; half < 2; half++) {
        const npt_sight sight = sight_of(g, strip, half);
        float *top = s->top + number * STEP + half * SIDE;
        float *sum = s->sum + number * STEP + half * SIDE;
        const float *score = s->score + half * SIDE;
        uint16_t *p = s->p + half * HALVES;
        const __m512 shrink = soften_any(!all_seen, weight_pieces(g->dtype), sight, score, scale,
                                         key, end - key, top, sum, p);
        if (!first) rescale(g, out + half * WORDS, shrink);
    }
    gather(g, s->v + skip, s->p, units, !first, out);
}

/* Divides by the sums; a row that saw nothing is 0. */
static void finish_strip(const npt_attention_args *args, const npt_group *g, const npt_strip *strip,
                         int64_t number, const npt_forward_scratch *s)
{
    const npt_places places = query_places(g, strip, args->q);
    const float *top = s->top + number * STEP, *sum = s->sum + number * STEP;
    float by[STEP];
    for (int64_t r = 0; r < STEP; r++) by[r] = sum[r] == 0.0f ? 1.0f : 1.0f / sum[r];
    store_strip(g, strip, s->out + number * STEP * g->dim, by, args->out);
    for (int64_t r = 0; r < strip->count && args->lse != NULL; r++)
        args->lse[places.at[r] / g->dim] = (float)((double)top[r] + log((double)sum[r]));
}

typedef struct npt_attention_job {
    const npt_run *run;
    const npt_attention_args *args;
    atomic_bool odd; /* met a value that is not for tiles */
} npt_attention_job;

/* Packs the keys of a block. Whether all is in range. */
static bool load_keys(const npt_attention_args *args, const npt_group *g, int64_t key, int64_t end,
                      const npt_forward_scratch *s)
{
    bool in_range = true;
    for (int64_t j = key; j < end; j += STEP) {
        const npt_places k = key_places(g, j, args->k), v = key_places(g, j, args->v);
        in_range &= pack_rows(&k, g->dim, s->k + (j - key) * g->packed);
        in_range &= pack_across(&v, g->dim, s->v + (j - key) * g->packed);
    }
    return in_range;
}

static void attend(npt_attention_job *job, const npt_group *g, int64_t block, char *memory)
{
    const npt_attention_args *args = job->args;
    const npt_forward_scratch s = cut_forward(memory, g);
    npt_strip strip[STRIPS];
    bool in_range = true;
    int64_t strips = 0;
    for (; strips < STRIPS; strips++) {
        strip[strips] = strip_of(g, block * ROWS + strips * STEP);
        if (strip[strips].count == 0) break;
        const npt_places q = query_places(g, &strip[strips], args->q);
        in_range &= pack_turned(&q, g->dim, s.q + strips * STEP * g->packed);
    }
    for (int64_t r = 0; r < ROWS; r++) s.top[r] = -INFINITY, s.sum[r] = 0.0f;
    const int64_t last = strip[strips - 1].key_end;
    for (int64_t key = strip[0].key_first, end; key < last; key = end) {
        end = at_most(round_up(key + 1, KEYS), last); /* cut alike for all blocks of rows */
        in_range &= load_keys(args, g, key, end, &s);
        for (int64_t i = 0; i < strips; i++) {
            const int64_t from = strip[i].key_first > key ? strip[i].key_first : key;
            const int64_t to = at_most(strip[i].key_end, end);
            if (from < to) attend_strip(g, args->scale, &strip[i], i, &s, key, from, to);
        }
    }
    for (int64_t i = 0; i < strips; i++) finish_strip(args, g, &strip[i], i, &s);
    if (!in_range) atomic_store(&job->odd, true);
}

static int64_t row_blocks(const npt_attention_args *args, int64_t sequence)
{
    const int64_t tokens = args->offsets[sequence + 1] - args->offsets[sequence];
    return (tokens * (args->heads / args->kv_heads) + ROWS - 1) / ROWS;
}

static void attention_task(void *context, int64_t task, int worker)
{
    npt_attention_job *job = context;
    const npt_attention_args *args = job->args;
    int64_t sequence = 0;
    for (;; sequence++) {
        if (task < row_blocks(args, sequence) * args->kv_heads) break;
        task -= row_blocks(args, sequence) * args->kv_heads;
    }
    const npt_group g = group_of(sequence, task % args->kv_heads, args->offsets, args->heads,
                                 args->kv_heads, args->head_dim, args->window, args->q.dtype);
    begin_tiles();
    /* The last rows have the most keys: they come first, the short ones fill the gaps. */
    attend(job, &g, row_blocks(args, sequence) - 1 - task / args->kv_heads,
           job->run->scratch + (size_t)worker * job->run->scratch_stride);
    _tile_release();
}

/* Which attention is made by tiles does not depend on how long a sequence is: the bits of a row are
 * the same whatever lies beside it. */
static bool suits(const npt_run *run, int64_t head_dim, npt_in q, npt_in k, npt_in v)
{
    if (run->fma && q.dtype == NPT_F32) return false;
    return head_dim % STEP == 0 && head_dim <= MAX_DIM && k.dtype == q.dtype && v.dtype == q.dtype;
}

static npt_kernels without_tiles(void)
{
    npt_kernels kernels;
    npt_kernels_fill_avx512(&kernels);
    return kernels;
}

static void attention(const npt_run *run, const npt_attention_args *args)
{
    npt_attention_job job = {.run = run, .args = args};
    int64_t tasks = 0;
    NPT_ASSERT(args->heads % args->kv_heads == 0);
    if (!suits(run, args->head_dim, args->q, args->k, args->v)) {
        without_tiles().attention(run, args);
        return;
    }
    for (int64_t s = 0; s < args->sequences; s++) tasks += args->kv_heads * row_blocks(args, s);
    run_blocks(run, attention_task, &job, tasks, 1);
    if (atomic_load(&job.odd)) without_tiles().attention(run, args);
}

#include "cpu/attention_amx_backward.inc.h"

static size_t scratch_bytes(int64_t longest_sequence, int64_t head_dim, int64_t width)
{
    const size_t other = without_tiles().scratch_bytes(longest_sequence, head_dim, width);
    if (head_dim % STEP != 0 || head_dim > MAX_DIM) return other;
    const int64_t forward = forward_bytes(head_dim);
    const int64_t backward = backward_bytes(head_dim, longest_sequence);
    const size_t ours = (size_t)round_up(forward > backward ? forward : backward, 64);
    return ours > other ? ours : other;
}

void npt_attention_fill_amx(npt_kernels *kernels)
{
    kernels->scratch_bytes = scratch_bytes;
    kernels->attention = attention;
    kernels->attention_backward = attention_backward;
}
