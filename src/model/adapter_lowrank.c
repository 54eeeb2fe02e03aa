/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/block.h"

/* The low-rank gate modulations of method.md §1: z = A a, add = B_add z, u = B_mult z,
 * g' = g·(0.5·sigmoid(u) + 0.5) + s·add, with either term alone or both. The three kinds differ
 * only in which parameters describe() lists; everything else follows from which terms are there. */

/* ---- Parameters ---- */

static int describe(const npt_adapters *adapters, const npt_config *config, npt_parameter *p,
                    double *deviation)
{
    const npt_modulation modulation = adapters->modulation;
    int count = 0;
    p[count] = (npt_parameter){.name = "A_proj", .rows = adapters->rank, .cols = config->hidden};
    deviation[count++] = 0.02;
    if (modulation != NPT_MODULATION_MULTIPLICATIVE) {
        p[count] = (npt_parameter){.name = "B_add", .rows = config->inter, .cols = adapters->rank};
        deviation[count++] = 0.001;
    }
    if (modulation != NPT_MODULATION_ADDITIVE) {
        p[count] = (npt_parameter){.name = "B_mult", .rows = config->inter, .cols = adapters->rank};
        deviation[count++] = 0;
    }
    return count;
}

/* One term of the modulation: where its product is announced, and its parameter. */
typedef struct term {
    npt_site_id site;
    npt_parameter *parameter;
    const npt_mat *value;
} term;

static int terms_of(const npt_adapters *adapters, int layer, const npt_adapter_state *state,
                    term *terms)
{
    npt_adapter *adapter = &adapters->adapter[layer];
    int count = 0;
    if (adapters->modulation != NPT_MODULATION_MULTIPLICATIVE)
        terms[count++] = (term){NPT_SITE_ADD, &adapter->parameters[1], &state->add};
    if (adapters->modulation != NPT_MODULATION_ADDITIVE)
        terms[count++] = (term){NPT_SITE_U, &adapter->parameters[adapter->count - 1], &state->u};
    return count;
}

static npt_mat value_of(const npt_adapters *adapters, const npt_parameter *p)
{
    return (npt_mat){p->value, adapters->dtype, p->rows, p->cols};
}

/* ---- Forward ---- */

/* y = x·Wᵀ, x an operand already. */
static npt_status project(const npt_env *env, const npt_adapters *adapters, const npt_parameter *p,
                          npt_mat x, npt_site_id site, int layer, npt_mat *y)
{
    npt_mat w;
    NPT_TRY(npt_mat_produce(env, site, layer, NPT_FORWARD, NPT_F32, x.rows, p->rows, y));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_FORWARD,
                            value_of(adapters, p), &w));
    const npt_matmul_desc desc = {.m = x.rows,
                                  .n = p->rows,
                                  .k = p->cols,
                                  .trans_w = true,
                                  .a = x.dtype,
                                  .w = w.dtype,
                                  .c = y->dtype};
    const npt_matmul_args args = {.a = x.data, .w = w.data, .c = y->data};
    NPT_TRY(npt_matmul(env->exec, &desc, &args));
    return npt_mat_finish(env, site, layer, NPT_FORWARD, *y);
}

/* a in the adapter's dtype: itself where that is the act dtype. */
static npt_status take_in(const npt_env *env, int layer, npt_mat a, npt_mat *taken)
{
    npt_dtype to =
        npt_site(env->sites, NPT_SITE_ADAPTER_IN, layer, NPT_FORWARD, a.dtype, a.rows * a.cols);
    *taken = a;
    if (to == a.dtype) return npt_mat_finish(env, NPT_SITE_ADAPTER_IN, layer, NPT_FORWARD, *taken);
    taken->dtype = to;
    taken->data = npt_arena_alloc(env->arena, NPT_MEM_ACTIVATIONS, (size_t)(a.rows * a.cols),
                                  npt_dtype_bytes(to));
    if (taken->data == NULL) return NPT_E_NOMEM;
    npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), a.rows * a.cols, npt_mat_in(a),
                                      npt_mat_out(*taken), NULL);
    return npt_mat_finish_cast(env, NPT_SITE_ADAPTER_IN, layer, NPT_FORWARD, a, *taken);
}

static npt_status forward(const npt_env *env, const npt_adapters *adapters, int layer, npt_mat a,
                          npt_adapter_state *state)
{
    term terms[2];
    npt_mat a_operand, z_operand;
    *state = (npt_adapter_state){0};
    NPT_TRY(take_in(env, layer, a, &state->a));
    NPT_TRY(
        npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_FORWARD, state->a, &a_operand));
    NPT_TRY(project(env, adapters, &adapters->adapter[layer].parameters[0], a_operand, NPT_SITE_Z,
                    layer, &state->z));
    NPT_TRY(
        npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_FORWARD, state->z, &z_operand));
    int count = terms_of(adapters, layer, state, terms);
    for (int i = 0; i < count; i++) {
        npt_mat *value = terms[i].site == NPT_SITE_ADD ? &state->add : &state->u;
        NPT_TRY(project(env, adapters, terms[i].parameter, z_operand, terms[i].site, layer, value));
    }
    return NPT_OK;
}

