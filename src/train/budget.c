/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "model/tensors.h"
#include "train/trainer.h"

/* The table is a sum over what is allocated in one place each: arenas by their tags, scratch by
 * asking the backends, activations by going through a block as block.c does. What cannot be counted
 * beforehand (the program, the tokenizer) is measured, since it is there already. */

#define MIB ((uint64_t)1 << 20)

/* ---- Activations of a block ---- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Widths and bytes of one token's values. */
typedef struct widths {
    double d, f, r, q, kv, heads, terms;
    double act, own, operand;      /* bytes: H, P, and of a copy as operand (0: none is made) */
    double normed, qk_norm, state; /* bytes: a normed x; normed heads; what attention keeps */
    double adapter;                /* bytes: what an adapter keeps */
} widths;

static widths widths_of(const npt_policy *policy, const npt_config *c, const npt_adapters *adapters)
{
    const npt_dtype *dtype = policy->dtype;
    const bool cast = dtype[NPT_ROLE_COMPUTE] != dtype[NPT_ROLE_ACT]; /* R4 */
    widths w = {.d = (double)c->hidden,
                .f = (double)c->inter,
                .r = adapters->rank,
                .q = (double)(c->heads * c->head_dim),
                .kv = (double)(c->kv_heads * c->head_dim),
                .heads = (double)c->heads,
                .terms = adapters->modulation == NPT_MODULATION_BOTH ? 2 : 1,
                .act = (double)npt_dtype_bytes(dtype[NPT_ROLE_ACT]),
                .own = (double)npt_dtype_bytes(dtype[NPT_ROLE_ADAPTER])};
    w.operand = cast ? (double)npt_dtype_bytes(dtype[NPT_ROLE_COMPUTE]) : 0;
    w.normed = w.d * (w.act + w.operand);
    w.qk_norm = c->qk_norm ? w.act * (w.q + w.kv) : 0;
    w.state = w.act * (2 * w.q + 2 * w.kv) + w.qk_norm + 4 * w.heads;
    w.adapter = (w.own == w.act ? 0 : w.d * w.own) + w.operand * w.d + w.own * w.r;
    return w;
}

/* A block of the teacher leaves its attention's output and h. */
static double teacher_left(const widths *w)
{
    return w->act * 2 * w->d;
}

/* One of the student leaves what backward reads, and h; where it does not share the teacher's
 * attention, that, too. Without an adapter it keeps x + attention instead of the adapter's. */
static double student_left(const widths *w, bool own_attention, bool adapted)
{
    return w->act * (w->d + 2 * w->f) + (adapted ? w->adapter : w->act * w->d) +
           (own_attention ? w->act * w->d + w->state : 0);
}

/* Attention of the teacher, and of the student where it has its own, from the first room made to
 * what is rewound. */
static double attention_peak(const widths *w, bool own)
{
    const double sides = own ? 2 : 1;
    return sides * (w->act * w->d + w->state + larger(w->normed, w->operand * w->q));
}

/* What an MLP holds beside what is left: the teacher's gate and up; then both normed x, or both
 * acts and downs (the teacher's act lies over its gate). */
static double mlp_meanwhile(const widths *w, bool differs)
{
    const double sides = differs ? 2 : 1, act = differs ? w->act * w->f : 0;
    const double down = act + sides * (w->act * w->d + w->operand * w->f) + w->operand * w->r + 8;
    return w->act * (w->d + 2 * w->f) + larger(sides * w->normed, down);
}

/* What an adapter's backward holds until the block's ends. */
static double adapter_backward_bytes(const widths *w, bool through)
{
    const double terms =
        w->terms * w->f * (w->own + w->operand) + 8 * w->r + w->operand * (2 * w->r + w->d);
    return terms + (through ? w->d * w->own + (w->own == w->act ? 0 : w->d * w->act) : 0);
}

/* Beside what forward left, the gradient of h included. g' is written out only for a watcher (who
 * comes when a step is not finite): over the gradient of up, if there is one. */
static double backward_meanwhile(const widths *w, bool through)
{
    const double sum = w->act < 4 ? 4 * w->d : 0; /* of several products, in F32 */
    const double mlp = w->act * w->d + sum + 2 * w->operand * w->f;
    const double qkv =
        w->act * (w->q + 2 * w->kv + w->d) + w->qk_norm + sum + w->operand * (w->q + 2 * w->kv);
    const double attention = w->act * (w->d + w->q) + larger(w->operand * w->d, qkv);
    return w->act * (w->d + 2 * w->f) +
           larger(w->operand * w->d,
                  adapter_backward_bytes(w, through) + (through ? larger(mlp, attention) : 0));
}

/* Bytes of `token` a token, and what does not depend on tokens: the terms' parameters turned to
 * F32; an adapter as operands, its first as often as `forwards` and one backward make it. */
