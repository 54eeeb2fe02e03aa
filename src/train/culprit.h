/* SPDX-License-Identifier: BSD-2-Clause */
/* The observer that training sends through a batch whose gradients are not finite: it remembers the
 * first site whose result is not. */
#ifndef NPT_TRAIN_CULPRIT_H
#define NPT_TRAIN_CULPRIT_H

#include "model/mat.h"

typedef struct npt_culprit {
    npt_observer observer;
    bool found;
    npt_observation seen; /* without the data, which are gone after the run */
    npt_survey survey;
} npt_culprit;

void npt_culprit_init(npt_culprit *culprit);
/* "L02.mlp_act (F16) has 3 infinite values beside finite ones from -12 to 65504"; found only. */
void npt_culprit_describe(const npt_culprit *culprit, char *text, size_t bytes);

#endif