static npt_status modulate(const npt_env *env, const npt_adapters *adapters, int layer,
                           npt_direction direction, const npt_adapter_state *state, npt_mat gate,
                           npt_mat *modulated)
{
    if (state->u.data != NULL) {
        npt_dtype to =
            npt_site(env->sites, NPT_SITE_MULT, layer, direction, NPT_F32, gate.rows * gate.cols);
        NPT_ASSERT(to == state->u.dtype); /* the kernel rounds mult to the dtype of u */
    }
    NPT_TRY(npt_mat_produce(env, NPT_SITE_GATE_MOD, layer, direction, NPT_F32, gate.rows, gate.cols,
                            modulated));
    const npt_modulate_args args = {.rows = gate.rows,
                                    .width = gate.cols,
                                    .strength = adapters->strength,
                                    .gate = npt_mat_in(gate),
                                    .add = npt_mat_in(state->add),
                                    .u = npt_mat_in(state->u),
                                    .dst = npt_mat_out(*modulated)};
    npt_exec_kernels(env->exec)->modulate(npt_exec_run(env->exec), &args);
    return npt_mat_finish(env, NPT_SITE_GATE_MOD, layer, direction, *modulated);
}

static double regularizer(const npt_env *env, const npt_adapter_state *state)
{
    const npt_mat values[2] = {state->add, state->u};
    double sum = 0;
    int count = 0;
    for (int i = 0; i < 2; i++) {
        if (values[i].data == NULL) continue;
        sum += npt_exec_kernels(env->exec)->sum_squares(
            npt_exec_run(env->exec), values[i].rows * values[i].cols, npt_mat_in(values[i]));
        count++;
    }
    return sum / count;
}

/* ---- Backward ---- */

/* dW += dyᵀ·x, F32. */
static npt_status weight_gradient(const npt_env *env, npt_parameter *p, npt_mat dy, npt_mat x)
{
    const npt_matmul_desc desc = {.m = p->rows,
                                  .n = p->cols,
                                  .k = x.rows,
                                  .trans_a = true,
                                  .a = dy.dtype,
                                  .w = x.dtype,
                                  .c = NPT_F32,
                                  .accumulate = true};
    const npt_matmul_args args = {.a = dy.data, .w = x.data, .c = p->grad};
    return npt_matmul(env->exec, &desc, &args);
}

/* dx (+)= dy·W, F32 into `sum`. */
static npt_status input_gradient(const npt_env *env, const npt_adapters *adapters,
                                 const npt_parameter *p, int layer, npt_mat dy, bool accumulate,
                                 npt_mat dx)
{
    npt_mat w;
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD,
                            value_of(adapters, p), &w));
    const npt_matmul_desc desc = {.m = dy.rows,
                                  .n = p->cols,
                                  .k = p->rows,
                                  .a = dy.dtype,
                                  .w = w.dtype,
                                  .c = dx.dtype,
                                  .accumulate = accumulate};
    const npt_matmul_args args = {.a = dy.data, .w = w.data, .c = dx.data};
    return npt_matmul(env->exec, &desc, &args);
}

/* The gradients of the terms, dz from them, and the gradients of their parameters. */
static npt_status terms_backward(const npt_env *env, npt_adapters *adapters, int layer,
                                 const npt_adapter_state *state, const npt_mat *dterm, npt_mat *dz)
{
    term terms[2];
    npt_mat z, sum;
    int count = terms_of(adapters, layer, state, terms);
    NPT_TRY(npt_mat_produce(env, NPT_SITE_Z, layer, NPT_BACKWARD, NPT_F32, state->z.rows,
                            state->z.cols, dz));
    sum = (npt_mat){.dtype = NPT_F32, .rows = dz->rows, .cols = dz->cols};
    sum.data = dz->dtype == NPT_F32 ? dz->data
                                    : npt_arena_alloc(env->arena, NPT_MEM_SCRATCH,
                                                      (size_t)(dz->rows * dz->cols), sizeof(float));
    if (sum.data == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, state->z, &z));
    for (int i = 0; i < count; i++) {
        npt_mat dy;
        NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD,
                                dterm[terms[i].site == NPT_SITE_U], &dy));
        NPT_TRY(weight_gradient(env, terms[i].parameter, dy, z));
        NPT_TRY(input_gradient(env, adapters, terms[i].parameter, layer, dy, i > 0, sum));
    }
    if (sum.data != dz->data)
        npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), dz->rows * dz->cols,
                                          npt_mat_in(sum), npt_mat_out(*dz), NULL);
    return npt_mat_finish(env, NPT_SITE_Z, layer, NPT_BACKWARD, *dz);
}