static uint64_t for_tokens(const widths *w, double token, int64_t tokens, int forwards,
                           bool through)
{
    const double copies = (4 + w->operand) * w->terms * w->f * w->r +
                          w->operand * (forwards + (through ? 1 : 0)) * w->r * w->d;
    return (uint64_t)(token * (double)tokens + copies) + MIB / 4;
}

uint64_t npt_budget_block(const npt_policy *policy, const npt_config *config,
                          const npt_adapters *adapters, int64_t tokens, bool through)
{
    const widths w = widths_of(policy, config, adapters);
    const double teacher = teacher_left(&w), student = student_left(&w, through, true);
    const double forward =
        larger(attention_peak(&w, through), teacher + student + mlp_meanwhile(&w, true));
    /* layer by layer, backward follows at once; else the student's block is made again */
    const double backward = (through ? 0 : teacher) + student + backward_meanwhile(&w, through);
    return for_tokens(&w, larger(forward, backward), tokens, 1, through);
}

/* One segment from the lowest adapter to the last block: all that forward leaves, and the most
 * that something holds besides. */
static uint64_t whole_segment(const widths *w, const npt_adapters *adapters, int64_t tokens)
{
    double left = 0, last = 0;
    int adapted = 0, differing = 0;
    for (int layer = 0; layer < adapters->layers; layer++) {
        left += teacher_left(w);
        adapted += adapters->active[layer];
        if (adapted == 0) continue;
        last = student_left(w, differing > 0, adapters->active[layer]);
        left += last;
        differing++;
    }
    const bool through = differing > 1;
    const double forward =
        larger(attention_peak(w, through) - teacher_left(w) - last, mlp_meanwhile(w, true));
    const double token = w->act * w->d + left + larger(forward, backward_meanwhile(w, through));
    return for_tokens(w, token, tokens, adapted, through);
}

uint64_t npt_budget_activations(const npt_policy *policy, const npt_config *config,
                                const npt_adapters *adapters, npt_distill distill, int64_t tokens)
{
    const widths w = widths_of(policy, config, adapters);
    if (distill != NPT_DISTILL_LAYERWISE) return whole_segment(&w, adapters, tokens);
    return npt_budget_block(policy, config, adapters, tokens, false) +
           (uint64_t)(w.act * w.d) * (uint64_t)tokens; /* and what the block reads */
}

/* ---- Scratch ---- */

static npt_dtype dtype_held(const npt_trainer *t, const npt_wanted *wanted)
{
    const npt_model *m = t->setup.model;
    const npt_st_tensor *tensor = npt_st_find(m->st, wanted->name);
    const npt_dtype planned = npt_tensor_planned(&t->setup.policy, wanted->kind,
                                                 tensor != NULL ? tensor->dtype : NPT_F32);
    return tensor != NULL && planned == NPT_F32 ? tensor->dtype : planned;
}

/* The products of a frozen linear: forward, and the gradient of its input. */
static npt_status reserve_linear(npt_trainer *t, const npt_wanted *wanted, int64_t tokens)
{
    const npt_dtype *dtype = t->setup.policy.dtype;
    npt_matmul_desc desc = {.m = tokens,
                            .n = wanted->shape[0],
                            .k = wanted->shape[1],
                            .trans_w = true,
                            .a = dtype[NPT_ROLE_COMPUTE],
                            .w = dtype_held(t, wanted),
                            .c = dtype[NPT_ROLE_ACT]};
    if (!npt_dtype_is_float(desc.w)) desc.w = NPT_NF4;
    NPT_TRY(npt_exec_reserve_matmul(t->setup.exec, &desc));
    desc.trans_w = false;
    desc.n = wanted->shape[1];
    desc.k = wanted->shape[0];
    NPT_TRY(npt_exec_reserve_matmul(t->setup.exec, &desc));
    desc.c = NPT_F32; /* a sum of several */
    desc.accumulate = true;
    return npt_exec_reserve_matmul(t->setup.exec, &desc);
}

/* Those of an adapter: forward, the gradient of the parameter, and of its input. */
static npt_status reserve_parameter(npt_trainer *t, const npt_parameter *p, int64_t tokens)
{
    const npt_dtype x = npt_policy_adapter_operand(&t->setup.policy);
    const npt_matmul_desc descs[] = {
        {.m = tokens, .n = p->rows, .k = p->cols, .trans_w = true, .a = x, .w = x, .c = x},
        {.m = p->rows,
         .n = p->cols,
         .k = tokens,
         .trans_a = true,
         .a = x,
         .w = x,
         .c = NPT_F32,
         .accumulate = true},
        {.m = tokens, .n = p->cols, .k = p->rows, .a = x, .w = x, .c = NPT_F32}};
    for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++)
        NPT_TRY(npt_exec_reserve_matmul(t->setup.exec, &descs[i]));
    return NPT_OK;
}

