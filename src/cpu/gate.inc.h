/* SPDX-License-Identifier: BSD-2-Clause */
/* The gated unit of an MLP and its modulation, in one pass each way. Included by kernels.inc.h.
 *
 * A task is GATE_ROWS rows. Columns go by in stretches of GATE_COLUMNS: the terms of a stretch are
 * made in L1 from z and the turned matrices (2·rank operations an element each, which is less than
 * writing and reading them would take), then everything else is done to an element at once. What
 * limits it: two sigmoids an element forward and back, 70 and 110 cycles per 16 elements. */

enum {
    GATE_ROWS = 8,
    GATE_COLUMNS = 256,
    GATE_RANKS = 64, /* of x widened at a time */
    TERM_ROWS = NPT_VECTOR_FLOATS == 16 ? 8 : 4,
    TERM_VECTORS = 2
};

/* ---- Turning --------------------------------------------------------------------------------- */

typedef struct turn_job {
    int64_t rows, cols;
    npt_in src;
    float *dst;
} turn_job;

/* NPT_TURNED_ROW rows become as many columns. */
static void turn_some(const turn_job *job, int64_t first)
{
    enum { COLUMNS = 4 * LANES };
    const int64_t stride = round_up(job->rows, NPT_TURNED_ROW);
    const int64_t rows = at_most(job->rows - first, NPT_TURNED_ROW);
    float x[NPT_TURNED_ROW][COLUMNS] = {{0}};
    for (int64_t at = 0; at < job->cols; at += COLUMNS) {
        const int64_t n = at_most(job->cols - at, COLUMNS);
        for (int64_t r = 0; r < rows; r++)
            widen_into(job->src, (first + r) * job->cols + at, n, x[r]);
        for (int64_t i = 0; i < n; i++)
            for (int64_t r = 0; r < NPT_TURNED_ROW; r++)
                job->dst[(at + i) * stride + first + r] = x[r][i];
    }
}

enum { TURN_ROWS = 32 * NPT_TURNED_ROW }; /* of a task */

static void turn_task(void *context, int64_t task, int worker)
{
    const turn_job *job = context;
    const int64_t end = at_most((task + 1) * TURN_ROWS, job->rows);
    (void)worker;
    for (int64_t first = task * TURN_ROWS; first < end; first += NPT_TURNED_ROW)
        turn_some(job, first);
}

static void turn(const npt_run *run, int64_t rows, int64_t cols, npt_in src, float *dst)
{
    turn_job job = {rows, cols, src, dst};
    run_blocks(run, turn_task, &job, rows, TURN_ROWS);
}

/* ---- Terms ----------------------------------------------------------------------------------- */

typedef float gate_buffer[GATE_ROWS][GATE_COLUMNS]; /* the terms' values, as F32 */

/* Where a task stands. */
typedef struct gate_place {
    int64_t row, rows; /* rows ≤ GATE_ROWS */
    int64_t col, cols; /* cols ≤ GATE_COLUMNS */
    int64_t width;
} gate_place;

static bool has_term(const npt_gate_term *term)
{
    return term->value.data != NULL || term->w != NULL;
}

