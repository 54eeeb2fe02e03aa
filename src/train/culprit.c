/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/culprit.h"

#include <inttypes.h>
#include <stdio.h>

static npt_status see(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    npt_culprit *culprit = (npt_culprit *)observer;
    if (culprit->found) return NPT_OK;
    npt_exec_kernels(env->exec)->survey(npt_exec_run(env->exec),
                                        seen->result.rows * seen->result.cols,
                                        npt_mat_in(seen->result), 0, &culprit->survey);
    if (culprit->survey.nonfinite == 0) return NPT_OK;
    culprit->found = true;
    culprit->seen = *seen;
    culprit->seen.result.data = culprit->seen.source.data = NULL;
    return NPT_OK;
}

void npt_culprit_init(npt_culprit *culprit)
{
    *culprit = (npt_culprit){.observer = {see}};
}

void npt_culprit_describe(const npt_culprit *c, char *text, size_t bytes)
{
    char label[64];
    const int64_t infinite = c->survey.nonfinite - c->survey.nan;
    npt_site_label(c->seen.site, c->seen.layer, c->seen.direction, label, sizeof label);
    int used = snprintf(text, bytes, "%s%s (%s) has ", c->seen.student ? "" : "the teacher's ",
                        label, npt_dtype_name(c->seen.result.dtype));
    if (used < 0 || (size_t)used >= bytes) return;
    const char *kind = infinite == 0 ? "NaN" : c->survey.nan == 0 ? "infinite" : "infinite or NaN";
    snprintf(text + used, bytes - (size_t)used,
             "%" PRId64 " %s values beside finite ones from %.4g to %.4g", c->survey.nonfinite,
             kind, (double)c->survey.min, (double)c->survey.max);
}