static npt_status reserve_scratch(npt_trainer *t, int64_t tokens)
{
    const npt_config *c = &t->setup.model->config;
    npt_wanted list[NPT_BLOCK_TENSORS_MAX];
    const int count = npt_block_tensors(c, 0, list);
    NPT_TRY(npt_exec_reserve(t->setup.exec, t->options.data.max_length, c->head_dim,
                             c->inter > c->hidden ? c->inter : c->hidden));
    for (int i = 0; i < count; i++)
        if (list[i].kind == NPT_TENSOR_LINEAR) NPT_TRY(reserve_linear(t, &list[i], tokens));
    for (int layer = 0; layer < t->adapters.layers; layer++) {
        const npt_adapter *adapter = &t->adapters.adapter[layer];
        for (int i = 0; i < adapter->count; i++)
            NPT_TRY(reserve_parameter(t, &adapter->parameters[i], tokens));
        if (adapter->count > 0) break; /* the others are alike */
    }
    return NPT_OK;
}

/* ---- The table ---- */

/* Resident bytes of this process; 0 where the kernel does not say. */
static uint64_t resident_now(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL) return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2) resident = 0;
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* As allocate() of adapter.c and make_adapters() of open.c do. */
static void count_adapters(npt_budget *b, const npt_trainer *t)
{
    const npt_dtype dtype = t->adapters.dtype;
    const uint64_t size = (uint64_t)npt_adapters_size(&t->adapters), f32 = sizeof(float),
                   resident = resident_now();
    const bool two_terms = t->options.regularization_lambda > 0;
    b->adapters = size * npt_dtype_bytes(dtype);
    b->masters = dtype == NPT_F32 ? 0 : size * f32;
    b->moments = 2 * size * f32;
    b->gradients = (two_terms ? 2 : 1) * size * f32;
    /* written already, but for the gradients of a term */
    const uint64_t written = t->plan_only ? 0 : b->adapters + b->masters + b->moments + size * f32;
    b->program = resident > written ? resident - written : 0;
    b->program = (b->program + MIB - 1) / MIB * MIB; /* two runs mostly say the same */
}

static int lowest_active(const npt_trainer *t)
{
    int layer = 0;
    while (layer < t->adapters.layers && !t->adapters.active[layer]) layer++;
    return layer;
}

int npt_budget_back_to(const npt_trainer *t)
{
    return t->options.distill == NPT_DISTILL_LAYERWISE ? t->adapters.layers : lowest_active(t);
}

/* Chunks and pages are rounded up: a hundredth. */
static void add_up(npt_budget *b)
{
    const uint64_t sum = b->buffer + b->mapped + b->copies + b->adapters + b->masters + b->moments +
                         b->gradients + b->boundaries + b->activations + b->scratch + b->program +
                         b->reserve;
    b->reserve += sum / 100;
    b->total = sum + sum / 100;
}

/* Boundaries that a micro-batch keeps: the teacher's h; and where gradients flow from block to
 * block, h of both after each, the student's inputs of its segments, and a gradient. */
static uint64_t boundaries_of(const npt_trainer *t)
{
    const uint64_t blocks = (uint64_t)(t->adapters.layers - lowest_active(t));
    switch (t->options.distill) {
    case NPT_DISTILL_LAYERWISE: return 1;
    case NPT_DISTILL_END_TO_END: return 3 + 2 * blocks;
    case NPT_DISTILL_MIXED: return 2 + 3 * blocks;
    }
    return 0;
}

static npt_budget streamed_way(const npt_budget *common, const npt_trainer *t,
                               const npt_stream_needs *needs, uint64_t buffer)
{
    npt_budget b = *common;
    const npt_config *c = &t->setup.model->config;
    const uint64_t act = npt_dtype_bytes(t->setup.policy.dtype[NPT_ROLE_ACT]),
                   tokens = (uint64_t)(t->options.batch_size * t->options.data.max_length);
    b.streamed = true;
    b.buffer = buffer;
    b.copies = needs->copies;
    b.pass = needs->pass;
    b.boundaries = (uint64_t)t->options.gradient_accumulation_steps * boundaries_of(t) *
                   (tokens * (uint64_t)c->hidden * act + 64);
    b.activations = npt_budget_block(&t->setup.policy, c, &t->adapters, (int64_t)tokens,
                                     t->options.distill != NPT_DISTILL_LAYERWISE);
    b.reserve += tokens * (npt_model_embedding_row(t->setup.model) + 8192);
    add_up(&b);
    return b;
}

