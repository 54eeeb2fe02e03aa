/* SPDX-License-Identifier: BSD-2-Clause */
/* GFLOP/s of every matmul backend, each against the others in one run, alternating, median of the
 * rounds. Weights rotate through copies that together exceed the caches; data are random. With one
 * thread the time is processor time, which other work on the machine disturbs less.
 *
 * "native fma" is native without bf16 pieces. A library that refuses weights of another dtype than
 * the F32 activations gets them as F32, expanded beforehand and uncounted ("*"). The last column is
 * native over the best library that computes in the same precision.
 *
 *     npt-bench-matmul [-t threads] [-r rounds] [-b backend,…] [-w dtype,…] [-m 1,16,…] [-s NxK,…]
 */
#include "config.h"

#include "tensor/exec.h"
#include "tensor/nf4.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_LIST = 16, MAX_ROUNDS = 99, COPIES_BYTES = 256 << 20 };

typedef struct npt_bench_options {
    int threads, rounds;
    const char *backends, *dtypes;
    int64_t tokens[MAX_LIST], n[MAX_LIST], k[MAX_LIST];
    int token_count, size_count;
} npt_bench_options;

/* A backend that takes part, under its name. */
typedef struct npt_bench_side {
    npt_exec *exec;
    char name[32];
    bool library;
} npt_bench_side;

enum { MAX_SIDES = NPT_MAX_BACKENDS + 1 };

typedef struct npt_bench_case {
    npt_matmul_desc desc;
    npt_matmul_args args;
    char *weights; /* copies, one after the other */
    size_t weight_bytes, blocks;
    int copies;
} npt_bench_case;

static const struct npt_bench_recipe {
    const char *name;
    npt_dtype a, w, c;
} recipes[] = {
    {"f32", NPT_F32, NPT_F32, NPT_F32},     {"f16", NPT_F16, NPT_F16, NPT_F16},
    {"bf16", NPT_BF16, NPT_BF16, NPT_BF16}, {"nf4", NPT_F32, NPT_NF4, NPT_F32},
    {"f32xf16", NPT_F32, NPT_F16, NPT_F32}, {"f32xbf16", NPT_F32, NPT_BF16, NPT_F32},
};
enum { FORWARD, DX, DW, MAX_RANK = 64 };
static const char *const directions[] = {"forward", "dX", "dW"};
enum { RECIPES = sizeof(recipes) / sizeof(recipes[0]) };

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float random_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

static void *random_matrix(npt_dtype dtype, int64_t elements, uint64_t seed)
{
    char *data = malloc((size_t)elements * 4 + 64);
    if (data == NULL) exit(1);
    if (dtype == NPT_NF4)
        for (int64_t i = 0; i < elements / 2; i++) {
            random_value(&seed);
            data[i] = (char)(seed >> 40);
        }
    else
        for (int64_t i = 0; i < elements; i++)
            npt_store(data, dtype, (size_t)i, random_value(&seed));
    return data;
}

