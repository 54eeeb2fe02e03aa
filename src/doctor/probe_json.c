/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/plan.h"
#include "doctor/probe.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>

/* The probe as data: what npt doctor diff reads. JSON has no NaN and no infinity; such a number is
 * null. */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *sample_json(const npt_probe_row *row)
{
    json_t *sample = json_array();
    for (int i = 0; i < 8; i++) json_array_append_new(sample, number((double)row->sample[i]));
    return sample;
}

static json_t *row_json(const npt_probe_row *row)
{
    char label[80];
    return json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, "
                     "s:s, s:b, s:o}",
                     "site", npt_probe_label(row, label, sizeof label), "model",
                     row->student ? "student" : "teacher", "dtype", npt_dtype_name(row->dtype),
                     "elements", (json_int_t)row->elements, "min", number((double)row->survey.min),
                     "max", number((double)row->survey.max), "rms", number(row->rms), "nonfinite",
                     (json_int_t)row->survey.nonfinite, "nan", (json_int_t)row->survey.nan,
                     "subnormal", (json_int_t)row->survey.tiny, "flushed", number(row->flushed),
                     "headroom_bits", number(row->headroom), "footroom_bits", number(row->footroom),
                     "error", number(row->error), "growth", number(row->growth), "finding",
                     npt_finding_name(row->finding), "culprit", row->culprit, "sample",
                     sample_json(row));
}

static json_t *rows_json(const npt_probe *probe)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < probe->count; i++)
        json_array_append_new(rows, row_json(&probe->rows[i]));
    return rows;
}

static json_t *updates_json(const npt_probe *probe)
{
    json_t *updates = json_array();
    for (int i = 0; i < probe->update_count; i++) {
        const npt_probe_update *u = &probe->updates[i];
        json_array_append_new(updates, json_pack("{s:s, s:I, s:f, s:f}", "parameter", u->parameter,
                                                 "moved", (json_int_t)u->moved,
                                                 "lost_without_master", u->lost_without_master,
                                                 "lost_with_master", u->lost_with_master));
    }
    return updates;
}

static json_t *scales_json(const npt_probe *probe)
{
    json_t *scales = json_array();
    for (int i = 0; i < probe->scale_count; i++) {
        const npt_probe_scale *s = &probe->scales[i];
        json_array_append_new(scales,
                              json_pack("{s:f, s:o, s:o}", "loss_scale", s->scale, "flushed",
                                        number(s->flushed), "headroom_bits", number(s->headroom)));
    }
    return scales;
}

static json_t *backends_json(const npt_exec *exec)
{
    json_t *backends = json_array();
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++)
        json_array_append_new(backends, json_string(npt_exec_backend(exec, i)->name));
    return backends;
}

static json_t *probe_json(const npt_probe *probe)
{
    const npt_setup *setup = &probe->trainer->setup;
    const npt_cpu *cpu = npt_exec_cpu(setup->exec);
    char policy[256], digest[32], label[80], advice[512];
    npt_policy_describe(&setup->policy, policy, sizeof policy);
    snprintf(digest, sizeof digest, "%016" PRIx64, probe->digest);
    npt_probe_advice(probe, advice, sizeof advice);
    const char *culprit = npt_probe_culprit(probe, label, sizeof label);
    json_t *first = culprit[0] != '\0' ? json_string(culprit) : json_null();
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:s, s:i, s:I, s:I, s:o, s:f, s:o, s:s, s:o, s:s, "
        "s:o, s:f, s:o, s:o}",
        "schema", "npt-doctor-probe/1", "npt_version", npt_version(), "model",
        npt_family_name(setup->model->config.family), "policy", policy, "digest", digest,
        "backends", backends_json(setup->exec), "cpu", cpu->brand, "cpu_level",
        npt_cpu_level_name(cpu->level), "threads", npt_exec_threads(setup->exec), "sequences",
        (json_int_t)probe->sequences, "tokens", (json_int_t)probe->tokens, "loss",
        number(probe->loss), "loss_scale", probe->loss_scale, "settles_at",
        number(probe->settles_at), "verdict", npt_plan_verdict_name(probe->verdict),
        "first_culprit", first, "advice", advice, "gradients", scales_json(probe),
        "update_learning_rate", probe->update_rate, "updates", updates_json(probe), "sites",
        rows_json(probe));
}

npt_status npt_probe_print_json(const npt_probe *probe, FILE *out)
{
    json_t *object = probe_json(probe);
    if (object == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    const int failed = json_dumpf(object, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (failed != 0 || fputc('\n', out) == EOF)
        return npt_fail(NPT_E_IO, "the probe cannot be written");
    return NPT_OK;
}
