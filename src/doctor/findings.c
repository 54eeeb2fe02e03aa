/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "doctor/flow.h"
#include "tensor/dtype.h"

/* A row has a finding where its values are of no use: not finite, or more error than value. It is a
 * culprit where nothing that it read (flow.c) explains that. */

/* ---- What a site read ---- */

/* The last row before `before` that `row` read from this source; NULL: there is none. */
static const npt_probe_row *find_input(const npt_probe *probe, const npt_probe_row *row,
                                       const npt_flow_source *s, const npt_probe_row *before)
{
    for (const npt_probe_row *r = before; r-- > probe->rows;)
        if (r->site == s->site && r->direction == s->direction && r->layer == s->layer &&
            (r->student == row->student || (row->student && s->may_be_shared)))
            return r;
    return NULL;
}

typedef struct inputs {
    double error; /* the largest; NAN: none is known */
    bool finding; /* one has a finding */
} inputs;

static inputs inputs_of(const npt_probe *probe, const npt_probe_row *row)
{
    inputs all = {NAN, false};
    npt_flow_source sources[NPT_FLOW_MAX];
    const int count = npt_flow_sources(row->site, row->layer, row->direction, sources);
    for (int i = 0; i < count; i++) {
        const npt_probe_row *in = row;
        /* a site with several parts: all of them; they stand together */
        while ((in = find_input(probe, row, &sources[i], in)) != NULL) {
            all.error = fmax(all.error, in->error);
            all.finding = all.finding || in->finding != NPT_FINDING_NONE;
            if (in->part == 0) break;
        }
    }
    return all;
}

/* ---- Rows ---- */

static const double useless = 0.5; /* more than half of it is error */
static const double own = 8;       /* growth from which an error is the site's own */

static npt_finding finding_of(const npt_probe_row *row)
{
    if (row->survey.nonfinite > row->survey.nan) return NPT_FINDING_OVERFLOW;
    if (row->survey.nan > 0) return NPT_FINDING_NAN;
    if (!(row->error > useless)) return NPT_FINDING_NONE;
    return row->flushed > useless ? NPT_FINDING_UNDERFLOW : NPT_FINDING_PRECISION;
}

/* Whether `reader` read `row`. */
static bool reads(const npt_probe *probe, const npt_probe_row *reader, const npt_probe_row *row)
{
    npt_flow_source sources[NPT_FLOW_MAX];
    const int count = npt_flow_sources(reader->site, reader->layer, reader->direction, sources);
    for (int i = 0; i < count; i++) {
        const npt_probe_row *in = reader;
        const npt_flow_source *s = &sources[i];
        if (s->site != row->site || s->direction != row->direction) continue;
        while ((in = find_input(probe, reader, s, in)) != NULL && in >= row)
            if (in == row) return true;
    }
    return false;
}

/* The largest error of what a reader read besides `row`, of what is sound: the rest may be spoilt
 * by the same cause. */
static double error_of_others(const npt_probe *probe, const npt_probe_row *reader,
                              const npt_probe_row *row)
{
    const double sound = 0.125;
    double error = npt_dtype_epsilon(reader->dtype);
    npt_flow_source sources[NPT_FLOW_MAX];
    const int count = npt_flow_sources(reader->site, reader->layer, reader->direction, sources);
    for (int i = 0; i < count; i++) {
        const npt_probe_row *in = find_input(probe, reader, &sources[i], reader);
        if (in != NULL && in->site != row->site && in->error < sound)
            error = fmax(error, in->error);
    }
    return error;
}

/* The gradients of weights read these, beside the rows that do. */
static bool makes_weight_gradient(const npt_probe_row *row)
{
    if (row->direction == NPT_FORWARD)
        return row->student && (row->site == NPT_SITE_Z || row->site == NPT_SITE_ADAPTER_IN);
    return row->site == NPT_SITE_Z || row->site == NPT_SITE_ADD || row->site == NPT_SITE_U;
}

/* A value may be nothing but error and change nothing: an adapter that has hardly begun makes a u
 * of 1e-7, and half of 1 + sigmoid(u) does not know; a gradient that comes through attention may be
 * lost in F16 and be nothing beside the one that comes through the residual. Such a row is
 * harmless: whoever reads it is no worse than the rest of what it reads, or is harmless itself.
 * Rows are asked from the last to the first, so that the answer of every reader is there. */
