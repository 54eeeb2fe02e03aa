/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "files/files.h"

/* The comparison for a person, in 100 columns: what is compared, the first difference with both
 * sides beside each other, what follows folded per block, and what does not follow. */

enum { LINES = 12, COLUMNS = 100 };

/* ---- What is compared ---- */

static const char *cell(double value, char text[24])
{
    if (isnan(value)) return "-";
    snprintf(text, 24, "%.5g", value);
    return text;
}

/* The rule, in parentheses at the end, on a line of its own where the whole is too long. */
static void print_policy(const char *policy, FILE *out)
{
    const char *rule = strrchr(policy, '(');
    const int indent = 7, length = (int)strlen(policy);
    if (rule == NULL || rule == policy || indent + length <= COLUMNS)
        fprintf(out, "%*s%s\n", indent, "", policy);
    else
        fprintf(out, "%*s%.*s\n%*s%s\n", indent, "", (int)(rule - policy) - 1, policy, indent, "",
                rule);
}

static void print_side(char name, const npt_diff_side *side, FILE *out)
{
    char a[NPT_SHOW_BYTES], b[NPT_SHOW_BYTES], c[NPT_SHOW_BYTES], loss[24];
    fprintf(out, "%c      %s\n", name, side->path);
    print_policy(npt_show(side->policy, a), out);
    fprintf(out, "       %s; %.40s, %.12s, %d threads; npt %.20s\n", side->backends,
            npt_show(side->cpu, a), npt_show(side->cpu_level, b), side->threads,
            npt_show(side->version, c));
    fprintf(out, "       loss %s, loss scale %g\n",
            isnan(side->loss) ? "not finite" : cell(side->loss, loss), side->loss_scale);
}

static void print_plan(const npt_diff *diff, FILE *out)
{
    char a[NPT_SHOW_BYTES], b[NPT_SHOW_BYTES];
    const char *x = npt_show(diff->side[0].digest, a), *y = npt_show(diff->side[1].digest, b);
    const size_t only = diff->count - diff->compared;
    if (strcmp(x, y) == 0)
        fprintf(out, "PLAN   the same casts in both, digest %.32s\n", x);
    else
        fprintf(out, "PLAN   other casts: digests %.32s and %.32s\n", x, y);
    fprintf(out, "BATCH  %.32s, %" PRId64 " rows, %" PRId64 " tokens; %zu sites in both",
            npt_show(diff->side[0].model, a), diff->side[0].sequences, diff->side[0].tokens,
            diff->compared);
    if (only > 0) fprintf(out, ", %zu in one alone", only);
    fputc('\n', out);
}

/* ---- One site ---- */

static void print_numbers(const char *name, double a, double b, FILE *out)
{
    char x[24], y[24];
    fprintf(out, "       %-12s %14s %14s\n", name, cell(a, x), cell(b, y));
}

/* NAN where there is no such row. */
static double count_of(const npt_probe_row *row, bool nan)
{
    if (row == NULL) return NAN;
    return (double)(nan ? row->survey.nan : row->survey.nonfinite);
}

static void print_both(const npt_diff_row *row, FILE *out)
{
    static const npt_probe_row nothing = {.rms = NAN, .flushed = NAN, .error = NAN};
    const npt_probe_row *a = row->a != NULL ? row->a : &nothing;
    const npt_probe_row *b = row->b != NULL ? row->b : &nothing;
    fprintf(out, "       %-12s %14s %14s\n", "", "A", "B");
    fprintf(out, "       %-12s %14s %14s\n", "dtype", npt_dtype_name(a->dtype),
            npt_dtype_name(b->dtype));
    print_numbers("not finite", count_of(row->a, false), count_of(row->b, false), out);
    if (a->survey.nan + b->survey.nan > 0)
        print_numbers("NaN", count_of(row->a, true), count_of(row->b, true), out);
    print_numbers("smallest", (double)a->survey.min, (double)b->survey.min, out);
    print_numbers("largest", (double)a->survey.max, (double)b->survey.max, out);
    print_numbers("rms", a->rms, b->rms, out);
    print_numbers("flushed", a->flushed, b->flushed, out);
    print_numbers("error", a->error, b->error, out);
    if (row->measure == NPT_DIFF_SAMPLE)
        print_numbers("one element", (double)a->sample[row->element],
                      (double)b->sample[row->element], out);
}

