/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <jansson.h>
#include <math.h>

#include "doctor/plan.h"

/* The comparison as data. JSON has no NaN and no infinity; such a number is null. */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* null where a path is not UTF-8 */
static json_t *path_json(const char *path)
{
    json_t *text = json_string(path);
    return text != NULL ? text : json_null();
}

static json_t *side_json(const npt_diff_side *side)
{
    return json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:o, s:o}", "path",
                     path_json(side->path), "npt_version", side->version, "model", side->model,
                     "policy", side->policy, "digest", side->digest, "backends", side->backends,
                     "cpu", side->cpu, "cpu_level", side->cpu_level, "threads", side->threads,
                     "loss", number(side->loss), "loss_scale", number(side->loss_scale));
}

static json_t *values_json(const npt_probe_row *row)
{
    if (row == NULL) return json_null();
    json_t *sample = json_array();
    for (int i = 0; i < 8; i++) json_array_append_new(sample, number((double)row->sample[i]));
    return json_pack("{s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o}", "dtype",
                     npt_dtype_name(row->dtype), "elements", (json_int_t)row->elements, "min",
                     number((double)row->survey.min), "max", number((double)row->survey.max), "rms",
                     number(row->rms), "nonfinite", (json_int_t)row->survey.nonfinite, "nan",
                     (json_int_t)row->survey.nan, "flushed", number(row->flushed), "error",
                     number(row->error), "sample", sample);
}

static json_t *row_json(const npt_diff_row *row)
{
    static const char *const kinds[] = {"same", "first", "follows", "also"};
    const npt_probe_row *r = npt_diff_either(row);
    char label[80];
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "site",
                     npt_probe_label(r, label, sizeof label), "model",
                     r->student ? "student" : "teacher", "kind", kinds[row->kind], "measure",
                     npt_diff_measure_name(row->measure), "distance", number(row->distance),
                     "tolerance", number(row->limit), "ratio", number(row->ratio), "a",
                     values_json(row->a), "b", values_json(row->b));
}

/* Rows of one kind, or of all where `all` is set. */
static json_t *rows_json(const npt_diff *diff, npt_diff_kind kind, bool all)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < diff->count; i++)
        if (all || diff->rows[i].kind == kind)
            json_array_append_new(rows, row_json(&diff->rows[i]));
    return rows;
}

/* Labels of the rows that only one side has. */
static json_t *only_json(const npt_diff *diff, bool in_a)
{
    char label[80];
    json_t *labels = json_array();
    for (size_t i = 0; i < diff->count; i++) {
        const npt_diff_row *row = &diff->rows[i];
        if (row->a != NULL && row->b != NULL) continue;
        if ((row->a != NULL) != in_a) continue;
        npt_probe_label(npt_diff_either(row), label, sizeof label);
        json_array_append_new(labels, json_string(label));
    }
    return labels;
}

static json_t *update_json(const npt_diff *diff)
{
    if (diff->update[0] < 0) return json_null();
    const npt_diff_update *a = &diff->side[0].updates[diff->update[0]];
    const npt_diff_update *b = &diff->side[1].updates[diff->update[1]];
    return json_pack("{s:s, s:o, s:o}", "parameter", a->parameter, "lost_a", number(a->lost),
                     "lost_b", number(b->lost));
}

static json_t *diff_json(const npt_diff *diff, bool all)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
        "npt-doctor-diff/1", "npt_version", npt_version(), "verdict",
        npt_plan_verdict_name(diff->verdict), "a", side_json(&diff->side[0]), "b",
        side_json(&diff->side[1]), "sequences", (json_int_t)diff->side[0].sequences, "tokens",
        (json_int_t)diff->side[0].tokens, "compared", (json_int_t)diff->compared, "first",
        diff->first != NULL ? row_json(diff->first) : json_null(), "largest",
        diff->largest != NULL ? row_json(diff->largest) : json_null(), "follows",
        rows_json(diff, NPT_DIFF_FOLLOWS, false), "also", rows_json(diff, NPT_DIFF_ALSO, false),
        "update", update_json(diff), "only_a", only_json(diff, true), "only_b",
        only_json(diff, false));
    if (object != NULL && all)
        json_object_set_new(object, "sites", rows_json(diff, NPT_DIFF_SAME, true));
    return object;
}

npt_status npt_diff_print_json(const npt_diff *diff, bool all, FILE *out)
{
    json_t *object = diff_json(diff, all);
    if (object == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    const int failed = json_dumpf(object, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (failed != 0 || fputc('\n', out) == EOF)
        return npt_fail(NPT_E_IO, "the comparison cannot be written");
    return NPT_OK;
}
