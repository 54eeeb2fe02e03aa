/* SPDX-License-Identifier: BSD-2-Clause */
/* Kernels with a sum over each row: RMSNorm, the distances, the comparison of logits. Included by
 * kernels.inc.h. Sums over a row are F64 (lanes.inc.h), rounded to F32 once: another backend that
 * sums in another order in F64 then gets the same F32 in all but the rarest cases. */

/* ---- RMSNorm --------------------------------------------------------------------------------- */

static float inverse_rms(npt_in x, int64_t row, int64_t width, float eps)
{
    double squares = sum_squares_of(x, row * width, width);
    return 1.0f / sqrtf((float)(squares / (double)width) + eps);
}

static void norm_row(const npt_norm_args *args, int64_t row)
{
    float bx[CHUNK], bw[CHUNK], scaled[CHUNK], out[CHUNK];
    vf scale = all(inverse_rms(args->x, row, args->width, args->eps));
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *x = widen(args->x, first, n, bx), *w = widen(args->weight, at, n, bw);
        float *dst = target(args->dst, first, n, out);
        scale_chunk(x, scale, args->dst.dtype, n, scaled);
        for (int64_t i = 0; i < lanes(n); i += VF) put(dst + i, get(scaled + i) * get(w + i));
        narrow(args->dst, first, n, dst);
    }
}

static void norm_task(void *context, int64_t task, int worker)
{
    const npt_norm_args *args = context;
    int64_t step = rows_per_task(args->width), end = at_most((task + 1) * step, args->rows);
    (void)worker;
    for (int64_t row = task * step; row < end; row++) norm_row(args, row);
}

static void norm(const npt_run *run, const npt_norm_args *args)
{
    run_blocks(run, norm_task, args, args->rows, rows_per_task(args->width));
}

/* Σ (dy·w)·x over a row. */
static double weighted_dot(const npt_norm_backward_args *args, int64_t row)
{
    float bx[CHUNK], bw[CHUNK], by[CHUNK], product[CHUNK];
    npt_sum sum = {{{0}}};
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *x = widen(args->x, first, n, bx), *w = widen(args->weight, at, n, bw);
        const float *dy = widen(args->dy, first, n, by);
        for (int64_t i = 0; i < lanes(n); i += VF) put(product + i, get(dy + i) * get(w + i));
        sum_products(&sum, product, x, n);
    }
    return sum_total(&sum);
}

/* With r = 1/rms: dx = r·(dy·w) − x·(r³·Σ(dy·w·x)/width). */
static void norm_backward_row(const npt_norm_backward_args *args, int64_t row)
{
    float bx[CHUNK], bw[CHUNK], by[CHUNK], bb[CHUNK], out[CHUNK];
    double r = inverse_rms(args->x, row, args->width, args->eps);
    vf scale = all((float)r);
    vf back = all((float)(r * r * r * weighted_dot(args, row) / (double)args->width));
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *x = widen(args->x, first, n, bx), *w = widen(args->weight, at, n, bw);
        const float *dy = widen(args->dy, first, n, by);
        const float *base = widen(args->base, first, n, bb);
        float *dst = target(args->dst, first, n, out);
        for (int64_t i = 0; i < lanes(n); i += VF) {
            vf dx = scale * (get(dy + i) * get(w + i)) - back * get(x + i);
            put(dst + i, base != NULL ? get(base + i) + dx : dx);
        }
        narrow(args->dst, first, n, dst);
    }
}

static void norm_backward_task(void *context, int64_t task, int worker)
{
    const npt_norm_backward_args *args = context;
    int64_t step = rows_per_task(args->width), end = at_most((task + 1) * step, args->rows);
    (void)worker;
    for (int64_t row = task * step; row < end; row++) norm_backward_row(args, row);
}

static void norm_backward(const npt_run *run, const npt_norm_backward_args *args)
{
    run_blocks(run, norm_backward_task, args, args->rows, rows_per_task(args->width));
}

/* ---- Distance between student and teacher ---------------------------------------------------- */

