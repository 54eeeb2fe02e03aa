/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "train/trainer.h"

/* The seven frozen linears of one layer, forward and dX, by every backend that accepts them: each
 * shape is measured by itself, backends in alternating turns, and the rate of the layer is all its
 * FLOP over all its seconds. Key and value projections have a quarter of the hidden size. */

typedef struct recipe {
    npt_dtype a, w, c;
} recipe;

static const recipe recipes[] = {
    {NPT_F32, NPT_F32, NPT_F32}, {NPT_BF16, NPT_BF16, NPT_BF16}, {NPT_F16, NPT_F16, NPT_F16},
    {NPT_F32, NPT_NF4, NPT_F32}, {NPT_F32, NPT_BF16, NPT_F32},   {NPT_F32, NPT_F16, NPT_F32},
};
const char *const npt_bench_matmul_recipes[] = {"f32",      "bf16",    "f16", "nf4",
                                                "f32xbf16", "f32xf16", NULL};
enum { RECIPES = sizeof recipes / sizeof recipes[0], SHAPES = 4 };
_Static_assert(RECIPES + 1 == sizeof npt_bench_matmul_recipes / sizeof npt_bench_matmul_recipes[0],
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

/* ---- Sums over a layer ---- */

/* Adds `times` of one repetition to the sum of a layer. */
static void add_timing(npt_timing *sum, const npt_timing *one, int64_t times)
{
    sum->min += (double)times * one->min;
    sum->median += (double)times * one->median;
    sum->max += (double)times * one->max;
    if (sum->runs == 0 || one->runs < sum->runs) sum->runs = one->runs;
}

/* ---- Who takes part ---- */

/* A side and how it is called in the table. */
typedef struct contestant {
    npt_exec *exec;
    const npt_matmul_backend *backend;
    const char *name;
    bool expanded; /* gets the weights as F32, expanded beforehand and uncounted */
    int pieces;    /* bf16 products that a product takes at best */
    npt_timing sum;
    json_t *products;
} contestant;

typedef struct contest {
    contestant list[NPT_METER_SIDES];
    size_t count;
} contest;

static npt_matmul_desc desc_for(const contestant *who, const cell *c, const linear *l)
{
    npt_matmul_desc desc = desc_of(c, l);
    if (who->expanded) desc.w = NPT_F32;
    return desc;
}

static contestant *invite(contest *all, npt_exec *exec, const npt_matmul_backend *backend)
{
    NPT_ASSERT(all->count < NPT_METER_SIDES);
    contestant *who = &all->list[all->count++];
    *who = (contestant){
        .exec = exec, .backend = backend, .name = backend->name, .products = json_array()};
    return who;
}

/* Whether a backend makes this product in bf16 pieces. */
static bool in_pieces(npt_exec *exec, const npt_matmul_backend *backend, const npt_matmul_desc *d)
{
    char text[128];
    if (backend->route == NULL || d->a != NPT_F32) return false;
    return strncmp(backend->route(d, npt_exec_cpu(exec), npt_exec_precision(exec), text), "FMA",
                   3) != 0;
}

/* All that accept the product; without bf16 pieces, too, where they are what is used; and the
 * libraries that multiply F32 by F32 only, where the activations are F32: what somebody without
 * our kernels would take. */
static void invite_all(npt_exec *exec, npt_exec *fma, const cell *c, contest *all)
{
    linear linears[SHAPES];
    const npt_matmul_backend *backends[NPT_MAX_BACKENDS];
    list_linears(&c->shape, linears);
    npt_matmul_desc desc = desc_of(c, &linears[0]);
    size_t count = npt_meter_willing(exec, &desc, backends);
    for (size_t i = 0; i < count; i++) {
        invite(all, exec, backends[i])->pieces = npt_matmul_piece_products(&desc);
        if (!in_pieces(exec, backends[i], &desc)) continue;
        contestant *who = invite(all, fma, backends[i]);
        who->name = "native fma";
        who->pieces = INT_MAX;
    }
    if (desc.a != NPT_F32 || desc.w == NPT_F32) return;
    desc.w = NPT_F32;
    count = npt_meter_willing(exec, &desc, backends);
    for (size_t i = 0; i < count; i++)
        if (backends[i]->library != NULL) {
            contestant *who = invite(all, exec, backends[i]);
            who->expanded = true;
            who->pieces = npt_matmul_piece_products(&desc);
        }
}

/* ---- Measuring ---- */

static json_t *row_json(const cell *c, const contestant *who, double flops)
{
    char shape[2 * NPT_BENCH_NAME];
    snprintf(shape, sizeof shape, "%" PRId64 "x%" PRId64, c->shape.hidden, c->shape.inter);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:b, s:o, s:O}", "recipe", c->name,
                     "shape", shape, "a", npt_dtype_name(c->recipe->a), "w",
                     npt_dtype_name(c->recipe->w), "c", npt_dtype_name(c->recipe->c), "pass",
                     npt_product_pass_name(c->pass), "tokens", (json_int_t)c->tokens, "backend",
                     who->name, "expanded", (int)who->expanded, "gflops",
                     npt_bench_timing(&who->sum, flops, 1e-9), "products", who->products);
}