static npt_status backward(const npt_env *env, npt_adapters *adapters, int layer,
                           const npt_adapter_state *state, npt_mat gate, npt_mat dmodulated,
                           double penalty, npt_mat *da)
{
    const int64_t rows = gate.rows, cols = gate.cols;
    npt_mat dterm[2] = {{0}}, dz, dz_operand, a, taken;
    double share = penalty / ((state->add.data != NULL) +
                              (state->u.data != NULL)); /* reg is the mean of the terms */
    if (state->add.data != NULL)
        NPT_TRY(npt_mat_produce(env, NPT_SITE_ADD, layer, NPT_BACKWARD, NPT_F32, rows, cols,
                                &dterm[0]));
    if (state->u.data != NULL)
        NPT_TRY(
            npt_mat_produce(env, NPT_SITE_U, layer, NPT_BACKWARD, NPT_F32, rows, cols, &dterm[1]));
    npt_out dgate = {0};
    if (da != NULL) {
        npt_dtype to =
            npt_site(env->sites, NPT_SITE_GATE, layer, NPT_BACKWARD, NPT_F32, rows * cols);
        NPT_ASSERT(to == dmodulated.dtype);
        dgate = npt_mat_out(dmodulated);
    }
    const npt_modulate_backward_args args = {.rows = rows,
                                             .width = cols,
                                             .strength = adapters->strength,
                                             .penalty = (float)(2 * share),
                                             .dy = npt_mat_in(dmodulated),
                                             .gate = npt_mat_in(gate),
                                             .add = npt_mat_in(state->add),
                                             .u = npt_mat_in(state->u),
                                             .dgate = dgate,
                                             .dadd = npt_mat_out(dterm[0]),
                                             .du = npt_mat_out(dterm[1])};
    npt_exec_kernels(env->exec)->modulate_backward(npt_exec_run(env->exec), &args);
    if (state->add.data != NULL)
        NPT_TRY(npt_mat_finish(env, NPT_SITE_ADD, layer, NPT_BACKWARD, dterm[0]));
    if (state->u.data != NULL)
        NPT_TRY(npt_mat_finish(env, NPT_SITE_U, layer, NPT_BACKWARD, dterm[1]));
    if (da != NULL) NPT_TRY(npt_mat_finish(env, NPT_SITE_GATE, layer, NPT_BACKWARD, dmodulated));
    NPT_TRY(terms_backward(env, adapters, layer, state, dterm, &dz));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, dz, &dz_operand));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, state->a, &a));
    npt_parameter *first = &adapters->adapter[layer].parameters[0];
    NPT_TRY(weight_gradient(env, first, dz_operand, a));
    if (da == NULL) return NPT_OK;
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ADAPTER_IN, layer, NPT_BACKWARD, NPT_F32, state->a.rows,
                            state->a.cols, &taken));
    NPT_TRY(input_gradient(env, adapters, first, layer, dz_operand, false, taken));
    NPT_TRY(npt_mat_finish(env, NPT_SITE_ADAPTER_IN, layer, NPT_BACKWARD, taken));
    npt_dtype to = npt_site(env->sites, NPT_SITE_ATTN_OUT, layer, NPT_BACKWARD, NPT_F32,
                            taken.rows * taken.cols);
    *da = taken;
    if (to == taken.dtype) return npt_mat_finish(env, NPT_SITE_ATTN_OUT, layer, NPT_BACKWARD, *da);
    da->dtype = to;
    da->data = npt_arena_alloc(env->arena, NPT_MEM_ACTIVATIONS, (size_t)(taken.rows * taken.cols),
                               npt_dtype_bytes(to));
    if (da->data == NULL) return NPT_E_NOMEM;
    npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), taken.rows * taken.cols,
                                      npt_mat_in(taken), npt_mat_out(*da), NULL);
    return npt_mat_finish_cast(env, NPT_SITE_ATTN_OUT, layer, NPT_BACKWARD, taken, *da);
}

/* ---- The kinds ---- */

static const npt_adapter_kind kinds[] = {
    [NPT_MODULATION_BOTH] = {"both", describe, forward, modulate, regularizer, backward},
    [NPT_MODULATION_ADDITIVE] = {"additive", describe, forward, modulate, regularizer, backward},
    [NPT_MODULATION_MULTIPLICATIVE] = {"multiplicative", describe, forward, modulate, regularizer,
                                       backward},
};

const npt_adapter_kind *npt_adapter_kind_for(npt_modulation modulation)
{
    return &kinds[modulation];
}