static const float norm_floor = 1e-6f;

/* What the row is multiplied by: 1 / max(norm, floor), 1 where the distance is not normalized. */
static float row_factor(npt_in x, bool normalized, int64_t row, int64_t width)
{
    if (!normalized) return 1.0f;
    float norm_of_row = (float)sqrt(sum_squares_of(x, row * width, width));
    return 1.0f / (norm_of_row < norm_floor ? norm_floor : norm_of_row);
}

static void distance_row(const npt_distance_args *args, int64_t row)
{
    float bs[CHUNK], bt[CHUNK], difference[CHUNK];
    vf by_s = all(row_factor(args->s, args->normalized, row, args->width));
    vf by_t = all(row_factor(args->t, args->normalized, row, args->width));
    npt_sum sum = {{{0}}};
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *s = widen(args->s, first, n, bs), *t = widen(args->t, first, n, bt);
        for (int64_t i = 0; i < lanes(n); i += VF)
            put(difference + i, get(s + i) * by_s - get(t + i) * by_t);
        sum_products(&sum, difference, difference, n);
    }
    args->row_sums[row] = sum_total(&sum);
}

static void distance_task(void *context, int64_t task, int worker)
{
    const npt_distance_args *args = context;
    int64_t step = rows_per_task(args->width), end = at_most((task + 1) * step, args->rows);
    (void)worker;
    for (int64_t row = task * step; row < end; row++) distance_row(args, row);
}

static double distance(const npt_run *run, const npt_distance_args *args)
{
    double total = 0.0;
    run_blocks(run, distance_task, args, args->rows, rows_per_task(args->width));
    for (int64_t row = 0; row < args->rows; row++) total += args->row_sums[row];
    return total;
}

/* Σ a·(a − b) over a row, a = s/‖s‖, b = t/‖t‖. */
static double radial_part(const npt_distance_backward_args *args, int64_t row, vf by_s, vf by_t)
{
    float bs[CHUNK], bt[CHUNK], a[CHUNK], e[CHUNK];
    npt_sum sum = {{{0}}};
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *s = widen(args->s, first, n, bs), *t = widen(args->t, first, n, bt);
        for (int64_t i = 0; i < lanes(n); i += VF) {
            vf unit = get(s + i) * by_s;
            put(a + i, unit);
            put(e + i, unit - get(t + i) * by_t);
        }
        sum_products(&sum, a, e, n);
    }
    return sum_total(&sum);
}

/* d/ds Σ e² = 2/‖s‖ · (e − a·(a·e)); below the floor the factor is a constant. */
static void distance_backward_row(const npt_distance_backward_args *args, int64_t row)
{
    float bs[CHUNK], bt[CHUNK], bb[CHUNK], out[CHUNK];
    float one_s = row_factor(args->s, args->normalized, row, args->width);
    vf by_s = all(one_s), by_t = all(row_factor(args->t, args->normalized, row, args->width));
    bool turns = args->normalized && one_s < 1.0f / norm_floor;
    vf radial = all(turns ? (float)radial_part(args, row, by_s, by_t) : 0.0f);
    vf factor = all((float)(2.0 * (double)args->factor * (double)one_s));
    for (int64_t at = 0; at < args->width; at += CHUNK) {
        int64_t first = row * args->width + at, n = at_most(args->width - at, CHUNK);
        const float *s = widen(args->s, first, n, bs), *t = widen(args->t, first, n, bt);
        const float *base = widen(args->base, first, n, bb);
        float *dst = target(args->dst, first, n, out);
        for (int64_t i = 0; i < lanes(n); i += VF) {
            vf a = get(s + i) * by_s, e = a - get(t + i) * by_t;
            vf ds = factor * (turns ? e - a * radial : e);
            put(dst + i, base != NULL ? get(base + i) + ds : ds);
        }
        narrow(args->dst, first, n, dst);
    }
}

