/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kernel tests share: the levels this CPU has, pools of several sizes, guarded buffers,
 * reproducible data, comparison with F64 twins. */
#ifndef NPT_TESTS_KERN_H
#define NPT_TESTS_KERN_H

#include "config.h"

#include "tensor/exec.h"
#include "tensor/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../npt_test.h"

#define LEVELS  4 /* of the table, and attention by AMX */
#define POOLS   2
#define GUARD   64
#define MAX_OUT 6

static const int pool_sizes[POOLS] = {1, 3};
static const npt_dtype float_dtypes[3] = {NPT_F32, NPT_F16, NPT_BF16};

typedef struct lab {
    int levels;
    bool tiles; /* the last level is attention by AMX */
    npt_kernels kernels[LEVELS];
    npt_run run[POOLS];
} lab;

static lab the_lab;

/* The levels this CPU has; where it has AMX and `tiles`, the last level's table once more with it,
 * which differs in attention only. */
static inline void lab_levels(bool tiles)
{
    npt_cpu cpu;
    if (npt_cpu_detect(&cpu) != NPT_OK) exit(2);
    const npt_cpu_level top = cpu.level;
    const unsigned features = cpu.features;
    cpu.features &= ~(unsigned)NPT_CPU_AMX_BF16;
    the_lab.levels = 0;
    for (int level = 0; level <= (int)top; level++) {
        cpu.level = (npt_cpu_level)level;
        npt_cpu_kernels(&cpu, &the_lab.kernels[the_lab.levels]);
        const char *name = the_lab.kernels[the_lab.levels].name;
        bool known =
            the_lab.levels > 0 && strcmp(name, the_lab.kernels[the_lab.levels - 1].name) == 0;
        if (!known) the_lab.levels++; /* a level that was not compiled repeats the one below */
    }
    cpu.features = features;
    npt_kernels *last = &the_lab.kernels[the_lab.levels];
    npt_cpu_kernels(&cpu, last);
    the_lab.tiles = tiles && last->attention != last[-1].attention;
    the_lab.levels += the_lab.tiles;
}

static inline void lab_pools(int64_t longest, int64_t head_dim)
{
    size_t bytes = 0;
    for (int level = 0; level < the_lab.levels; level++)
        for (int64_t dim = 1; dim <= head_dim; dim++) {
            const size_t needed = the_lab.kernels[level].scratch_bytes(longest, dim, 1);
            if (needed > bytes) bytes = needed;
        }
    for (int p = 0; p < POOLS; p++) {
        npt_run *run = &the_lab.run[p];
        run->threads = npt_threads_create(pool_sizes[p]);
        run->scratch_stride = (bytes + 63) / 64 * 64;
        run->scratch = aligned_alloc(64, run->scratch_stride * (size_t)pool_sizes[p]);
        if (run->threads == NULL || run->scratch == NULL) exit(2);
        memset(run->scratch, 0xff, run->scratch_stride * (size_t)pool_sizes[p]); /* NaN */
    }
}

static inline void lab_open(int64_t longest, int64_t head_dim)
{
    lab_levels(false);
    lab_pools(longest, head_dim);
}

static inline void lab_close(void)
{
    for (int p = 0; p < POOLS; p++) {
        npt_threads_destroy(the_lab.run[p].threads);
        free(the_lab.run[p].scratch);
    }
}

/* ---- Data ------------------------------------------------------------------------------------ */

static uint64_t lab_seed = 1;

