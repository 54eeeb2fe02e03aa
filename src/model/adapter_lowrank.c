/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/block.h"

/* The low-rank gate modulations of method.md §1: z = A a, add = B_add z, u = B_mult z,
 * g' = g·(0.5·sigmoid(u) + 0.5) + s·add, with either term alone or both. The three kinds differ
 * only in which parameters describe() lists; everything else follows from which terms are there.
 *
 * add, u and g' are as large as the gate and made from z in a few operations: the gate's kernel
 * makes them where it needs them, forward and again in backward, and nothing keeps them. Where
 * somebody watches they are written out one after the other, by the same arithmetic. */

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

/* The terms there are: where each is announced, and its parameter. */
enum { ADD, U, TERMS };
static const npt_site_id site_of[TERMS] = {NPT_SITE_ADD, NPT_SITE_U};

static npt_parameter *parameter_of(const npt_adapters *adapters, int layer, int term)
{
    npt_adapter *adapter = &adapters->adapter[layer];
    if (term == ADD && adapters->modulation == NPT_MODULATION_MULTIPLICATIVE) return NULL;
    if (term == U && adapters->modulation == NPT_MODULATION_ADDITIVE) return NULL;
    return &adapter->parameters[term == ADD ? 1 : adapter->count - 1];
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
    npt_mat operand;
    *state = (npt_adapter_state){0};
    NPT_TRY(take_in(env, layer, a, &state->a));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_FORWARD, state->a, &operand));
    return project(env, adapters, &adapters->adapter[layer].parameters[0], operand, NPT_SITE_Z,
                   layer, &state->z);
}

/* ---- Terms ---- */

/* What makes the terms: z and the parameters as operands, and those turned. */
typedef struct sources {
    npt_mat z, w[TERMS]; /* w: data NULL where there is no such term */
    npt_gate_term terms[TERMS];
} sources;

static npt_status find_sources(const npt_env *env, const npt_adapters *adapters, int layer,
                               npt_direction direction, const npt_adapter_state *state,
                               sources *from)
{
    *from = (sources){0};
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, direction, state->z, &from->z));
    for (int i = 0; i < TERMS; i++) {
        const npt_parameter *p = parameter_of(adapters, layer, i);
        if (p == NULL) continue;
        NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, direction,
                                value_of(adapters, p), &from->w[i]));
        const int64_t row = (p->rows + NPT_TURNED_ROW - 1) / NPT_TURNED_ROW * NPT_TURNED_ROW;
        float *turned =
            npt_arena_alloc(env->arena, NPT_MEM_SCRATCH, (size_t)(p->cols * row), sizeof *turned);
        if (turned == NULL) return NPT_E_NOMEM;
        npt_exec_kernels(env->exec)->turn(npt_exec_run(env->exec), p->rows, p->cols,
                                          npt_mat_in(from->w[i]), turned);
        from->terms[i] = (npt_gate_term){
            .dtype = adapters->dtype, .rank = p->cols, .x = npt_mat_in(from->z), .w = turned};
    }
    return NPT_OK;
}

/* The terms, and what becomes of them, are about to be rounded. */
static npt_status announce(const npt_env *env, int layer, npt_direction direction,
                           const sources *from, npt_mat gate)
{
    for (int i = 0; i < TERMS; i++) {
        if (from->w[i].data == NULL) continue;
        const npt_mat value = {NULL, from->terms[i].dtype, gate.rows, gate.cols};
        NPT_TRY(npt_mat_announce(env, site_of[i], layer, direction, value));
        if (i == U) NPT_TRY(npt_mat_announce(env, NPT_SITE_MULT, layer, direction, value));
    }
    return npt_mat_announce(env, NPT_SITE_GATE_MOD, layer, direction, gate);
}

/* Writes a term out, for whoever watches. */
static npt_status make_term(const npt_env *env, int layer, npt_direction direction, sources *from,
                            int term, npt_mat value)
{
    npt_gate_term *t = &from->terms[term];
    npt_exec_kernels(env->exec)->lowrank(npt_exec_run(env->exec), value.rows, value.cols, t,
                                         npt_mat_out(value));
    t->value = npt_mat_in(value);
    return npt_mat_finish(env, site_of[term], layer, direction, value);
}

static void run_gate(const npt_env *env, const npt_adapters *adapters, const npt_gate_term *terms,
                     npt_mat gate, npt_mat up, npt_mat dst, double *squares)
{
    npt_gate_args args = {.rows = gate.rows,
                          .width = gate.cols,
                          .strength = adapters->strength,
                          .gate = npt_mat_in(gate),
                          .up = npt_mat_in(up),
                          .dst = npt_mat_out(dst),
                          .squares = squares};
    if (terms != NULL) {
        args.add = terms[ADD];
        args.u = terms[U];
    }
    npt_exec_kernels(env->exec)->gate(npt_exec_run(env->exec), &args);
}

