/* SPDX-License-Identifier: BSD-2-Clause */
/* Prints the rate of every kernel at every level that this CPU has: GB/s of the bytes it must read
 * and write, GFLOP/s for attention (causal pairs only).
 *
 *     bench_kernels [threads [kernel]]        default: 1 thread, all kernels
 *
 * A figure is the best of several repetitions within a tenth of a second: of the time on the clock,
 * with one thread of the time on the CPU, which other programs disturb less. */
#include "config.h"

#include "tensor/exec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 512, WIDTH = 14336, HIDDEN = 4096, N = ROWS * WIDTH };
enum { TOKENS = 1024, HEADS = 16, KV_HEADS = 4 };

static npt_run run;
static const npt_kernels *table;
static npt_dtype half;
static int64_t head_dim;
static float *a, *b, *c, *d; /* N floats each, or as many halves */
static double *sums;
static int32_t ids[ROWS];
static int64_t offsets[2] = {0, TOKENS};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(npt_threads_count(run.threads) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC,
                  &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static npt_in in(const void *data)
{
    return (npt_in){data, half};
}

static npt_out out(void *data)
{
    return (npt_out){data, half};
}

static void do_cast_down(void)
{
    table->cast(&run, N, (npt_in){a, NPT_F32}, (npt_out){c, half == NPT_F32 ? NPT_BF16 : half},
                NULL);
}

static void do_cast_up(void)
{
    table->cast(&run, N, (npt_in){a, half == NPT_F32 ? NPT_BF16 : half}, (npt_out){c, NPT_F32},
                NULL);
}

static void do_add(void)
{
    table->add(&run, N, in(a), in(b), out(c));
}

static void do_norm(void)
{
    npt_norm_args args = {N / HIDDEN, HIDDEN, 1e-5f, in(a), in(b), out(c)};
    table->norm(&run, &args);
}

static void do_norm_backward(void)
{
    npt_norm_backward_args args = {N / HIDDEN, HIDDEN, 1e-5f, in(a), in(b), in(b), in(c), out(c)};
    table->norm_backward(&run, &args);
}

static void do_rope(void)
{
    npt_rope_args args = {ROWS, HIDDEN / 128, 128, ids, b, b + ROWS * 64, false, in(a), out(c)};
    table->rope(&run, &args);
}

static void do_modulate(void)
{
    npt_modulate_args args = {ROWS, WIDTH, 0.1f, in(a), in(b), in(c), out(d)};
    table->modulate(&run, &args);
}

static void do_modulate_backward(void)
{
    npt_modulate_backward_args args = {ROWS,  WIDTH, 0.1f,   0.0f,   in(d), in(a),
                                       in(b), in(c), out(d), out(b), out(c)};
    table->modulate_backward(&run, &args);
}

static void do_swiglu(void)
{
    npt_swiglu_args args = {ROWS, WIDTH, in(a), in(b), out(c)};
    table->swiglu(&run, &args);
}

static void do_swiglu_backward(void)
{
    npt_swiglu_backward_args args = {ROWS, WIDTH, in(c), in(a), in(b), out(c), out(d)};
    table->swiglu_backward(&run, &args);
}

static void do_distance(void)
{
    npt_distance_args args = {N / HIDDEN, HIDDEN, true, in(a), in(b), sums};
    table->distance(&run, &args);
}

static void do_distance_backward(void)
{
    npt_distance_backward_args args = {N / HIDDEN, HIDDEN, true,         1.0f,
                                       in(a),      in(b),  {NULL, half}, out(c)};
    table->distance_backward(&run, &args);
}

static void do_sum_squares(void)
{
    table->sum_squares(&run, N, in(a));
}

static void do_survey(void)
{
    npt_survey found;
    table->survey(&run, N, in(a), 1e-3f, &found);
}

static void do_adam(void)
{
    npt_adam_args args = {.n = N,
                          .step = 10,
                          .decoupled = true,
                          .learning_rate = 1e-9,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .weight_decay = 0.01,
                          .grad_factor = 1.0,
                          .weight = a,
                          .moment1 = c,
                          .moment2 = d,
                          .grad = b};
    table->adam(&run, &args);
}

static void do_attention(void)
{
    npt_attention_args args = {
        1,     HEADS, KV_HEADS, head_dim,     0, offsets, 1.0f / sqrtf((float)head_dim), in(a),
        in(b), in(d), out(c),   (float *)sums};
    table->attention(&run, &args);
}

static void do_attention_backward(void)
{
    npt_attention_backward_args args = {1,
                                        HEADS,
                                        KV_HEADS,
                                        head_dim,
                                        0,
                                        offsets,
                                        1.0f / sqrtf((float)head_dim),
                                        in(a),
                                        in(b),
                                        in(d),
                                        in(c),
                                        in(a),
                                        (float *)sums,
                                        out(c + N / 2),
                                        out(b + N / 2),
                                        out(d + N / 2)};
    table->attention_backward(&run, &args);
}

/* Work of a call: `narrow` values of the dtype, `wide` of F32, per element of N; or FLOP per pair.
 */
typedef struct entry {
    const char *name;
    void (*call)(void);
    double narrow, wide, share; /* share of N that is worked on */
    double flop;                /* × head_dim × pairs × heads */
    bool f32_only;
} entry;

static const entry entries[] = {
    {"cast to half", do_cast_down, 1, 1, 1, 0, false},
    {"cast from half", do_cast_up, 1, 1, 1, 0, false},
    {"add", do_add, 3, 0, 1, 0, false},
    {"norm", do_norm, 2, 0, 1, 0, false},
    {"norm_backward", do_norm_backward, 4, 0, 1, 0, false},
    {"rope", do_rope, 2, 0, (double)HIDDEN / WIDTH, 0, false},
    {"modulate", do_modulate, 4, 0, 1, 0, false},
    {"modulate_backward", do_modulate_backward, 7, 0, 1, 0, false},
    {"swiglu", do_swiglu, 3, 0, 1, 0, false},
    {"swiglu_backward", do_swiglu_backward, 5, 0, 1, 0, false},
    {"distance", do_distance, 2, 0, 1, 0, false},
    {"distance_backward", do_distance_backward, 3, 0, 1, 0, false},
    {"sum_squares", do_sum_squares, 1, 0, 1, 0, false},
    {"survey", do_survey, 1, 0, 1, 0, false},
    {"adam", do_adam, 0, 7, 1, 0, true},
    {"attention", do_attention, 0, 0, 0, 4, false},
    {"attention_backward", do_attention_backward, 0, 0, 0, 10, false},
};

static double best_time(void (*call)(void))
{
    double best = 1e9, start = seconds();
    do {
        double before = seconds();
        call();
        double took = seconds() - before;
        if (took < best) best = took;
    } while (seconds() - start < 0.1);
    return best;
}

static void report(const entry *e)
{
    if (e->f32_only && half != NPT_F32) return;
    if (e->flop > 0) {
        for (head_dim = 64; head_dim <= 128; head_dim *= 2) {
            double pairs = 0.5 * TOKENS * (TOKENS + 1) * HEADS;
            double rate = e->flop * (double)head_dim * pairs / best_time(e->call) * 1e-9;
            printf("%-20s %-10s %-5s dim %-4d %8.1f GFLOP/s\n", e->name, table->name,
                   npt_dtype_name(half), (int)head_dim, rate);
        }
        return;
    }
    bool cast = e->narrow == 1 && e->wide == 1;
    double bytes = e->narrow * (cast && half == NPT_F32 ? 2.0 : (double)npt_dtype_bytes(half));
    bytes = (bytes + 4.0 * e->wide) * e->share * N;
    printf("%-20s %-10s %-5s          %8.1f GB/s\n", e->name, table->name, npt_dtype_name(half),
           bytes / best_time(e->call) * 1e-9);
}

static void fill(void)
{
    for (int64_t i = 0; i < N; i++) {
        float x = sinf((float)(i % 100003));
        npt_store(a, half, (size_t)i, x);
        npt_store(b, half, (size_t)i, 0.5f * x + 0.25f);
        npt_store(c, half, (size_t)i, x * x);
        npt_store(d, half, (size_t)i, x * x);
    }
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    npt_cpu cpu;
    if (npt_cpu_detect(&cpu) != NPT_OK) return 2;
    run.threads = npt_threads_create(threads);
    a = aligned_alloc(64, sizeof(float) * N);
    b = aligned_alloc(64, sizeof(float) * N);
    c = aligned_alloc(64, sizeof(float) * N);
    d = aligned_alloc(64, sizeof(float) * N);
    sums = aligned_alloc(64, sizeof(double) * N / HIDDEN * 16);
    for (int i = 0; i < ROWS; i++) ids[i] = i;
    printf("%s, %d thread%s\n", cpu.brand, threads, threads == 1 ? "" : "s");
    npt_cpu_level top = cpu.level;
    for (int level = (int)top; level >= 0; level--) {
        npt_kernels kernels;
        cpu.level = (npt_cpu_level)level;
        npt_cpu_kernels(&cpu, &kernels);
        table = &kernels;
        size_t bytes = kernels.scratch_bytes(TOKENS, 128, HIDDEN);
        run.scratch_stride = (bytes + 63) / 64 * 64;
        run.scratch = aligned_alloc(64, run.scratch_stride * (size_t)threads);
        const npt_dtype dtypes[] = {NPT_F32, NPT_F16, NPT_BF16};
        for (int t = 0; t < 3; t++) {
            half = dtypes[t];
            for (size_t e = 0; e < sizeof entries / sizeof entries[0]; e++) {
                if (argc > 2 && strstr(entries[e].name, argv[2]) == NULL) continue;
                fill();
                report(&entries[e]);
            }
        }
        free(run.scratch);
    }
    npt_threads_destroy(run.threads);
    free(a);
    free(b);
    free(c);
    free(d);
    free(sums);
    return 0;
}
