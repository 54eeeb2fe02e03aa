/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "train/culprit.h"
#include "train/schedule.h"

/* A step is: rows of the accumulated batch → micro-batches forward and backward → one norm with its
 * finite check → clip and update, or skip. */

enum { FAILURES_IN_A_ROW = 10 };

/* Forward and backward of rows the loader holds; which of them, the caller adds. */
static npt_distill_request request_for(const npt_trainer *t, npt_term_weights weights)
{
    const npt_config *c = &t->setup.model->config;
    const double share = t->state.scaler.scale / ((double)c->layers * (double)t->loader.tokens);
    return (npt_distill_request){.step = t->state.step,
                                 .backward = true,
                                 .distance_factor = weights.distance * share / (double)c->hidden,
                                 .regularizer_factor = weights.regularizer * share};
}

npt_status npt_trainer_micro_batch(npt_trainer *t, npt_distiller *d, int64_t index,
                                   npt_term_weights weights, npt_distill_sums *sums)
{
    npt_batch batch;
    npt_distill_request request = request_for(t, weights);
    NPT_TRY(npt_loader_batch(&t->loader, index, &batch));
    request.batch = &batch;
    return npt_distiller_run(d, &request, sums);
}

static npt_status batch_of(void *loader, int64_t index, npt_batch *batch)
{
    return npt_loader_batch(loader, index, batch);
}

npt_status npt_trainer_stream(npt_trainer *t, npt_loader *loader,
                              const npt_distill_request *request, npt_distill_sums *sums)
{
    const npt_distill_pass pass = {.request = *request,
                                   .batches = npt_loader_batches(loader),
                                   .batch = batch_of,
                                   .stop = npt_stop_requested,
                                   .context = loader};
    NPT_TRY(npt_distiller_stream(&t->distiller, t->setup.model, &pass, sums));
    if (!t->weights_told && npt_stop_requested() == 0) npt_setup_log_weights(&t->setup);
    t->weights_told = true;
    return NPT_OK;
}

/* All micro-batches of the rows held, forward and backward, with these weights of the two terms. */
static npt_status run_micro_batches(npt_trainer *t, npt_term_weights weights,
                                    npt_distill_sums *sums)
{
    *sums = (npt_distill_sums){0};
    if (t->budget.streamed) {
        const npt_distill_request request = request_for(t, weights);
        return npt_trainer_stream(t, &t->loader, &request, sums);
    }
    for (int64_t i = 0; i < npt_loader_batches(&t->loader) && npt_stop_requested() == 0; i++)
        NPT_TRY(npt_trainer_micro_batch(t, &t->distiller, i, weights, sums));
    return NPT_OK;
}

/* The loss as it is. */
static npt_term_weights both_terms(const npt_trainer *t)
{
    return (npt_term_weights){1, t->options.regularization_lambda};
}

/* The regularizer's gradient alone, kept aside, so that its share of the whole can be told. */
static npt_status measure_regularizer(npt_trainer *t, double *norm)
{
    npt_distill_sums sums;
    npt_gradient_fault fault;
    npt_gradients_clear(&t->adapters);
    NPT_TRY(run_micro_batches(t, (npt_term_weights){0, t->options.regularization_lambda}, &sums));
    *norm = npt_gradients_norm(&t->adapters, t->setup.exec, t->state.scaler.scale, &fault);
    npt_gradients_copy(&t->adapters, t->term_gradients);
    return NPT_OK;
}

/* Whether --probe_every wants to look at the step that is being made. */
static bool is_probe_due(const npt_trainer *t)
{
    return t->options.probe_every > 0 && (t->state.step + 1) % t->options.probe_every == 0;
}

/* Forward and backward of the whole accumulated batch, losses as means over it. */
static npt_status accumulate(npt_trainer *t, npt_step_result *r, npt_gradient_fault *fault)
{
    const npt_config *c = &t->setup.model->config;
    npt_distill_sums sums;
    if (npt_terms_due(t->state.step, &t->options)) {
        NPT_TRY(measure_regularizer(t, &r->terms.regularizer));
        r->terms.measured = true;
    }
    npt_gradients_clear(&t->adapters);
    t->vitals.results = 0;
    if (is_probe_due(t)) {
        npt_vitals_init(&t->vitals);
        t->distiller.observer = &t->vitals.observer;
    }
    npt_status status = run_micro_batches(t, both_terms(t), &sums);
    t->distiller.observer = NULL;
    NPT_TRY(status);
    double per_token = 1 / ((double)c->layers * (double)t->loader.tokens);
    r->mse = sums.distance * per_token / (double)c->hidden;
    r->regularization = sums.regularizer * per_token;
    r->loss = r->mse + t->options.regularization_lambda * r->regularization;
    r->tokens = t->loader.tokens;
    r->loss_scale = t->state.scaler.scale;
    r->grad_norm = npt_gradients_norm(&t->adapters, t->setup.exec, r->loss_scale, fault);
    if (r->terms.measured)
        r->terms.distance =
            npt_gradients_difference(&t->adapters, t->term_gradients, 1 / r->loss_scale);
    r->interrupted = npt_stop_requested() != 0;
    return NPT_OK;
}

