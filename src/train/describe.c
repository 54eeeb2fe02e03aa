/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/describe.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "model/block.h"
#include "train/calibration.h"

static const char *const distill_names[] = {"end-to-end", "layerwise", "mixed"};
static const char *const loss_names[] = {"normalized", "plain"};
static const char *const optimizer_names[] = {"adamw", "adam"};
static const char *const scheduler_names[] = {"linear", "cosine", "constant",
                                              "constant_with_warmup"};

/* ---- JSON ---- */

/* Names of files may be any bytes; JSON is UTF-8. */
json_t *npt_describe_text(const char *text)
{
    json_t *string = json_string(text);
    char *copy = string == NULL ? npt_strdup(text) : NULL;
    if (copy == NULL) return string;
    for (char *c = copy; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80) *c = '?';
    string = json_string(copy);
    npt_free(copy);
    return string;
}

static json_t *describe_policy(const npt_policy *policy)
{
    json_t *object = json_object();
    for (int role = 0; role < NPT_ROLE_COUNT; role++)
        json_object_set_new(object, npt_role_name((npt_role)role),
                            json_pack("{s:s, s:s}", "dtype", npt_dtype_name(policy->dtype[role]),
                                      "rule", npt_rule_text(policy->rule[role])));
    json_object_set_new(object, "loss_scale",
                        json_string(policy->dynamic_loss_scale ? "dynamic" : "off"));
    return object;
}

static json_t *describe_layers(const npt_adapters *adapters)
{
    json_t *layers = json_array();
    for (int layer = 0; layer < adapters->layers; layer++)
        if (adapters->active[layer]) json_array_append_new(layers, json_integer(layer));
    return layers;
}

json_t *npt_describe_adapter(const npt_train_options *o, const npt_setup *setup,
                             const npt_adapters *adapters)
{
    return json_pack(
        "{s:s, s:o, s:i, s:s, s:f, s:o, s:s, s:o, s:s, s:I}", "peft_type", "NPT",
        "base_model_name_or_path",
        npt_describe_text(o->model_name != NULL ? o->model_name : setup->model->directory), "r",
        adapters->rank, "modulation", adapters->kind->name, "modulation_scale", o->modulation_scale,
        "layers", describe_layers(adapters), "adapter_dtype", npt_dtype_name(adapters->dtype),
        "policy", describe_policy(&setup->policy), "npt_version", npt_version(), "seed",
        (json_int_t)o->seed);
}

json_t *npt_describe_settings(const npt_train_options *o, const npt_setup *setup,
                              const npt_adapters *adapters)
{
    char policy[256];
    npt_policy_describe(&setup->policy, policy, sizeof policy);
    json_t *s = json_pack("{s:o, s:i, s:s, s:f, s:o, s:s, s:I}", "model",
                          npt_describe_text(o->model_name != NULL ? o->model_name : "(bundled)"),
                          "adapter_rank", adapters->rank, "modulation", adapters->kind->name,
                          "modulation_scale", o->modulation_scale, "layers",
                          describe_layers(adapters), "policy", policy, "seed", (json_int_t)o->seed);
    if (s == NULL) return NULL;
    if (setup->policy.quantize_on_load)
        json_object_set_new(s, "double_quantization",
                            json_boolean(setup->model->double_quantization));
    json_object_set_new(s, "distill", json_string(distill_names[o->distill]));
    if (o->distill == NPT_DISTILL_MIXED)
        json_object_set_new(s, "teacher_forcing", json_real(o->teacher_forcing));
    json_object_set_new(s, "loss", json_string(loss_names[o->loss]));
    json_object_set_new(s, "regularization_lambda", json_real(o->regularization_lambda));
    json_object_set_new(
        s, "dataset_name",
        npt_describe_text(o->data.dataset_name != NULL ? o->data.dataset_name : "(bundled)"));
    json_object_set_new(
        s, "dataset_split",
        npt_describe_text(o->data.dataset_split != NULL ? o->data.dataset_split : ""));
    json_object_set_new(s, "max_length", json_integer(o->data.max_length));
    json_object_set_new(s, "num_samples", json_integer(o->data.num_samples));
    json_object_set_new(s, "batch_size", json_integer(o->batch_size));
    json_object_set_new(s, "gradient_accumulation_steps",
                        json_integer(o->gradient_accumulation_steps));
    json_object_set_new(s, "num_epochs", json_integer(o->num_epochs));
    json_object_set_new(s, "max_steps", json_integer(o->max_steps));
    json_object_set_new(s, "learning_rate", json_real(o->learning_rate));
    json_object_set_new(s, "weight_decay", json_real(o->weight_decay));
    json_object_set_new(s, "max_grad_norm", json_real(o->max_grad_norm));
    json_object_set_new(s, "optimizer_type", json_string(optimizer_names[o->optimizer]));
    json_object_set_new(s, "scheduler_type", json_string(scheduler_names[o->scheduler]));
    json_object_set_new(s, "warmup_steps", json_integer(o->warmup_steps));
    char label[NPT_CALIBRATION_LABEL];
    json_object_set_new(s, "calibration", json_string(npt_calibration_label(setup->exec, label)));
    return s;
}

