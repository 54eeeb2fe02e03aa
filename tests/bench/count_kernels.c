/* SPDX-License-Identifier: BSD-2-Clause */
/* Every hot kernel once on small fixed operands, each in a function of its own, so that callgrind
 * can tell how many instructions it takes (instructions.sh). Prints the level it runs at: that of
 * NPT_CPU_MAX, or less where the CPU, or valgrind, has less. */
#include "config.h"

#include <math.h>
#include <stdio.h>

#include "tensor/exec.h"
#include "tensor/nf4.h"

enum {
    TOKENS = 32,
    RANK = 16,
    WIDTH = 256,
    HEADS = 4,
    HEAD_DIM = 64,
    N = TOKENS * WIDTH,
    OUTPUTS = 192, /* of a matmul */
    INPUTS = 320,
    FEW = 1,
    MANY = 48
};

static npt_exec *exec;
static const npt_kernels *table;
static const npt_run *run;
static _Alignas(64) float a[N], b[N], c[N], d[N], e[N], f[N], g[N], lse[TOKENS * HEADS];
static _Alignas(64) float weights[OUTPUTS * INPUTS], absmax[OUTPUTS * INPUTS / NPT_NF4_BLOCK];
static _Alignas(64) float activations[MANY * INPUTS], results[MANY * INPUTS];
static int32_t positions[TOKENS];
static double sums[TOKENS];
static const int64_t offsets[] = {0, TOKENS};

static npt_in in(const float *data)
{
    return (npt_in){data, NPT_F16};
}

static npt_out out(float *data)
{
    return (npt_out){data, NPT_F16};
}

/* Global and never inlined: callgrind knows them by name. */
#define COUNTED(name)                                                                              \
    void count_##name(void);                                                                       \
    __attribute__((noinline)) void count_##name(void)

/* ---- Kernels, on F16 ---- */

COUNTED(norm)
{
    const npt_norm_args args = {TOKENS, WIDTH, 1e-5f, in(a), in(b), out(c)};
    table->norm(run, &args);
}

COUNTED(norm_backward)
{
    const npt_norm_backward_args args = {TOKENS, WIDTH, 1e-5f, in(a), in(b), in(b), in(c), out(d)};
    table->norm_backward(run, &args);
}

COUNTED(rope)
{
    const npt_rope_args args = {TOKENS, HEADS, HEAD_DIM, positions, e, f, false, in(a), out(c)};
    table->rope(run, &args);
}

COUNTED(turn)
{
    table->turn(run, WIDTH, RANK, in(a), e);
}

/* Both terms from z. */
COUNTED(gate)
{
    const npt_gate_term term = {.dtype = in(b).dtype, .rank = RANK, .x = in(b), .w = e};
    const npt_gate_args args = {.rows = TOKENS,
                                .width = WIDTH,
                                .strength = 0.1f,
                                .gate = in(a),
                                .up = in(b),
                                .add = term,
                                .u = term,
                                .dst = out(d),
                                .squares = sums};
    table->gate(run, &args);
}

COUNTED(gate_backward)
{
    const npt_gate_term term = {.dtype = in(b).dtype, .rank = RANK, .x = in(b), .w = e};
    const npt_gate_backward_args args = {.rows = TOKENS,
                                         .width = WIDTH,
                                         .strength = 0.1f,
                                         .dy = in(c),
                                         .gate = in(a),
                                         .up = in(b),
                                         .add = term,
                                         .u = term,
                                         .dgate = out(d),
                                         .dup = out(f),
                                         .dadd = out(g),
                                         .du = out(g)};
    table->gate_backward(run, &args);
}

COUNTED(distance)
{
    const npt_distance_args args = {TOKENS, WIDTH, true, in(a), in(b), sums};
    table->distance(run, &args);
}

COUNTED(attention)
{
    const npt_attention_args args = {1,      HEADS, HEADS, HEAD_DIM, 0,      offsets,
                                     0.125f, in(a), in(b), in(c),    out(d), lse};
    table->attention(run, &args);
}