/* Runs the batch again, looking at every site, to name the first that is not finite. */
static npt_status find_culprit(npt_trainer *t, const npt_gradient_fault *fault,
                               npt_culprit *culprit, char *text, size_t bytes)
{
    npt_distill_sums sums;
    npt_culprit_init(culprit);
    t->distiller.observer = &culprit->observer;
    npt_status status = run_micro_batches(t, both_terms(t), &sums);
    t->distiller.observer = NULL;
    if (culprit->found)
        npt_culprit_describe(culprit, text, bytes);
    else
        snprintf(text, bytes, "the gradient of %s in layer %d is not finite",
                 fault->parameter ? fault->parameter : "an adapter", fault->layer);
    return status;
}

/* A step that is not finite: nothing moves but the data; NPT_E_NUMERIC where going on is pointless.
 */
static npt_status skip_step(npt_trainer *t, const npt_gradient_fault *fault)
{
    char culprit[256];
    npt_culprit first;
    NPT_TRY(find_culprit(t, fault, &first, culprit, sizeof culprit));
    npt_train_state *s = &t->state;
    s->failures_in_a_row++;
    if (!t->doctor_named)
        npt_log(NPT_LOG_NOTE, "npt doctor probe with the flags of this run shows every site");
    t->doctor_named = true;
    if (s->scaler.enabled) {
        double before = s->scaler.scale;
        s->skipped_steps++;
        bool useful = npt_scaler_back_off(&s->scaler);
        npt_log(NPT_LOG_WARNING, "step %" PRId64 " skipped: %s; loss scale %g -> %g", s->step + 1,
                culprit, before, s->scaler.scale);
        if (useful) return NPT_OK;
        return npt_fail(
            NPT_E_NUMERIC, "the loss scale fell below 1 and values are still not finite: %s; %s",
            culprit,
            first.found && first.seen.direction == NPT_FORWARD
                ? "no loss scale mends a forward overflow, use --use_bf16 or no precision flag"
                : "use --use_bf16 or no precision flag");
    }
    s->skipped_batches++;
    npt_log(NPT_LOG_WARNING, "batch skipped at step %" PRId64 ": %s", s->step + 1, culprit);
    if (s->failures_in_a_row < FAILURES_IN_A_ROW) return NPT_OK;
    return npt_fail(NPT_E_NUMERIC, "%d batches in a row were not finite; the last: %s",
                    FAILURES_IN_A_ROW, culprit);
}

npt_status npt_trainer_step(npt_trainer *t, npt_step_result *r)
{
    npt_gradient_fault fault;
    *r = (npt_step_result){0};
    NPT_TRY(npt_loader_fill(&t->loader, true));
    NPT_TRY(accumulate(t, r, &fault));
    if (r->interrupted) return NPT_OK;
    npt_train_state *s = &t->state;
    s->epoch = t->loader.epoch;
    s->position = npt_dataset_tell(t->loader.dataset);
    r->skipped = fault.found || !isfinite(r->loss);
    if (r->skipped) {
        NPT_TRY(skip_step(t, &fault));
    } else {
        const npt_train_options *o = &t->options;
        r->learning_rate = o->learning_rate * npt_schedule_factor(o->scheduler, s->step,
                                                                  o->warmup_steps, s->total_steps);
        npt_advise_terms(o, s->step, &r->terms, &t->terms_warned);
        npt_optimizer_step(&t->adapters, t->setup.exec, t->distiller.student_sites, &t->optimizer,
                           s->step + 1, r->learning_rate, r->loss_scale, r->grad_norm);
        npt_scaler_grow(&s->scaler);
        s->failures_in_a_row = 0;
        s->step++;
        s->tokens += r->tokens;
        s->last_loss = r->loss;
        if (s->step == 1) s->first_loss = r->loss;
        s->epoch_fraction = t->steps_per_epoch > 0 ? (double)s->step / (double)t->steps_per_epoch
                                                   : (double)t->loader.epoch;
    }
    return NPT_OK;
}
