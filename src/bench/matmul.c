/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "train/trainer.h"

/* The seven frozen linears of one layer, forward and dX, by every backend that accepts them: each
 * shape is measured by itself, backends in alternating turns, and the rate of the layer is all its
 * FLOP over all its seconds. Key and value projections have a quarter of the hidden size. */

typedef struct recipe {
    npt_dtype a, w, c;
    int pieces; /* bf16 products that a product takes where it is made of pieces (performance.md) */
} recipe;

static const recipe recipes[] = {
    {NPT_F32, NPT_F32, NPT_F32, 6},   {NPT_BF16, NPT_BF16, NPT_BF16, 1},
    {NPT_F16, NPT_F16, NPT_F16, 4},   {NPT_F32, NPT_NF4, NPT_F32, 6},
    {NPT_F32, NPT_BF16, NPT_F32, 3},  {NPT_F32, NPT_F16, NPT_F32, 5},
};
const char *const npt_bench_matmul_recipes[] = {"f32",     "bf16",    "f16", "nf4",
                                                "f32xbf16", "f32xf16", NULL};
enum { RECIPES = sizeof recipes / sizeof recipes[0], SHAPES = 4 };
_Static_assert(RECIPES + 1 ==
                   sizeof npt_bench_matmul_recipes / sizeof npt_bench_matmul_recipes[0],
               "every recipe has a name");

typedef struct linear {
    const char *name;
    int64_t rows, cols, per_layer;
} linear;

/* One line of the table. */
typedef struct cell {
    const char *name;
    const recipe *recipe;
    npt_bench_shape shape;
    npt_product_pass pass;
    int64_t tokens;
} cell;

static void list_linears(const npt_bench_shape *s, linear list[SHAPES])
{
    const int64_t kv = s->hidden / 4;
    const linear all[SHAPES] = {{"q, o", s->hidden, s->hidden, 2},
                                {"k, v", kv, s->hidden, 2},
                                {"gate, up", s->inter, s->hidden, 2},
                                {"down", s->hidden, s->inter, 1}};
    memcpy(list, all, sizeof all);
}

static npt_matmul_desc desc_of(const cell *c, const linear *l)
{
    const bool forward = c->pass == NPT_PASS_Y;
    return (npt_matmul_desc){.m = c->tokens,
                             .n = forward ? l->rows : l->cols,
                             .k = forward ? l->cols : l->rows,
                             .trans_w = forward,
                             .a = c->recipe->a,
                             .w = c->recipe->w,
                             .c = c->recipe->c};
}

static double element_bytes(npt_dtype dtype)
{
    return dtype == NPT_NF4 ? 0.5 + 4.0 / 64 : (double)npt_dtype_bytes(dtype);
}

static double flops_of(const npt_matmul_desc *d)
{
    return 2.0 * (double)d->m * (double)d->n * (double)d->k;
}

/* Bytes that a product must move, each once. */
static double bytes_of(const npt_matmul_desc *d)
{
    return element_bytes(d->w) * (double)(d->n * d->k) +
           element_bytes(d->a) * (double)(d->m * d->k) +
           element_bytes(d->c) * (double)(d->m * d->n);
}

/* Adds `times` of one repetition to the sum of a layer. */
static void add_timing(npt_timing *sum, const npt_timing *one, int64_t times)
{
    sum->min += (double)times * one->min;
    sum->median += (double)times * one->median;
    sum->max += (double)times * one->max;
    if (sum->runs == 0 || one->runs < sum->runs) sum->runs = one->runs;
}

/* A line for each backend. */
static void add_rows(const json_t *root, const cell *c, const npt_matmul_backend *const *backends,
                     size_t count, const npt_timing *sums, json_t *const *products, json_t *list)
{
    linear linears[SHAPES];
    double flops = 0, bytes = 0;
    char shape[NPT_BENCH_NAME];
    list_linears(&c->shape, linears);
    for (int i = 0; i < SHAPES; i++) {
        const npt_matmul_desc desc = desc_of(c, &linears[i]);
        flops += (double)linears[i].per_layer * flops_of(&desc);
        bytes += (double)linears[i].per_layer * bytes_of(&desc);
    }
    const npt_bench_roof roof = npt_bench_roof_of(root, c->recipe->pieces, flops / bytes);
    const double most = fmin(roof.arithmetic, roof.memory);
    snprintf(shape, sizeof shape, "%" PRId64 "x%" PRId64, c->shape.hidden, c->shape.inter);
    for (size_t b = 0; b < count; b++)
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:o, s:f, s:f, s:f, s:s, s:O}",
                      "recipe", c->name, "shape", shape, "a", npt_dtype_name(c->recipe->a), "w",
                      npt_dtype_name(c->recipe->w), "c", npt_dtype_name(c->recipe->c), "pass",
                      npt_product_pass_name(c->pass), "tokens", (json_int_t)c->tokens, "backend",
                      backends[b]->name, "gflops", npt_bench_timing(&sums[b], flops, 1e-9),
                      "flop_per_byte", flops / bytes, "roof_gflops", most, "share",
                      flops / sums[b].median * 1e-9 / most, "bound",
                      roof.memory < roof.arithmetic ? "memory" : "arithmetic", "products",
                      products[b]));
}

