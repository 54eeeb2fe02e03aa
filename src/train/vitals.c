/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/vitals.h"

#include <math.h>

#include "tensor/dtype.h"

/* One pass over every result, no shadow: a hundredth of the steps pays a few percent. */

static double headroom_of(const npt_observation *seen, const npt_survey *survey)
{
    if (survey->nonfinite > 0) return -1;
    return log2(npt_dtype_largest(seen->result.dtype) /
                fmax((double)survey->max, -(double)survey->min));
}

static bool is_same_site(const npt_observation *a, const npt_observation *b)
{
    return a->site == b->site && a->layer == b->layer && a->direction == b->direction &&
           a->student == b->student;
}

/* A site that is there already (another micro-batch, or another part) stays where it was lower, and
 * goes where it was not. */
static bool make_way(npt_vitals *v, const npt_vital *row)
{
    for (int i = 0; i < v->count; i++) {
        if (!is_same_site(&v->rows[i].seen, &row->seen)) continue;
        if (v->rows[i].headroom <= row->headroom) return false;
        for (v->count--; i < v->count; i++) v->rows[i] = v->rows[i + 1];
    }
    return true;
}

static npt_status see(npt_observer *observer, const npt_env *env, const npt_observation *seen)
{
    npt_vitals *v = (npt_vitals *)observer;
    npt_vital row = {.seen = *seen};
    npt_exec_kernels(env->exec)->survey(npt_exec_run(env->exec),
                                        seen->result.rows * seen->result.cols,
                                        npt_mat_in(seen->result), 0, &row.survey);
    row.headroom = headroom_of(seen, &row.survey);
    v->results++;
    v->nonfinite += row.survey.nonfinite > 0;
    if (!make_way(v, &row)) return NPT_OK;
    int at = v->count < NPT_VITALS_ROWS ? v->count++ : NPT_VITALS_ROWS;
    for (; at > 0 && v->rows[at - 1].headroom > row.headroom; at--)
        if (at < NPT_VITALS_ROWS) v->rows[at] = v->rows[at - 1];
    if (at < NPT_VITALS_ROWS) v->rows[at] = row;
    return NPT_OK;
}

void npt_vitals_init(npt_vitals *vitals)
{
    *vitals = (npt_vitals){.observer = {see}};
}

static json_t *row_json(const npt_vital *row)
{
    char label[64], site[80];
    const double elements = (double)(row->seen.result.rows * row->seen.result.cols);
    npt_site_label(row->seen.site, row->seen.layer, row->seen.direction, label, sizeof label);
    snprintf(site, sizeof site, "%s%s", row->seen.student ? "" : "teacher ", label);
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:o}", "site", site, "dtype",
                     npt_dtype_name(row->seen.result.dtype), "largest",
                     fmax((double)row->survey.max, -(double)row->survey.min), "rms",
                     sqrt(row->survey.sum_squares / elements), "zeros",
                     (double)row->survey.zeros / elements, "headroom_bits",
                     isfinite(row->headroom) ? json_real(row->headroom) : json_null());
}

json_t *npt_vitals_json(const npt_vitals *v, int64_t step)
{
    json_t *sites = json_array();
    for (int i = 0; i < v->count; i++) json_array_append_new(sites, row_json(&v->rows[i]));
    return json_pack("{s:I, s:I, s:I, s:o}", "step", (json_int_t)step, "probe/results",
                     (json_int_t)v->results, "probe/nonfinite", (json_int_t)v->nonfinite,
                     "probe/sites", sites);
}
