/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/log.h"
#include "files/files.h"
#include "train/describe.h"
#include "train/forecast.h"
#include "train/options.h"

/* npt_pretrain(): from options to checkpoints. The state in a checkpoint is always that of a step
 * boundary: a step that is interrupted is done again. */

static volatile sig_atomic_t stop_signal;

void npt_request_stop(int signal)
{
    stop_signal = signal;
}

int npt_stop_requested(void)
{
    return (int)stop_signal;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static size_t peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

/* ---- What is said of a step ---- */

static double tokens_per_second(const npt_trainer *t)
{
    double seconds = seconds_now() - t->started;
    return seconds > 0 ? (double)(t->state.tokens - t->tokens_before) / seconds : 0;
}

static npt_status log_step(npt_trainer *t, const npt_step_result *r)
{
    npt_train_state *s = &t->state;
    json_t *line =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:I, s:I}", "step",
                  (json_int_t)s->step, "epoch", s->epoch_fraction, "loss/total", r->loss,
                  "loss/mse", r->mse, "loss/regularization", r->regularization, "learning_rate",
                  r->learning_rate, "grad_norm", r->grad_norm, "loss_scale", r->loss_scale,
                  "tokens", (json_int_t)s->tokens, "tokens_per_second", tokens_per_second(t),
                  "share/mse", r->loss > 0 ? r->mse / r->loss : 0, "share/regularization",
                  r->loss > 0 ? t->options.regularization_lambda * r->regularization / r->loss : 0,
                  "skipped_steps", (json_int_t)s->skipped_steps, "skipped_batches",
                  (json_int_t)s->skipped_batches);
    if (line != NULL && r->terms.measured) {
        json_object_set_new(line, "grad_norm/mse", json_real(r->terms.distance));
        json_object_set_new(line, "grad_norm/regularization", json_real(r->terms.regularizer));
    }
    json_array_append_new(s->log_history,
                          json_pack("{s:f, s:f, s:f, s:f, s:I}", "epoch", s->epoch_fraction,
                                    "grad_norm", r->grad_norm, "learning_rate", r->learning_rate,
                                    "loss", r->loss, "step", (json_int_t)s->step));
    return npt_metrics_write(&t->metrics, line, &s->metrics_lines);
}

static void report_step(npt_trainer *t, const npt_step_result *r, bool logged)
{
    if (t->options.on_step == NULL) return;
    const npt_train_state *s = &t->state;
    double rate = tokens_per_second(t), elapsed = seconds_now() - t->started;
    int64_t done = s->step - (t->report->steps);
    const npt_step_info info = {
        .step = s->step,
        .total_steps = s->total_steps,
        .epoch = s->epoch_fraction,
        .loss = r->loss,
        .mse = r->mse,
        .regularization = r->regularization,
        .learning_rate = r->learning_rate,
        .grad_norm = r->grad_norm,
        .loss_scale = r->loss_scale,
        .tokens = s->tokens,
        .tokens_per_second = rate,
        .seconds_left = done > 0 ? elapsed / (double)done * (double)(s->total_steps - s->step) : 0,
        .peak_bytes = peak_bytes(),
        .logged = logged};
    t->options.on_step(t->options.on_step_context, &info);
}

/* ---- Saving and evaluating ---- */

static npt_status save(npt_trainer *t, const char *name)
{
    const npt_checkpoint checkpoint = {&t->adapters, &t->state, t->adapter_config, t->settings,
                                       t->distiller.student_sites};
    char *path = npt_path_join(t->options.output_dir, name);
    if (path == NULL) return NPT_E_NOMEM;
    npt_status status = npt_checkpoint_save(&checkpoint, path);
    if (status == NPT_OK)
        snprintf(t->report->last_checkpoint, sizeof t->report->last_checkpoint, "%s", path);
    npt_free(path);
    return status;
}

static npt_status save_step(npt_trainer *t)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%" PRId64, t->state.step);
    NPT_TRY(save(t, name));
    return npt_checkpoint_rotate(t->options.output_dir, t->options.save_total_limit);
}

/* Mean loss over the evaluation rows. */
static npt_status evaluate(npt_trainer *t, double *loss)
{
    const npt_config *c = &t->setup.model->config;
    npt_distill_sums sums = {0};
    int64_t tokens = 0;
    NPT_TRY(npt_dataset_rewind(t->eval.dataset));
    while (npt_stop_requested() == 0) {
        NPT_TRY(npt_loader_fill(&t->eval, false));
        if (t->eval.rows == 0) break;
        npt_batch batch;
        NPT_TRY(npt_loader_batch(&t->eval, 0, &batch));
        const npt_distill_request request = {.batch = &batch, .step = 0};
        NPT_TRY(t->budget.streamed ? npt_trainer_stream(t, &t->eval, &request, &sums)
                                   : npt_distiller_run(&t->distiller, &request, &sums));
        tokens += t->eval.tokens;
    }
    double per_token = tokens > 0 ? 1 / ((double)c->layers * (double)tokens) : 0;
    *loss = sums.distance * per_token / (double)c->hidden +
            t->options.regularization_lambda * sums.regularizer * per_token;
    return NPT_OK;
}

