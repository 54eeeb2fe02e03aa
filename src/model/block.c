/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/block.h"

#include <math.h>

/* Forward and backward of a block as sequences of matmuls and kernels between named sites. A result
 * is always: npt_mat_produce() (announce, allocate), compute, npt_mat_finish(). The sequence is the
 * specification of method.md §1 read from top to bottom; nothing here looks at a dtype except to
 * hand it on.
 *
 * Forward takes one side or two. Room is made for all of a stage first: what a stage gives, what
 * the student keeps, what the teacher needs meanwhile, so that the arena can be rewound to what is
 * kept. */

/* ---- Products with frozen weights ---- */

/* yᵢ = xᵢ·Wᵀ + bias of every side; y are announced at `site` already, x are operands. */
static npt_status multiply(const npt_side *sides, int count, const npt_weight *w, const npt_mat *x,
                           npt_site_id site, int layer, const npt_mat *y)
{
    npt_matmul_args args[NPT_SIDES];
    const npt_matmul_desc desc = {.m = x[0].rows,
                                  .n = w->rows,
                                  .k = w->cols,
                                  .trans_w = true,
                                  .a = x[0].dtype,
                                  .w = w->dtype,
                                  .c = y[0].dtype,
                                  .bias = w->bias != NULL};
    for (int i = 0; i < count; i++) {
        NPT_ASSERT(x[i].rows == x[0].rows && x[i].dtype == x[0].dtype && y[i].dtype == y[0].dtype);
        args[i] = (npt_matmul_args){.a = x[i].data,
                                    .w = w->data,
                                    .absmax = w->absmax,
                                    .levels = w->levels,
                                    .bias = w->bias,
                                    .c = y[i].data};
    }
    NPT_TRY(count == 1 ? npt_matmul(sides[0].env->exec, &desc, args)
                       : npt_matmul_two(sides[0].env->exec, &desc, args));
    for (int i = 0; i < count; i++)
        NPT_TRY(npt_mat_finish(sides[i].env, site, layer, NPT_FORWARD, y[i]));
    return NPT_OK;
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

/* Over rows of `width` values: a token's (hidden), or a head's (q_norm, k_norm). y is announced. */
static npt_status norm_into(const npt_env *env, npt_mat x, npt_in weight, int64_t width,
                            npt_site_id site, int layer, npt_mat y)
{
    const npt_norm_args args = {.rows = x.rows * x.cols / width,
                                .width = width,
                                .eps = (float)env->model->config.norm_epsilon,
                                .x = npt_mat_in(x),
                                .weight = weight,
                                .dst = npt_mat_out(y)};
    npt_exec_kernels(env->exec)->norm(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, site, layer, NPT_FORWARD, y);
}

static npt_status norm(const npt_env *env, npt_mat x, npt_in weight, npt_site_id site, int layer,
                       npt_mat *y)
{
    NPT_TRY(npt_mat_produce(env, site, layer, NPT_FORWARD, NPT_F32, x.rows, x.cols, y));
    return norm_into(env, x, weight, x.cols, site, layer, *y);
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
    npt_mat x[NPT_SIDES];
    int count;
    struct {
        const npt_weight *w;
        npt_site_id site;
        npt_mat y[NPT_SIDES]; /* announced */
    } to[3];
} fan_out;

/* y = norm(x)·Wᵀ + bias. The normed x are rewound: backward does not need them. */
static npt_status norm_and_project(const npt_side *sides, int count, int layer, const fan_out *fan)
{
    npt_mat n[NPT_SIDES];
    const npt_arena_mark mark = npt_arena_get_mark(sides[0].env->arena);
    for (int i = 0; i < count; i++) {
        const npt_env *env = sides[i].env;
        NPT_TRY(norm(env, fan->x[i], fan->norm, fan->site, layer, &n[i]));
        NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_FORWARD, n[i], &n[i]));
    }
    for (int j = 0; j < fan->count; j++)
        NPT_TRY(multiply(sides, count, fan->to[j].w, n, fan->to[j].site, layer, fan->to[j].y));
    npt_arena_rewind(sides[0].env->arena, mark);
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
    for (int64_t at = 0; at < h->rows; at += NPT_EMBEDDED_AT_ONCE) {
        const int64_t left = h->rows - at;
        const npt_out rows = {(char *)h->data + (size_t)(at * h->cols) * npt_dtype_bytes(h->dtype),
                              h->dtype};
        npt_exec_kernels(env->exec)->embed(
            npt_exec_run(env->exec), left < NPT_EMBEDDED_AT_ONCE ? left : NPT_EMBEDDED_AT_ONCE,
            c->hidden, env->batch->ids + at, env->model->embed, rows);
        npt_model_release_embedding(env->model);
    }
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

