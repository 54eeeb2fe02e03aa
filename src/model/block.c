/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/block.h"

#include <math.h>

/* Forward and backward of a block as sequences of matmuls and kernels between named sites. A result
 * is always: npt_mat_produce() (announce, allocate), compute, npt_mat_finish(). The sequence is the
 * specification of method.md §1 read from top to bottom; nothing here looks at a dtype except to
 * hand it on. */

/* ---- Products with frozen weights ---- */

/* y = x·Wᵀ + bias; y is announced at `site` already, x is an operand. */
static npt_status multiply(const npt_env *env, const npt_weight *w, npt_mat x, npt_site_id site,
                           int layer, npt_mat y)
{
    const npt_matmul_desc desc = {.m = x.rows,
                                  .n = w->rows,
                                  .k = w->cols,
                                  .trans_w = true,
                                  .a = x.dtype,
                                  .w = w->dtype,
                                  .c = y.dtype,
                                  .bias = w->bias != NULL};
    const npt_matmul_args args = {.a = x.data,
                                  .w = w->data,
                                  .absmax = w->absmax,
                                  .levels = w->levels,
                                  .bias = w->bias,
                                  .c = y.data};
    NPT_TRY(npt_matmul(env->exec, &desc, &args));
    return npt_mat_finish(env, site, layer, NPT_FORWARD, y);
}

typedef struct product {
    const npt_weight *w;
    npt_mat dy; /* not yet an operand */
} product;

/* dx = Σ dyᵢ·Wᵢ, summed in F32, one rounding at `site`. */
static npt_status linears_backward(const npt_env *env, const product *products, int count,
                                   npt_site_id site, int layer, npt_mat *dx)
{
    const int64_t rows = products[0].dy.rows, cols = products[0].w->cols;
    NPT_TRY(npt_mat_produce(env, site, layer, NPT_BACKWARD, NPT_F32, rows, cols, dx));
    npt_arena_mark mark = npt_arena_get_mark(env->arena);
    npt_mat sum = *dx;
    if (count > 1 && dx->dtype != NPT_F32)
        NPT_TRY(npt_mat_allocate(env, NPT_F32, rows, cols, &sum));
    for (int i = 0; i < count; i++) {
        const npt_weight *w = products[i].w;
        npt_mat dy;
        NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_BACKWARD, products[i].dy, &dy));
        const npt_matmul_desc desc = {.m = rows,
                                      .n = cols,
                                      .k = w->rows,
                                      .a = dy.dtype,
                                      .w = w->dtype,
                                      .c = sum.dtype,
                                      .accumulate = i > 0};
        const npt_matmul_args args = {
            .a = dy.data, .w = w->data, .absmax = w->absmax, .levels = w->levels, .c = sum.data};
        NPT_TRY(npt_matmul(env->exec, &desc, &args));
    }
    if (sum.data != dx->data)
        npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), rows * cols, npt_mat_in(sum),
                                          npt_mat_out(*dx), NULL);
    npt_arena_rewind(env->arena, mark);
    return npt_mat_finish(env, site, layer, NPT_BACKWARD, *dx);
}

/* ---- Norms and sums ---- */

/* Over rows of `width` values: a token's (hidden), or a head's (q_norm, k_norm). */
static npt_status norm(const npt_env *env, npt_mat x, npt_in weight, int64_t width,
                       npt_site_id site, int layer, npt_mat *y)
{
    NPT_TRY(npt_mat_produce(env, site, layer, NPT_FORWARD, NPT_F32, x.rows, x.cols, y));
    const npt_norm_args args = {.rows = x.rows * x.cols / width,
                                .width = width,
                                .eps = (float)env->model->config.norm_epsilon,
                                .x = npt_mat_in(x),
                                .weight = weight,
                                .dst = npt_mat_out(*y)};
    npt_exec_kernels(env->exec)->norm(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, site, layer, NPT_FORWARD, *y);
}

static void norm_backward(const npt_env *env, npt_mat x, npt_in weight, int64_t width, npt_mat dy,
                          npt_in base, npt_mat dst)
{
    const npt_norm_backward_args args = {.rows = x.rows * x.cols / width,
                                         .width = width,
                                         .eps = (float)env->model->config.norm_epsilon,
                                         .x = npt_mat_in(x),
                                         .weight = weight,
                                         .dy = npt_mat_in(dy),
                                         .base = base,
                                         .dst = npt_mat_out(dst)};
    npt_exec_kernels(env->exec)->norm_backward(npt_exec_run(env->exec), &args);
}