/* JSON has no NaN and no infinity. */
static json_t *finite_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static npt_status evaluate_and_keep_best(npt_trainer *t)
{
    double loss;
    npt_train_state *s = &t->state;
    NPT_TRY(evaluate(t, &loss));
    if (npt_stop_requested() != 0) return NPT_OK; /* a resumed run begins with it */
    s->evaluated_step = s->step;
    npt_log(isfinite(loss) ? NPT_LOG_NOTE : NPT_LOG_WARNING, "step %" PRId64 ": eval loss %.6g%s",
            s->step, loss, loss < s->best_metric ? ", the best so far" : "");
    json_array_append_new(s->log_history,
                          json_pack("{s:f, s:o, s:I}", "epoch", s->epoch_fraction, "eval_loss",
                                    finite_or_null(loss), "step", (json_int_t)s->step));
    NPT_TRY(npt_metrics_write(&t->metrics,
                              json_pack("{s:I, s:f, s:o}", "step", (json_int_t)s->step, "epoch",
                                        s->epoch_fraction, "eval/loss", finite_or_null(loss)),
                              &s->metrics_lines));
    if (!(loss < s->best_metric)) return NPT_OK;
    s->best_metric = loss;
    s->best_step = s->step;
    char last[sizeof t->report->last_checkpoint];
    memcpy(last, t->report->last_checkpoint, sizeof last);
    npt_status status = save(t, "checkpoint-best");
    memcpy(t->report->last_checkpoint, last,
           sizeof last); /* resuming goes on from the last, not the best */
    return status;
}

/* ---- The run ---- */

static bool evaluation_due(const npt_trainer *t)
{
    const npt_train_state *s = &t->state;
    if (t->eval.dataset == NULL || s->step == 0 || s->evaluated_step == s->step) return false;
    return s->step % t->options.eval_steps == 0 || s->step == s->total_steps;
}

static npt_status after_step(npt_trainer *t, const npt_step_result *r)
{
    const npt_train_options *o = &t->options;
    const npt_train_state *s = &t->state;
    bool last = s->step == s->total_steps;
    bool logged = s->step % o->log_steps == 0 || last || s->step == 1;
    if (logged) NPT_TRY(log_step(t, r));
    if (t->vitals.results > 0)
        NPT_TRY(npt_metrics_write(&t->metrics, npt_vitals_json(&t->vitals, s->step),
                                  &t->state.metrics_lines));
    report_step(t, r, logged);
    if (evaluation_due(t)) NPT_TRY(evaluate_and_keep_best(t));
    if (s->step % o->save_steps == 0 && !last) NPT_TRY(save_step(t));
    return NPT_OK;
}

/* A run that ends early keeps what it has. */
static npt_status save_and_stop(npt_trainer *t, npt_status why)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", npt_error_message());
    if (why == NPT_E_NUMERIC)
        t->state.failures_in_a_row = 0; /* who resumes has changed something, or will see */
    NPT_TRY(save_step(t));
    if (why == NPT_E_INTERRUPTED)
        return npt_fail(why, "stopped by signal %d at step %" PRId64 " of %" PRId64 "; saved as %s",
                        t->report->signal, t->state.step, t->state.total_steps,
                        t->report->last_checkpoint);
    return npt_fail(why, "%s; the run is saved as %s", sentence, t->report->last_checkpoint);
}

static npt_status train(npt_trainer *t)
{
    npt_train_state *s = &t->state;
    t->started = seconds_now();
    t->tokens_before = s->tokens;
    t->report->steps = s->step; /* until the end: where this process began */
    npt_status status = NPT_OK;
    if (s->step >= s->total_steps && t->resumed_final) {
        npt_log(NPT_LOG_NOTE,
                "the run is complete, at step %" PRId64 " of %" PRId64 ": there is nothing to do",
                s->step, s->total_steps);
        return NPT_OK;
    }
    if (evaluation_due(t)) NPT_TRY(evaluate_and_keep_best(t)); /* the one that was interrupted */
    while (s->step < s->total_steps && npt_stop_requested() == 0) {
        npt_step_result r;
        status = npt_trainer_step(t, &r);
        if (status == NPT_OK && !r.interrupted && !r.skipped) status = after_step(t, &r);
        if (status == NPT_E_NUMERIC) return save_and_stop(t, status);
        NPT_TRY(status);
    }
    if (npt_stop_requested() != 0) {
        t->report->signal = (int)npt_stop_requested();
        return save_and_stop(t, NPT_E_INTERRUPTED);
    }
    return save(t, "checkpoint-final");
}

