/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "files/files.h"
#include "train/describe.h"
#include "train/trainer.h"

/* What happens before the first step, in three parts, because not everybody wants them all: the
 * plan (headers), the data, and the values (weights, adapters, the state of a run that goes on). */

enum { STREAMING_STEPS = 10000 };

/* ---- The plan ---- */

static npt_status make_adapters(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    const npt_adapters_options adapters = {o->adapter_rank, o->modulation, o->modulation_scale,
                                           o->layers, o->seed};
    const npt_objective objective = {o->loss, o->regularization_lambda, o->distill,
                                     o->teacher_forcing, o->seed};
    const npt_config *config = &t->setup.model->config;
    NPT_TRY(
        t->plan_only
            ? npt_adapters_describe(&t->adapters, &adapters, config, &t->setup.policy, t->arena)
            : npt_adapters_init(&t->adapters, &adapters, config, &t->setup.policy, t->arena, true));
    t->optimizer = (npt_optimizer_settings){
        .kind = o->optimizer, .weight_decay = o->weight_decay, .max_grad_norm = o->max_grad_norm};
    npt_scaler_init(&t->state.scaler, t->setup.policy.dynamic_loss_scale, o->initial_loss_scale);
    if (o->regularization_lambda > 0 && !t->plan_only) {
        t->term_gradients = npt_arena_alloc(t->arena, NPT_MEM_GRADIENTS,
                                            (size_t)npt_adapters_size(&t->adapters), sizeof(float));
        if (t->term_gradients == NULL) return NPT_E_NOMEM;
    }
    t->adapter_config = npt_describe_adapter(o, &t->setup, &t->adapters);
    t->settings = npt_describe_settings(o, &t->setup, &t->adapters);
    if (t->adapter_config == NULL || t->settings == NULL)
        return npt_fail(NPT_E_NOMEM, "out of memory");
    return npt_distiller_init(&t->distiller, t->setup.exec, t->setup.model, &t->setup.policy,
                              &t->adapters, &objective);
}

npt_status npt_trainer_open(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    NPT_TRY(npt_train_state_init(&t->state));
    NPT_TRY(npt_setup_open(&t->setup, o->model_name, &o->precision, &o->compute));
    t->arena = npt_arena_create("run");
    if (t->arena == NULL) return NPT_E_NOMEM;
    NPT_TRY(make_adapters(t));
    NPT_TRY(npt_distiller_guard(&t->distiller, o->precision.strict));
    t->optimizer.no_master = t->distiller.fault.kind == NPT_FAULT_NO_MASTER;
    return NPT_OK;
}

/* ---- Data ---- */

static npt_status count_steps(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    const int64_t rows_per_step = o->batch_size * o->gradient_accumulation_steps;
    t->state.total_steps = o->max_steps > 0 ? o->max_steps : STREAMING_STEPS;
    if (o->streaming || o->max_steps > 0) return NPT_OK;
    int64_t rows;
    NPT_TRY(npt_dataset_count(t->loader.dataset, &rows));
    if (rows == 0)
        return npt_fail(NPT_E_DATA, "%s: the dataset has no usable row",
                        npt_dataset_path(t->loader.dataset));
    t->steps_per_epoch = (rows + rows_per_step - 1) / rows_per_step;
    t->state.total_steps = o->num_epochs * t->steps_per_epoch;
    return NPT_OK;
}

static npt_status open_eval(npt_trainer *t)
{
    npt_data_options data = t->options.data;
    npt_dataset *dataset;
    if (t->options.eval_dataset == NULL) return NPT_OK;
    data.dataset_name = t->options.eval_dataset;
    data.dataset_split = NULL;
    data.num_samples = 0;
    NPT_TRY(npt_setup_dataset(&t->setup, &data, "eval.jsonl", &dataset));
    return npt_loader_init(&t->eval, dataset, t->options.batch_size,
                           t->budget.streamed ? t->options.gradient_accumulation_steps : 1);
}

npt_status npt_trainer_open_data(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    npt_dataset *dataset;
    NPT_TRY(npt_setup_dataset(&t->setup, &o->data, "train.jsonl", &dataset));
    NPT_TRY(npt_loader_init(&t->loader, dataset, o->batch_size, o->gradient_accumulation_steps));
    NPT_TRY(open_eval(t));
    return count_steps(t);
}

/* ---- Values ---- */

static npt_status load_initial(npt_trainer *t)
{
    char *path;
    NPT_TRY(npt_setup_find_adapter(t->options.init_adapter, &path));
    npt_status status = npt_setup_load_adapters(&t->adapters, path);
    if (status == NPT_OK) npt_adapters_round(&t->adapters, t->distiller.student_sites);
    if (status == NPT_OK) npt_log(NPT_LOG_NOTE, "adapters begin with those of %s", path);
    npt_free(path);
    return status;
}

