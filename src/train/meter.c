/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/meter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensor/nf4.h"

/* Backends take turns, so that a disturbance of the machine meets them all. Workers of OpenBLAS and
 * OpenMP spin for tens of milliseconds after a product and would share the cores with the backend
 * whose turn comes next: a turn therefore begins with repetitions that are not counted. Data are
 * random: tiles of zeros run faster than any real ones. */

enum { TURNS = 3, MAX_RUNS = 255, PATTERN = 1 << 18 /* elements; the pool repeats them */ };
static const double longest_warm_up = 0.08;

double npt_seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double npt_meter_now(const npt_exec *exec)
{
    struct timespec now;
    if (npt_exec_threads(exec) > 1) return npt_seconds_now();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

npt_timing npt_timing_of(double *seconds, int count)
{
    if (count == 0) return (npt_timing){0};
    qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
    return (npt_timing){seconds[0], seconds[count / 2], seconds[count - 1], count};
}

size_t npt_meter_willing(const npt_exec *exec, const npt_matmul_desc *desc,
                         const npt_matmul_backend *list[NPT_MAX_BACKENDS])
{
    size_t count = 0;
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++) {
        char reason[128];
        const npt_matmul_backend *backend = npt_exec_backend(exec, i);
        if (count > 0 && backend == &npt_matmul_reference) continue;
        if (backend->refuse(desc, npt_exec_cpu(exec), reason) == NULL) list[count++] = backend;
    }
    return count;
}

/* ---- Operands ---- */

/* Knuth's linear congruential generator (MMIX). */
static float random_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

static size_t bytes_of(npt_dtype dtype, int64_t elements)
{
    return ((size_t)elements * (size_t)npt_dtype_bits(dtype) + 7) / 8;
}

void npt_meter_fill(void *to, npt_dtype dtype, size_t bytes, uint64_t seed)
{
    char *data = to;
    const size_t pattern = bytes_of(dtype, PATTERN);
    const size_t some = bytes < pattern ? bytes : pattern;
    if (dtype == NPT_NF4)
        for (size_t i = 0; i < some; i++) {
            random_value(&seed);
            data[i] = (char)(seed >> 40);
        }
    else
        for (size_t i = 0; i < some / npt_dtype_bytes(dtype); i++)
            npt_store(data, dtype, i, random_value(&seed));
    for (size_t at = some; at < bytes; at += some)
        memcpy(data + at, data, bytes - at < some ? bytes - at : some);
}

/* A block of at least `bytes`, in huge pages as those of a mapped file are; NULL on failure. What
 * was there is lost. */
static char *grow(char *block, size_t *held, size_t bytes)
{
    enum { PAGE = NPT_HUGE_PAGE };
    if (bytes <= *held) return block;
    free(block);
    *held = 0;
    if (bytes > SIZE_MAX - PAGE) return NULL;
    block = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    if (block == NULL) return NULL;
    *held = bytes;
    npt_memory_walk(block, bytes);
    return block;
}

static npt_meter_pool *pool_of(npt_meter *m, npt_dtype dtype)
{
    return &m->pools[dtype == NPT_F32];
}

static npt_status prepare_pool(npt_meter *m, const npt_matmul_desc *d)
{
    npt_meter_pool *pool = pool_of(m, d->w);
    const size_t before = pool->bytes, weight_bytes = bytes_of(d->w, d->n * d->k);
    const size_t copies = m->pool_wanted / weight_bytes + 1;
    pool->data = grow(pool->data, &pool->bytes, copies * weight_bytes);
    if (pool->data == NULL) return NPT_E_NOMEM;
    if (pool->dtype != d->w || pool->bytes != before)
        npt_meter_fill(pool->data, d->w, pool->bytes, 1);
    pool->dtype = d->w;
    return NPT_OK;
}

static npt_status prepare_absmax(npt_meter *m, int64_t blocks)
{
    uint64_t seed = 2;
    if (blocks <= m->absmax_count) return NPT_OK;
    free(m->absmax);
    m->absmax_count = 0;
    m->absmax = malloc((size_t)blocks * sizeof *m->absmax);
    if (m->absmax == NULL) return NPT_E_NOMEM;
    for (int64_t i = 0; i < blocks; i++) m->absmax[i] = fabsf(random_value(&seed)) + 0x1p-10f;
    m->absmax_count = blocks;
    return NPT_OK;
}

static npt_status prepare(npt_meter *m, const npt_meter_side *sides, size_t count)
{
    const npt_matmul_desc *d = &sides[0].desc;
    const size_t a_bytes = bytes_of(d->a, d->m * d->k), c_bytes = bytes_of(d->c, d->m * d->n);
    npt_status status = prepare_absmax(m, (d->n * d->k + 63) / NPT_NF4_BLOCK);
    for (size_t i = 0; i < count && status == NPT_OK; i++) status = prepare_pool(m, &sides[i].desc);
    m->a = grow(m->a, &m->a_bytes, a_bytes);
    m->c = grow(m->c, &m->c_bytes, c_bytes);
    if (status != NPT_OK || m->a == NULL || m->c == NULL)
        return npt_fail(NPT_E_NOMEM, "no memory for a product of %lld x %lld x %lld",
                        (long long)d->m, (long long)d->n, (long long)d->k);
    npt_meter_fill(m->a, d->a, a_bytes, 3);
    memset(m->c, 0, c_bytes);
    return NPT_OK;
}