/* ---- Before the first step ---- */

static npt_status prepare_output(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    if (o->resume == NULL && npt_checkpoint_has_run(o->output_dir))
        return npt_fail(NPT_E_USAGE,
                        "%s already holds a run; go on with it with --resume auto, or name another "
                        "--output_dir",
                        o->output_dir);
    return NPT_OK;
}

static npt_status start_output(npt_trainer *t)
{
    int64_t *lines = &t->state.metrics_lines;
    NPT_TRY(npt_make_directories(t->options.output_dir));
    NPT_TRY(npt_metrics_open(&t->metrics, t->options.output_dir, lines));
    NPT_TRY(npt_checkpoint_sweep(
        t->options.output_dir)); /* nobody else is here: the metrics are locked */
    if (*lines > 0) return NPT_OK;
    return npt_metrics_write(
        &t->metrics,
        npt_describe_run(&t->options, &t->setup, &t->distiller, t->settings, t->state.total_steps),
        lines);
}

/* Before the data, so that a limit that cannot be kept is the first thing said. */
static npt_status make_budget(npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    if (o->memory_limit == 0 && !o->dry_run) return NPT_OK;
    npt_status status = npt_budget_make(&t->budget, t);
    if (status == NPT_E_USAGE && o->dry_run) npt_budget_log_table(&t->budget, o);
    if (status == NPT_OK && !o->dry_run) npt_budget_log(&t->budget);
    return status;
}

static npt_status describe_dry_run(const npt_trainer *t)
{
    const npt_train_options *o = &t->options;
    npt_log(NPT_LOG_NOTE,
            "dry run: %" PRId64 " steps of %" PRId64 " x %" PRId64
            " rows; nothing was read or written",
            t->state.total_steps, o->batch_size, o->gradient_accumulation_steps);
    npt_budget_log_table(&t->budget, o);
    npt_forecast forecast;
    npt_forecast_make(&forecast, t);
    npt_forecast_log(&forecast, t);
    return NPT_OK;
}

static npt_status open_run(npt_trainer *t)
{
    npt_train_options *o = &t->options;
    t->plan_only = o->dry_run;
    NPT_TRY(npt_trainer_open(t));
    if (!o->dry_run) NPT_TRY(prepare_output(t));
    npt_describe_log(&t->setup, &t->adapters, &t->distiller);
    NPT_TRY(make_budget(t));
    NPT_TRY(npt_trainer_open_data(t));
    if (o->dry_run) return describe_dry_run(t);
    NPT_TRY(npt_trainer_load(t, true));
    npt_advise_rate(o, t->state.total_steps);
    return start_output(t);
}

/* What reading the weights cost. */
static void say_streamed(const npt_trainer *t)
{
    if (t->setup.model == NULL || t->setup.model->stream == NULL) return;
    const double elapsed = seconds_now() - t->started;
    const npt_feed_figures f = npt_model_streamed(t->setup.model);
    if (f.bytes == 0 || t->started == 0) return;
    npt_log(NPT_LOG_NOTE,
            "streamed: %.4g GB read at %.3g GB/s (%s), %.1f %% of the time; waited for it %.1f %% "
            "of the time",
            (double)f.bytes / 1e9, (double)f.bytes / 1e9 / f.reading,
            f.direct ? "around the page cache" : "through the page cache",
            100 * f.reading / elapsed, 100 * f.waited / elapsed);
}

npt_status npt_pretrain(const npt_train_options *options, npt_train_report *report)
{
    double begun = seconds_now();
    npt_trainer t = {.options = *options, .report = report};
    stop_signal = 0;
    *report = (npt_train_report){0};
    NPT_TRY(npt_train_options_check(&t.options));
    npt_status status = NPT_OK;
    if (options->log_file != NULL) status = npt_log_copy_to(options->log_file);
    if (status == NPT_OK) status = open_run(&t);
    if (status == NPT_OK && !options->dry_run) {
        status = train(&t);
        report->steps = t.state.step;
        report->skipped_steps = t.state.skipped_steps;
        report->skipped_batches = t.state.skipped_batches;
        report->tokens = t.state.tokens;
        report->first_loss = t.state.first_loss;
        report->last_loss = t.state.last_loss;
    }
    say_streamed(&t);
    report->seconds = seconds_now() - begun;
    npt_trainer_close(&t);
    (void)npt_log_copy_to(NULL);
    return status;
}
