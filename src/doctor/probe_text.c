/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/probe.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* The probe for a person: one screen of 100 columns, the worst first. */

/* ---- Order ---- */

/* What a row is shown for: culprits, then other findings, then little headroom, then error. */
static double badness(const npt_probe_row *row)
{
    double bad = row->culprit ? 3000 : row->finding != NPT_FINDING_NONE ? 2000 : 0;
    if (row->dtype == NPT_F16 && row->headroom < 8) bad += 100 * (8 - row->headroom);
    if (row->flushed > 0) bad += 50 * row->flushed;
    if (row->error > 0) bad += 10 * fmin(row->error, 1);
    if (row->headroom < 128) bad += 1e-3 * (128 - row->headroom);
    return bad;
}

static int by_badness(const void *a, const void *b)
{
    const npt_probe_row *x = *(const npt_probe_row *const *)a;
    const npt_probe_row *y = *(const npt_probe_row *const *)b;
    const double bx = badness(x), by = badness(y);
    if (bx != by) return bx < by ? 1 : -1;
    return x < y ? -1 : x > y; /* the order of execution */
}

static size_t choose_rows(const npt_probe *probe, const npt_doctor_options *options,
                          const bool *shown, const npt_probe_row **chosen)
{
    size_t count = 0, top = options->top > 0 ? (size_t)options->top : 10;
    for (size_t i = 0; i < probe->count; i++) {
        const npt_probe_row *row = &probe->rows[i];
        if (row->layer < 0 || shown[row->layer] || row == probe->first) chosen[count++] = row;
    }
    if (options->all) return count;
    qsort(chosen, count, sizeof *chosen, by_badness);
    return count < top ? count : top;
}

/* ---- Cells ---- */

/* A number in at most 9 columns, with `digits` after the point (in the exponential form where it is
 * negative), or a dash. */
static const char *cell(double value, int digits, const char *unit, char text[24])
{
    if (isnan(value)) return "-";
    if (isinf(value)) return value > 0 ? "inf" : "-inf";
    if (digits < 0)
        snprintf(text, 24, "%.*e%s", -digits, value, unit);
    else
        snprintf(text, 24, "%.*f%s", digits, value, unit);
    return text;
}

static void print_row(const npt_probe_row *row, FILE *out)
{
    char label[80], a[24], b[24], c[24], d[24], e[24];
    const bool bad = row->finding != NPT_FINDING_NONE;
    fprintf(out, "  %-30s %-4s %9s %9s %8s %9s %8s  %s%s\n",
            npt_probe_label(row, label, sizeof label), npt_dtype_name(row->dtype),
            cell(row->largest, -2, "", a), cell(row->headroom, 1, "", b),
            cell(100 * row->flushed, 2, " %", c), cell(row->error, -1, "", d),
            cell(row->growth, 1, "", e),
            row->culprit ? "CULPRIT "
            : bad        ? "follows "
                         : "",
            bad ? npt_finding_name(row->finding) : "");
}

static void print_rows(const npt_probe *probe, const npt_doctor_options *options, const bool *shown,
                       FILE *out)
{
    const npt_probe_row **chosen = npt_alloc(probe->count + 1, sizeof *chosen);
    if (chosen == NULL) return;
    const size_t count = choose_rows(probe, options, shown, chosen);
    fprintf(out, "RANGE  %zu of %zu results%s\n", count, probe->count,
            options->all ? ", in the order of execution"
                         : ", the worst first; --all shows every one");
    fprintf(out, "  %-30s %-4s %9s %9s %8s %9s %8s\n", "site", "", "largest", "headroom", "flushed",
            "error", "growth");
    for (size_t i = 0; i < count; i++) print_row(chosen[i], out);
    npt_free(chosen);
}

/* ---- Headroom per layer ---- */

enum { BAR = 24 };

/* The least headroom of a block's half-precision results in one direction; NAN: it has none. */
static double least_headroom(const npt_probe *probe, int layer, bool backward)
{
    double least = NAN;
    for (size_t i = 0; i < probe->count; i++) {
        const npt_probe_row *row = &probe->rows[i];
        if (row->layer != layer || (row->direction == NPT_BACKWARD) != backward) continue;
        if (row->dtype != NPT_F16) continue;
        const double headroom = row->survey.nonfinite > 0 ? -1 : row->headroom;
        if (!(least <= headroom)) least = headroom;
    }
    return least;
}

static void print_bar(double bits, FILE *out)
{
    char bar[BAR + 1];
    int filled = isnan(bits) || bits < 0 ? 0 : bits > BAR ? BAR : (int)bits;
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)filled);
    bar[BAR] = '\0';
    if (bits < 0)
        fprintf(out, "  %s OVERFLOW ", bar);
    else if (isinf(bits) || isnan(bits))
        fprintf(out, "  %s        - ", bar);
    else
        fprintf(out, "  %s %4.1f bits", bar, bits);
}

