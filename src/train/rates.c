/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/rates.h"

#include <math.h>
#include <string.h>

#include "train/meter.h"

/* ---- How much ---- */

/* Keys that the queries of a row of `tokens` see, all together. */
static double pairs_of(int64_t window, int64_t tokens)
{
    const double n = (double)tokens;
    if (window == 0 || window >= tokens) return n * (n + 1) / 2;
    const double w = (double)window;
    return w * (w + 1) / 2 + (n - w) * w;
}

/* FLOP of one product of attention over so many pairs: q·k, or weights · v. */
static double product_of(const npt_config *c, double pairs)
{
    return 2 * (double)(c->heads * c->head_dim) * pairs;
}

/* Forward two products; backward five, the scores made again among them. */
enum { PRODUCTS_FORWARD = 2, PRODUCTS_BACK = 5 };

npt_beside npt_beside_products(const npt_model *model, const npt_products_run *run, int64_t rows)
{
    const npt_config *c = &model->config;
    const npt_passes n = npt_products_passes(c, run);
    const double tokens = (double)run->tokens, inter = tokens * (double)c->inter,
                 hidden = tokens * (double)c->hidden,
                 heads = tokens * (double)((c->heads + c->kv_heads) * c->head_dim),
                 turned = c->qk_norm ? 2 * heads : heads; /* rope, and a norm */
    double pairs = 0;
    for (int layer = 0; layer < c->layers; layer++)
        pairs += (double)rows * pairs_of(npt_model_window(model, layer), run->tokens / rows);
    const double product = product_of(c, pairs / (double)c->layers);
    npt_beside b = {{0}};
    b.amount[NPT_RATE_ATTENTION] = PRODUCTS_FORWARD * product * (double)n.attention;
    b.amount[NPT_RATE_ATTENTION_BACK] = PRODUCTS_BACK * product * (double)n.back;
    b.amount[NPT_RATE_GATE] = inter * (double)(n.mlp - n.adapters);
    b.amount[NPT_RATE_GATE_TERMS] = inter * (double)n.adapters;
    b.amount[NPT_RATE_GATE_BACK] = inter * (double)(n.down_back - n.adapters_back);
    b.amount[NPT_RATE_GATE_TERMS_BACK] = inter * (double)n.adapters_back;
    /* norms and sums: before attention one; of an MLP two, and the sum before it where no adapter
     * takes the attention; backward four, the loss's among them */
    b.amount[NPT_RATE_ROWS] = hidden * (double)(n.attention + 2 * n.mlp + (n.mlp - n.adapters) +
                                                n.down_back + 4 * n.back) +
                              turned * (double)(n.attention + n.back);
    return b;
}

double npt_beside_attention_flops(const npt_beside *b)
{
    return b->amount[NPT_RATE_ATTENTION] + b->amount[NPT_RATE_ATTENTION_BACK];
}

/* ---- How fast ---- */

/* Operands of one row, as a step has them. */
typedef struct stage {
    npt_exec *exec;
    npt_arena *arena;
    const npt_config *config;
    int64_t tokens, rank;
    npt_dtype act, adapter, operand; /* of x of a term */
    npt_out q, k, v, attn, dattn, dq, dk, dv;
    npt_out gate, up, dy, dgate, dup, add, u;
    npt_out x, y, norm, z;
    float *lse, *turned;
    double *squares;
    int64_t offsets[2];
} stage;

static npt_status make(stage *s, npt_dtype dtype, int64_t count, npt_out *out)
{
    const size_t bytes = (size_t)count * npt_dtype_bytes(dtype);
    *out = (npt_out){npt_arena_alloc(s->arena, NPT_MEM_SCRATCH, bytes, 1), dtype};
    if (out->data == NULL) return NPT_E_NOMEM;
    npt_meter_fill(out->data, dtype, bytes, (uint64_t)count);
    return NPT_OK;
}