static inline uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = (lab_seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Roughly normal: twelve uniforms would do; four are enough here. */
static inline double draw(void)
{
    double sum = 0.0;
    for (int i = 0; i < 4; i++) sum += (double)(next_random() >> 11) * 0x1p-53;
    return (sum - 2.0) * 1.7320508;
}

/* ---- Buffers with guard words ---------------------------------------------------------------- */

typedef struct buffer {
    npt_dtype dtype;
    int64_t n;
    size_t bytes;
    unsigned char *raw;
    void *data;
} buffer;

static inline buffer buffer_bytes(size_t bytes)
{
    buffer b = {.bytes = bytes, .raw = malloc(bytes + 2 * GUARD)};
    if (b.raw == NULL) exit(2);
    memset(b.raw, 0xa5, bytes + 2 * GUARD);
    b.data = b.raw + GUARD;
    return b;
}

static inline buffer buffer_new(npt_dtype dtype, int64_t n)
{
    buffer b = buffer_bytes((size_t)n * npt_dtype_bytes(dtype));
    b.dtype = dtype;
    b.n = n;
    return b;
}

static inline buffer buffer_random(npt_dtype dtype, int64_t n, double scale)
{
    buffer b = buffer_new(dtype, n);
    for (int64_t i = 0; i < n; i++) npt_store(b.data, dtype, (size_t)i, (float)(draw() * scale));
    return b;
}

static inline buffer buffer_copy(const buffer *from)
{
    buffer b = buffer_bytes(from->bytes);
    b.dtype = from->dtype;
    b.n = from->n;
    memcpy(b.data, from->data, from->bytes);
    return b;
}

static inline void buffer_free(buffer *b)
{
    free(b->raw);
    *b = (buffer){0};
}

static inline npt_in in_of(const buffer *b)
{
    return (npt_in){b->data, b->dtype};
}

static inline npt_out out_of(const buffer *b)
{
    return (npt_out){b->data, b->dtype};
}

static inline double at(const buffer *b, int64_t i)
{
    return (double)npt_load(b->data, b->dtype, (size_t)i);
}

static inline void check_guards(const buffer *b, const char *what)
{
    for (int i = 0; i < GUARD; i++)
        if (b->raw[i] != 0xa5 || b->raw[GUARD + b->bytes + (size_t)i] != 0xa5)
            fail_msg("%s: wrote outside its buffer", what);
}

/* ---- Comparison ------------------------------------------------------------------------------ */

/* Half an ulp of each dtype, relative. */
static inline double unit(npt_dtype dtype)
{
    return dtype == NPT_F32 ? 0x1p-24 : dtype == NPT_F16 ? 0x1p-11 : 0x1p-8;
}

static inline double smallest(npt_dtype dtype)
{
    return dtype == NPT_F16 ? 0x1p-24 : 1e-37;
}

/* |got − want| ≤ roundings·unit·|want| + 4e-6·scale, scale = the size of what was summed. */
static inline void check_value(const char *what, const buffer *b, int64_t i, double want,
                               double scale, double roundings)
{
    double got = at(b, i);
    double allowed =
        1.01 * roundings * unit(b->dtype) * fabs(want) + 4e-6 * scale + smallest(b->dtype);
    if (!(fabs(got - want) <= allowed))
        fail_msg("%s: element %lld of %lld (%s) is %.9g, not %.9g; allowed %.3g", what,
                 (long long)i, (long long)b->n, npt_dtype_name(b->dtype), got, want, allowed);
}

/* ---- One computation at every level and pool size -------------------------------------------- */

/* Fills `out` (fresh buffers, returned to and freed by the caller) and returns how many. */
typedef int computation(const npt_kernels *kernels, const npt_run *run, void *context, buffer *out);

/* Runs everywhere; the same bits everywhere unless `loose` (then only over pool sizes). The outputs
 * of the topmost level stay in `out` for the comparison with the twin. */
static inline int run_everywhere(const char *what, computation *compute, void *context, buffer *out,
                                 bool loose)
{
    buffer first[MAX_OUT] = {{0}};
    int count = 0;
    for (int level = 0; level < the_lab.levels; level++) {
        for (int p = 0; p < POOLS; p++) {
            buffer now[MAX_OUT] = {{0}};
            count = compute(&the_lab.kernels[level], &the_lab.run[p], context, now);
            bool fresh = (level == 0 || loose) && p == 0;
            for (int i = 0; i < count; i++) {
                check_guards(&now[i], what);
                if (!fresh && memcmp(now[i].data, first[i].data, now[i].bytes) != 0)
                    fail_msg("%s: output %d differs at level %s with %d threads", what, i,
                             the_lab.kernels[level].name, pool_sizes[p]);
                if (fresh) {
                    buffer_free(&first[i]);
                    first[i] = now[i];
                } else {
                    buffer_free(&now[i]);
                }
            }
        }
    }
    memcpy(out, first, sizeof first);
    return count;
}

static inline void free_all(buffer *list, int count)
{
    for (int i = 0; i < count; i++) buffer_free(&list[i]);
}

#endif
