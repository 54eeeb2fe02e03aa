/* SPDX-License-Identifier: BSD-2-Clause */
/* Dynamic loss scale (precision.md §4). */
#ifndef NPT_TRAIN_SCALER_H
#define NPT_TRAIN_SCALER_H

#include "npt.h"

typedef struct npt_scaler {
    bool enabled; /* off: scale stays 1 */
    double scale;
    int64_t good_steps; /* unskipped ones since the last change */
} npt_scaler;

void npt_scaler_init(npt_scaler *scaler, bool enabled, double initial_scale);
/* After a step that was taken: doubles the scale every 2000, while it stays finite in F32. */
void npt_scaler_grow(npt_scaler *scaler);
/* After a step that was skipped: halves it. False where it is now below 1: the forward is broken.
 */
bool npt_scaler_back_off(npt_scaler *scaler);

#endif