static bool is_harmless(const npt_probe *probe, const npt_probe_row *row)
{
    bool read = false;
    if (makes_weight_gradient(row)) return false;
    for (const npt_probe_row *r = row + 1; r < probe->rows + probe->count; r++) {
        if (!reads(probe, r, row)) continue;
        read = true;
        const bool worse = !(r->error <= 4 * error_of_others(probe, r, row));
        if (worse && (row->direction != NPT_BACKWARD || !r->harmless)) return false;
    }
    return read;
}

/* Only rows that are mostly error are asked, and those between them and the end of their harm. */
static void find_harmless(npt_probe *probe)
{
    for (size_t i = probe->count; i-- > 0;) {
        npt_probe_row *row = &probe->rows[i];
        row->harmless = row->survey.nonfinite == 0 &&
                        row->error > 4 * npt_dtype_epsilon(row->dtype) && is_harmless(probe, row);
    }
}

static void judge_row(npt_probe *probe, npt_probe_row *row)
{
    const inputs in = inputs_of(probe, row);
    row->finding = finding_of(row);
    if ((row->finding == NPT_FINDING_UNDERFLOW || row->finding == NPT_FINDING_PRECISION) &&
        row->harmless)
        row->finding = NPT_FINDING_NONE;
    row->growth = in.error > 0 ? row->error / in.error : row->error > 0 ? (double)INFINITY : NAN;
    if (row->finding == NPT_FINDING_NONE || in.finding) return;
    bool finite = row->survey.nonfinite == 0;
    row->culprit = !finite || !(row->growth <= own);
}

/* An overflow of gradients that the loss scale explains: training backs off by itself. */
static bool is_scale_too_high(const npt_probe *probe, const npt_probe_row *row)
{
    return row->direction == NPT_BACKWARD && row->dtype == NPT_F16 &&
           row->finding == NPT_FINDING_OVERFLOW && row->shadow_largest > 65504 &&
           probe->settles_at >= 1;
}

static bool is_tight(const npt_probe_row *row)
{
    return row->dtype == NPT_F16 && row->direction == NPT_FORWARD && row->headroom < 1;
}

static bool update_is_lost(const npt_probe *probe)
{
    for (int i = 0; i < probe->update_count; i++)
        if (probe->updates[i].moved > 0 && probe->updates[i].lost_with_master > useless)
            return true;
    return false;
}

void npt_probe_judge(npt_probe *probe)
{
    probe->first = NULL;
    probe->verdict = NPT_VERDICT_FINE;
    find_harmless(probe);
    for (size_t i = 0; i < probe->count; i++) {
        npt_probe_row *row = &probe->rows[i];
        judge_row(probe, row);
        /* broken weights explain everything after them */
        if (probe->first != NULL && probe->first->site == NPT_SITE_WEIGHT) row->culprit = false;
        if (row->culprit && probe->first == NULL) probe->first = row;
        if (is_tight(row)) probe->verdict = NPT_VERDICT_WARNING;
    }
    if (probe->first != NULL)
        probe->verdict =
            is_scale_too_high(probe, probe->first) ? NPT_VERDICT_WARNING : NPT_VERDICT_NUMERIC;
    else if (!isfinite(probe->loss) || update_is_lost(probe))
        probe->verdict = NPT_VERDICT_NUMERIC;
    else if (probe->breach[0] != '\0')
        probe->verdict = NPT_VERDICT_WOULD_FAIL;
}

/* ---- Words ---- */

const char *npt_finding_name(npt_finding finding)
{
    static const char *const names[] = {"none", "overflow", "nan", "underflow", "precision"};
    return names[finding];
}

char *npt_probe_label(const npt_probe_row *row, char *text, size_t bytes)
{
    char label[64];
    npt_site_label(row->site, row->layer, row->direction, label, sizeof label);
    if (row->part > 0)
        snprintf(text, bytes, "%s%s#%d", row->student ? "" : "teacher ", label, row->part + 1);
    else
        snprintf(text, bytes, "%s%s", row->student ? "" : "teacher ", label);
    return text;
}

char *npt_probe_culprit(const npt_probe *probe, char *text, size_t bytes)
{
    if (probe->first != NULL) return npt_probe_label(probe->first, text, bytes);
    snprintf(text, bytes, "%s", update_is_lost(probe) ? "update" : "");
    return text;
}

const char *npt_scale_text(double scale, char text[16])
{
    int exponent;
    if (scale > 1e6 && frexp(scale, &exponent) == 0.5)
        snprintf(text, 16, "2^%d", exponent - 1);
    else
        snprintf(text, 16, "%g", scale);
    return text;
}

