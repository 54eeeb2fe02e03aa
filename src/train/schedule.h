/* SPDX-License-Identifier: BSD-2-Clause */
/* Learning-rate schedules as transformers' get_scheduler defines them (method.md §5). */
#ifndef NPT_TRAIN_SCHEDULE_H
#define NPT_TRAIN_SCHEDULE_H

#include "npt.h"

/* Factor of the learning rate for the step after `taken` steps, of `total`; warm-up in steps. Pure.
 */
double npt_schedule_factor(npt_scheduler scheduler, int64_t taken, int64_t warmup, int64_t total);

#endif
