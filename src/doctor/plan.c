/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/plan.h"

#include <errno.h>
#include <string.h>

#include "tensor/dtype.h"
#include "train/budget.h"
#include "train/distill.h"
#include "train/options.h"

/* A run's plan without the run: the same functions decide, but nothing is loaded, no thread starts
 * and no tokenizer is read, so that an answer takes no longer than reading the headers. */

/* ---- Words ---- */

static const char *const verdict_names[] = {"fine", "warning", "would_fail", "numeric"};

static const char *const role_texts[NPT_ROLE_COUNT] = {
    [NPT_ROLE_FROZEN] = "frozen linears, as held",
    [NPT_ROLE_PLAIN] = "frozen norms and biases",
    [NPT_ROLE_ACT] = "residual stream, activations",
    [NPT_ROLE_COMPUTE] = "operands of products",
    [NPT_ROLE_ACCUM] = "sums inside products; always",
    [NPT_ROLE_ADAPTER] = "adapters, as used and saved",
    [NPT_ROLE_MASTER] = "what the optimizer updates",
    [NPT_ROLE_GRAD] = "adapter gradients; always",
    [NPT_ROLE_OPT] = "moments; always",
    [NPT_ROLE_LOSS] = "loss, norms, sums; always",
};

static const char *const cast_texts[NPT_SITE_COUNT] = {
    [NPT_SITE_WEIGHT] = "frozen weights, once",
    [NPT_SITE_EMBED] = "rows that are looked up",
    [NPT_SITE_NORM_IN] = "scaled; then × weight",
    [NPT_SITE_Q] = "product, sums in F32",
    [NPT_SITE_K] = "product, sums in F32",
    [NPT_SITE_V] = "product, sums in F32",
    [NPT_SITE_Q_NORM] = "a head: scaled; × weight",
    [NPT_SITE_K_NORM] = "a head: scaled; × weight",
    [NPT_SITE_ROPE_TABLE] = "cos, sin, once a position",
    [NPT_SITE_ROPE] = "turned in F32",
    [NPT_SITE_ATTN] = "scores, softmax in F32",
    [NPT_SITE_ATTN_OUT] = "product, sums in F32",
    [NPT_SITE_RESIDUAL_ATTN] = "x + a in F32",
    [NPT_SITE_ADAPTER_IN] = "a enters the adapter",
    [NPT_SITE_Z] = "product, sums in F32",
    [NPT_SITE_ADD] = "product, sums in F32",
    [NPT_SITE_U] = "product, sums in F32",
    [NPT_SITE_MULT] = "sigmoid in F32",
    [NPT_SITE_NORM_POST] = "scaled; then × weight",
    [NPT_SITE_GATE] = "product, sums in F32",
    [NPT_SITE_UP] = "product, sums in F32",
    [NPT_SITE_GATE_MOD] = "once, after g·mult+s·add",
    [NPT_SITE_MLP_ACT] = "once, after silu(g')·up",
    [NPT_SITE_DOWN] = "product, sums in F32",
    [NPT_SITE_RESIDUAL] = "sum in F32",
    [NPT_SITE_NORM_FINAL] = "only in evaluation",
    [NPT_SITE_LOGITS] = "only in evaluation",
    [NPT_SITE_OPERAND] = "enters a product (R4)",
    [NPT_SITE_ADAPTER_OPERAND] = "enters a product (R4)",
    [NPT_SITE_UPDATE] = "master, rounded each step",
};

const char *npt_plan_verdict_name(npt_verdict verdict)
{
    return verdict_names[verdict];
}

const char *npt_plan_role_text(npt_role role)
{
    return role_texts[role];
}

const char *npt_plan_cast_text(npt_site_id site)
{
    return cast_texts[site];
}

static int bits_of(npt_dtype dtype)
{
    return dtype == NPT_NF4 ? 4 : 8 * (int)npt_dtype_bytes(dtype);
}