static npt_status prepare(stage *s)
{
    const npt_config *c = s->config;
    const int64_t q = s->tokens * c->heads * c->head_dim,
                  kv = s->tokens * c->kv_heads * c->head_dim, hidden = s->tokens * c->hidden,
                  inter = s->tokens * c->inter,
                  turned = (c->inter + NPT_TURNED_ROW - 1) / NPT_TURNED_ROW * NPT_TURNED_ROW;
    npt_out lse, parameters;
    const struct {
        npt_out *out;
        npt_dtype dtype;
        int64_t count;
    } wanted[] = {{&s->q, s->act, q},
                  {&s->k, s->act, kv},
                  {&s->v, s->act, kv},
                  {&s->attn, s->act, q},
                  {&s->dattn, s->act, q},
                  {&s->dq, s->act, q},
                  {&s->dk, s->act, kv},
                  {&s->dv, s->act, kv},
                  {&s->gate, s->act, inter},
                  {&s->up, s->act, inter},
                  {&s->dy, s->act, inter},
                  {&s->dgate, s->act, inter},
                  {&s->dup, s->act, inter},
                  {&s->add, s->adapter, inter},
                  {&s->u, s->adapter, inter},
                  {&s->x, s->act, hidden},
                  {&s->y, s->act, hidden},
                  {&s->norm, s->act, c->hidden},
                  {&s->z, s->operand, s->tokens * s->rank},
                  {&lse, NPT_F32, s->tokens * c->heads},
                  {&parameters, NPT_F32, turned * s->rank}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        NPT_TRY(make(s, wanted[i].dtype, wanted[i].count, wanted[i].out));
    s->lse = lse.data;
    s->turned = parameters.data;
    s->offsets[1] = s->tokens;
    s->squares = npt_arena_alloc(s->arena, NPT_MEM_SCRATCH, (size_t)s->tokens, sizeof *s->squares);
    if (s->squares == NULL) return NPT_E_NOMEM;
    return npt_exec_reserve(s->exec, s->tokens, c->head_dim,
                            c->inter > c->hidden ? c->inter : c->hidden);
}

static npt_in in(npt_out out)
{
    return (npt_in){out.data, out.dtype};
}

static npt_gate_term term_of(const stage *s)
{
    return (npt_gate_term){.dtype = s->adapter, .rank = s->rank, .x = in(s->z), .w = s->turned};
}

static void attention(const stage *s)
{
    const npt_config *c = s->config;
    const npt_attention_args args = {.sequences = 1,
                                     .heads = c->heads,
                                     .kv_heads = c->kv_heads,
                                     .head_dim = c->head_dim,
                                     .offsets = s->offsets,
                                     .scale = (float)(1 / sqrt((double)c->head_dim)),
                                     .q = in(s->q),
                                     .k = in(s->k),
                                     .v = in(s->v),
                                     .out = s->attn,
                                     .lse = s->lse};
    npt_exec_kernels(s->exec)->attention(npt_exec_run(s->exec), &args);
}

static void attention_back(const stage *s)
{
    const npt_config *c = s->config;
    const npt_attention_backward_args args = {.sequences = 1,
                                              .heads = c->heads,
                                              .kv_heads = c->kv_heads,
                                              .head_dim = c->head_dim,
                                              .offsets = s->offsets,
                                              .scale = (float)(1 / sqrt((double)c->head_dim)),
                                              .q = in(s->q),
                                              .k = in(s->k),
                                              .v = in(s->v),
                                              .out = in(s->attn),
                                              .dout = in(s->dattn),
                                              .lse = s->lse,
                                              .dq = s->dq,
                                              .dk = s->dk,
                                              .dv = s->dv};
    npt_exec_kernels(s->exec)->attention_backward(npt_exec_run(s->exec), &args);
}

static void run_gate(const stage *s, bool terms)
{
    npt_gate_args args = {.rows = s->tokens,
                          .width = s->config->inter,
                          .strength = 1,
                          .gate = in(s->gate),
                          .up = in(s->up),
                          .dst = s->dy};
    if (terms) {
        args.add = args.u = term_of(s);
        args.squares = s->squares;
    }
    npt_exec_kernels(s->exec)->gate(npt_exec_run(s->exec), &args);
}

static void run_gate_back(const stage *s, bool terms)
{
    npt_gate_backward_args args = {.rows = s->tokens,
                                   .width = s->config->inter,
                                   .strength = 1,
                                   .dy = in(s->dy),
                                   .gate = in(s->gate),
                                   .up = in(s->up),
                                   .dgate = s->dgate,
                                   .dup = s->dup};
    if (terms) {
        args.add = args.u = term_of(s);
        args.dadd = s->add;
        args.du = s->u;
    }
    npt_exec_kernels(s->exec)->gate_backward(npt_exec_run(s->exec), &args);
}

static void rows(const stage *s)
{
    const npt_norm_args args = {.rows = s->tokens,
                                .width = s->config->hidden,
                                .eps = 1e-5f,
                                .x = in(s->x),
                                .weight = in(s->norm),
                                .dst = s->y};
    npt_exec_kernels(s->exec)->norm(npt_exec_run(s->exec), &args);
}

static void run(const stage *s, npt_rate_kind kind)
{
    switch (kind) {
    case NPT_RATE_ATTENTION: attention(s); break;
    case NPT_RATE_ATTENTION_BACK: attention_back(s); break;
    case NPT_RATE_GATE: run_gate(s, false); break;
    case NPT_RATE_GATE_TERMS: run_gate(s, true); break;
    case NPT_RATE_GATE_BACK: run_gate_back(s, false); break;
    case NPT_RATE_GATE_TERMS_BACK: run_gate_back(s, true); break;
    case NPT_RATE_ROWS: rows(s); break;
    case NPT_RATES: break;
    }
}

/* What one run of it does. */
static double amount_of(const stage *s, npt_rate_kind kind)
{
    const npt_config *c = s->config;
    const double product = product_of(c, pairs_of(0, s->tokens));
    switch (kind) {
    case NPT_RATE_ATTENTION: return PRODUCTS_FORWARD * product;
    case NPT_RATE_ATTENTION_BACK: return PRODUCTS_BACK * product;
    case NPT_RATE_ROWS: return (double)(s->tokens * c->hidden);
    default: return (double)(s->tokens * c->inter);
    }
}

/* The median, as of products. */
static double seconds_of(const stage *s, npt_rate_kind kind, double seconds)
{
    enum { MOST = 255, LEAST = 3 };
    double samples[MOST];
    int count = 0;
    run(s, kind);
    const double begun = npt_seconds_now();
    while (count < LEAST || (count < MOST && npt_seconds_now() - begun < seconds)) {
        const double before = npt_meter_now(s->exec);
        run(s, kind);
        samples[count++] = npt_meter_now(s->exec) - before;
    }
    return npt_timing_of(samples, count).median;
}

npt_status npt_rates_measure(npt_exec *exec, const npt_config *config, const npt_policy *policy,
                             int64_t tokens, int64_t rank, double seconds, npt_routes *routes)
{
    const npt_dtype *dtype = policy->dtype;
    stage s = {.exec = exec,
               .arena = npt_arena_create("rates"),
               .config = config,
               .tokens = tokens,
               .rank = rank,
               .act = dtype[NPT_ROLE_ACT],
               .adapter = dtype[NPT_ROLE_ADAPTER],
               .operand = npt_policy_adapter_operand(policy)};
    npt_status status = s.arena != NULL ? prepare(&s) : NPT_E_NOMEM;
    for (int kind = 0; kind < NPT_RATES && status == NPT_OK; kind++) {
        const double taken = seconds_of(&s, (npt_rate_kind)kind, seconds / NPT_RATES);
        /* a clock that does not move says nothing */
        routes->rates[s.act][kind] = taken > 0 ? amount_of(&s, (npt_rate_kind)kind) / taken : 0;
    }
    npt_arena_destroy(s.arena);
    return status;
}

bool npt_rates_predict(const npt_routes *routes, npt_dtype act, const npt_beside *beside,
                       double *attention, double *rest)
{
    *attention = *rest = 0;
    for (int kind = 0; kind < NPT_RATES; kind++) {
        const double rate = routes->rates[act][kind];
        double *sum = kind <= NPT_RATE_ATTENTION_BACK ? attention : rest;
        if (beside->amount[kind] > 0 && !(rate > 0)) return false;
        if (rate > 0) *sum += beside->amount[kind] / rate;
    }
    return true;
}
