/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels over whole arrays: sum of squares, the survey, and the optimizer. Included by
 * kernels.inc.h. An array is cut into at most PARTS parts whose size follows from n alone; the
 * parts' results are joined in order. */

enum { PARTS = 256 };

typedef struct npt_total_job {
    int64_t n, per_part;
    npt_in x;
    double part[PARTS];
} npt_total_job;

static void sum_squares_task(void *context, int64_t task, int worker)
{
    npt_total_job *job = context;
    int64_t first = task * job->per_part;
    (void)worker;
    job->part[task] = sum_squares_of(job->x, first, at_most(job->n - first, job->per_part));
}

static double sum_squares(const npt_run *run, int64_t n, npt_in x)
{
    npt_total_job job = {.n = n, .x = x};
    double sum = 0.0;
    if (n <= 0) return 0.0;
    job.per_part = round_up((n + PARTS - 1) / PARTS, BLOCK);
    run_blocks(run, sum_squares_task, &job, n, job.per_part);
    for (int64_t i = 0; i * job.per_part < n; i++) sum += job.part[i];
    return sum;
}

typedef struct npt_survey_job {
    int64_t n, per_part;
    npt_in x;
    float tiny;
    npt_survey part[PARTS];
} npt_survey_job;

/* Lanes of one part; counters are of 32 bits and stay far below that in a part of a chunk. */
typedef struct npt_survey_lanes {
    vf low, high;
    vi nonfinite, nan, zeros, tiny;
} npt_survey_lanes;

static inline void survey_lanes(npt_survey_lanes *s, vf x, vf tiny)
{
    vi finite = is_finite(x);
    s->low = smaller(pick(finite, x, s->low), s->low);
    s->high = larger(pick(finite, x, s->high), s->high);
    s->nonfinite -= ~finite;
    s->nan -= ~(x == x);
    s->zeros -= x == 0.0f;
    s->tiny -= (magnitude(x) < tiny) & (x != 0.0f);
}

/* `n` ≤ CHUNK elements; what follows the last whole vector goes one by one, because padding counts
 * as zeros. */
static void survey_chunk(const npt_survey_job *job, int64_t first, int64_t n, npt_survey *part)
{
    float buffer[CHUNK], low[VF], high[VF];
    const float *x = widen(job->x, first, n, buffer);
    npt_survey_lanes s = {.low = all(INFINITY), .high = all(-INFINITY)};
    const int64_t whole = n / VF * VF;
    for (int64_t i = 0; i < whole; i += VF) survey_lanes(&s, get(x + i), all(job->tiny));
    part->nonfinite += count_lanes(s.nonfinite);
    part->nan += count_lanes(s.nan);
    part->zeros += count_lanes(s.zeros);
    part->tiny += count_lanes(s.tiny);
    put(low, s.low);
    put(high, s.high);
    for (int i = 0; i < VF; i++) {
        part->min = low[i] < part->min ? low[i] : part->min;
        part->max = high[i] > part->max ? high[i] : part->max;
    }
    for (int64_t i = whole; i < n; i++) {
        bool finite = isfinite(x[i]);
        part->nonfinite += !finite;
        part->nan += isnan(x[i]);
        part->zeros += x[i] == 0.0f;
        part->tiny += fabsf(x[i]) < job->tiny && x[i] != 0.0f;
        part->min = finite && x[i] < part->min ? x[i] : part->min;
        part->max = finite && x[i] > part->max ? x[i] : part->max;
    }
    double squares = sum_squares_of((npt_in){x, NPT_F32}, 0, n);
    if (!isfinite(squares)) {
        squares = 0.0;
        for (int64_t i = 0; i < n; i++)
            if (isfinite(x[i])) squares += (double)x[i] * (double)x[i];
    }
    part->sum_squares += squares;
}

static void survey_task(void *context, int64_t task, int worker)
{
    npt_survey_job *job = context;
    int64_t first = task * job->per_part, end = at_most(first + job->per_part, job->n);
    npt_survey part = {.min = INFINITY, .max = -INFINITY};
    (void)worker;
    for (int64_t i = first; i < end; i += CHUNK)
        survey_chunk(job, i, at_most(end - i, CHUNK), &part);
    job->part[task] = part;
}

