/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/setup.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "files/files.h"
#include "files/json.h"
#include "train/checkpoint.h"
#include "train/data_path.h"

/* The policy is decided twice: from the flags alone, so that flags that exclude each other are
 * refused before any file is opened, and with what config.json says of the base. */

static npt_status decide(const npt_precision_options *precision, bool base_is_quantized,
                         npt_policy *policy)
{
    const npt_policy_request request = {.use_fp16 = precision->use_fp16,
                                        .use_bf16 = precision->use_bf16,
                                        .use_quantization = precision->use_quantization,
                                        .mixed_precision = precision->mixed_precision,
                                        .adapter_dtype = precision->adapter_dtype,
                                        .base_is_quantized = base_is_quantized};
    return npt_policy_decide(&request, policy);
}

static npt_status open_model(npt_setup *setup, const char *model_name)
{
    if (model_name != NULL) return npt_model_examine(&setup->model, model_name);
    char *path;
    NPT_TRY(npt_data_path("tiny-llama", &path));
    npt_log(NPT_LOG_NOTE, "no --model_name: the bundled model, %s", path);
    npt_status status = npt_model_examine(&setup->model, path);
    npt_string_free(path);
    return status;
}

static npt_status open_tokenizer(npt_setup *setup)
{
    char *path = npt_path_join(setup->model->directory, "tokenizer.json");
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status =
        npt_path_exists(path) ? npt_tokenizer_open(&setup->tokenizer, path) : NPT_OK;
    npt_free(path);
    return status;
}

static npt_status examine(npt_setup *setup, const char *model_name,
                          const npt_precision_options *precision)
{
    NPT_TRY(decide(precision, false, &setup->policy));
    NPT_TRY(open_model(setup, model_name));
    NPT_TRY(decide(precision, setup->model->config.quantized, &setup->policy));
    setup->model->double_quantization = !precision->no_double_quantization;
    return NPT_OK;
}

static npt_status open_all(npt_setup *setup, const char *model_name,
                           const npt_precision_options *precision,
                           const npt_compute_options *compute)
{
    NPT_TRY(examine(setup, model_name, precision));
    NPT_TRY(npt_model_check(setup->model));
    if (setup->policy.mixed_switched_off)
        npt_log(NPT_LOG_WARNING,
                "--mixed_precision is switched off: a quantized base computes in F32 (R1)");
    NPT_TRY(npt_setup_exec(setup, compute));
    return open_tokenizer(setup);
}

npt_status npt_setup_open(npt_setup *setup, const char *model_name,
                          const npt_precision_options *precision,
                          const npt_compute_options *compute)
{
    *setup = (npt_setup){0};
    npt_status status = open_all(setup, model_name, precision, compute);
    if (status != NPT_OK) npt_setup_close(setup);
    return status;
}

npt_status npt_setup_exec(npt_setup *setup, const npt_compute_options *compute)
{
    NPT_TRY(npt_exec_create(&setup->exec, compute->backend, compute->threads));
    npt_exec_set_precision(setup->exec, compute->matmul_precision);
    return NPT_OK;
}

npt_status npt_setup_examine(npt_setup *setup, const char *model_name,
                             const npt_precision_options *precision)
{
    *setup = (npt_setup){0};
    npt_status status = examine(setup, model_name, precision);
    if (status != NPT_OK) npt_setup_close(setup);
    return status;
}

void npt_setup_close(npt_setup *setup)
{
    npt_tokenizer_close(setup->tokenizer);
    npt_exec_destroy(setup->exec);
    npt_model_close(setup->model);
    *setup = (npt_setup){0};
}

static npt_status choose_files(const npt_data_options *data, const char *bundled, char **path)
{
    NPT_TRY(npt_data_options_path(data, bundled, path));
    if (data->dataset_name == NULL)
        npt_log(NPT_LOG_NOTE, "no dataset named: the bundled text, %s", *path);
    return NPT_OK;
}

npt_status npt_setup_dataset(const npt_setup *setup, const npt_data_options *data,
                             const char *bundled, npt_dataset **dataset)
{
    char *path;
    NPT_TRY(choose_files(data, bundled, &path));
    const npt_dataset_options options = {.path = path,
                                         .tokenizer = setup->tokenizer,
                                         .vocab_size = setup->model->config.vocab,
                                         .max_length = data->max_length,
                                         .num_samples = data->num_samples,
                                         .strict = data->strict_data};
    npt_status status = npt_dataset_open(dataset, &options);
    npt_free(path);
    return status;
}

void npt_setup_log_weights(const npt_setup *setup)
{
    const npt_model *m = setup->model;
    if (m->narrowed == 0) return;
    bool lost = m->narrowing.overflowed > 0;
    npt_log(lost ? NPT_LOG_WARNING : NPT_LOG_NOTE,
            "weights: %" PRId64 " values converted from %s to %s; %" PRIu64
            " became infinite, %" PRIu64 " became zero%s",
            m->narrowed, npt_dtype_name(m->file_dtype),
            npt_dtype_name(setup->policy.dtype[NPT_ROLE_COMPUTE]), m->narrowing.overflowed,
            m->narrowing.flushed, lost ? "; use --use_bf16 or no precision flag" : "");
}

npt_status npt_setup_find_adapter(const char *named, char **path)
{
    char *config = npt_path_join(named, "adapter_config.json");
    if (config == NULL) return NPT_E_NOMEM;
    bool run = npt_path_is_directory(named) && !npt_path_exists(config);
    npt_free(config);
    *path = NULL;
    if (run) NPT_TRY(npt_checkpoint_find(named, path));
    if (run && *path == NULL)
        return npt_fail(NPT_E_IO,
                        "%s: neither an adapter nor a run with a complete checkpoint is there",
                        named);
    if (*path == NULL) *path = npt_strdup(named);
    return *path != NULL ? NPT_OK : NPT_E_NOMEM;
}

static npt_status check_scale(const npt_adapters *adapters, const char *directory)
{
    json_t *root = NULL;
    double scale = adapters->strength;
    char *path = npt_path_join(directory, "adapter_config.json");
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = npt_json_load(path, 0, &root);
    if (status == NPT_OK)
        status = npt_json_real(root, "modulation_scale", path, scale, 0, 1e6, &scale);
    if (status == NPT_OK && (float)scale != adapters->strength)
        npt_log(NPT_LOG_WARNING, "%s was trained with --modulation_scale %g, this run has %g",
                directory, scale, (double)adapters->strength);
    json_decref(root);
    npt_free(path);
    return status;
}

npt_status npt_setup_load_adapters(npt_adapters *adapters, const char *path)
{
    npt_st *st;
    bool directory = npt_path_is_directory(path);
    if (directory) NPT_TRY(check_scale(adapters, path));
    char *file = directory ? npt_path_join(path, "adapter_model.safetensors") : npt_strdup(path);
    if (file == NULL) return NPT_E_NOMEM;
    npt_status status = npt_st_open(&st, file, false);
    if (status == NPT_OK) {
        status = npt_adapters_load(adapters, st);
        npt_st_close(st);
    }
    npt_free(file);
    return status;
}