/* Flags that give the range which F16 lacks. */
static const char wider[] = "use --use_bf16, or no precision flag";

static void advise_overflow(const npt_probe *probe, const npt_probe_row *row, const char *label,
                            char *text, size_t bytes)
{
    const char *dtype = npt_dtype_name(row->dtype);
    char scale[16];
    if (is_scale_too_high(probe, row))
        snprintf(
            text, bytes,
            "%s overflows %s at loss scale %g; training backs off by itself and settles at %s: "
            "--initial_loss_scale %.0f saves the skipped steps.",
            label, dtype, probe->loss_scale, npt_scale_text(probe->settles_at, scale),
            probe->settles_at);
    else if (isinf(row->shadow_largest))
        snprintf(text, bytes,
                 "%s is not finite in F32 either: the weights, the adapter or the batch are "
                 "broken; no precision flag mends it.",
                 label);
    else if (row->dtype == NPT_F16 && row->shadow_largest > 65504)
        snprintf(text, bytes, "%s overflows F16 (%.6g in F32, the largest F16 is 65504): %s.",
                 label, row->shadow_largest, wider);
    else
        snprintf(text, bytes,
                 "%s has %lld infinite values, where the F32 shadow has none above %.4g: %s; if it "
                 "stays, please report this.",
                 label, (long long)(row->survey.nonfinite - row->survey.nan), row->shadow_largest,
                 row->dtype == NPT_F16 ? wider : "try --backend reference");
}

static void advise_site(const npt_probe *probe, const npt_probe_row *row, char *text, size_t bytes)
{
    char label[80], scale[16];
    npt_probe_label(row, label, sizeof label);
    if (row->site == NPT_SITE_WEIGHT)
        snprintf(text, bytes,
                 "%lld weights of the file are beyond the range of %s: %s; npt doctor plan --scan "
                 "names them.",
                 (long long)row->survey.nonfinite, npt_dtype_name(row->dtype), wider);
    else if (row->finding == NPT_FINDING_OVERFLOW)
        advise_overflow(probe, row, label, text, bytes);
    else if (row->finding == NPT_FINDING_NAN)
        snprintf(text, bytes, "%s has %lld NaN and what it read was finite%s: %s.", label,
                 (long long)row->survey.nan,
                 isfinite(row->shadow_largest) ? ", as is the F32 shadow" : "",
                 isfinite(row->shadow_largest)
                     ? "try --backend reference, and report this"
                     : "the weights, the adapter or the batch are broken");
    else if (row->finding == NPT_FINDING_UNDERFLOW && row->direction == NPT_BACKWARD)
        snprintf(text, bytes,
                 "%s: %.0f %% of the gradient is flushed to zero in %s: raise --initial_loss_scale "
                 "(up to %s nothing overflows), or %s.",
                 label, 100 * row->flushed, npt_dtype_name(row->dtype),
                 npt_scale_text(probe->settles_at, scale), wider);
    else if (row->finding == NPT_FINDING_UNDERFLOW)
        snprintf(text, bytes, "%s: %.0f %% of the values are flushed to zero in %s: %s.", label,
                 100 * row->flushed, npt_dtype_name(row->dtype), wider);
    else
        snprintf(text, bytes,
                 "%s is %.0f %% error (%.3g times that of what it read): too few digits in %s; use "
                 "no precision flag.",
                 label, 100 * row->error, row->growth, npt_dtype_name(row->dtype));
}

void npt_probe_advice(const npt_probe *probe, char *text, size_t bytes)
{
    char label[80];
    text[0] = '\0';
    if (probe->first != NULL) {
        advise_site(probe, probe->first, text, bytes);
        return;
    }
    if (probe->breach[0] != '\0') {
        snprintf(text, bytes, "%s.", probe->breach);
        return;
    }
    if (update_is_lost(probe)) {
        snprintf(text, bytes,
                 "update: most steps are below half an ulp and are lost: raise --learning_rate, or "
                 "use --adapter_dtype f32.");
        return;
    }
    for (size_t i = 0; i < probe->count; i++)
        if (is_tight(&probe->rows[i])) {
            snprintf(text, bytes,
                     "%s comes within a factor of two of what F16 can hold: another batch may "
                     "overflow; %s.",
                     npt_probe_label(&probe->rows[i], label, sizeof label), wider);
            return;
        }
}
