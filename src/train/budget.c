/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "model/tensors.h"
#include "train/describe.h"
#include "train/trainer.h"

/* The table is a sum over what is allocated in one place each: arenas by their tags, scratch by
 * asking the backends, activations by going through a block as block.c does. What cannot be counted
 * beforehand (the program, the tokenizer) is measured, since it is there already. */

#define MIB ((uint64_t)1 << 20)

/* ---- Activations of a block, layer by layer ---- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Follows ride() of distill.c through block.c and adapter_lowrank.c: what is held at the four points
 * where most is. Bytes a token. */
uint64_t npt_budget_layerwise(const npt_policy *policy, const npt_config *c,
                              const npt_adapters *adapters, int64_t tokens)
{
    const npt_dtype *dtype = policy->dtype;
    const double act = (double)npt_dtype_bytes(dtype[NPT_ROLE_ACT]),
                 own = (double)npt_dtype_bytes(dtype[NPT_ROLE_ADAPTER]);
    const bool cast = dtype[NPT_ROLE_COMPUTE] != dtype[NPT_ROLE_ACT]; /* R4: operands are copies */
    const double operand = cast ? (double)npt_dtype_bytes(dtype[NPT_ROLE_COMPUTE]) : 0;
    const double d = (double)c->hidden, f = (double)c->inter, r = adapters->rank,
                 q = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim),
                 terms = adapters->modulation == NPT_MODULATION_BOTH ? 2 : 1;
    const double normed = d * (act + operand);
    const double attention =
        act * (d + q + 2 * kv) +
        larger(normed, act * ((c->qk_norm ? q + kv : 0) + q) + 4 * (double)c->heads + operand * q);
    const double mlp = larger(normed, act * (f + d) + operand * f);
    const double teacher = act * (3 * d + 2 * f) + mlp;
    const double adapter = (own == act ? 0 : d * own) + operand * (d + r) + own * (r + terms * f);
    const double kept = act * (3 * d + 2 * f) + adapter;
    const double student = kept + larger(normed, act * (2 * f + d) + operand * f);
    const double gradients = own * terms * f + operand * (terms * f + d + 2 * r) + 8 * r;
    const double backward = kept + act * (d + f) + larger(act * 2 * f + operand * d, gradients);
    const double weights = operand * (r * d + 2 * terms * f * r); /* of the adapter, as operands */
    return (uint64_t)(larger(larger(attention, teacher), larger(student, backward)) *
                          (double)tokens +
                      weights) +
           MIB / 4;
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
    return npt_exec_reserve_matmul(t->setup.exec, &desc);
}