static void print_first(const npt_diff *diff, FILE *out)
{
    char label[80];
    const npt_diff_row *row = diff->first;
    fprintf(out, "FIRST  %s", npt_probe_label(npt_diff_either(row), label, sizeof label));
    if (row->measure == NPT_DIFF_NONFINITE)
        fputs(": not the same values are finite\n", out);
    else
        fprintf(out, ": %s differs by %.3g, %.3g times its tolerance of %.3g\n",
                npt_diff_measure_name(row->measure), row->distance, row->ratio, row->limit);
    print_both(row, out);
    if (npt_diff_either(row)->direction == NPT_BACKWARD &&
        diff->side[0].loss_scale != diff->side[1].loss_scale)
        fputs("       gradients are shown with the loss scale and compared without it\n", out);
}

/* ---- What follows ---- */

/* Differing rows of one kind, block and model. */
typedef struct fold {
    int forward, backward;
    const npt_diff_row *largest;
} fold;

static bool is_of(const npt_diff_row *row, npt_diff_kind kind, int layer, bool student)
{
    const npt_probe_row *r = npt_diff_either(row);
    return row->kind == kind && r->layer == layer && r->student == student;
}

static fold fold_rows(const npt_diff *diff, size_t from, npt_diff_kind kind)
{
    const npt_probe_row *r = npt_diff_either(&diff->rows[from]);
    fold f = {0, 0, NULL};
    for (size_t i = from; i < diff->count; i++) {
        const npt_diff_row *row = &diff->rows[i];
        if (!is_of(row, kind, r->layer, r->student)) continue;
        if (npt_diff_either(row)->direction == NPT_FORWARD)
            f.forward++;
        else
            f.backward++;
        if (f.largest == NULL || row->ratio > f.largest->ratio) f.largest = row;
    }
    return f;
}

static bool begins_fold(const npt_diff *diff, size_t at, npt_diff_kind kind)
{
    const npt_probe_row *r = npt_diff_either(&diff->rows[at]);
    if (diff->rows[at].kind != kind) return false;
    for (size_t i = 0; i < at; i++)
        if (is_of(&diff->rows[i], kind, r->layer, r->student)) return false;
    return true;
}

static void print_fold(const npt_diff *diff, size_t at, npt_diff_kind kind, FILE *out)
{
    char label[80], block[16] = "no block";
    const npt_probe_row *r = npt_diff_either(&diff->rows[at]);
    const fold f = fold_rows(diff, at, kind);
    if (r->layer >= 0) snprintf(block, sizeof block, "L%02d", r->layer);
    fprintf(out, "       %-8s%-8s %3d forward, %3d backward; ", r->student ? "" : "teacher", block,
            f.forward, f.backward);
    npt_probe_label(npt_diff_either(f.largest), label, sizeof label);
    if (isinf(f.largest->ratio))
        fprintf(out, "not finite: %s\n", label);
    else
        fprintf(out, "%.3g × tolerance: %s\n", f.largest->ratio, label);
}

static size_t count_kind(const npt_diff *diff, npt_diff_kind kind)
{
    size_t count = 0;
    for (size_t i = 0; i < diff->count; i++) count += diff->rows[i].kind == kind;
    return count;
}

static void print_kind(const npt_diff *diff, npt_diff_kind kind, FILE *out)
{
    const size_t count = count_kind(diff, kind);
    int lines = 0, left = 0;
    if (count == 0) return;
    if (kind == NPT_DIFF_FOLLOWS)
        fprintf(out, "THEN   %zu %s from it\n", count,
                count == 1 ? "site follows" : "sites follow");
    else
        fprintf(out, "ALSO   %zu %s, though nothing that %s read does\n", count,
                count == 1 ? "site differs" : "sites differ", count == 1 ? "it" : "they");
    for (size_t i = 0; i < diff->count; i++) {
        if (!begins_fold(diff, i, kind)) continue;
        if (lines++ < LINES)
            print_fold(diff, i, kind, out);
        else
            left++;
    }
    if (left > 0) fprintf(out, "       and %d more blocks; --all shows every site\n", left);
}

/* ---- Lists ---- */