/* Room for what attention makes, which is what it keeps. */
static npt_status make_attention_room(npt_side *side, int layer)
{
    const npt_env *env = side->env;
    const npt_block_weights *w = &env->model->blocks[layer];
    npt_block_state *s = side->state;
    const int64_t rows = side->x.rows, heads = env->model->config.heads;
    s->x = side->x;
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_Q, layer, NPT_FORWARD, NPT_F32, rows, w->q.rows, &s->q_in));
    NPT_TRY(
        npt_mat_produce(env, NPT_SITE_K, layer, NPT_FORWARD, NPT_F32, rows, w->k.rows, &s->k_in));
    NPT_TRY(npt_mat_produce(env, NPT_SITE_V, layer, NPT_FORWARD, NPT_F32, rows, w->v.rows, &s->v));
    s->q = s->q_in;
    s->k = s->k_in;
    if (env->model->config.qk_norm) {
        NPT_TRY(npt_mat_produce(env, NPT_SITE_Q_NORM, layer, NPT_FORWARD, NPT_F32, rows, w->q.rows,
                                &s->q));
        NPT_TRY(npt_mat_produce(env, NPT_SITE_K_NORM, layer, NPT_FORWARD, NPT_F32, rows, w->k.rows,
                                &s->k));
    }
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ATTN, layer, NPT_FORWARD, NPT_F32, rows, s->q.cols,
                            &s->attn));
    s->lse =
        npt_arena_alloc(env->arena, NPT_MEM_ACTIVATIONS, (size_t)(rows * heads), sizeof(float));
    return s->lse != NULL ? NPT_OK : NPT_E_NOMEM;
}

/* q, k, v as attention reads them. */
static npt_status project_qkv(const npt_side *sides, int count, int layer)
{
    const npt_block_weights *w = &sides[0].env->model->blocks[layer];
    const npt_config *c = &sides[0].env->model->config;
    fan_out fan = {.norm = w->norm_in,
                   .site = NPT_SITE_NORM_IN,
                   .count = 3,
                   .to = {{.w = &w->q, .site = NPT_SITE_Q},
                          {.w = &w->k, .site = NPT_SITE_K},
                          {.w = &w->v, .site = NPT_SITE_V}}};
    for (int i = 0; i < count; i++) {
        const npt_block_state *s = sides[i].state;
        fan.x[i] = sides[i].x;
        fan.to[0].y[i] = s->q_in;
        fan.to[1].y[i] = s->k_in;
        fan.to[2].y[i] = s->v;
    }
    NPT_TRY(norm_and_project(sides, count, layer, &fan));
    for (int i = 0; i < count; i++) {
        const npt_env *env = sides[i].env;
        const npt_block_state *s = sides[i].state;
        if (c->qk_norm) {
            NPT_TRY(norm_into(env, s->q_in, w->q_norm, c->head_dim, NPT_SITE_Q_NORM, layer, s->q));
            NPT_TRY(norm_into(env, s->k_in, w->k_norm, c->head_dim, NPT_SITE_K_NORM, layer, s->k));
        }
        NPT_TRY(rope(env, s->q, NPT_SITE_ROPE, layer, NPT_FORWARD));
        NPT_TRY(rope(env, s->k, NPT_SITE_ROPE, layer, NPT_FORWARD));
    }
    return NPT_OK;
}