/* A line of the table, with what the machine could do at best. */
static void add_row(const json_t *root, const cell *c, const contestant *who)
{
    linear linears[SHAPES];
    double flops = 0, bytes = 0;
    list_linears(&c->shape, linears);
    for (int i = 0; i < SHAPES; i++) {
        const npt_matmul_desc desc = desc_for(who, c, &linears[i]);
        flops += (double)linears[i].per_layer * npt_matmul_flops(&desc);
        bytes += (double)linears[i].per_layer * npt_matmul_bytes(&desc);
    }
    const npt_bench_roof roof = npt_bench_roof_of(root, who->pieces, flops / bytes);
    const double most = fmin(roof.arithmetic, roof.memory);
    json_t *row = row_json(c, who, flops);
    json_object_set_new(row, "flop_per_byte", json_real(flops / bytes));
    json_object_set_new(row, "roof_gflops", json_real(most));
    json_object_set_new(row, "share", json_real(flops / who->sum.median * 1e-9 / most));
    json_object_set_new(row, "bound",
                        json_string(roof.memory < roof.arithmetic ? "memory" : "arithmetic"));
    json_array_append_new(json_object_get(root, "matmul"), row);
}

static npt_status measure_linear(npt_meter *meter, const cell *c, const linear *l, double seconds,
                                 contest *all)
{
    npt_meter_side sides[NPT_METER_SIDES];
    npt_timing timings[NPT_METER_SIDES];
    for (size_t i = 0; i < all->count; i++) {
        const contestant *who = &all->list[i];
        sides[i] = (npt_meter_side){who->exec, who->backend, desc_for(who, c, l)};
    }
    NPT_TRY(npt_meter_run(meter, sides, all->count, seconds, timings));
    for (size_t i = 0; i < all->count; i++) {
        add_timing(&all->list[i].sum, &timings[i], l->per_layer);
        json_array_append_new(
            all->list[i].products,
            json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", l->name, "rows", (json_int_t)l->rows,
                      "cols", (json_int_t)l->cols, "per_layer", (json_int_t)l->per_layer, "gflops",
                      npt_bench_timing(&timings[i], npt_matmul_flops(&sides[i].desc), 1e-9)));
    }
    return NPT_OK;
}

/* What all cells are measured with. */
typedef struct arena {
    npt_exec *exec, *fma; /* fma: the same without bf16 pieces */
    npt_meter meter;
    const npt_bench_request *request;
    json_t *root;
} arena;

/* One line a contestant. */
static npt_status measure_cell(arena *a, const cell *c)
{
    linear linears[SHAPES];
    contest all = {.count = 0};
    npt_status status = NPT_OK;
    if (npt_stop_requested() != 0) return npt_fail(NPT_E_INTERRUPTED, "stopped by a signal");
    list_linears(&c->shape, linears);
    invite_all(a->exec, a->fma, c, &all);
    for (int i = 0; i < SHAPES && status == NPT_OK; i++)
        status = measure_linear(&a->meter, c, &linears[i], a->request->seconds / SHAPES, &all);
    for (size_t i = 0; i < all.count; i++) {
        if (status == NPT_OK) add_row(a->root, c, &all.list[i]);
        json_decref(all.list[i].products);
    }
    return status;
}

/* Both directions, all numbers of tokens. */
static npt_status measure_recipe(arena *a, cell c)
{
    npt_log(NPT_LOG_NOTE, "bench: matmul %s, %" PRId64 "x%" PRId64, c.name, c.shape.hidden,
            c.shape.inter);
    for (int pass = NPT_PASS_Y; pass <= NPT_PASS_DX; pass++)
        for (int t = 0; t < a->request->matmul_token_count; t++) {
            c.pass = (npt_product_pass)pass;
            c.tokens = a->request->matmul_tokens[t];
            NPT_TRY(measure_cell(a, &c));
        }
    return NPT_OK;
}

static npt_status measure_all(arena *a)
{
    const npt_bench_request *request = a->request;
    for (int s = 0; s < request->matmul_shape_count; s++)
        for (int i = 0; i < RECIPES; i++) {
            const cell c = {.name = npt_bench_matmul_recipes[i],
                            .recipe = &recipes[i],
                            .shape = request->matmul_shapes[s]};
            if ((request->matmul_recipes & 1u << i) != 0) NPT_TRY(measure_recipe(a, c));
        }
    return NPT_OK;
}

npt_status npt_bench_matmul(npt_exec *exec, const npt_bench_request *request, json_t *root)
{
    arena a = {.exec = exec, .request = request, .root = root};
    npt_compute_options compute = request->options->compute;
    compute.threads = npt_exec_threads(exec);
    NPT_TRY(npt_exec_create(&a.fma, compute.backend, compute.threads));
    npt_exec_set_precision(a.fma, NPT_MATMUL_FMA);
    json_object_set_new(root, "matmul", json_array());
    npt_meter_init(&a.meter, request->pool_bytes);
    npt_status status = measure_all(&a);
    npt_meter_fini(&a.meter);
    npt_exec_destroy(a.fma);
    return status;
}