const char *npt_plan_direction(npt_dtype from, npt_dtype to)
{
    if (from == to) return "none";
    if (bits_of(from) == bits_of(to)) return "cross";
    return bits_of(from) > bits_of(to) ? "down" : "up";
}

const char *npt_plan_action_name(const npt_audit_group *g)
{
    static const char *const names[NPT_LOAD_ACTION_COUNT] = {
        [NPT_LOAD_IN_PLACE] = "in_place",           [NPT_LOAD_WIDENED] = "widened",
        [NPT_LOAD_ALIGNED] = "aligned_copy",        [NPT_LOAD_CONVERTED] = "converted_copy",
        [NPT_LOAD_QUANTIZED] = "quantized_on_load", [NPT_LOAD_STORED] = "stored_nf4",
    };
    if (g->fault != NPT_AUDIT_NONE) return "refused";
    if (!g->used) return "not_read";
    if (g->planned == NPT_DTYPE_NONE) return "record";
    if (g->kind == NPT_TENSOR_EMBED && g->action == NPT_LOAD_IN_PLACE && g->file != g->planned)
        return g->planned == NPT_F32 ? "widened" : "rounded_on_lookup";
    return names[g->action];
}

/* ---- The plan ---- */

static npt_status describe_adapters(npt_plan *plan)
{
    const npt_train_options *o = &plan->options;
    const npt_config *config = &plan->setup.model->config;
    const npt_policy *policy = &plan->setup.policy;
    const npt_adapters_options adapters = {o->adapter_rank, o->modulation, o->modulation_scale,
                                           o->layers, o->seed};
    plan->arena = npt_arena_create("plan");
    if (plan->arena == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_adapters_describe(&plan->adapters, &adapters, config, policy, plan->arena));
    plan->teacher = npt_sites_for(policy, config, NULL);
    plan->student = npt_sites_for(policy, config, &plan->adapters);
    if (plan->teacher == NULL || plan->student == NULL) return NPT_E_NOMEM;
    return npt_casts_fold(&plan->casts, plan->teacher, plan->student, (int)config->layers);
}

/* Weights and the embedding arrive in the dtype of the file, whatever the plan calls them. */
static void say_what_arrives(npt_plan *plan)
{
    const npt_model *m = plan->setup.model;
    const npt_st_tensor *embed = npt_st_find(m->st, "model.embed_tokens.weight");
    const bool quantized = plan->setup.policy.dtype[NPT_ROLE_FROZEN] == NPT_NF4;
    for (size_t i = 0; i < plan->casts.count; i++) {
        npt_cast_row *row = &plan->casts.rows[i];
        if (row->site == NPT_SITE_WEIGHT && !quantized && npt_dtype_is_float(m->file_dtype))
            row->from = m->file_dtype;
        if (row->site == NPT_SITE_EMBED && embed != NULL && npt_dtype_is_float(embed->dtype))
            row->from = embed->dtype;
    }
}

static npt_status audit_files(npt_plan *plan, bool scan)
{
    npt_exec *exec = NULL;
    const npt_compute_options *compute = &plan->options.compute;
    if (scan) NPT_TRY(npt_exec_create(&exec, compute->backend, compute->threads));
    npt_status status =
        npt_audit_run(&plan->audit, plan->setup.model, &plan->setup.policy, exec, &plan->remarks);
    npt_exec_destroy(exec);
    return status;
}

static npt_status remark_policy(npt_plan *plan)
{
    npt_remark remark = {
        NPT_VERDICT_WARNING, "mixed-precision-off", NPT_SITE_OPERAND, "", "", NULL};
    const npt_policy *policy = &plan->setup.policy;
    if (policy->dtype[NPT_ROLE_ADAPTER] == NPT_F16 && !policy->dynamic_loss_scale) {
        npt_remark unscaled = {NPT_VERDICT_WARNING, "adapter-unscaled", NPT_SITE_Z, "", "", NULL};
        unscaled.text =
            npt_strdup("adapters in F16 without a loss scale: their gradients are small "
                       "and lose digits, or all, in F16; --use_fp16 and "
                       "--mixed_precision fp16 have a scale");
        NPT_TRY(npt_remarks_add(&plan->remarks, unscaled));
    }
    if (!policy->mixed_switched_off) return NPT_OK;
    remark.text = npt_strdup("--mixed_precision is switched off: a quantized base computes in F32 "
                             "(R1)");
    return npt_remarks_add(&plan->remarks, remark);
}