/* TERM_ROWS rows × `vectors` registers of sums += x·w. */
static inline void lowrank_tile(const float (*x)[GATE_RANKS], int64_t ranks, const float *w,
                                int64_t stride, float (*sums)[GATE_COLUMNS], const int vectors)
{
    vf sum[TERM_ROWS][TERM_VECTORS];
    for (int r = 0; r < TERM_ROWS; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = get(sums[r] + v * VF);
    for (int64_t k = 0; k < ranks; k++)
        for (int v = 0; v < vectors; v++) {
            const vf column = get(w + k * stride + v * VF);
            for (int r = 0; r < TERM_ROWS; r++) sum[r][v] = fused(all(x[r][k]), column, sum[r][v]);
        }
    for (int r = 0; r < TERM_ROWS; r++)
        for (int v = 0; v < vectors; v++) put(sums[r] + v * VF, sum[r][v]);
}

/* x·w of a place; the rows that a tile has besides are zeros. */
static void make_product(const npt_gate_term *term, const gate_place *at, gate_buffer sums)
{
    const int64_t stride = round_up(at->width, NPT_TURNED_ROW), cols = lanes(at->cols);
    memset(sums, 0, sizeof(gate_buffer));
    for (int64_t k = 0; k < term->rank; k += GATE_RANKS) {
        const int64_t ranks = at_most(term->rank - k, GATE_RANKS);
        const float *w = term->w + k * stride + at->col;
        float x[GATE_ROWS][GATE_RANKS] = {{0}};
        for (int64_t r = 0; r < at->rows; r++)
            widen_into(term->x, (at->row + r) * term->rank + k, ranks, x[r]);
        for (int64_t r = 0; r < at->rows; r += TERM_ROWS) {
            int64_t j = 0;
            for (; j + TERM_VECTORS * VF <= cols; j += TERM_VECTORS * VF)
                lowrank_tile(x + r, ranks, w + j, stride, (float(*)[GATE_COLUMNS])(sums[r] + j),
                             TERM_VECTORS);
            for (; j < cols; j += VF)
                lowrank_tile(x + r, ranks, w + j, stride, (float(*)[GATE_COLUMNS])(sums[r] + j), 1);
        }
    }
    for (int64_t r = 0; r < at->rows && term->dtype != NPT_F32; r++)
        for (int64_t j = 0; j < cols; j += VF)
            put(sums[r] + j, round_as(term->dtype, get(sums[r] + j)));
}

/* A term at a place, padded with zeros; false where there is none. */
static bool load_term(const npt_gate_term *term, const gate_place *at, gate_buffer values)
{
    if (!has_term(term)) return false;
    if (term->value.data == NULL) {
        make_product(term, at, values);
        return true;
    }
    for (int64_t r = 0; r < at->rows; r++)
        widen_into(term->value, (at->row + r) * at->width + at->col, at->cols, values[r]);
    return true;
}

typedef struct lowrank_job {
    int64_t rows, width;
    const npt_gate_term *term;
    npt_out dst;
} lowrank_job;

static void lowrank_task(void *context, int64_t task, int worker)
{
    const lowrank_job *job = context;
    gate_place at = {.row = task * GATE_ROWS, .width = job->width};
    gate_buffer values;
    (void)worker;
    at.rows = at_most(job->rows - at.row, GATE_ROWS);
    for (; at.col < at.width; at.col += GATE_COLUMNS) {
        at.cols = at_most(at.width - at.col, GATE_COLUMNS);
        make_product(job->term, &at, values);
        for (int64_t r = 0; r < at.rows; r++)
            narrow(job->dst, (at.row + r) * at.width + at.col, at.cols, values[r]);
    }
}

static void lowrank(const npt_run *run, int64_t rows, int64_t width, const npt_gate_term *term,
                    npt_out dst)
{
    lowrank_job job = {rows, width, term, dst};
    run_blocks(run, lowrank_task, &job, rows, GATE_ROWS);
}

/* ---- Streams --------------------------------------------------------------------------------- */

/* What a loop over one row of a stretch reads and writes; NULL: not there. */
enum { GATE, UP, DY, DST, DUP, DADD, DU, STREAMS };

typedef struct gate_streams {
    char *data[STREAMS];
    size_t size[STREAMS]; /* bytes of an element */
    const float *add, *u;
} gate_streams;

typedef void gate_loop(const void *args, const gate_streams *s, int64_t n, npt_dtype p);

static void set_stream(gate_streams *s, int which, const void *data, npt_dtype dtype, int64_t first)
{
    s->size[which] = data == NULL ? 0 : npt_dtype_bytes(dtype);
    s->data[which] = data == NULL ? NULL : (char *)(uintptr_t)data + (size_t)first * s->size[which];
}

/* Runs a loop over whole groups of LANES, and over a padded copy of what is left. */
static void run_stretch(gate_loop *loop, const void *args, const gate_streams *s, int64_t n,
                        npt_dtype p)
{
    const int64_t whole = n - n % LANES;
    const size_t rest = (size_t)(n - whole);
    loop(args, s, whole, p);
    if (rest == 0) return;
    _Alignas(64) char copy[STREAMS][LANES * sizeof(float)] = {{0}};
    gate_streams padded = *s;
    for (int i = 0; i < STREAMS; i++) {
        if (s->data[i] == NULL) continue;
        memcpy(copy[i], s->data[i] + (size_t)whole * s->size[i], rest * s->size[i]);
        padded.data[i] = copy[i];
    }
    padded.add = s->add == NULL ? NULL : s->add + whole;
    padded.u = s->u == NULL ? NULL : s->u + whole;
    loop(args, &padded, LANES, p);
    for (int i = DST; i < STREAMS; i++)
        if (s->data[i] != NULL)
            memcpy(s->data[i] + (size_t)whole * s->size[i], copy[i], rest * s->size[i]);
}

/* P, or H where there are no terms. */
static npt_dtype dtype_of_terms(const npt_gate_term *add, const npt_gate_term *u, npt_dtype h)
{
    return has_term(add) ? add->dtype : has_term(u) ? u->dtype : h;
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* mult and, unless that is NULL, its derivative. A loop of its own, as each sigmoid has: two in a
 * row are a chain of operations too long to be done beside its neighbours'. */
static inline void multipliers(const float *u, int64_t n, npt_dtype p, float *mult, float *slope)
{
    for (int64_t i = 0; i < n; i += VF) {
        vf complement, sigma = sigmoid(get(u + i), &complement);
        put(mult + i, round_as(p, 0.5f * sigma + 0.5f));
        if (slope != NULL) put(slope + i, 0.5f * (sigma * complement));
    }
}

static inline __attribute__((always_inline)) void
gate_lanes(const npt_gate_args *args, const gate_streams *s, int64_t n, npt_dtype h, npt_dtype p)
{
    float mult[GATE_COLUMNS];
    const vf strength = all(args->strength);
    if (s->u != NULL) multipliers(s->u, n, p, mult, NULL);
    for (int64_t i = 0; i < n; i += VF) {
        vf unused, g = load_as(h, s->data[GATE], i);
        if (s->u != NULL) g = g * get(mult + i);
        if (s->add != NULL) g = g + strength * get(s->add + i);
        if (s->data[UP] != NULL) {
            g = round_as(h, g);
            g = g * sigmoid(g, &unused) * load_as(h, s->data[UP], i);
        }
        store_as(h, s->data[DST], i, g);
    }
}

/* Compiled for each dtype that adapters and activations share; any other pair looks at each. */
static void gate_loop_of(const void *context, const gate_streams *s, int64_t n, npt_dtype p)
{
    const npt_gate_args *args = context;
    const npt_dtype h = args->gate.dtype;
    if (h != p)
        gate_lanes(args, s, n, h, p);
    else if (h == NPT_F32)
        gate_lanes(args, s, n, NPT_F32, NPT_F32);
    else if (h == NPT_F16)
        gate_lanes(args, s, n, NPT_F16, NPT_F16);
    else
        gate_lanes(args, s, n, NPT_BF16, NPT_BF16);
}

static void gate_task(void *context, int64_t task, int worker)
{
    const npt_gate_args *args = context;
    const npt_dtype p = dtype_of_terms(&args->add, &args->u, args->gate.dtype);
    gate_place at = {.row = task * GATE_ROWS, .width = args->width};
    gate_buffer add, u;
    npt_sum squares[GATE_ROWS] = {{{{0}}}};
    (void)worker;
    at.rows = at_most(args->rows - at.row, GATE_ROWS);
    for (; at.col < at.width; at.col += GATE_COLUMNS) {
        at.cols = at_most(at.width - at.col, GATE_COLUMNS);
        const bool has_add = load_term(&args->add, &at, add), has_u = load_term(&args->u, &at, u);
        for (int64_t r = 0; r < at.rows; r++) {
            const int64_t first = (at.row + r) * at.width + at.col;
            gate_streams s = {.add = has_add ? add[r] : NULL, .u = has_u ? u[r] : NULL};
            set_stream(&s, GATE, args->gate.data, args->gate.dtype, first);
            set_stream(&s, UP, args->up.data, args->up.dtype, first);
            set_stream(&s, DST, args->dst.data, args->dst.dtype, first);
            run_stretch(gate_loop_of, args, &s, at.cols, p);
            if (args->squares == NULL) continue;
            if (has_add) sum_squares_into(&squares[r], add[r], at.cols);
            if (has_u) sum_squares_into(&squares[r], u[r], at.cols);
        }
    }
    for (int64_t r = 0; r < at.rows && args->squares != NULL; r++)
        args->squares[at.row + r] = sum_total(&squares[r]);
}

static void gate(const npt_run *run, const npt_gate_args *args)
{
    run_blocks(run, gate_task, args, args->rows, GATE_ROWS);
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* silu(g') and its derivative. */
static inline void silu_of(const npt_gate_backward_args *args, const gate_streams *s,
                           const float *mult, int64_t n, npt_dtype h, float *silu, float *slope)
{
    const vf strength = all(args->strength);
    for (int64_t i = 0; i < n; i += VF) {
        vf complement, sigma, g = load_as(h, s->data[GATE], i);
        if (s->u != NULL) g = g * get(mult + i);
        if (s->add != NULL) g = g + strength * get(s->add + i);
        g = round_as(h, g);
        sigma = sigmoid(g, &complement);
        put(silu + i, g * sigma);
        put(slope + i, sigma * (1.0f + g * complement));
    }
}

/* Every input of an element is read before an output of it is written. */
static inline __attribute__((always_inline)) void
gate_backward_lanes(const npt_gate_backward_args *args, const gate_streams *s, int64_t n,
                    npt_dtype h, npt_dtype p)
{
    float mult[GATE_COLUMNS], mult_slope[GATE_COLUMNS], silu[GATE_COLUMNS], slope[GATE_COLUMNS];
    const vf strength = all(args->strength), penalty = all(args->penalty);
    if (s->u != NULL) multipliers(s->u, n, p, mult, mult_slope);
    if (s->data[UP] != NULL) silu_of(args, s, mult, n, h, silu, slope);
    for (int64_t i = 0; i < n; i += VF) {
        vf dy = load_as(h, s->data[DY], i), gate = load_as(h, s->data[GATE], i);
        if (s->data[UP] != NULL) {
            vf up = load_as(h, s->data[UP], i);
            if (s->data[DUP] != NULL) store_as(h, s->data[DUP], i, dy * get(silu + i));
            dy = round_as(h, dy * up * get(slope + i));
        }
        if (s->data[DST] != NULL)
            store_as(h, s->data[DST], i, s->u != NULL ? dy * get(mult + i) : dy);
        if (s->data[DADD] != NULL)
            store_as(p, s->data[DADD], i, strength * dy + penalty * get(s->add + i));
        if (s->data[DU] != NULL)
            store_as(p, s->data[DU], i, dy * gate * get(mult_slope + i) + penalty * get(s->u + i));
    }
}

static void gate_backward_loop_of(const void *context, const gate_streams *s, int64_t n,
                                  npt_dtype p)
{
    const npt_gate_backward_args *args = context;
    const npt_dtype h = args->gate.dtype;
    if (h != p)
        gate_backward_lanes(args, s, n, h, p);
    else if (h == NPT_F32)
        gate_backward_lanes(args, s, n, NPT_F32, NPT_F32);
    else if (h == NPT_F16)
        gate_backward_lanes(args, s, n, NPT_F16, NPT_F16);
    else
        gate_backward_lanes(args, s, n, NPT_BF16, NPT_BF16);
}

static void gate_backward_task(void *context, int64_t task, int worker)
{
    const npt_gate_backward_args *args = context;
    const npt_dtype p = dtype_of_terms(&args->add, &args->u, args->gate.dtype);
    gate_place at = {.row = task * GATE_ROWS, .width = args->width};
    gate_buffer add, u;
    (void)worker;
    at.rows = at_most(args->rows - at.row, GATE_ROWS);
    for (; at.col < at.width; at.col += GATE_COLUMNS) {
        at.cols = at_most(at.width - at.col, GATE_COLUMNS);
        const bool has_add = load_term(&args->add, &at, add), has_u = load_term(&args->u, &at, u);
        for (int64_t r = 0; r < at.rows; r++) {
            const int64_t first = (at.row + r) * at.width + at.col;
            gate_streams s = {.add = has_add ? add[r] : NULL, .u = has_u ? u[r] : NULL};
            set_stream(&s, GATE, args->gate.data, args->gate.dtype, first);
            set_stream(&s, UP, args->up.data, args->up.dtype, first);
            set_stream(&s, DY, args->dy.data, args->dy.dtype, first);
            set_stream(&s, DST, args->dgate.data, args->dgate.dtype, first);
            set_stream(&s, DUP, args->dup.data, args->dup.dtype, first);
            set_stream(&s, DADD, args->dadd.data, args->dadd.dtype, first);
            set_stream(&s, DU, args->du.data, args->du.dtype, first);
            run_stretch(gate_backward_loop_of, args, &s, at.cols, p);
        }
    }
}

static void gate_backward(const npt_run *run, const npt_gate_backward_args *args)
{
    run_blocks(run, gate_backward_task, args, args->rows, GATE_ROWS);
}