static npt_status attend(const npt_env *env, int layer, const npt_block_state *s)
{
    const npt_config *c = &env->model->config;
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

npt_status npt_block_attention(npt_side *sides, int count, int layer)
{
    npt_arena *arena = sides[0].env->arena;
    const npt_weight *o = &sides[0].env->model->blocks[layer].o;
    npt_mat attn[NPT_SIDES], a[NPT_SIDES];
    for (int i = 0; i < count; i++) {
        NPT_TRY(npt_mat_produce(sides[i].env, NPT_SITE_ATTN_OUT, layer, NPT_FORWARD, NPT_F32,
                                sides[i].x.rows, o->rows, &sides[i].a));
        a[i] = sides[i].a;
    }
    npt_arena_mark mark = npt_arena_get_mark(arena);
    for (int i = count - 1; i >= 0; i--) {
        NPT_TRY(make_attention_room(&sides[i], layer));
        if (sides[i].keeps) mark = npt_arena_get_mark(arena);
    }
    NPT_TRY(project_qkv(sides, count, layer));
    for (int i = 0; i < count; i++) {
        NPT_TRY(attend(sides[i].env, layer, sides[i].state));
        NPT_TRY(npt_mat_operand(sides[i].env, NPT_SITE_OPERAND, layer, NPT_FORWARD,
                                sides[i].state->attn, &attn[i]));
    }
    NPT_TRY(multiply(sides, count, o, attn, NPT_SITE_ATTN_OUT, layer, a));
    npt_arena_rewind(arena, mark);
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

/* Room for what an MLP makes before its products, and what is made from a alone. */
static npt_status begin_mlp(npt_side *side, int layer)
{
    const npt_env *env = side->env;
    const npt_block_weights *w = &env->model->blocks[layer];
    npt_block_state *s = side->state;
    const int64_t rows = side->x.rows;
    s->y = side->x;
    if (side->adapters != NULL)
        NPT_TRY(side->adapters->kind->forward(env, side->adapters, layer, side->a, &s->adapter));
    else
        NPT_TRY(add(env, side->x, side->a, NPT_SITE_RESIDUAL_ATTN, layer, &s->y));
    NPT_TRY(npt_mat_produce(env, NPT_SITE_GATE, layer, NPT_FORWARD, NPT_F32, rows, w->gate.rows,
                            &s->gate));
    return npt_mat_produce(env, NPT_SITE_UP, layer, NPT_FORWARD, NPT_F32, rows, w->up.rows, &s->up);
}

/* act = silu(g')·up, g' being the gate or what an adapter makes of it; in the gate's place where
 * nothing is kept. */
static npt_status gated_unit(const npt_side *side, int layer, npt_mat *act)
{
    const npt_env *env = side->env;
    npt_block_state *s = side->state;
    *act = s->gate;
    if (side->keeps)
        NPT_TRY(npt_mat_produce(env, NPT_SITE_MLP_ACT, layer, NPT_FORWARD, NPT_F32, s->gate.rows,
                                s->gate.cols, act));
    else
        NPT_TRY(npt_mat_announce(env, NPT_SITE_MLP_ACT, layer, NPT_FORWARD, *act));
    const npt_gate_args args = {.rows = s->gate.rows,
                                .width = s->gate.cols,
                                .gate = npt_mat_in(s->gate),
                                .up = npt_mat_in(s->up),
                                .dst = npt_mat_out(*act)};
    if (side->adapters != NULL)
        NPT_TRY(side->adapters->kind->gate(env, side->adapters, layer, NPT_FORWARD, &s->adapter,
                                           s->gate, s->up, *act));
    else
        npt_exec_kernels(env->exec)->gate(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, NPT_SITE_MLP_ACT, layer, NPT_FORWARD, *act);
}

static npt_status add_down(const npt_side *side, int layer, npt_mat down)
{
    const npt_env *env = side->env;
    npt_exec_kernels(env->exec)->add(npt_exec_run(env->exec), down.rows * down.cols,
                                     npt_mat_in(side->state->y), npt_mat_in(down),
                                     npt_mat_out(side->h));
    return npt_mat_finish(env, NPT_SITE_RESIDUAL, layer, NPT_FORWARD, side->h);
}

npt_status npt_block_mlp(npt_side *sides, int count, int layer)
{
    npt_arena *arena = sides[0].env->arena;
    const npt_block_weights *w = &sides[0].env->model->blocks[layer];
    npt_mat act[NPT_SIDES], down[NPT_SIDES];
    fan_out fan = {
        .norm = w->norm_post,
        .site = NPT_SITE_NORM_POST,
        .count = 2,
        .to = {{.w = &w->gate, .site = NPT_SITE_GATE}, {.w = &w->up, .site = NPT_SITE_UP}}};
    for (int i = 0; i < count; i++)
        NPT_TRY(npt_mat_produce(sides[i].env, NPT_SITE_RESIDUAL, layer, NPT_FORWARD, NPT_F32,
                                sides[i].x.rows, sides[i].x.cols, &sides[i].h));
    npt_arena_mark mark = npt_arena_get_mark(arena);
    for (int i = count - 1; i >= 0; i--) {
        NPT_TRY(begin_mlp(&sides[i], layer));
        fan.x[i] = sides[i].state->y;
        fan.to[0].y[i] = sides[i].state->gate;
        fan.to[1].y[i] = sides[i].state->up;
        if (sides[i].keeps) mark = npt_arena_get_mark(arena);
    }
    NPT_TRY(norm_and_project(sides, count, layer, &fan));
    for (int i = 0; i < count; i++) {
        const npt_env *env = sides[i].env;
        NPT_TRY(gated_unit(&sides[i], layer, &act[i]));
        NPT_TRY(npt_mat_operand(env, NPT_SITE_OPERAND, layer, NPT_FORWARD, act[i], &act[i]));
        NPT_TRY(npt_mat_produce(env, NPT_SITE_DOWN, layer, NPT_FORWARD, NPT_F32, sides[i].x.rows,
                                sides[i].x.cols, &down[i]));
    }
    NPT_TRY(multiply(sides, count, &w->down, act, NPT_SITE_DOWN, layer, down));
    for (int i = 0; i < count; i++) NPT_TRY(add_down(&sides[i], layer, down[i]));
    npt_arena_rewind(arena, mark);
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
    NPT_TRY(norm(env, part, model->norm_final, NPT_SITE_NORM_FINAL, -1, &n));
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