/* As allocate() of adapters and the trainer do. */
static void count_memory(npt_plan *plan)
{
    const npt_policy *policy = &plan->setup.policy;
    const uint64_t size = (uint64_t)npt_adapters_size(&plan->adapters), f32 = sizeof(float);
    const bool has_master = policy->dtype[NPT_ROLE_MASTER] != NPT_DTYPE_NONE,
               two_terms = plan->options.regularization_lambda > 0;
    npt_plan_memory *m = &plan->memory;
    m->mapped = plan->audit.mapped;
    m->copies = plan->audit.copied;
    m->adapters = size * npt_dtype_bytes(policy->dtype[NPT_ROLE_ADAPTER]);
    m->masters = has_master ? size * f32 : 0;
    m->moments = 2 * size * f32;
    m->gradients = (two_terms ? 2 : 1) * size * f32;
    m->activations = npt_budget_activations(
        policy, &plan->setup.model->config, &plan->adapters, plan->options.distill,
        plan->options.batch_size * plan->options.data.max_length);
    m->resident = m->copies + m->adapters + m->masters + m->moments + m->gradients + m->activations;
}

static npt_status list_would(npt_plan *plan)
{
    const npt_policy *policy = &plan->setup.policy;
    plan->would_count = npt_would_list(policy, &plan->options, NULL, 0);
    plan->would = npt_alloc(plan->would_count + 1, sizeof *plan->would);
    if (plan->would == NULL) return NPT_E_NOMEM;
    npt_would_list(policy, &plan->options, plan->would, plan->would_count);
    return NPT_OK;
}

static npt_status make(npt_plan *plan, bool scan)
{
    const npt_train_options *o = &plan->options;
    NPT_TRY(npt_train_options_check(&plan->options));
    NPT_TRY(npt_setup_examine(&plan->setup, o->model_name, &o->precision));
    NPT_TRY(describe_adapters(plan));
    say_what_arrives(plan);
    NPT_TRY(remark_policy(plan));
    NPT_TRY(audit_files(plan, scan));
    count_memory(plan);
    plan->verdict = npt_remarks_verdict(&plan->remarks);
    return list_would(plan);
}

static void fini(npt_plan *plan)
{
    npt_free(plan->would);
    npt_casts_fini(&plan->casts);
    npt_audit_fini(&plan->audit);
    npt_remarks_fini(&plan->remarks);
    npt_sites_destroy(plan->teacher);
    npt_sites_destroy(plan->student);
    npt_arena_destroy(plan->arena);
    npt_setup_close(&plan->setup);
}

npt_status npt_doctor_plan(const npt_train_options *options, const npt_doctor_options *doctor,
                           FILE *out, npt_verdict *verdict)
{
    npt_plan plan = {.options = *options};
    plan.options.dry_run = true; /* nothing is written, so that no --output_dir is needed */
    npt_status status = make(&plan, doctor->scan);
    errno = 0;
    if (status == NPT_OK && doctor->json) status = npt_plan_dump(&plan, out);
    if (status == NPT_OK && !doctor->json) npt_plan_print(&plan, doctor->all, out);
    if (status == NPT_OK && (fflush(out) != 0 || ferror(out)))
        status = npt_fail(NPT_E_IO, "cannot write the output: %s",
                          errno != 0 ? strerror(errno) : "the stream reports an error");
    if (status == NPT_OK) *verdict = plan.verdict;
    fini(&plan);
    return status;
}