COUNTED(attention_backward)
{
    const npt_attention_backward_args args = {1,      HEADS,  HEADS,  HEAD_DIM, 0,     offsets,
                                              0.125f, in(a),  in(b),  in(c),    in(d), in(a),
                                              lse,    out(e), out(f), out(g)};
    table->attention_backward(run, &args);
}

COUNTED(adam)
{
    const npt_adam_args args = {.n = N,
                                .step = 10,
                                .decoupled = true,
                                .learning_rate = 1e-9,
                                .beta1 = 0.9,
                                .beta2 = 0.999,
                                .epsilon = 1e-8,
                                .grad_factor = 1,
                                .weight = e,
                                .moment1 = f,
                                .moment2 = g,
                                .grad = b};
    table->adam(run, &args);
}

/* ---- Matmuls ---- */

static void multiply(npt_dtype x, npt_dtype w, int64_t tokens, bool forward)
{
    const npt_matmul_desc desc = {.m = tokens,
                                  .n = forward ? OUTPUTS : INPUTS,
                                  .k = forward ? INPUTS : OUTPUTS,
                                  .trans_w = forward,
                                  .a = x,
                                  .w = w,
                                  .c = x};
    const npt_matmul_args args = {
        .a = activations, .w = weights, .absmax = absmax, .levels = npt_nf4_levels, .c = results};
    if (npt_matmul(exec, &desc, &args) != NPT_OK) fprintf(stderr, "%s\n", npt_error_message());
}

#define COUNTED_MATMUL(name, x, w)                                                                 \
    COUNTED(name##_few)                                                                            \
    {                                                                                              \
        multiply(x, w, FEW, true);                                                                 \
    }                                                                                              \
    COUNTED(name##_many)                                                                           \
    {                                                                                              \
        multiply(x, w, MANY, true);                                                                \
    }                                                                                              \
    COUNTED(name##_dx)                                                                             \
    {                                                                                              \
        multiply(x, w, MANY, false);                                                               \
    }

COUNTED_MATMUL(f32, NPT_F32, NPT_F32)
COUNTED_MATMUL(f16, NPT_F16, NPT_F16)
COUNTED_MATMUL(bf16, NPT_BF16, NPT_BF16)
COUNTED_MATMUL(nf4, NPT_F32, NPT_NF4)

static void (*const all[])(void) = {
    count_norm,     count_norm_backward, count_rope,
    count_turn,     count_gate,          count_gate_backward,
    count_distance, count_attention,     count_attention_backward,
    count_adam,     count_f32_few,       count_f32_many,
    count_f32_dx,   count_f16_few,       count_f16_many,
    count_f16_dx,   count_bf16_few,      count_bf16_many,
    count_bf16_dx,  count_nf4_few,       count_nf4_many,
    count_nf4_dx,
};

/* ---- Operands ---- */

/* Numbers between 1 and 2 in F16 and, taken in pairs, in F32. */
static void fill(float *data, int64_t count)
{
    for (int64_t i = 0; i < 2 * count; i++)
        npt_store(data, NPT_F16, (size_t)i, 1 + (float)(i % 97) / 128);
}

int main(void)
{
    float *const blocks[] = {a, b, c, d, e, f, g};
    if (npt_exec_create(&exec, "native,reference", 1) != NPT_OK &&
        npt_exec_create(&exec, "reference", 1) != NPT_OK)
        return 1;
    if (npt_exec_reserve(exec, TOKENS, HEAD_DIM, WIDTH) != NPT_OK) return 1;
    table = npt_exec_kernels(exec);
    run = npt_exec_run(exec);
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) fill(blocks[i], N);
    fill(weights, OUTPUTS * INPUTS);
    fill(activations, MANY * INPUTS);
    fill(absmax, OUTPUTS * INPUTS / NPT_NF4_BLOCK);
    for (int i = 0; i < TOKENS; i++) positions[i] = i;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) all[i]();
    printf("%s\n", npt_cpu_level_name(npt_exec_cpu(exec)->level));
    npt_exec_destroy(exec);
    return 0;
}
