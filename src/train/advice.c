/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/advice.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "train/schedule.h"

/* The flags keep the reference's defaults, because people paste its commands; those hardly learn.
 * Two things are looked at: how far the schedule can carry a weight, and which term of the loss
 * pulls harder. */

static const double initial_deviation = 0.02; /* of A_proj, the largest */
static const double good_rate = 1e-2;
enum { FIRST_STEPS = 5 };

void npt_advise_rate(const npt_train_options *options, int64_t total_steps)
{
    double sum = 0;
    for (int64_t n = 0; n < total_steps && sum < initial_deviation; n++)
        sum += options->learning_rate *
               npt_schedule_factor(options->scheduler, n, options->warmup_steps, total_steps);
    if (sum >= initial_deviation || total_steps == 0) return;
    npt_log(
        NPT_LOG_WARNING,
        "--learning_rate %g: in %" PRId64
        " steps no adapter weight can move by more than %.2g (they start at a deviation of %g), "
        "so the run will hardly learn; use npt pretrain with --learning_rate %g%s",
        options->learning_rate, total_steps, sum, initial_deviation, good_rate,
        options->warmup_steps * 2 > total_steps ? " and a smaller --warmup_steps" : "");
}

bool npt_terms_due(int64_t steps_taken, const npt_train_options *options)
{
    if (options->regularization_lambda == 0) return false;
    return steps_taken < FIRST_STEPS || (steps_taken & (steps_taken - 1)) == 0;
}

void npt_advise_terms(const npt_train_options *options, int64_t steps_taken,
                      const npt_term_norms *norms, bool *warned)
{
    if (*warned || !norms->measured || steps_taken + 1 < FIRST_STEPS) return;
    if (!(norms->regularizer > norms->distance)) return; /* in fp16 a term alone may be NaN */
    *warned = true;
    npt_log(NPT_LOG_WARNING,
            "--regularization_lambda %g: the regularizer's gradient on the adapters is %.1f times "
            "the loss's at step %" PRId64 ", so the adapters are held where they are; use "
                                          "--regularization_lambda 0 (or at most %.0e)",
            options->regularization_lambda, norms->regularizer / norms->distance, steps_taken + 1,
            options->regularization_lambda * 0.1 * norms->distance / norms->regularizer);
}

void npt_gradients_copy(npt_adapters *adapters, float *copy)
{
    for (int layer = 0; layer < adapters->layers; layer++)
        for (int i = 0; i < adapters->adapter[layer].count; i++) {
            const npt_parameter *p = &adapters->adapter[layer].parameters[i];
            memcpy(copy, p->grad, (size_t)(p->rows * p->cols) * sizeof *copy);
            copy += p->rows * p->cols;
        }
}

double npt_gradients_difference(npt_adapters *adapters, const float *part, double factor)
{
    double sum = 0;
    for (int layer = 0; layer < adapters->layers; layer++)
        for (int i = 0; i < adapters->adapter[layer].count; i++) {
            const npt_parameter *p = &adapters->adapter[layer].parameters[i];
            for (int64_t k = 0; k < p->rows * p->cols; k++) {
                double difference = (double)p->grad[k] - (double)*part++;
                sum += difference * difference;
            }
        }
    return sqrt(sum) * factor;
}
