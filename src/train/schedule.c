/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/schedule.h"

#include <math.h>

double npt_schedule_factor(npt_scheduler scheduler, int64_t taken, int64_t warmup, int64_t total)
{
    if (scheduler == NPT_SCHEDULER_CONSTANT) return 1;
    if (taken < warmup) return (double)taken / (double)warmup;
    if (scheduler == NPT_SCHEDULER_CONSTANT_WITH_WARMUP) return 1;
    int64_t span = total - warmup > 0 ? total - warmup : 1;
    double progress = (double)(taken - warmup) / (double)span;
    if (scheduler == NPT_SCHEDULER_LINEAR)
        return progress < 1 ? (double)(total - taken) / (double)span : 0;
    double cosine = 0.5 * (1 + cos(3.14159265358979323846 * progress));
    return cosine > 0 ? cosine : 0;
}
