/* SPDX-License-Identifier: BSD-2-Clause */
/* What a step of a run will have to compute, before one is made: what --dry_run says of its work.
 */
#ifndef NPT_TRAIN_FORECAST_H
#define NPT_TRAIN_FORECAST_H

#include "train/products.h"

struct npt_trainer;

/* Of an optimizer step with rows as long as --max_length allows. */
typedef struct npt_forecast {
    npt_products products;    /* of a micro-batch */
    int64_t micro_batches;    /* a step */
    double products_flops;    /* these and below: of a step */
    double attention_flops;   /* scores and their products with V, and backward */
    double operand_bytes;     /* of the products: A, W and C, each once a product */
    double products_seconds;  /* these and below: at calibrated rates; 0: not known */
    double attention_seconds;
    double rest_seconds; /* between products: gated units, norms, sums */
} npt_forecast;

/* After npt_trainer_open() and npt_budget_make(). */
void npt_forecast_make(npt_forecast *forecast, const struct npt_trainer *trainer);
/* A line of log for the work, one for the time, and one a product with its route. */
void npt_forecast_log(const npt_forecast *forecast, const struct npt_trainer *trainer);

#endif