/* dh += d(norm)/dx · dy, in place; announced as the norm's second backward rounding. */
static npt_status add_norm_backward(const npt_env *env, npt_mat x, npt_in weight, npt_site_id site,
                                    int layer, npt_mat dy, npt_mat dh)
{
    NPT_TRY(npt_mat_announce(env, site, layer, NPT_BACKWARD, dh));
    norm_backward(env, x, weight, x.cols, dy, npt_mat_in(dh), dh);
    return npt_mat_finish(env, site, layer, NPT_BACKWARD, dh);
}

/* A norm and the products that read it. */
typedef struct fan_out {
    npt_in norm;
    npt_site_id site;
    int count;
    struct {
        const npt_weight *w;
        npt_site_id site;
        npt_mat *y;
    } to[3];
} fan_out;

/* yᵢ = norm(x)·Wᵢᵀ + bias. The results come first, so that the normed x can be rewound behind them:
 * backward does not need it. */
static npt_status norm_and_project(const npt_env *env, int layer, npt_mat x, const fan_out *fan)
{
    npt_mat n;
    for (int i = 0; i < fan->count; i++)
        NPT_TRY(npt_mat_produce(env, fan->to[i].site, layer, NPT_FORWARD, NPT_F32, x.rows,
                                fan->to[i].w->rows, fan->to[i].y));
    const npt_arena_mark mark = npt_arena_get_mark(env->arena);
    NPT_TRY(norm(env, x, fan->norm, x.cols, fan->site, layer, &n));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_FORWARD, n, &n));
    for (int i = 0; i < fan->count; i++)
        NPT_TRY(multiply(env, fan->to[i].w, n, fan->to[i].site, layer, *fan->to[i].y));
    npt_arena_rewind(env->arena, mark);
    return NPT_OK;
}

static npt_status add(const npt_env *env, npt_mat x, npt_mat y, npt_site_id site, int layer,
                      npt_mat *sum)
{
    NPT_TRY(npt_mat_produce(env, site, layer, NPT_FORWARD, NPT_F32, x.rows, x.cols, sum));
    npt_exec_kernels(env->exec)->add(npt_exec_run(env->exec), x.rows * x.cols, npt_mat_in(x),
                                     npt_mat_in(y), npt_mat_out(*sum));
    return npt_mat_finish(env, site, layer, NPT_FORWARD, *sum);
}

npt_status npt_embed(const npt_env *env, npt_mat *h)
{
    const npt_config *c = &env->model->config;
    NPT_TRY(npt_mat_produce(env, NPT_SITE_EMBED, -1, NPT_FORWARD, env->model->embed.dtype,
                            env->batch->tokens, c->hidden, h));
    npt_exec_kernels(env->exec)->embed(npt_exec_run(env->exec), env->batch->tokens, c->hidden,
                                       env->batch->ids, env->model->embed, npt_mat_out(*h));
    return npt_mat_finish(env, NPT_SITE_EMBED, -1, NPT_FORWARD, *h);
}

/* ---- Attention ---- */

/* Turns the heads of `x` by their positions (or back), in place. */
static npt_status rope(const npt_env *env, npt_mat x, npt_site_id site, int layer,
                       npt_direction direction)
{
    const npt_config *c = &env->model->config;
    NPT_TRY(npt_mat_announce(env, site, layer, direction, x));
    const npt_rope_args args = {.tokens = x.rows,
                                .heads = x.cols / c->head_dim,
                                .head_dim = c->head_dim,
                                .positions = env->batch->positions,
                                .cos = env->cos,
                                .sin = env->sin,
                                .inverse = direction == NPT_BACKWARD,
                                .src = npt_mat_in(x),
                                .dst = npt_mat_out(x)};
    npt_exec_kernels(env->exec)->rope(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, site, layer, direction, x);
}

/* q, k, v as attention reads them. */
static npt_status project_qkv(const npt_env *env, int layer, npt_mat x, npt_block_state *s)
{
    const npt_block_weights *w = &env->model->blocks[layer];
    const npt_config *c = &env->model->config;
    const fan_out fan = {
        w->norm_in,
        NPT_SITE_NORM_IN,
        3,
        {{&w->q, NPT_SITE_Q, &s->q_in}, {&w->k, NPT_SITE_K, &s->k_in}, {&w->v, NPT_SITE_V, &s->v}}};
    NPT_TRY(norm_and_project(env, layer, x, &fan));
    s->q = s->q_in;
    s->k = s->k_in;
    if (c->qk_norm) {
        NPT_TRY(norm(env, s->q_in, w->q_norm, c->head_dim, NPT_SITE_Q_NORM, layer, &s->q));
        NPT_TRY(norm(env, s->k_in, w->k_norm, c->head_dim, NPT_SITE_K_NORM, layer, &s->k));
    }
    NPT_TRY(rope(env, s->q, NPT_SITE_ROPE, layer, NPT_FORWARD));
    return rope(env, s->k, NPT_SITE_ROPE, layer, NPT_FORWARD);
}