static bool same_directory(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A run goes on from its newest checkpoint only: newer ones would be taken for this run's later. */
static npt_status check_branch(const npt_trainer *t, const char *path)
{
    const char *output_dir = t->options.output_dir;
    char *newest;
    NPT_TRY(npt_checkpoint_find(output_dir, &newest));
    npt_status status = NPT_OK;
    if (newest != NULL ? !same_directory(newest, path) : npt_checkpoint_has_run(output_dir))
        status = npt_fail(NPT_E_USAGE,
                          "--resume %s: it is not the newest checkpoint of the run in %s; use "
                          "--resume auto there, or name another "
                          "--output_dir",
                          path, output_dir);
    npt_free(newest);
    return status;
}

/* The checkpoint that --resume means; NULL where a new run begins. */
static npt_status find_resumed(const npt_trainer *t, bool writing, char **path)
{
    const npt_train_options *o = &t->options;
    *path = NULL;
    if (strcmp(o->resume, "auto") == 0) {
        if (o->output_dir == NULL)
            return npt_fail(NPT_E_USAGE, "--resume auto needs --output_dir, or name a checkpoint");
        NPT_TRY(npt_checkpoint_find(o->output_dir, path));
        if (*path == NULL)
            npt_log(NPT_LOG_NOTE,
                    "--resume auto: %s has no complete checkpoint, so a new run begins",
                    o->output_dir);
        return NPT_OK;
    }
    if (!npt_path_is_directory(o->resume))
        return npt_fail(NPT_E_IO, "--resume %s: there is no such checkpoint", o->resume);
    if (writing) NPT_TRY(check_branch(t, o->resume));
    *path = npt_strdup(o->resume);
    return *path != NULL ? NPT_OK : NPT_E_NOMEM;
}

/* Adapters and state from a checkpoint; the number of steps is this run's own. */
static npt_status resume(npt_trainer *t, bool writing)
{
    const npt_checkpoint checkpoint = {&t->adapters, &t->state, t->adapter_config, t->settings,
                                       t->distiller.student_sites};
    const int64_t total = t->state.total_steps;
    char *path;
    NPT_TRY(find_resumed(t, writing, &path));
    if (path == NULL) return NPT_OK;
    npt_status status = npt_checkpoint_load(&checkpoint, path);
    if (status == NPT_OK) status = npt_loader_seek(&t->loader, t->state.epoch, t->state.position);
    if (status == NPT_OK) {
        npt_log(NPT_LOG_NOTE, "resumed from %s at step %" PRId64, path, t->state.step);
        snprintf(t->report->last_checkpoint, sizeof t->report->last_checkpoint, "%s", path);
        t->resumed_final =
            strstr(path, "checkpoint-final") != NULL && strcmp(t->options.resume, "auto") == 0;
    }
    t->state.total_steps = total;
    npt_free(path);
    return status;
}

/* One piece of memory for all activations, of which only what is written becomes resident; many
 * pieces, as rows show how many they need, leave gaps. Rows may be much shorter than --max_length:
 * where so much could not be had, and no limit promised it, nothing is asked for. */
static void expect_activations(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    const uint64_t bytes =
        t->budget.streamed
            ? t->budget.activations
            : npt_budget_activations(&t->setup.policy, &t->setup.model->config, &t->adapters,
                                     o->distill, o->batch_size * o->data.max_length);
    if (t->budget.streamed || bytes < npt_memory_available() / 2)
        npt_arena_expect(t->distiller.step, (size_t)bytes);
}

/* Last, because a checkpoint that is resumed is mapped until it is read, and gone by now. */
static npt_status begin_stream(npt_trainer *t)
{
    const npt_stream_options stream = {(size_t)t->budget.buffer, npt_budget_back_to(t)};
    npt_arena_expect(t->distiller.boundaries, (size_t)t->budget.boundaries);
    return npt_model_stream(t->setup.model, t->setup.exec, &t->setup.policy,
                            t->distiller.student_sites, &stream);
}

npt_status npt_trainer_load(npt_trainer *t, bool writing)
{
    const npt_train_options *o = &t->options;
    expect_activations(t);
    if (!t->budget.streamed) {
        NPT_TRY(npt_model_load(t->setup.model, t->setup.exec, &t->setup.policy,
                               t->distiller.student_sites));
        if (o->precision.strict) NPT_TRY(npt_sites_check(t->distiller.student_sites));
        npt_setup_log_weights(&t->setup);
    }
    if (o->init_adapter != NULL) NPT_TRY(load_initial(t));
    if (o->resume != NULL) NPT_TRY(resume(t, writing));
    /* can the data be read? */
    NPT_TRY(npt_loader_fill(&t->loader, true));
    NPT_TRY(npt_loader_seek(&t->loader, t->state.epoch, t->state.position));
    if (t->eval.dataset != NULL) NPT_TRY(npt_loader_fill(&t->eval, false));
    return t->budget.streamed ? begin_stream(t) : NPT_OK;
}

void npt_trainer_close(npt_trainer *t)
{
    npt_metrics_close(&t->metrics);
    npt_loader_fini(&t->loader);
    npt_loader_fini(&t->eval);
    npt_distiller_fini(&t->distiller);
    npt_train_state_fini(&t->state);
    json_decref(t->adapter_config);
    json_decref(t->settings);
    npt_arena_destroy(t->arena);
    npt_setup_close(&t->setup);
}
