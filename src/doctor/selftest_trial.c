/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/selftest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/nf4.h"

/* One step of training in process, through the same doors as `npt pretrain`: policy, model,
 * adapters, distiller, optimizer. Adapters begin with multiples of 1/1024 below 1/4, which BF16 and
 * F16 hold exactly, so that runs in different dtypes begin at the same point. */

enum { RANK = 8, SEQUENCES = 2, TOKENS = 12 };
static const double lambda = 0.01, strength = 0.1, learning_rate = 1e-3;

static const int64_t offsets[SEQUENCES + 1] = {0, 7, TOKENS};
static const int32_t ids[TOKENS] = {3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32};
static const int32_t positions[TOKENS] = {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4};

/* ---- Opening ---- */

/* A 4-bit linear as F32, by the definition: level of the nibble × absmax of its block. */
static npt_status decode(npt_arena *arena, npt_weight *w)
{
    const uint8_t *packed = w->data;
    const int64_t count = w->rows * w->cols;
    float *plain = npt_arena_alloc(arena, NPT_MEM_WEIGHTS, (size_t)count, sizeof *plain);
    if (plain == NULL) return NPT_E_NOMEM;
    for (int64_t i = 0; i < count; i++)
        plain[i] = w->levels[i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15] *
                   w->absmax[i / NPT_NF4_BLOCK];
    *w = (npt_weight){
        .rows = w->rows, .cols = w->cols, .dtype = NPT_F32, .data = plain, .bias = w->bias};
    return NPT_OK;
}

static npt_status decode_all(npt_model *model)
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        npt_block_weights *b = &model->blocks[i];
        npt_weight *const weights[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
        for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
            NPT_TRY(decode(model->arena, weights[k]));
    }
    return NPT_OK;
}

static npt_status open_model(npt_trial *trial)
{
    const npt_trial_setup *s = &trial->setup;
    NPT_TRY(npt_policy_decide(&s->request, &trial->policy));
    NPT_TRY(npt_model_open(&trial->model, s->model));
    trial->model->double_quantization = !s->no_double_quantization;
    trial->load_sites = npt_sites_for(&trial->policy, &trial->model->config, NULL);
    if (trial->load_sites == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_model_load(trial->model, trial->exec, &trial->policy, trial->load_sites));
    NPT_TRY(npt_sites_check(trial->load_sites));
    if (!s->decoded) return NPT_OK;
    const npt_policy_request plain = {0};
    NPT_TRY(npt_policy_decide(&plain, &trial->policy));
    return decode_all(trial->model);
}

static npt_status set_begin(void *context, int layer, npt_parameter *p)
{
    uint64_t *stream = context;
    (void)layer;
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        const double value = rint(100 * npt_rng_normal(7, *stream, (uint64_t)i));
        p->master[i] = (float)(fmax(-255, fmin(255, value)) / 1024);
    }
    ++*stream;
    return NPT_OK;
}

static npt_status open_adapters(npt_trial *trial)
{
    const npt_adapters_options options = {
        .rank = RANK, .modulation = trial->setup.modulation, .strength = strength, .seed = 1};
    uint64_t stream = NPT_RNG_ADAPTER;
    trial->arena = npt_arena_create("selftest");
    if (trial->arena == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_adapters_init(&trial->adapters, &options, &trial->model->config, &trial->policy,
                              trial->arena, true));
    return npt_adapters_visit(&trial->adapters, set_begin, &stream);
}

static npt_status open_all(npt_trial *trial)
{
    const npt_objective objective = {
        .loss = NPT_LOSS_NORMALIZED, .lambda = lambda, .distill = NPT_DISTILL_END_TO_END};
    NPT_TRY(npt_exec_create(&trial->exec, trial->setup.backend, trial->setup.threads));
    npt_exec_set_precision(trial->exec, trial->setup.precision);
    NPT_TRY(open_model(trial));
    NPT_TRY(open_adapters(trial));
    NPT_TRY(npt_distiller_init(&trial->distiller, trial->exec, trial->model, &trial->policy,
                               &trial->adapters, &objective));
    trial->distiller.strict = true;
    return npt_distiller_damage(&trial->distiller, &trial->setup.fault);
}