static npt_status attend(const npt_env *env, int layer, npt_block_state *s)
{
    const npt_config *c = &env->model->config;
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ATTN, layer, NPT_FORWARD, NPT_F32, s->q.rows, s->q.cols,
                            &s->attn));
    s->lse = npt_arena_alloc(env->arena, NPT_MEM_ACTIVATIONS, (size_t)(s->q.rows * c->heads),
                             sizeof(float));
    if (s->lse == NULL) return NPT_E_NOMEM;
    const npt_attention_args args = {.sequences = env->batch->sequences,
                                     .heads = c->heads,
                                     .kv_heads = c->kv_heads,
                                     .head_dim = c->head_dim,
                                     .window = npt_model_window(env->model, layer),
                                     .offsets = env->batch->offsets,
                                     .scale = (float)(1 / sqrt((double)c->head_dim)),
                                     .q = npt_mat_in(s->q),
                                     .k = npt_mat_in(s->k),
                                     .v = npt_mat_in(s->v),
                                     .out = npt_mat_out(s->attn),
                                     .lse = s->lse};
    npt_exec_kernels(env->exec)->attention(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, NPT_SITE_ATTN, layer, NPT_FORWARD, s->attn);
}

npt_status npt_block_attention(const npt_env *env, int layer, npt_mat x, npt_block_state *state,
                               npt_mat *a)
{
    npt_block_state scratch;
    npt_block_state *s = state != NULL ? state : &scratch;
    const npt_weight *o = &env->model->blocks[layer].o;
    npt_mat attn;
    /* the result comes first, so that what is not kept can be rewound behind it */
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_ATTN_OUT, layer, NPT_FORWARD, NPT_F32, x.rows, o->rows, a));
    const npt_arena_mark mark = npt_arena_get_mark(env->arena);
    s->x = x;
    NPT_TRY(project_qkv(env, layer, x, s));
    NPT_TRY(attend(env, layer, s));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_FORWARD, s->attn, &attn));
    NPT_TRY(multiply(env, o, attn, NPT_SITE_ATTN_OUT, layer, *a));
    if (state == NULL) npt_arena_rewind(env->arena, mark);
    return NPT_OK;
}