static void survey(const npt_run *run, int64_t n, npt_in x, float tiny, npt_survey *result)
{
    npt_survey_job job = {.n = n, .x = x, .tiny = tiny};
    npt_survey sum = {.min = INFINITY, .max = -INFINITY};
    job.per_part = round_up((n + PARTS - 1) / PARTS, BLOCK);
    if (n > 0) run_blocks(run, survey_task, &job, n, job.per_part);
    for (int64_t i = 0; i * job.per_part < n; i++) {
        const npt_survey *part = &job.part[i];
        sum.sum_squares += part->sum_squares;
        sum.min = part->min < sum.min ? part->min : sum.min;
        sum.max = part->max > sum.max ? part->max : sum.max;
        sum.nonfinite += part->nonfinite;
        sum.nan += part->nan;
        sum.zeros += part->zeros;
        sum.tiny += part->tiny;
    }
    if (sum.min > sum.max) sum.min = sum.max = 0.0f; /* nothing was finite */
    *result = sum;
}

/* ---- Adam and AdamW -------------------------------------------------------------------------- */

/* The scalars of a step, computed in F64 and rounded to F32 once. */
typedef struct npt_adam_job {
    const npt_adam_args *args;
    float factor, keep, decay, blend1, beta2, blend2, minus_step, root2, epsilon;
} npt_adam_job;

/* The formulas in the order of PyTorch's optimizers: m += (g − m)(1 − β1); v = β2·v + (1 − β2)·g²;
 * w += −(rate / (1 − β1^t)) · m / (√v / √(1 − β2^t) + ε). */
static void adam_chunk(const npt_adam_job *job, int64_t first, int64_t n)
{
    const npt_adam_args *args = job->args;
    float bg[CHUNK], bw[CHUNK], bm[CHUNK], bv[CHUNK], rw[CHUNK], rm[CHUNK], rv[CHUNK];
    npt_out ow = {args->weight, NPT_F32};
    npt_out om = {args->moment1, NPT_F32}, ov = {args->moment2, NPT_F32};
    const float *gs = widen((npt_in){args->grad, NPT_F32}, first, n, bg);
    const float *ws = widen((npt_in){args->weight, NPT_F32}, first, n, rw);
    const float *ms = widen((npt_in){args->moment1, NPT_F32}, first, n, rm);
    const float *vs = widen((npt_in){args->moment2, NPT_F32}, first, n, rv);
    float *wout = target(ow, first, n, bw), *mout = target(om, first, n, bm);
    float *vout = target(ov, first, n, bv);
    for (int64_t i = 0; i < lanes(n); i += VF) {
        vf w = get(ws + i), g = get(gs + i) * all(job->factor), m = get(ms + i), v = get(vs + i);
        if (args->decoupled)
            w = w * all(job->keep);
        else
            g = g + w * all(job->decay);
        m = m + (g - m) * all(job->blend1);
        v = v * all(job->beta2) + (all(job->blend2) * g) * g;
        vf denominator = square_root(v) / all(job->root2) + all(job->epsilon);
        put(wout + i, w + (all(job->minus_step) * m) / denominator);
        put(mout + i, m);
        put(vout + i, v);
    }
    narrow(ow, first, n, wout);
    narrow(om, first, n, mout);
    narrow(ov, first, n, vout);
}

static void adam_task(void *context, int64_t task, int worker)
{
    const npt_adam_job *job = context;
    int64_t end = at_most((task + 1) * BLOCK, job->args->n);
    (void)worker;
    for (int64_t i = task * BLOCK; i < end; i += CHUNK) adam_chunk(job, i, at_most(end - i, CHUNK));
}

static void adam(const npt_run *run, const npt_adam_args *args)
{
    double correction1 = 1.0 - pow(args->beta1, (double)args->step);
    double correction2 = 1.0 - pow(args->beta2, (double)args->step);
    npt_adam_job job = {
        .args = args,
        .factor = (float)args->grad_factor,
        .keep = (float)(1.0 - args->learning_rate * args->weight_decay),
        .decay = (float)args->weight_decay,
        .blend1 = (float)(1.0 - args->beta1),
        .beta2 = (float)args->beta2,
        .blend2 = (float)(1.0 - args->beta2),
        .minus_step = (float)(-args->learning_rate / correction1),
        .root2 = (float)sqrt(correction2),
        .epsilon = (float)args->epsilon,
    };
    run_blocks(run, adam_task, &job, args->n, BLOCK);
}