/* Those of an adapter: forward, the gradient of the parameter, and of its input. */
static npt_status reserve_parameter(npt_trainer *t, const npt_parameter *p, int64_t tokens)
{
    const npt_dtype *dtype = t->setup.policy.dtype;
    const npt_dtype x = dtype[NPT_ROLE_COMPUTE] != dtype[NPT_ROLE_ACT] ? dtype[NPT_ROLE_COMPUTE]
                                                                       : dtype[NPT_ROLE_ADAPTER];
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

static void count_run_arena(npt_budget *b, const npt_trainer *t)
{
    const uint64_t terms =
        t->term_gradients != NULL ? (uint64_t)npt_adapters_size(&t->adapters) * sizeof(float) : 0;
    const uint64_t resident = resident_now();
    b->adapters = npt_arena_tag_bytes(t->arena, NPT_MEM_ADAPTERS);
    b->masters = npt_arena_tag_bytes(t->arena, NPT_MEM_MASTERS);
    b->moments = npt_arena_tag_bytes(t->arena, NPT_MEM_MOMENTS);
    b->gradients = npt_arena_tag_bytes(t->arena, NPT_MEM_GRADIENTS);
    /* all of that was written already, but for the gradients of the term */
    const uint64_t written = b->adapters + b->masters + b->moments + b->gradients - terms;
    b->program = resident > written ? resident - written : 0;
    b->program = (b->program + 4 * MIB - 1) / (4 * MIB) * (4 * MIB); /* two runs say the same */
}

/* Bytes of the embedding's row; its table as a whole where `table` is set. */
static uint64_t embedding_bytes(const npt_model *model, bool table)
{
    npt_wanted list[NPT_MODEL_TENSORS];
    npt_model_tensors(&model->config, list);
    const npt_st_tensor *embed = npt_st_find(model->st, list[NPT_WANTED_EMBED].name);
    if (embed == NULL) return 0;
    return table ? embed->bytes : embed->bytes / (uint64_t)model->config.vocab;
}

/* Chunks and pages are rounded up: a hundredth. */
static void add_up(npt_budget *b)
{
    const uint64_t sum = b->buffer + b->mapped + b->copies + b->adapters + b->masters +
                         b->moments + b->gradients + b->boundaries + b->activations + b->scratch +
                         b->program + b->reserve;
    b->reserve += sum / 100;
    b->total = sum + sum / 100;
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
    b.boundaries = (uint64_t)t->options.gradient_accumulation_steps * tokens * act *
                   (uint64_t)c->hidden;
    b.activations =
        npt_budget_layerwise(&t->setup.policy, c, &t->adapters, (int64_t)tokens);
    b.reserve += tokens * (embedding_bytes(t->setup.model, false) + 8192);
    add_up(&b);
    return b;
}

static npt_budget whole_way(const npt_budget *common, const npt_trainer *t,
                            const npt_stream_needs *needs)
{
    npt_budget b = *common;
    const npt_config *c = &t->setup.model->config;
    b.mapped = needs->pass + embedding_bytes(t->setup.model, true);
    b.copies = needs->copies * (uint64_t)c->layers;
    b.activations =
        (uint64_t)npt_describe_activations(&t->options, &t->setup.policy, c, &t->adapters);
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
    const double limit = decimal(b->limit, &unit[0]);
    if (t->options.distill != NPT_DISTILL_LAYERWISE) {
        const double whole = decimal(b->whole, &unit[1]), streamed = decimal(b->least, &unit[2]);
        return npt_fail(NPT_E_USAGE,
                        "--memory_limit %.4g%s: --distill %s keeps the weights and the activations "
                        "of every block, %.4g %s here; --distill layerwise streams the weights and "
                        "needs %.4g %s",
                        limit, unit[0],
                        t->options.distill == NPT_DISTILL_MIXED ? "mixed" : "end-to-end", whole,
                        unit[1], streamed, unit[2]);
    }
    const double block = decimal(b->buffer + b->copies, &unit[1]),
                 trained = decimal(b->adapters + b->masters + b->moments + b->gradients, &unit[2]),
                 states = decimal(b->boundaries + b->activations + b->scratch, &unit[3]);
    return npt_fail(NPT_E_USAGE,
                    "--memory_limit %.4g%s is not enough: this run needs --memory_limit %" PRIu64
                    "MB (a block's weights %.4g %s, adapters and optimizer %.4g %s, activations "
                    "%.4g %s); lower --max_length, --batch_size, --gradient_accumulation_steps or "
                    "--adapter_rank, or raise the limit",
                    limit, unit[0], (b->least + 999999) / 1000000, block, unit[1], trained, unit[2],
                    states, unit[3]);
}

npt_status npt_budget_make(npt_budget *b, struct npt_trainer *t)
{
    npt_stream_needs needs;
    npt_budget common = {.limit = t->options.memory_limit, .reserve = 12 * MIB};
    const int64_t tokens = t->options.batch_size * t->options.data.max_length;
    NPT_TRY(npt_model_stream_needs(t->setup.model, &t->setup.policy, &needs));
    count_run_arena(&common, t);
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
    if (!b->streamed) return NPT_OK;
    if (t->options.distill == NPT_DISTILL_LAYERWISE && least.total <= common.limit) return NPT_OK;
    return refuse(b, t);
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