/* From da, dh += everything that flows through attention into x. */
static npt_status attention_backward(const npt_env *env, int layer, const npt_block_state *s,
                                     npt_mat da, npt_mat dh)
{
    const npt_config *c = &env->model->config;
    const npt_block_weights *w = &env->model->blocks[layer];
    npt_mat dattn, dq, dk, dv, dn;
    const product through_o = {&w->o, da};
    NPT_TRY(linears_backward(env, &through_o, 1, NPT_SITE_ATTN, layer, &dattn));
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ROPE, layer, NPT_BACKWARD, NPT_F32, s->q.rows, s->q.cols,
                            &dq));
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ROPE, layer, NPT_BACKWARD, NPT_F32, s->k.rows, s->k.cols,
                            &dk));
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_V, layer, NPT_BACKWARD, NPT_F32, s->v.rows, s->v.cols, &dv));
    const npt_attention_backward_args args = {.sequences = env->batch->sequences,
                                              .heads = c->heads,
                                              .kv_heads = c->kv_heads,
                                              .head_dim = c->head_dim,
                                              .window = npt_model_window(env->model, layer),
                                              .offsets = env->batch->offsets,
                                              .scale = (float)(1 / sqrt((double)c->head_dim)),
                                              .q = npt_mat_in(s->q),
                                              .k = npt_mat_in(s->k),
                                              .v = npt_mat_in(s->v),
                                              .out = npt_mat_in(s->attn),
                                              .dout = npt_mat_in(dattn),
                                              .lse = s->lse,
                                              .dq = npt_mat_out(dq),
                                              .dk = npt_mat_out(dk),
                                              .dv = npt_mat_out(dv)};
    npt_exec_kernels(env->exec)->attention_backward(npt_exec_run(env->exec), &args);
    NPT_TRY(npt_mat_finish(env, NPT_SITE_ROPE, layer, NPT_BACKWARD, dq));
    NPT_TRY(npt_mat_finish(env, NPT_SITE_ROPE, layer, NPT_BACKWARD, dk));
    NPT_TRY(npt_mat_finish(env, NPT_SITE_V, layer, NPT_BACKWARD, dv));
    NPT_TRY(rope(env, dq, c->qk_norm ? NPT_SITE_Q_NORM : NPT_SITE_Q, layer, NPT_BACKWARD));
    NPT_TRY(rope(env, dk, c->qk_norm ? NPT_SITE_K_NORM : NPT_SITE_K, layer, NPT_BACKWARD));
    if (c->qk_norm) {
        npt_mat dq_norm = dq, dk_norm = dk;
        NPT_TRY(
            npt_mat_produce(env, NPT_SITE_Q, layer, NPT_BACKWARD, NPT_F32, dq.rows, dq.cols, &dq));
        NPT_TRY(
            npt_mat_produce(env, NPT_SITE_K, layer, NPT_BACKWARD, NPT_F32, dk.rows, dk.cols, &dk));
        norm_backward(env, s->q_in, w->q_norm, c->head_dim, dq_norm, (npt_in){0}, dq);
        norm_backward(env, s->k_in, w->k_norm, c->head_dim, dk_norm, (npt_in){0}, dk);
        NPT_TRY(npt_mat_finish(env, NPT_SITE_Q, layer, NPT_BACKWARD, dq));
        NPT_TRY(npt_mat_finish(env, NPT_SITE_K, layer, NPT_BACKWARD, dk));
    }
    const product through_qkv[] = {{&w->q, dq}, {&w->k, dk}, {&w->v, dv}};
    NPT_TRY(linears_backward(env, through_qkv, 3, NPT_SITE_NORM_IN, layer, &dn));
    return add_norm_backward(env, s->x, w->norm_in, NPT_SITE_NORM_IN, layer, dn, dh);
}

/* ---- MLP ---- */

/* act = silu(g')·up, g' being the gate or what an adapter makes of it. */
static npt_status gated_unit(const npt_env *env, const npt_adapters *adapters, int layer,
                             npt_block_state *s, npt_mat *act)
{
    NPT_TRY(npt_mat_produce(env, NPT_SITE_MLP_ACT, layer, NPT_FORWARD, NPT_F32, s->gate.rows,
                            s->gate.cols, act));
    const npt_gate_args args = {.rows = s->gate.rows,
                                .width = s->gate.cols,
                                .gate = npt_mat_in(s->gate),
                                .up = npt_mat_in(s->up),
                                .dst = npt_mat_out(*act)};
    if (adapters != NULL)
        NPT_TRY(adapters->kind->gate(env, adapters, layer, NPT_FORWARD, &s->adapter, s->gate, s->up,
                                     *act));
    else
        npt_exec_kernels(env->exec)->gate(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, NPT_SITE_MLP_ACT, layer, NPT_FORWARD, *act);
}

npt_status npt_block_mlp(const npt_env *env, const npt_adapters *adapters, int layer, npt_mat x,
                         npt_mat a, npt_block_state *state, npt_mat *h)
{
    const npt_block_weights *w = &env->model->blocks[layer];
    npt_block_state scratch;
    npt_block_state *s = state != NULL ? state : &scratch;
    npt_mat act, down;
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_RESIDUAL, layer, NPT_FORWARD, NPT_F32, x.rows, x.cols, h));
    npt_arena_mark mark = npt_arena_get_mark(env->arena);
    s->y = x;
    if (adapters != NULL)
        NPT_TRY(adapters->kind->forward(env, adapters, layer, a, &s->adapter));
    else
        NPT_TRY(add(env, x, a, NPT_SITE_RESIDUAL_ATTN, layer, &s->y));
    const fan_out fan = {w->norm_post,
                         NPT_SITE_NORM_POST,
                         2,
                         {{&w->gate, NPT_SITE_GATE, &s->gate}, {&w->up, NPT_SITE_UP, &s->up}}};
    NPT_TRY(norm_and_project(env, layer, s->y, &fan));
    npt_arena_mark kept = npt_arena_get_mark(env->arena);
    NPT_TRY(gated_unit(env, adapters, layer, s, &act));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_FORWARD, act, &act));
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_DOWN, layer, NPT_FORWARD, NPT_F32, x.rows, x.cols, &down));
    NPT_TRY(multiply(env, &w->down, act, NPT_SITE_DOWN, layer, down));
    npt_exec_kernels(env->exec)->add(npt_exec_run(env->exec), x.rows * x.cols, npt_mat_in(s->y),
                                     npt_mat_in(down), npt_mat_out(*h));
    NPT_TRY(npt_mat_finish(env, NPT_SITE_RESIDUAL, layer, NPT_FORWARD, *h));
    npt_arena_rewind(env->arena, state != NULL ? kept : mark);
    return NPT_OK;
}

