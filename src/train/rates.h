/* SPDX-License-Identifier: BSD-2-Clause */
/* What a step does beside its products: how much of each kind, and how fast this machine does it.
 * For predictions; nothing is decided by it. */
#ifndef NPT_TRAIN_RATES_H
#define NPT_TRAIN_RATES_H

#include "model/model.h"
#include "train/products.h"

/* Of a micro-batch, in the units of npt_rate_kind. */
typedef struct npt_beside {
    double amount[NPT_RATES];
} npt_beside;

/* `rows` of run->tokens / rows tokens each. */
npt_beside npt_beside_products(const npt_model *model, const npt_products_run *run, int64_t rows);
/* Products of queries with keys and of weights with values, forward and backward. */
double npt_beside_attention_flops(const npt_beside *beside);

/* Measures every kind by the kernels of the context, for one row of `tokens` of a model of this
 * shape, in about `seconds`, and puts the rates into `routes`. NPT_E_NOMEM. */
npt_status npt_rates_measure(npt_exec *exec, const npt_config *config, const npt_policy *policy,
                             int64_t tokens, int64_t rank, double seconds, npt_routes *routes);
/* Seconds of attention, and of the rest; false where a rate is not known. */
bool npt_rates_predict(const npt_routes *routes, npt_dtype act, const npt_beside *beside,
                       double *attention, double *rest);

#endif