npt_status npt_trial_open(npt_trial *trial, const npt_trial_setup *setup)
{
    *trial = (npt_trial){.setup = *setup,
                         .batch = {.sequences = SEQUENCES,
                                   .tokens = TOKENS,
                                   .longest = 7,
                                   .offsets = offsets,
                                   .ids = ids,
                                   .positions = positions}};
    npt_status status = open_all(trial);
    if (status != NPT_OK) npt_trial_close(trial);
    return status;
}

void npt_trial_close(npt_trial *trial)
{
    npt_distiller_fini(&trial->distiller);
    npt_arena_destroy(trial->arena);
    npt_sites_destroy(trial->load_sites);
    npt_model_close(trial->model);
    npt_exec_destroy(trial->exec);
    *trial = (npt_trial){0};
}

/* ---- Running ---- */

npt_status npt_trial_run(npt_trial *trial, bool backward, double distance_factor,
                         double regularizer_factor)
{
    npt_distill_sums sums = {0};
    const npt_distill_request request = {
        .batch = &trial->batch,
        .backward = backward,
        .distance_factor = distance_factor * trial->setup.loss_scale,
        .regularizer_factor = regularizer_factor * trial->setup.loss_scale};
    npt_gradients_clear(&trial->adapters);
    NPT_TRY(npt_distiller_run(&trial->distiller, &request, &sums));
    trial->norm =
        npt_gradients_norm(&trial->adapters, trial->exec, trial->setup.loss_scale, &trial->fault);
    return NPT_OK;
}

npt_status npt_trial_step(npt_trial *trial)
{
    const npt_config *c = &trial->model->config;
    const double share = 1 / (double)(c->layers * trial->batch.tokens);
    const npt_optimizer_settings settings = {
        .kind = NPT_OPTIMIZER_ADAMW, .weight_decay = 0.01, .max_grad_norm = 1};
    NPT_TRY(npt_trial_run(trial, true, share / (double)c->hidden, lambda * share));
    if (!trial->fault.found)
        npt_optimizer_step(&trial->adapters, trial->exec, trial->distiller.student_sites, &settings,
                           1, learning_rate, trial->setup.loss_scale, trial->norm);
    return npt_sites_check(trial->distiller.student_sites);
}

/* ---- What came out ---- */

typedef struct take_context {
    const npt_trial *trial;
    npt_trial_values *values;
    size_t at;
} take_context;

static npt_status take_parameter(void *context, int layer, npt_parameter *p)
{
    take_context *take = context;
    npt_trial_values *v = take->values;
    const size_t count = (size_t)(p->rows * p->cols);
    NPT_ASSERT(v->tensors < NPT_TRIAL_TENSORS);
    for (size_t i = 0; i < count; i++) {
        v->gradient[take->at + i] = p->grad[i] / (float)take->trial->setup.loss_scale;
        v->adapter[take->at + i] = npt_load(p->value, take->trial->adapters.dtype, i);
    }
    snprintf(v->name[v->tensors], sizeof v->name[0], "the gradient of L%02d %s", layer, p->name);
    v->size[v->tensors++] = count;
    take->at += count;
    return NPT_OK;
}

npt_status npt_trial_values_take(npt_trial *trial, npt_trial_values *values)
{
    const npt_mat h = trial->distiller.student_h[trial->model->config.layers - 1];
    *values = (npt_trial_values){.outputs = (size_t)(h.rows * h.cols),
                                 .parameters = (size_t)npt_adapters_size(&trial->adapters)};
    float *block = npt_alloc(values->outputs + 2 * values->parameters, sizeof *block);
    if (block == NULL) return NPT_E_NOMEM;
    values->block = values->output = block;
    values->gradient = block + values->outputs;
    values->adapter = values->gradient + values->parameters;
    for (size_t i = 0; i < values->outputs; i++) values->output[i] = npt_load(h.data, h.dtype, i);
    take_context take = {trial, values, 0};
    (void)npt_adapters_visit(&trial->adapters, take_parameter, &take);
    values->digest = npt_sites_digest(trial->distiller.student_sites) ^
                     npt_sites_digest(trial->distiller.teacher_sites) << 1;
    values->executed = npt_sites_executed_digest(trial->distiller.student_sites) ^
                       npt_sites_executed_digest(trial->distiller.teacher_sites) << 1;
    return NPT_OK;
}

void npt_trial_values_free(npt_trial_values *values)
{
    npt_free(values->block);
    *values = (npt_trial_values){0};
}