static void print_headroom(const npt_probe *probe, const bool *shown, FILE *out)
{
    const int layers = (int)probe->trainer->setup.model->config.layers;
    bool any = false;
    for (int layer = 0; layer < layers; layer++)
        any = any || !isnan(least_headroom(probe, layer, false));
    if (!any) return;
    fprintf(out, "BITS   up to 65504; forward, then backward at loss scale %g\n",
            probe->loss_scale);
    for (int layer = 0; layer < layers; layer++) {
        if (!shown[layer]) continue;
        fprintf(out, "  L%02d", layer);
        print_bar(least_headroom(probe, layer, false), out);
        print_bar(least_headroom(probe, layer, true), out);
        fputc('\n', out);
    }
}

/* ---- The rest ---- */

static void print_scales(const npt_probe *probe, FILE *out)
{
    char scale[16];
    if (probe->scale_count == 0) return;
    for (int i = 0; i < probe->scale_count; i++) {
        const npt_probe_scale *s = &probe->scales[i];
        fprintf(out, "%s at loss scale %-9s %6.2f %% flushed, ", i == 0 ? "GRAD  " : "      ",
                npt_scale_text(s->scale, scale), 100 * s->flushed);
        if (s->headroom < 0)
            fputs("OVERFLOW\n", out);
        else
            fprintf(out, "%.1f bits of headroom\n", s->headroom);
    }
    if (isnan(probe->settles_at))
        fputs("       no loss scale keeps this batch finite\n", out);
    else
        fprintf(out, "       the run would settle at %s%s\n",
                npt_scale_text(probe->settles_at, scale),
                probe->settles_at < 1 ? ", below 1: it ends there" : "");
}

static void print_updates(const npt_probe *probe, FILE *out)
{
    const char *adapter = npt_dtype_name(probe->trainer->adapters.dtype);
    const bool half = probe->trainer->adapters.dtype != NPT_F32;
    if (probe->update_count == 0)
        fputs("UPDATE none: the gradients are not finite\n", out);
    else
        fprintf(out, "UPDATE at rate %g\n", probe->update_rate);
    for (int i = 0; i < probe->update_count; i++) {
        const npt_probe_update *u = &probe->updates[i];
        fprintf(out, "       %-7s", u->parameter);
        if (half)
            fprintf(out, "%5.1f %% of steps below half an ulp of %s, kept by the F32 master;",
                    100 * u->lost_without_master, adapter);
        fprintf(out, " %.1f %% lost\n", 100 * u->lost_with_master);
    }
}

/* Words after a label, in lines of at most 100 columns. */
static void print_wrapped(const char *label, const char *text, FILE *out)
{
    size_t column = 6;
    fputs(label, out);
    while (*text != '\0') {
        const size_t length = strcspn(text, " ");
        const bool breaks = column + 1 + length > 100;
        fprintf(out, "%s%.*s", breaks ? "\n       " : " ", (int)length, text);
        column = (breaks ? 7 : column + 1) + length;
        text += length + strspn(text + length, " ");
    }
    fputc('\n', out);
}

/* In two lines where one is too long: the rule goes to the second. */
static void print_policy(const char *policy, FILE *out)
{
    const char *rule = strrchr(policy, '(');
    if (strlen(policy) <= 93 || rule == NULL)
        fprintf(out, "PLAN   %s\n", policy);
    else
        fprintf(out, "PLAN   %.*s\n       %s\n", (int)(rule - policy - 1), policy, rule);
}

void npt_probe_print(const npt_probe *probe, const npt_doctor_options *options, const bool *shown,
                     FILE *out)
{
    const npt_setup *setup = &probe->trainer->setup;
    char policy[256], advice[512];
    npt_policy_describe(&setup->policy, policy, sizeof policy);
    npt_probe_advice(probe, advice, sizeof advice);
    print_policy(policy, out);
    fprintf(out,
            "BATCH  %" PRId64 " rows, %" PRId64
            " tokens; loss %.6g; beside an F32 shadow; %s first\n",
            probe->sequences, probe->tokens, probe->loss, npt_exec_backend(setup->exec, 0)->name);
    print_rows(probe, options, shown, out);
    print_headroom(probe, shown, out);
    print_scales(probe, out);
    print_updates(probe, out);
    fprintf(out, "DIGEST %016" PRIx64 " (%d casts)\n", probe->digest,
            npt_sites_count(probe->trainer->distiller.student_sites));
    print_wrapped(
        probe->verdict == NPT_VERDICT_FINE ? "FINE  " : "ADVICE",
        advice[0] != '\0' ? advice : "no finding: every site is finite and near its shadow.", out);
}
