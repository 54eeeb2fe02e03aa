/* SPDX-License-Identifier: BSD-2-Clause */
/* What npt says when it sees settings that hardly learn (method.md §8). */
#ifndef NPT_TRAIN_ADVICE_H
#define NPT_TRAIN_ADVICE_H

#include "model/adapter.h"

/* Warns where the whole schedule cannot move an adapter weight by what it was initialised to: an
 * Adam step moves a weight by about its rate, so the sum of the rates bounds the way. */
void npt_advise_rate(const npt_train_options *options, int64_t total_steps);

/* Norms of each term's gradient on the adapters, measured now and then. */
typedef struct npt_term_norms {
    bool measured;
    double distance, regularizer;
} npt_term_norms;

/* Whether the terms are measured at this step: the first five, then powers of two. */
bool npt_terms_due(int64_t steps_taken, const npt_train_options *options);
/* Warns, once (*warned), where the regularizer's gradient is the larger one after the first steps.
 */
void npt_advise_terms(const npt_train_options *options, int64_t steps_taken,
                      const npt_term_norms *norms, bool *warned);

/* ‖g_total − g_part‖ over all adapters × factor: the other term's norm. `part`: gradients saved by
 * npt_gradients_copy(). */
double npt_gradients_difference(npt_adapters *adapters, const float *part, double factor);
void npt_gradients_copy(npt_adapters *adapters, float *copy);

#endif