static npt_status measure_linears(npt_meter *meter, const cell *c,
                                  const npt_matmul_backend *const *backends, size_t count,
                                  double seconds, npt_timing *sums, json_t *const *products)
{
    linear linears[SHAPES];
    list_linears(&c->shape, linears);
    for (int i = 0; i < SHAPES; i++) {
        const npt_matmul_desc desc = desc_of(c, &linears[i]);
        npt_timing timings[NPT_MAX_BACKENDS];
        NPT_TRY(npt_meter_matmul(meter, &desc, backends, count, seconds / SHAPES, timings));
        for (size_t b = 0; b < count; b++) {
            add_timing(&sums[b], &timings[b], linears[i].per_layer);
            json_array_append_new(
                products[b],
                json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", linears[i].name, "rows",
                          (json_int_t)linears[i].rows, "cols", (json_int_t)linears[i].cols,
                          "per_layer", (json_int_t)linears[i].per_layer, "gflops",
                          npt_bench_timing(&timings[b], flops_of(&desc), 1e-9)));
        }
    }
    return NPT_OK;
}

static npt_status measure_cell(npt_meter *meter, const cell *c, const npt_bench_request *request,
                               json_t *root, json_t *list)
{
    linear linears[SHAPES];
    const npt_matmul_backend *backends[NPT_MAX_BACKENDS];
    npt_timing sums[NPT_MAX_BACKENDS] = {{0}};
    json_t *products[NPT_MAX_BACKENDS];
    list_linears(&c->shape, linears);
    const npt_matmul_desc first = desc_of(c, &linears[0]);
    const size_t count = npt_meter_willing(meter->exec, &first, backends);
    if (npt_stop_requested() != 0) return npt_fail(NPT_E_INTERRUPTED, "stopped by a signal");
    for (size_t b = 0; b < count; b++) products[b] = json_array();
    npt_status status =
        measure_linears(meter, c, backends, count, request->seconds, sums, products);
    if (status == NPT_OK) add_rows(root, c, backends, count, sums, products, list);
    for (size_t b = 0; b < count; b++) json_decref(products[b]);
    return status;
}

/* Both directions, all numbers of tokens. */
static npt_status measure_recipe(npt_meter *meter, const npt_bench_request *request, cell c,
                                 json_t *root, json_t *list)
{
    npt_log(NPT_LOG_NOTE, "bench: matmul %s, %" PRId64 "x%" PRId64, c.name, c.shape.hidden,
            c.shape.inter);
    for (int pass = NPT_PASS_Y; pass <= NPT_PASS_DX; pass++)
        for (int t = 0; t < request->matmul_token_count; t++) {
            c.pass = (npt_product_pass)pass;
            c.tokens = request->matmul_tokens[t];
            NPT_TRY(measure_cell(meter, &c, request, root, list));
        }
    return NPT_OK;
}

npt_status npt_bench_matmul(npt_exec *exec, const npt_bench_request *request, json_t *root)
{
    npt_meter meter;
    npt_status status = NPT_OK;
    json_t *list = json_array();
    json_object_set_new(root, "matmul", list);
    npt_meter_init(&meter, exec, request->pool_bytes);
    for (int s = 0; s < request->matmul_shape_count; s++)
        for (int i = 0; i < RECIPES && status == NPT_OK; i++) {
            const cell c = {.name = npt_bench_matmul_recipes[i],
                            .recipe = &recipes[i],
                            .shape = request->matmul_shapes[s]};
            if ((request->matmul_recipes & 1u << i) != 0)
                status = measure_recipe(&meter, request, c, root, list);
        }
    npt_meter_fini(&meter);
    return status;
}