static npt_status gate(const npt_env *env, const npt_adapters *adapters, int layer,
                       npt_direction direction, npt_adapter_state *state, npt_mat gate, npt_mat up,
                       npt_mat dst)
{
    sources from;
    double *squares =
        npt_arena_alloc(env->arena, NPT_MEM_SCRATCH, (size_t)gate.rows, sizeof *squares);
    if (squares == NULL) return NPT_E_NOMEM;
    NPT_TRY(find_sources(env, adapters, layer,
                         direction == NPT_RECOMPUTE ? NPT_BACKWARD : direction, state, &from));
    NPT_TRY(announce(env, layer, direction, &from, gate));
    if (!npt_env_is_watched(env)) {
        run_gate(env, adapters, from.terms, gate, up, dst, squares);
    } else {
        for (int i = 0; i < TERMS; i++) {
            npt_mat value;
            if (from.w[i].data == NULL) continue;
            NPT_TRY(npt_mat_allocate(env, adapters->dtype, gate.rows, gate.cols, &value));
            NPT_TRY(make_term(env, layer, direction, &from, i, value));
        }
        run_gate(env, adapters, from.terms, gate, (npt_mat){0}, dst, squares);
        NPT_TRY(npt_mat_finish(env, NPT_SITE_GATE_MOD, layer, direction, dst));
        if (up.data != NULL) run_gate(env, adapters, NULL, dst, up, dst, NULL);
    }
    const int terms = (from.w[ADD].data != NULL) + (from.w[U].data != NULL);
    state->regularizer = 0;
    for (int64_t row = 0; row < gate.rows; row++) state->regularizer += squares[row];
    state->regularizer /= terms;
    return NPT_OK;
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
static npt_status input_gradient(const npt_env *env, npt_mat w, npt_mat dy, bool accumulate,
                                 npt_mat dx)
{
    const npt_matmul_desc desc = {.m = dy.rows,
                                  .n = w.cols,
                                  .k = w.rows,
                                  .a = dy.dtype,
                                  .w = w.dtype,
                                  .c = dx.dtype,
                                  .accumulate = accumulate};
    const npt_matmul_args args = {.a = dy.data, .w = w.data, .c = dx.data};
    return npt_matmul(env->exec, &desc, &args);
}

/* dz from the gradients of the terms, and the gradients of their parameters. */
static npt_status terms_backward(const npt_env *env, npt_adapters *adapters, int layer,
                                 const sources *from, const npt_mat *dterm, npt_mat *dz)
{
    npt_mat sum;
    bool accumulate = false;
    NPT_TRY(npt_mat_produce(env, NPT_SITE_Z, layer, NPT_BACKWARD, NPT_F32, from->z.rows,
                            from->z.cols, dz));
    sum = (npt_mat){.dtype = NPT_F32, .rows = dz->rows, .cols = dz->cols};
    sum.data = dz->dtype == NPT_F32 ? dz->data
                                    : npt_arena_alloc(env->arena, NPT_MEM_SCRATCH,
                                                      (size_t)(dz->rows * dz->cols), sizeof(float));
    if (sum.data == NULL) return NPT_E_NOMEM;
    for (int i = 0; i < TERMS; i++) {
        npt_mat dy;
        if (from->w[i].data == NULL) continue;
        NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, dterm[i], &dy));
        NPT_TRY(weight_gradient(env, parameter_of(adapters, layer, i), dy, from->z));
        NPT_TRY(input_gradient(env, from->w[i], dy, accumulate, sum));
        accumulate = true;
    }
    if (sum.data != dz->data)
        npt_exec_kernels(env->exec)->cast(npt_exec_run(env->exec), dz->rows * dz->cols,
                                          npt_mat_in(sum), npt_mat_out(*dz), NULL);
    return npt_mat_finish(env, NPT_SITE_Z, layer, NPT_BACKWARD, *dz);
}

static void run_gate_backward(const npt_env *env, npt_gate_backward_args *args,
                              const npt_gate_term *terms)
{
    if (terms != NULL) {
        args->add = terms[ADD];
        args->u = terms[U];
    }
    npt_exec_kernels(env->exec)->gate_backward(npt_exec_run(env->exec), args);
}

/* All of the gate's backward in one pass; for a watcher, result by result, the terms where their
 * gradients will be and g' where dup will be. */