/* From dy, the gradient of the gated unit: dgate in its place, and dup. */
static npt_status standard_unit_backward(const npt_env *env, int layer, const npt_block_state *s,
                                         npt_mat dy, npt_mat dup)
{
    const npt_gate_backward_args args = {.rows = dy.rows,
                                         .width = dy.cols,
                                         .dy = npt_mat_in(dy),
                                         .gate = npt_mat_in(s->gate),
                                         .up = npt_mat_in(s->up),
                                         .dgate = npt_mat_out(dy),
                                         .dup = npt_mat_out(dup)};
    NPT_TRY(npt_mat_announce(env, NPT_SITE_GATE, layer, NPT_BACKWARD, dy));
    npt_exec_kernels(env->exec)->gate_backward(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, NPT_SITE_GATE, layer, NPT_BACKWARD, dy);
}

static npt_status backward(const npt_env *env, npt_adapters *adapters, int layer,
                           const npt_block_state *s, double penalty, bool input, npt_mat dh)
{
    const npt_block_weights *w = &env->model->blocks[layer];
    const product through_down = {&w->down, dh};
    npt_mat dg, dup = {0}, dm, da = dh;
    NPT_TRY(linears_backward(env, &through_down, 1, NPT_SITE_MLP_ACT, layer, &dg));
    if (input)
        NPT_TRY(npt_mat_produce(env, NPT_SITE_UP, layer, NPT_BACKWARD, NPT_F32, s->up.rows,
                                s->up.cols, &dup));
    if (adapters != NULL)
        NPT_TRY(adapters->kind->backward(env, adapters, layer, &s->adapter, s->gate, s->up, dg, dup,
                                         penalty, input ? &da : NULL));
    else
        NPT_TRY(standard_unit_backward(env, layer, s, dg, dup));
    if (!input) return NPT_OK;
    NPT_TRY(npt_mat_finish(env, NPT_SITE_UP, layer, NPT_BACKWARD, dup));
    const product through_mlp[] = {{&w->gate, dg}, {&w->up, dup}};
    NPT_TRY(linears_backward(env, through_mlp, 2, NPT_SITE_NORM_POST, layer, &dm));
    NPT_TRY(add_norm_backward(env, s->y, w->norm_post, NPT_SITE_NORM_POST, layer, dm, dh));
    return attention_backward(env, layer, s, da,
                              dh); /* of a standard block, da is dh as it is now */
}

npt_status npt_block_backward(const npt_env *env, npt_adapters *adapters, int layer,
                              const npt_block_state *state, double penalty, bool input, npt_mat dh)
{
    npt_arena_mark mark = npt_arena_get_mark(env->arena);
    NPT_TRY(backward(env, adapters, layer, state, penalty, input, dh));
    npt_arena_rewind(env->arena, mark);
    return NPT_OK;
}

/* ---- The head ---- */

npt_status npt_logits(const npt_env *env, npt_mat h, int64_t first, int64_t rows, float *logits)
{
    const npt_model *model = env->model;
    npt_arena_mark mark = npt_arena_get_mark(env->arena);
    npt_mat part = {(char *)h.data + (size_t)(first * h.cols) * npt_dtype_bytes(h.dtype), h.dtype,
                    rows, h.cols},
            n;
    NPT_TRY(norm(env, part, model->norm_final, h.cols, NPT_SITE_NORM_FINAL, -1, &n));
    npt_dtype to =
        npt_site(env->sites, NPT_SITE_LOGITS, -1, NPT_FORWARD, NPT_F32, rows * model->lm_head.rows);
    NPT_ASSERT(to == NPT_F32);
    const npt_matmul_desc desc = {.m = rows,
                                  .n = model->lm_head.rows,
                                  .k = h.cols,
                                  .trans_w = true,
                                  .a = n.dtype,
                                  .w = model->lm_head.dtype,
                                  .c = to};
    const npt_matmul_args args = {.a = n.data, .w = model->lm_head.data, .c = logits};
    NPT_TRY(npt_matmul(env->exec, &desc, &args));
    npt_arena_rewind(env->arena, mark);
    return NPT_OK;
}