static npt_budget whole_way(const npt_budget *common, const npt_trainer *t,
                            const npt_stream_needs *needs)
{
    npt_budget b = *common;
    const npt_config *c = &t->setup.model->config;
    b.mapped = needs->in_place + npt_model_embedding_bytes(t->setup.model);
    b.copies = needs->all_copies;
    b.activations = npt_budget_activations(&t->setup.policy, c, &t->adapters, t->options.distill,
                                           t->options.batch_size * t->options.data.max_length);
    add_up(&b);
    return b;
}

/* ---- The decision ---- */

static double decimal(uint64_t bytes, const char **unit)
{
    *unit = bytes >= 1000000000 ? "GB" : "MB";
    return (double)bytes / (bytes >= 1000000000 ? 1e9 : 1e6);
}

static npt_status refuse(const npt_budget *b, const npt_trainer *t)
{
    const char *unit[4];
    const double limit = decimal(b->limit, &unit[0]),
                 block = decimal(b->buffer + b->copies, &unit[1]),
                 trained = decimal(b->adapters + b->masters + b->moments + b->gradients, &unit[2]),
                 states = decimal(b->boundaries + b->activations + b->scratch, &unit[3]);
    return npt_fail(NPT_E_USAGE,
                    "--memory_limit %.4g%s is not enough: this run needs --memory_limit %" PRIu64
                    "MB (a block's weights %.4g %s, adapters and optimizer %.4g %s, activations "
                    "%.4g %s); lower --max_length, --batch_size, --gradient_accumulation_steps or "
                    "--adapter_rank%s, or raise the limit",
                    limit, unit[0], (b->least + 999999) / 1000000, block, unit[1], trained, unit[2],
                    states, unit[3],
                    t->options.distill != NPT_DISTILL_LAYERWISE
                        ? ", take --distill layerwise, which keeps less between blocks"
                        : "");
}

npt_status npt_budget_make(npt_budget *b, struct npt_trainer *t)
{
    npt_stream_needs needs;
    npt_budget common = {.limit = t->options.memory_limit, .reserve = 4 * MIB};
    const int64_t tokens = t->options.batch_size * t->options.data.max_length;
    NPT_TRY(
        npt_model_stream_needs(t->setup.model, &t->setup.policy, npt_budget_back_to(t), &needs));
    count_adapters(&common, t);
    NPT_TRY(reserve_scratch(t, tokens));
    common.scratch = npt_exec_scratch_bytes(t->setup.exec);
    const npt_budget whole = whole_way(&common, t, &needs),
                     least = streamed_way(&common, t, &needs, needs.least),
                     most = streamed_way(&common, t, &needs, needs.most);
    *b = whole;
    if (common.limit > 0 && whole.total > common.limit) {
        uint64_t buffer = needs.least;
        if (least.total <= common.limit) buffer += (common.limit - least.total) / 102 * 100;
        if (buffer > needs.most) buffer = needs.most;
        *b = streamed_way(&common, t, &needs, buffer / 4096 * 4096);
    }
    b->whole = whole.total;
    b->least = least.total;
    b->most = most.total;
    return !b->streamed || least.total <= common.limit ? NPT_OK : refuse(b, t);
}

void npt_budget_log(const npt_budget *b)
{
    const char *unit[2];
    const double total = decimal(b->total, &unit[0]), pass = decimal(b->pass, &unit[1]);
    if (!b->streamed)
        npt_log(NPT_LOG_NOTE, "memory: at most %.4g %s; the limit is kept without streaming", total,
                unit[0]);
    else
        npt_log(NPT_LOG_NOTE, "memory: at most %.4g %s; every step streams %.4g %s of weights, %s",
                total, unit[0], pass, unit[1],
                b->total >= b->most
                    ? "two blocks in flight"
                    : "less than a block ahead (all of it with a higher --memory_limit)");
}

void npt_budget_log_table(const npt_budget *b, const npt_train_options *o)
{
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"weights, mapped", b->mapped},
                {"weights, a buffer of one to two blocks", b->buffer},
                {"weights, copies", b->copies},
                {"adapters", b->adapters},
                {"masters", b->masters},
                {"moments", b->moments},
                {"gradients", b->gradients},
                {"states between blocks", b->boundaries},
                {"activations at most", b->activations},
                {"scratch", b->scratch},
                {"program and tokenizer", b->program},
                {"reserve", b->reserve}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].bytes > 0)
            npt_log(NPT_LOG_NOTE, "memory: %s %.1f MiB", rows[i].what,
                    (double)rows[i].bytes / (double)MIB);
    npt_log(NPT_LOG_NOTE,
            "memory: at most %.1f MiB in all, at %" PRId64 " rows of %" PRId64 " tokens",
            (double)b->total / (double)MIB, o->batch_size, o->data.max_length);
    if (b->limit > 0) npt_budget_log(b);
}