static void print_only(const npt_diff *diff, bool in_a, FILE *out)
{
    char label[80];
    size_t column = 0, count = 0, shown = 0;
    for (size_t i = 0; i < diff->count; i++)
        count += (in_a ? diff->rows[i].b : diff->rows[i].a) == NULL;
    if (count == 0) return;
    column = (size_t)fprintf(out, "ONLY   in %c, not compared:", in_a ? 'A' : 'B');
    for (size_t i = 0; i < diff->count && shown < 24; i++) {
        if ((in_a ? diff->rows[i].b : diff->rows[i].a) != NULL) continue;
        npt_probe_label(npt_diff_either(&diff->rows[i]), label, sizeof label);
        if (column + strlen(label) + 2 > COLUMNS) column = (size_t)fprintf(out, "\n      ") - 1;
        column += (size_t)fprintf(out, " %s%s", label, ++shown < count ? "," : "");
    }
    fprintf(out, shown < count ? " and %zu more\n" : "\n", count - shown);
}

static void print_all(const npt_diff *diff, FILE *out)
{
    static const char *const words[] = {"", "FIRST", "follows", "also"};
    char label[80], a[24], b[24];
    fprintf(out, "SITES  in the order of execution\n  %-30s %-4s %-4s %10s %10s %-9s %9s %s\n", "",
            "A", "B", "rms A", "rms B", "worst in", "× limit", "");
    for (size_t i = 0; i < diff->count; i++) {
        const npt_diff_row *row = &diff->rows[i];
        if (row->a == NULL || row->b == NULL) continue;
        fprintf(out, "  %-30s %-4s %-4s %10s %10s %-9s %8.3g %s\n",
                npt_probe_label(row->a, label, sizeof label), npt_dtype_name(row->a->dtype),
                npt_dtype_name(row->b->dtype), cell(row->a->rms, a), cell(row->b->rms, b),
                row->ratio > 0 ? npt_diff_measure_name(row->measure) : "-", row->ratio,
                words[row->kind]);
    }
}

/* ---- All of it ---- */

static void print_update(const npt_diff *diff, FILE *out)
{
    if (diff->update[0] < 0) return;
    const npt_diff_update *a = &diff->side[0].updates[diff->update[0]];
    const npt_diff_update *b = &diff->side[1].updates[diff->update[1]];
    char shown[NPT_SHOW_BYTES];
    fprintf(out, "UPDATE %.40s: %.1f %% of the updates are lost in A, %.1f %% in B\n",
            npt_show(a->parameter, shown), 100 * a->lost, 100 * b->lost);
}

static void print_verdict(const npt_diff *diff, FILE *out)
{
    char label[80];
    if (diff->first == NULL) {
        fputs(diff->verdict == NPT_VERDICT_FINE ? "FINE   " : "ADVICE ", out);
        fputs("no site differs beyond its tolerance", out);
        if (diff->largest != NULL && diff->largest->ratio > 0)
            fprintf(out, " (largest: %.3g of it at %s)", diff->largest->ratio,
                    npt_probe_label(npt_diff_either(diff->largest), label, sizeof label));
        fputs(".\n", out);
        return;
    }
    const npt_probe_row *row = npt_diff_either(diff->first);
    npt_probe_label(row, label, sizeof label);
    fputs("ADVICE ", out);
    if (row->site == NPT_SITE_EMBED)
        fputs("what goes in differs already: other data, tokenizer, --max_length or weights?\n",
              out);
    else if (row->site == NPT_SITE_Z && row->direction == NPT_FORWARD)
        fprintf(out, "%s: what the adapter read is the same: another --seed or adapter?\n", label);
    else if (diff->side[0].nf4 != diff->side[1].nf4)
        fprintf(out, "%s: the weights of %c are NF4, and this is more than NF4 usually changes.\n",
                label, diff->side[0].nf4 ? 'A' : 'B');
    else if (strcmp(diff->side[0].digest, diff->side[1].digest) != 0)
        fprintf(out, "%s: npt doctor probe --all --show_layers says why on the worse side.\n",
                label);
    else
        fprintf(out, "%s: the same casts, other values; which side is like --backend reference?\n",
                label);
}

void npt_diff_print(const npt_diff *diff, bool all, FILE *out)
{
    print_side('A', &diff->side[0], out);
    print_side('B', &diff->side[1], out);
    print_plan(diff, out);
    if (all) print_all(diff, out);
    if (diff->first != NULL) print_first(diff, out);
    print_kind(diff, NPT_DIFF_FOLLOWS, out);
    print_kind(diff, NPT_DIFF_ALSO, out);
    print_update(diff, out);
    print_only(diff, true, out);
    print_only(diff, false, out);
    print_verdict(diff, out);
}