static bool listed(const char *list, const char *word)
{
    const size_t length = strlen(word);
    if (list == NULL) return true;
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

static int compare_doubles(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Workers of OpenBLAS and OpenMP spin for tens of milliseconds after a product, and would share the
 * cores with the backend whose turn comes next: a turn begins with this much that is not counted.
 */
static const double warm_up = 0.08;
enum { TURNS = 3 }; /* of each backend, alternating; the rounds are dealt out to them */

/* Seconds of one product; the weights are another copy each time. */
static double one_run(npt_exec *exec, npt_bench_case *work, int round)
{
    npt_matmul_args args = work->args;
    args.w = work->weights + (size_t)(round % work->copies) * work->weight_bytes;
    const double start = now();
    if (npt_matmul(exec, &work->desc, &args) != NPT_OK) {
        fprintf(stderr, "%s\n", npt_error_message());
        exit(1);
    }
    return now() - start;
}

static void one_turn(npt_exec *exec, npt_bench_case *work, int rounds, double *seconds)
{
    int round = 0;
    for (const double start = now(); now() - start < warm_up;) one_run(exec, work, round++);
    for (int i = 0; i < rounds; i++) seconds[i] = one_run(exec, work, round++);
}

static bool refuses(npt_exec *exec, const npt_matmul_desc *desc)
{
    char reason[128];
    return npt_exec_backend(exec, 0)->refuse(desc, npt_exec_cpu(exec), reason) != NULL;
}

/* The case as this side computes it; NULL: not at all. */
static npt_bench_case *case_for(const npt_bench_side *side, npt_bench_case *work,
                                npt_bench_case *expanded)
{
    if (!refuses(side->exec, &work->desc)) return work;
    return expanded->weights != NULL && !refuses(side->exec, &expanded->desc) ? expanded : NULL;
}

/* `expanded`: the same with weights in F32; without weights where it is not wanted. */
static void measure(const npt_bench_side *sides, int count, npt_bench_case *work,
                    npt_bench_case *expanded, const npt_bench_options *options)
{
    static double seconds[MAX_SIDES][MAX_ROUNDS];
    const npt_matmul_desc *desc = &work->desc;
    const double flops = 2.0 * (double)desc->m * (double)desc->n * (double)desc->k;
    double native = 0, best = 0;
    for (int turn = 0; turn < TURNS; turn++)
        for (int e = 0; e < count; e++) {
            const int first = options->rounds * turn / TURNS;
            const int end = options->rounds * (turn + 1) / TURNS;
            npt_bench_case *mine = case_for(&sides[e], work, expanded);
            if (mine != NULL) one_turn(sides[e].exec, mine, end - first, seconds[e] + first);
        }
    for (int e = 0; e < count; e++) {
        const npt_bench_case *mine = case_for(&sides[e], work, expanded);
        if (mine == NULL) {
            printf(" %11s", "-");
            continue;
        }
        qsort(seconds[e], (size_t)options->rounds, sizeof(double), compare_doubles);
        const double rate = flops / seconds[e][options->rounds / 2] * 1e-9;
        printf(" %10.1f%s", rate, mine == work ? " " : "*");
        if (strcmp(sides[e].name, "native") == 0) native = rate;
        if (sides[e].library && rate > best) best = rate;
    }
    if (native > 0 && best > 0) printf(" %7.2f", native / best);
    printf("\n");
    fflush(stdout);
}

/* Weights are n × k as checkpoints store them. For dW they stand in for the activations. */
static npt_matmul_desc desc_of(const struct npt_bench_recipe *recipe, int direction, int64_t m,
                               int64_t n, int64_t k)
{
    npt_matmul_desc desc = {
        .m = m, .n = n, .k = k, .trans_w = true, .a = recipe->a, .w = recipe->w, .c = recipe->c};
    if (direction == DX) {
        desc.n = k;
        desc.k = n;
        desc.trans_w = false;
    } else if (direction == DW) {
        desc = (npt_matmul_desc){n, k, m, true, false, recipe->a, recipe->w, NPT_F32, true, false};
    }
    return desc;
}

/* Copies of random weights that together exceed the caches. */
static void fill_weights(npt_bench_case *work, npt_dtype dtype, int64_t elements)
{
    work->weight_bytes =
        dtype == NPT_NF4 ? (size_t)elements / 2 : (size_t)elements * npt_dtype_bytes(dtype);
    work->copies = (int)(COPIES_BYTES / work->weight_bytes) + 1;
    char *one = random_matrix(dtype, elements, 1);
    work->weights = malloc(work->weight_bytes * (size_t)work->copies);
    if (work->weights == NULL) exit(1);
    for (int i = 0; i < work->copies; i++)
        memcpy(work->weights + (size_t)i * work->weight_bytes, one, work->weight_bytes);
    free(one);
}

static void bench_recipe(const npt_bench_side *sides, int count,
                         const struct npt_bench_recipe *recipe, const npt_bench_options *options,
                         int size)
{
    const int64_t n = options->n[size], k = options->k[size];
    npt_bench_case work = {0}, expanded = {0};
    int64_t rows = n; /* as many as dW needs of activations, too */
    for (int t = 0; t < options->token_count; t++)
        if (options->tokens[t] > rows) rows = options->tokens[t];
    fill_weights(&work, recipe->w, rows * k);
    if (recipe->a == NPT_F32 && recipe->w != NPT_F32) fill_weights(&expanded, NPT_F32, rows * k);
    float *absmax = random_matrix(NPT_F32, rows * k / 64 + 1, 2);
    for (int d = FORWARD; d <= (n <= MAX_RANK || k <= MAX_RANK ? DW : DX); d++)
        for (int t = 0; t < options->token_count; t++) {
            const int64_t m = options->tokens[t];
            if (d == DW && recipe->w == NPT_NF4) continue;
            work.desc = expanded.desc = desc_of(recipe, d, m, n, k);
            expanded.desc.w = NPT_F32;
            void *a = random_matrix(recipe->a, m * (d == FORWARD ? k : n), 3);
            void *c = calloc((size_t)(work.desc.m * work.desc.n), 4);
            work.args =
                (npt_matmul_args){.a = a, .absmax = absmax, .levels = npt_nf4_levels, .c = c};
            expanded.args = work.args;
            printf("%-9s %6lld x %-6lld %-7s M=%-5lld", recipe->name, (long long)n, (long long)k,
                   directions[d], (long long)m);
            measure(sides, count, &work, &expanded, options);
            free(a);
            free(c);
        }
    free(absmax);
    free(work.weights);
    free(expanded.weights);
}

static int parse_numbers(const char *text, int64_t *first, int64_t *second)
{
    int count = 0;
    for (char *at = (char *)(uintptr_t)text; *at != '\0' && count < MAX_LIST; count++) {
        first[count] = strtoll(at, &at, 10);
        if (second != NULL && *at == 'x') second[count] = strtoll(at + 1, &at, 10);
        if (*at == ',') at++;
    }
    return count;
}

static void parse(npt_bench_options *options, int argc, char **argv)
{
    *options = (npt_bench_options){.threads = 0, .rounds = 7};
    options->token_count = parse_numbers("1,16,128,512", options->tokens, NULL);
    options->size_count = parse_numbers("4096x4096,2816x1024", options->n, options->k);
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        switch (argv[i][1]) {
        case 't': options->threads = atoi(value); break;
        case 'r': options->rounds = atoi(value); break;
        case 'b': options->backends = value; break;
        case 'w': options->dtypes = value; break;
        case 'm': options->token_count = parse_numbers(value, options->tokens, NULL); break;
        case 's': options->size_count = parse_numbers(value, options->n, options->k); break;
        default: fprintf(stderr, "unknown option %s\n", argv[i]); exit(2);
        }
    }
    if (options->rounds < 1 || options->rounds > MAX_ROUNDS) exit(2);
}

static void add_side(npt_bench_side *sides, int *count, const char *backend, const char *name,
                     int threads)
{
    npt_bench_side *side = &sides[(*count)++];
    if (npt_exec_create(&side->exec, backend, threads) != NPT_OK) exit(1);
    snprintf(side->name, sizeof(side->name), "%s", name);
    side->library = strcmp(backend, "native") != 0 && strcmp(backend, "reference") != 0;
    npt_exec_set_precision(side->exec,
                           strcmp(name, backend) == 0 ? NPT_MATMUL_AUTO : NPT_MATMUL_FMA);
    printf(" %11s", name);
}

static int add_sides(npt_bench_side *sides, const npt_cpu *cpu, const npt_bench_options *options)
{
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    const size_t all = npt_cpu_backends(cpu, list);
    int count = 0;
    for (size_t i = 0; i < all; i++) {
        const char *name = list[i]->name;
        const bool native = strcmp(name, "native") == 0, pieces = cpu->features & NPT_CPU_AMX_BF16;
        if (options->backends == NULL ? list[i] != &npt_matmul_reference
                                      : listed(options->backends, name))
            add_side(sides, &count, name, name, options->threads);
        if (native && pieces &&
            (options->backends == NULL || listed(options->backends, "native_fma")))
            add_side(sides, &count, name, "native fma", options->threads);
    }
    return count;
}

int main(int argc, char **argv)
{
    npt_bench_options options;
    npt_cpu cpu;
    npt_bench_side sides[MAX_SIDES];
    parse(&options, argc, argv);
    if (options.threads == 1) bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    if (npt_cpu_detect(&cpu) != NPT_OK) return 1;
    printf("GFLOP/s, median of %d; %s, level %s\n%43s", options.rounds, cpu.brand,
           npt_cpu_level_name(cpu.level), "");
    const int count = add_sides(sides, &cpu, &options);
    if (count == 0) return 2;
    printf("   ratio (%d threads)\n", npt_exec_threads(sides[0].exec));
    for (int r = 0; r < RECIPES; r++)
        for (int s = 0; s < options.size_count && listed(options.dtypes, recipes[r].name); s++)
            bench_recipe(sides, count, &recipes[r], &options, s);
    for (int e = 0; e < count; e++) npt_exec_destroy(sides[e].exec);
    return 0;
}
