/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels over whole arrays: sum of squares, counts and extremes, and the optimizer. Included by
 * kernels.inc.h. An array is cut into at most PARTS parts whose size follows from n alone; the
 * parts' results are joined in order. */

enum { PARTS = 256 };

typedef struct npt_total_job {
    int64_t n, per_part;
    npt_in x;
    double part[PARTS];
} npt_total_job;

static double total(const npt_run *run, npt_task *task, int64_t n, npt_in x,
                    double (*join)(double, double))
{
    npt_total_job job = {.n = n, .x = x};
    double result = 0.0;
    if (n <= 0) return 0.0;
    job.per_part = round_up((n + PARTS - 1) / PARTS, BLOCK);
    run_blocks(run, task, &job, n, job.per_part);
    for (int64_t i = 0; i * job.per_part < n; i++) result = join(result, job.part[i]);
    return result;
}

static double join_sum(double a, double b)
{
    return a + b;
}

static double join_max(double a, double b)
{
    return a > b ? a : b;
}

static void sum_squares_task(void *context, int64_t task, int worker)
{
    npt_total_job *job = context;
    int64_t first = task * job->per_part;
    (void)worker;
    job->part[task] = sum_squares_of(job->x, first, at_most(job->n - first, job->per_part));
}

static double sum_squares(const npt_run *run, int64_t n, npt_in x)
{
    return total(run, sum_squares_task, n, x, join_sum);
}

static void count_nonfinite_task(void *context, int64_t task, int worker)
{
    npt_total_job *job = context;
    int64_t first = task * job->per_part, end = at_most(first + job->per_part, job->n);
    int64_t found = 0;
    float buffer[CHUNK];
    (void)worker;
    for (int64_t i = first; i < end; i += CHUNK) {
        int64_t n = at_most(end - i, CHUNK);
        const float *x = widen(job->x, i, n, buffer);
        vi count = {0};
        for (int64_t j = 0; j < lanes(n); j += VF) count -= ~is_finite(get(x + j));
        found += count_lanes(count);
    }
    job->part[task] = (double)found;
}

static int64_t count_nonfinite(const npt_run *run, int64_t n, npt_in x)
{
    return (int64_t)total(run, count_nonfinite_task, n, x, join_sum);
}

static void max_abs_task(void *context, int64_t task, int worker)
{
    npt_total_job *job = context;
    int64_t first = task * job->per_part, end = at_most(first + job->per_part, job->n);
    float buffer[CHUNK], lane[VF];
    vf top = {0};
    (void)worker;
    for (int64_t i = first; i < end; i += CHUNK) {
        int64_t n = at_most(end - i, CHUNK);
        const float *x = widen(job->x, i, n, buffer);
        for (int64_t j = 0; j < lanes(n); j += VF) {
            vf value = get(x + j);
            top = larger((vf)((vi)magnitude(value) & is_finite(value)), top);
        }
    }
    put(lane, top);
    job->part[task] = 0.0;
    for (int i = 0; i < VF; i++) job->part[task] = join_max(job->part[task], (double)lane[i]);
}

static float max_abs(const npt_run *run, int64_t n, npt_in x)
{
    return (float)total(run, max_abs_task, n, x, join_max);
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