static npt_status gate_backward(const npt_env *env, const npt_adapters *adapters, int layer,
                                sources *from, npt_gate_backward_args *args, npt_mat gate,
                                npt_mat dy, const npt_mat *dterm)
{
    if (!npt_env_is_watched(env)) {
        run_gate_backward(env, args, from->terms);
        return NPT_OK;
    }
    npt_mat modulated = gate;
    modulated.data = args->dup.data;
    if (modulated.data == NULL)
        NPT_TRY(npt_mat_allocate(env, gate.dtype, gate.rows, gate.cols, &modulated));
    for (int i = 0; i < TERMS; i++)
        if (dterm[i].data != NULL) NPT_TRY(make_term(env, layer, NPT_RECOMPUTE, from, i, dterm[i]));
    run_gate(env, adapters, from->terms, gate, (npt_mat){0}, modulated, NULL);
    NPT_TRY(npt_mat_finish(env, NPT_SITE_GATE_MOD, layer, NPT_RECOMPUTE, modulated));
    npt_gate_backward_args through_up = *args, through_gate = *args;
    through_up.gate = npt_mat_in(modulated);
    through_up.dgate = npt_mat_out(dy);
    through_up.dadd = through_up.du = (npt_out){0};
    run_gate_backward(env, &through_up, NULL);
    NPT_TRY(npt_mat_finish(env, NPT_SITE_GATE_MOD, layer, NPT_BACKWARD, dy));
    through_gate.up = (npt_in){0};
    through_gate.dup = (npt_out){0};
    run_gate_backward(env, &through_gate, from->terms);
    return NPT_OK;
}

static npt_status backward(const npt_env *env, npt_adapters *adapters, int layer,
                           const npt_adapter_state *state, npt_mat gate, npt_mat up, npt_mat dy,
                           npt_mat dup, double penalty, npt_mat *da)
{
    sources from;
    npt_mat dterm[TERMS] = {{0}}, dz, dz_operand, a, taken;
    NPT_TRY(find_sources(env, adapters, layer, NPT_BACKWARD, state, &from));
    NPT_TRY(announce(env, layer, NPT_RECOMPUTE, &from, gate));
    NPT_TRY(npt_mat_announce(env, NPT_SITE_GATE_MOD, layer, NPT_BACKWARD, dy));
    int terms = 0;
    for (int i = 0; i < TERMS; i++) {
        if (from.w[i].data == NULL) continue;
        NPT_TRY(npt_mat_produce(env, site_of[i], layer, NPT_BACKWARD, NPT_F32, gate.rows, gate.cols,
                                &dterm[i]));
        terms++;
    }
    if (da != NULL) NPT_TRY(npt_mat_announce(env, NPT_SITE_GATE, layer, NPT_BACKWARD, dy));
    npt_gate_backward_args args = {.rows = gate.rows,
                                   .width = gate.cols,
                                   .strength = adapters->strength,
                                   .penalty = (float)(2 * penalty / terms), /* reg is their mean */
                                   .dy = npt_mat_in(dy),
                                   .gate = npt_mat_in(gate),
                                   .up = npt_mat_in(up),
                                   .dup = npt_mat_out(dup),
                                   .dadd = npt_mat_out(dterm[ADD]),
                                   .du = npt_mat_out(dterm[U])};
    if (da != NULL) args.dgate = npt_mat_out(dy);
    NPT_TRY(gate_backward(env, adapters, layer, &from, &args, gate, dy, dterm));
    for (int i = 0; i < TERMS; i++)
        if (dterm[i].data != NULL)
            NPT_TRY(npt_mat_finish(env, site_of[i], layer, NPT_BACKWARD, dterm[i]));
    if (da != NULL) NPT_TRY(npt_mat_finish(env, NPT_SITE_GATE, layer, NPT_BACKWARD, dy));
    NPT_TRY(terms_backward(env, adapters, layer, &from, dterm, &dz));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, dz, &dz_operand));
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD, state->a, &a));
    npt_parameter *first = &adapters->adapter[layer].parameters[0];
    NPT_TRY(weight_gradient(env, first, dz_operand, a));
    if (da == NULL) return NPT_OK;
    npt_mat w;
    NPT_TRY(npt_mat_operand(env, NPT_SITE_ADAPTER_OPERAND, layer, NPT_BACKWARD,
                            value_of(adapters, first), &w));
    NPT_TRY(npt_mat_produce(env, NPT_SITE_ADAPTER_IN, layer, NPT_BACKWARD, NPT_F32, state->a.rows,
                            state->a.cols, &taken));
    NPT_TRY(input_gradient(env, w, dz_operand, false, taken));
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
    [NPT_MODULATION_BOTH] = {"both", describe, forward, gate, backward},
    [NPT_MODULATION_ADDITIVE] = {"additive", describe, forward, gate, backward},
    [NPT_MODULATION_MULTIPLICATIVE] = {"multiplicative", describe, forward, gate, backward},
};

const npt_adapter_kind *npt_adapter_kind_for(npt_modulation modulation)
{
    return &kinds[modulation];
}