/* {"F32 x F32 -> F32, y, 257- tokens, large": "onednn", …} */
static json_t *describe_routes(const npt_exec *exec)
{
    const npt_routes *routes = npt_exec_routes(exec);
    json_t *object = json_object();
    for (size_t i = 0; routes != NULL && i < routes->count; i++) {
        char kind[NPT_ROUTE_TEXT];
        json_object_set_new(object, npt_route_kind_text(&routes->list[i].kind, kind),
                            json_string(routes->list[i].backend));
    }
    return object;
}

static const char *matmul_precision(const npt_exec *exec)
{
    if (npt_exec_precision(exec) == NPT_MATMUL_FMA) return "fma";
    return (npt_exec_cpu(exec)->features & NPT_CPU_AMX_BF16) != 0 ? "auto, AMX" : "auto, no AMX";
}

json_t *npt_describe_run(const npt_train_options *o, const npt_setup *setup,
                         const npt_distiller *distiller, json_t *settings, int64_t total_steps)
{
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, npt_sites_digest(distiller->student_sites));
    json_t *backends = json_array();
    for (size_t i = 0; i < npt_exec_backend_count(setup->exec); i++)
        json_array_append_new(backends, json_string(npt_exec_backend(setup->exec, i)->name));
    const npt_cpu *cpu = npt_exec_cpu(setup->exec);
    json_t *name = o->run_name != NULL ? npt_describe_text(o->run_name) : NULL;
    json_t *command = o->command_line != NULL ? npt_describe_text(o->command_line) : NULL;
    return json_pack(
        "{s:s, s:s, s:o*, s:o*, s:o, s:s, s:I, s:o, s:o, s:s, s:s, s:s, s:i, s:I, s:O}",
        "npt_version", npt_version(), "recipe",
        o->recipe == NPT_RECIPE_PRETRAIN_SAFE ? "pretrain-safe" : "pretrain", "run_name", name,
        "command", command, "policy", describe_policy(&setup->policy), "cast_digest", digest,
        "seed", (json_int_t)o->seed, "backends", backends, "routes", describe_routes(setup->exec),
        "matmul_precision", matmul_precision(setup->exec), "cpu", cpu->brand, "cpu_level",
        npt_cpu_level_name(cpu->level), "threads", npt_exec_threads(setup->exec), "total_steps",
        (json_int_t)total_steps, "flags", settings);
}

/* ---- The log ---- */

void npt_describe_log(const npt_setup *setup, const npt_adapters *adapters,
                      const npt_distiller *distiller)
{
    char policy[256];
    int layers = 0;
    for (int layer = 0; layer < adapters->layers; layer++) layers += adapters->active[layer];
    npt_policy_describe(&setup->policy, policy, sizeof policy);
    npt_log(NPT_LOG_NOTE, "policy: %s", policy);
    npt_log(NPT_LOG_NOTE,
            "adapters: rank %d, %s, in %d of %d layers, %" PRId64
            " weights; cast digest %016" PRIx64,
            adapters->rank, adapters->kind->name, layers, adapters->layers,
            npt_adapters_size(adapters), npt_sites_digest(distiller->student_sites));
}