void npt_meter_init(npt_meter *m, size_t pool_bytes)
{
    *m = (npt_meter){.pool_wanted = pool_bytes};
}

void npt_meter_fini(npt_meter *m)
{
    free(m->pools[0].data);
    free(m->pools[1].data);
    free(m->a);
    free(m->c);
    free(m->absmax);
    *m = (npt_meter){0};
}

/* ---- Turns ---- */

typedef struct turn {
    npt_meter *meter;
    const npt_meter_side *side, *follower; /* follower: NULL, or who multiplies next */
    double seconds;                        /* of the turn */
    double *samples;
    int count, round; /* round: which weights come next */
} turn;

static npt_status run_once(turn *t, const npt_meter_side *by, double *seconds)
{
    npt_meter *m = t->meter;
    const npt_matmul_desc *d = &by->desc;
    const npt_meter_pool *pool = pool_of(m, d->w);
    const size_t weight_bytes = bytes_of(d->w, d->n * d->k);
    const size_t copies = pool->bytes / weight_bytes;
    const npt_matmul_args args = {.a = m->a,
                                  .w = pool->data + (size_t)t->round++ % copies * weight_bytes,
                                  .absmax = m->absmax,
                                  .levels = npt_nf4_levels,
                                  .c = m->c};
    const double begun = npt_meter_now(by->exec);
    NPT_TRY(npt_matmul_by(by->exec, by->backend, d, &args));
    *seconds = npt_meter_now(by->exec) - begun;
    return NPT_OK;
}

/* By the turn's side and, where there is one, by its follower. */
static npt_status run_counted(turn *t, double *seconds)
{
    double more = 0;
    NPT_TRY(run_once(t, t->side, seconds));
    if (t->follower != NULL) NPT_TRY(run_once(t, t->follower, &more));
    *seconds += more;
    return NPT_OK;
}

/* At least once, and until the time is over. */
static npt_status take_turn(turn *t)
{
    const double warm_up = fmin(longest_warm_up, t->seconds);
    double begun = npt_seconds_now(), ignored;
    do NPT_TRY(run_counted(t, &ignored));
    while (npt_seconds_now() - begun < warm_up);
    begun = npt_seconds_now();
    do NPT_TRY(run_counted(t, &t->samples[t->count++]));
    while (npt_seconds_now() - begun < t->seconds && t->count % MAX_RUNS != 0);
    return NPT_OK;
}

npt_status npt_meter_run(npt_meter *m, const npt_meter_side *sides, size_t count, double seconds,
                         npt_timing *timings)
{
    double *samples = npt_alloc(count * TURNS * MAX_RUNS, sizeof *samples);
    int runs[NPT_METER_SIDES] = {0};
    NPT_ASSERT(count <= NPT_METER_SIDES);
    npt_status status = samples != NULL ? prepare(m, sides, count) : NPT_E_NOMEM;
    for (int i = 0; i < TURNS && status == NPT_OK; i++)
        for (size_t s = 0; s < count && status == NPT_OK; s++) {
            turn t = {.meter = m,
                      .side = &sides[s],
                      .seconds = seconds / TURNS,
                      .samples = samples + s * TURNS * MAX_RUNS,
                      .count = runs[s],
                      .round = i};
            status = take_turn(&t);
            runs[s] = t.count;
        }
    for (size_t s = 0; s < count && status == NPT_OK; s++)
        timings[s] = npt_timing_of(samples + s * TURNS * MAX_RUNS, runs[s]);
    npt_free(samples);
    return status;
}

npt_status npt_meter_turn(npt_meter *m, const npt_meter_side *side, double seconds,
                          npt_timing *timing)
{
    double samples[MAX_RUNS];
    turn t = {.meter = m, .side = side, .seconds = seconds, .samples = samples};
    NPT_TRY(prepare(m, side, 1));
    NPT_TRY(take_turn(&t));
    *timing = npt_timing_of(samples, t.count);
    return NPT_OK;
}

npt_status npt_meter_pair(npt_meter *m, const npt_meter_side sides[2], double seconds,
                          npt_pair_timing *timing)
{
    enum { FIRST, SECOND, BOTH, WAYS };
    double samples[WAYS][TURNS * MAX_RUNS];
    turn turns[WAYS] = {[FIRST] = {.side = &sides[0]},
                        [SECOND] = {.side = &sides[1]},
                        [BOTH] = {.side = &sides[0], .follower = &sides[1]}};
    for (int i = 0; i < 2; i++) NPT_TRY(prepare(m, &sides[i], 1));
    for (int i = 0; i < TURNS * WAYS; i++) {
        turn *t = &turns[i % WAYS];
        t->meter = m;
        t->samples = samples[i % WAYS];
        t->seconds = seconds / TURNS;
        NPT_TRY(take_turn(t));
    }
    timing->first = npt_timing_of(samples[FIRST], turns[FIRST].count);
    timing->second = npt_timing_of(samples[SECOND], turns[SECOND].count);
    timing->both = npt_timing_of(samples[BOTH], turns[BOTH].count);
    return NPT_OK;
}