static void distance_backward_task(void *context, int64_t task, int worker)
{
    const npt_distance_backward_args *args = context;
    int64_t step = rows_per_task(args->width), end = at_most((task + 1) * step, args->rows);
    (void)worker;
    for (int64_t row = task * step; row < end; row++) distance_backward_row(args, row);
}

static void distance_backward(const npt_run *run, const npt_distance_backward_args *args)
{
    run_blocks(run, distance_backward_task, args, args->rows, rows_per_task(args->width));
}

/* ---- Comparison of logits -------------------------------------------------------------------- */

typedef struct npt_logits {
    float top;
    int64_t best;   /* the first index that has it */
    double log_sum; /* log Σ e^x */
} npt_logits;

static float row_top(const float *x, int64_t n)
{
    float buffer[LANES], top;
    vf tops = all(x[0]);
    int64_t whole = n - n % VF;
    for (int64_t i = 0; i < whole; i += VF) tops = larger(get(x + i), tops);
    put(buffer, tops);
    top = buffer[0];
    for (int i = 1; i < VF; i++) top = buffer[i] > top ? buffer[i] : top;
    for (int64_t i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* e^(x − top) of a chunk; what pads it is 0. */
static void exponentials(const float *x, int64_t n, float top, float dst[CHUNK])
{
    float buffer[CHUNK];
    const float *values = widen((npt_in){x, NPT_F32}, 0, n, buffer);
    for (int64_t i = 0; i < lanes(n); i += VF)
        put(dst + i, exponential(get(values + i) - all(top)));
    for (int64_t i = n; i % LANES != 0; i++) dst[i] = 0.0f;
}

static npt_logits read_logits(const float *x, int64_t n)
{
    static const float ones[CHUNK] = {[0 ... CHUNK - 1] = 1.0f};
    float e[CHUNK];
    npt_logits logits = {row_top(x, n), 0, 0.0};
    npt_sum sum = {{{0}}};
    while (logits.best < n - 1 && x[logits.best] != logits.top) logits.best++;
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t count = at_most(n - at, CHUNK);
        exponentials(x + at, count, logits.top, e);
        sum_products(&sum, e, ones, count);
    }
    logits.log_sum = (double)logits.top + log(sum_total(&sum));
    return logits;
}

/* Σ e^(t − top)·(t − s), the differences in F32. */
static double weighted_difference(const float *teacher, const float *student, int64_t n, float top)
{
    float bt[CHUNK], bs[CHUNK], e[CHUNK], difference[CHUNK];
    npt_sum sum = {{{0}}};
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t count = at_most(n - at, CHUNK);
        const float *t = widen((npt_in){teacher, NPT_F32}, at, count, bt);
        const float *s = widen((npt_in){student, NPT_F32}, at, count, bs);
        exponentials(teacher + at, count, top, e);
        for (int64_t i = 0; i < lanes(count); i += VF) put(difference + i, get(t + i) - get(s + i));
        sum_products(&sum, e, difference, count);
    }
    return sum_total(&sum);
}

/* KL = Σ p·((t − log Σe^t) − (s − log Σe^s)), p = e^(t − log Σe^t). */
static void compare_task(void *context, int64_t row, int worker)
{
    const npt_compare_args *args = context;
    const float *t = args->teacher + row * args->width, *s = args->student + row * args->width;
    int32_t id = args->targets[row];
    (void)worker;
    args->nll_teacher[row] = args->nll_student[row] = args->kl[row] = 0.0;
    args->agree[row] = 0;
    if (id < 0) return;
    npt_logits lt = read_logits(t, args->width), ls = read_logits(s, args->width);
    double mean = weighted_difference(t, s, args->width, lt.top) * exp((double)lt.top - lt.log_sum);
    args->nll_teacher[row] = lt.log_sum - (double)t[id];
    args->nll_student[row] = ls.log_sum - (double)s[id];
    args->kl[row] = mean - lt.log_sum + ls.log_sum;
    args->agree[row] = lt.best == ls.best;
}

static void compare(const npt_run *run, const npt_compare_args *args)
{
    run_blocks(run, compare_task, args, args->rows, 1);
}
