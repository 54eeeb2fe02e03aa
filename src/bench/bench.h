/* SPDX-License-Identifier: BSD-2-Clause */
/* npt bench: every part adds an array to one JSON object; text and plot are made from that. */
#ifndef NPT_BENCH_BENCH_H
#define NPT_BENCH_BENCH_H

#include <jansson.h>

#include "train/meter.h"

enum { NPT_BENCH_LIST = 16, NPT_BENCH_NAME = 32 };

typedef enum npt_bench_topic {
    NPT_BENCH_MATMUL = 1 << 0,
    NPT_BENCH_STEP = 1 << 1,
    NPT_BENCH_START = 1 << 2,
    NPT_BENCH_MEMORY = 1 << 3,
    NPT_BENCH_ALL = (1 << 4) - 1
} npt_bench_topic;

typedef struct npt_bench_shape {
    int64_t hidden, inter, layers;
} npt_bench_shape;

/* The options as read: lists of words are bits of the tables they name. */
typedef struct npt_bench_request {
    const npt_bench_options *options;
    unsigned topics, matmul_recipes, step_recipes, modes;
    npt_bench_shape matmul_shapes[NPT_BENCH_LIST], step_shapes[NPT_BENCH_LIST];
    int matmul_shape_count, step_shape_count;
    int64_t matmul_tokens[NPT_BENCH_LIST];
    int matmul_token_count;
    int64_t step_tokens;
    double seconds;    /* of measuring for one figure */
    size_t pool_bytes; /* that weights rotate through */
} npt_bench_request;

/* NPT_E_USAGE. */
npt_status npt_bench_read(const npt_bench_options *options, npt_bench_request *request);

/* {"median", "min", "max", "runs"}, each duration turned into `work` / seconds × `unit`: a rate,
 * the fastest repetition giving its max; work 0: the seconds themselves. */
json_t *npt_bench_timing(const npt_timing *timing, double work, double unit);

/* "peaks": [{"what", "threads", "gflops": timing}], and "read": {"gbytes_per_second": timing}. */
npt_status npt_bench_peaks(npt_exec *exec, const npt_bench_request *request, json_t *root);
/* What `root` says can be reached by a product: "gflops" of the arithmetic and of the memory. */
typedef struct npt_bench_roof {
    double arithmetic, memory;
} npt_bench_roof;
/* `pieces`: bf16 products that one product takes on AMX; `intensity`: FLOP a byte. */
npt_bench_roof npt_bench_roof_of(const json_t *root, int pieces, double intensity);

/* "matmul": [...]. */
npt_status npt_bench_matmul(npt_exec *exec, const npt_bench_request *request, json_t *root);
extern const char *const npt_bench_matmul_recipes[]; /* ends with NULL */

/* "step", "start", "memory": [...], as the topics ask. Begins processes: called before this one has
 * threads. */
npt_status npt_bench_steps(const npt_bench_request *request, json_t *root);
extern const char *const npt_bench_step_recipes[]; /* ends with NULL */
extern const char *const npt_bench_modes[];

/* Tables for a person, in 100 columns. */
void npt_bench_print(const json_t *root, FILE *out);
/* The roofline of `root` through gnuplot. NPT_E_UNSUPPORTED where that is not installed. */
npt_status npt_bench_plot(const json_t *root, const char *path);
/* What the plot's file must be named like; NPT_E_USAGE. */
npt_status npt_bench_plot_check(const char *path);

#endif
