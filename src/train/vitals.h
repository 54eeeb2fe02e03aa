/* SPDX-License-Identifier: BSD-2-Clause */
/* --probe_every: what sites hold while training goes on, as a row of metrics. */
#ifndef NPT_TRAIN_VITALS_H
#define NPT_TRAIN_VITALS_H

#include <jansson.h>

#include "model/mat.h"

enum { NPT_VITALS_ROWS = 8 };

typedef struct npt_vital {
    npt_observation seen; /* without the data */
    npt_survey survey;
    double headroom; /* bits up to the largest value of the dtype; below 0: not finite */
} npt_vital;

/* The observer of one step; keeps the sites with the least headroom, each once. */
typedef struct npt_vitals {
    npt_observer observer;
    npt_vital rows[NPT_VITALS_ROWS]; /* the least first */
    int count;
    int64_t results, nonfinite;
} npt_vitals;

void npt_vitals_init(npt_vitals *vitals);
/* {"step": …, "probe/results": …, "probe/nonfinite": …, "probe/sites": [{"site", "dtype",
 * "largest", "rms", "zeros", "headroom_bits"}, …]}; NULL: out of memory. */
json_t *npt_vitals_json(const npt_vitals *vitals, int64_t step);

#endif