/* ---- What a step executes ---- */

#define LIST_END NPT_SITE_COUNT
/* The first block of the student has the teacher's attention, because both read the embedding. */
static const npt_site_id attention_sites[] = {
    NPT_SITE_NORM_IN, NPT_SITE_Q,    NPT_SITE_K,    NPT_SITE_V,        NPT_SITE_Q_NORM,
    NPT_SITE_K_NORM,  NPT_SITE_ROPE, NPT_SITE_ATTN, NPT_SITE_ATTN_OUT, LIST_END};
/* Its backward ends at the adapter: nothing flows into the embedding. */
static const npt_site_id adapter_sites[] = {NPT_SITE_RESIDUAL, NPT_SITE_MLP_ACT, NPT_SITE_GATE_MOD,
                                            NPT_SITE_ADD,      NPT_SITE_U,       NPT_SITE_Z,
                                            NPT_SITE_MULT,     LIST_END};

static bool is_in(const npt_site_id *list, npt_site_id id)
{
    while (*list != LIST_END && *list != id) list++;
    return *list == id && id != LIST_END;
}

/* Elements that enter products under R4. Of the block: forward m, act and behind the first block n,
 * attn; backward dh and dgate, dup, da, dq, dk, dv. */
static int64_t block_operands(const npt_trial *trial, int layer, npt_direction direction)
{
    const npt_config *c = &trial->model->config;
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int64_t width = c->hidden;
    if (direction == NPT_FORWARD) width += c->inter + (layer > 0 ? c->hidden + q : 0);
    if (direction == NPT_BACKWARD && layer > 0) width += 2 * c->inter + c->hidden + q + 2 * kv;
    return trial->batch.tokens * width;
}

/* Of the adapter: forward a, z and the weights; backward dz, z, a, dadd, du and the weights. */
static int64_t adapter_operands(const npt_trial *trial, int layer, npt_direction direction)
{
    const npt_config *c = &trial->model->config;
    const int64_t rank = trial->adapters.rank, terms = trial->adapters.adapter[layer].count - 1;
    const int64_t down = rank * c->hidden, up = terms * c->inter * rank;
    if (direction == NPT_FORWARD) return trial->batch.tokens * (c->hidden + rank) + down + up;
    return trial->batch.tokens * (c->hidden + 2 * rank + terms * c->inter) + up +
           (layer > 0 ? down : 0);
}

/* The values as they begin, and those after the step. */
static int64_t updated(const npt_trial *trial, int layer)
{
    const npt_adapter *adapter = &trial->adapters.adapter[layer];
    int64_t size = 0;
    for (int i = 0; i < adapter->count; i++)
        size += adapter->parameters[i].rows * adapter->parameters[i].cols;
    return 2 * size;
}

static int64_t planned_of_teacher(const npt_trial *trial, npt_site_id id, npt_site_plan plan,
                                  npt_direction direction)
{
    if (direction != NPT_FORWARD) return 0;
    if (id == NPT_SITE_ROPE_TABLE)
        return 2 * trial->batch.longest * (trial->model->config.head_dim / 2);
    if (id == NPT_SITE_NORM_FINAL) return 0; /* with the output head, in evaluation */
    return trial->batch.tokens * plan.per_token;
}

int64_t npt_trial_planned(const npt_trial *trial, bool student, npt_site_id id, int layer,
                          npt_direction direction)
{
    const npt_distiller *d = &trial->distiller;
    const npt_site_plan plan =
        npt_sites_planned(student ? d->student_sites : d->teacher_sites, id, layer, direction);
    if (plan.to == NPT_DTYPE_NONE) return 0;
    if (!student) return planned_of_teacher(trial, id, plan, direction);
    if (layer < 0) return 0; /* what is outside the blocks is the teacher's */
    if (id == NPT_SITE_UPDATE) return updated(trial, layer);
    if (id == NPT_SITE_OPERAND) return block_operands(trial, layer, direction);
    if (id == NPT_SITE_ADAPTER_OPERAND) return adapter_operands(trial, layer, direction);
    if (layer == 0 && direction == NPT_FORWARD && is_in(attention_sites, id)) return 0;
    if (layer == 0 && direction == NPT_BACKWARD && !is_in(adapter_sites, id)) return 0;
    return trial->batch.tokens * plan.per_token;
}
