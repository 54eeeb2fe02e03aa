/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "doctor/plan.h"
#include "files/files.h"
#include "model/block.h"
#include "tensor/dtype.h"

/* The plan for a person: what matters first, the long tables last, nothing wider than WIDTH. */

enum { WIDTH = 100, INDENT = 7 };

/* ---- Lines ---- */

/* Columns of UTF-8 text: its bytes but continuation bytes. */
static int columns(const char *text, size_t bytes)
{
    int count = 0;
    for (size_t i = 0; i < bytes; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* Words of `text` from column INDENT on, after a label that fills the columns before. */
static void print_wrapped(FILE *out, const char *label, const char *text)
{
    int column = INDENT;
    fprintf(out, "%-*s", INDENT, label);
    while (*text != '\0') {
        const size_t bytes = strcspn(text, " ");
        const int width = columns(text, bytes);
        if (column > INDENT && column + 1 + width > WIDTH) {
            fprintf(out, "\n%*s", INDENT, "");
            column = INDENT;
        } else if (column > INDENT) {
            putc(' ', out);
            column++;
        }
        fwrite(text, 1, bytes, out);
        column += width;
        text += bytes;
        text += strspn(text, " ");
    }
    putc('\n', out);
}

__attribute__((format(printf, 3, 4))) static void print_line(FILE *out, const char *label,
                                                             const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_wrapped(out, label, text);
}

/* `text` padded to `width` columns; printf counts bytes. */
static void print_cell(FILE *out, const char *text, int width)
{
    const int used = columns(text, strlen(text));
    fprintf(out, "%s%*s", text, used < width ? width - used : 0, "");
}

/* The end of a path that is too long for a line. */
static const char *tail_of(const char *path, char shown[NPT_SHOW_BYTES])
{
    enum { ROOM = 60 };
    const size_t length = strlen(path);
    const char *from = length > ROOM ? path + length - ROOM : path;
    const char *slash = length > ROOM ? strchr(from, '/') : NULL;
    if (length <= ROOM) return npt_show(path, shown);
    snprintf(shown, NPT_SHOW_BYTES, "…%s", slash != NULL ? slash : from);
    for (char *c = shown; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    return shown;
}

static const char *dtype_or_dash(npt_dtype dtype)
{
    return dtype == NPT_DTYPE_NONE ? "-" : npt_dtype_name(dtype);
}

/* ---- Verdict, model, policy ---- */

static void print_head(const npt_plan *plan, FILE *out)
{
    static const char *const sentences[] = {
        "FINE: nothing to warn of", "WARNING: it runs, but look at the lines below",
        "WOULD FAIL: npt pretrain would refuse this",
        "NUMERIC: values are lost, or not finite, before the first step"};
    static const char *const labels[] = {"NOTE", "WARN", "FAIL", "LOST"};
    char shown[NPT_SHOW_BYTES];
    fprintf(out, "%s\n", sentences[plan->verdict]);
    for (size_t i = 0; i < plan->remarks.count; i++) {
        const npt_remark *r = &plan->remarks.list[i];
        const char *site = npt_site_name(r->site);
        const bool named = r->tensor[0] != '\0' && r->verdict != NPT_VERDICT_WARNING;
        print_line(out, labels[r->verdict], "%s%s%s%s%s%s", strcmp(site, r->group) != 0 ? site : "",
                   strcmp(site, r->group) != 0 ? ": " : "", r->text, named ? " (" : "",
                   named ? npt_show(r->tensor, shown) : "", named ? ")" : "");
    }
}

static void print_model(const npt_plan *plan, FILE *out)
{
    const npt_model *m = plan->setup.model;
    char shown[NPT_SHOW_BYTES];
    int active = 0;
    for (int i = 0; i < plan->adapters.layers; i++) active += plan->adapters.active[i];
    fprintf(out, "%-*s%s\n", INDENT, "MODEL", tail_of(m->directory, shown));
    print_line(out, "",
               "%s, %" PRId64 " layers, linears in %s; adapters of rank %d (%s) in %d layers, "
               "%" PRId64 " weights",
               npt_family_name(m->config.family), m->config.layers,
               m->file_dtype == NPT_NF4 && !m->config.quantized ? "integers"
                                                                : dtype_or_dash(m->file_dtype),
               plan->adapters.rank, plan->adapters.kind->name, active,
               npt_adapters_size(&plan->adapters));
}

static void print_policy(const npt_policy *policy, FILE *out)
{
    char line[256];
    npt_policy_describe(policy, line, sizeof line);
    print_wrapped(out, "PLAN", line);
    for (int i = 0; i < NPT_ROLE_COUNT; i++) {
        const npt_role role = (npt_role)i;
        const bool none = policy->dtype[role] == NPT_DTYPE_NONE;
        fprintf(out, "%*s%-9s%-6s%-30s%s\n", INDENT, "", npt_role_name(role),
                none ? "none" : npt_dtype_name(policy->dtype[role]),
                none ? "the adapter itself" : npt_plan_role_text(role),
                npt_rule_text(policy->rule[role]));
    }
}

static void print_digest(const npt_plan *plan, FILE *out)
{
    fprintf(out, "%-*s%016" PRIx64 " (%d casts); teacher %016" PRIx64 " (%d casts)\n", INDENT,
            "DIGEST", npt_sites_digest(plan->student), npt_sites_count(plan->student),
            npt_sites_digest(plan->teacher), npt_sites_count(plan->teacher));
}

/* ---- Files ---- */

static const char *action_text(const npt_audit_group *g)
{
    static const struct {
        const char *name, *text;
    } texts[] = {
        {"in_place", "used in place"},
        {"widened", "widened on the fly"},
        {"aligned_copy", "copied: not aligned"},
        {"converted_copy", "converted copy"},
        {"quantized_on_load", "quantized on load"},
        {"stored_nf4", "used in place, 4 bits"},
        {"rounded_on_lookup", "rounded on look-up"},
        {"record", "says what the 4 bits are"},
        {"not_read", "not read"},
        {"refused", "CANNOT BE LOADED"},
    };
    const char *name = npt_plan_action_name(g);
    if (g->evaluation && g->fault == NPT_AUDIT_NONE) return "only in evaluation";
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strcmp(texts[i].name, name) == 0) return texts[i].text;
    return name;
}

static void print_group(const npt_audit *audit, const npt_audit_group *g, FILE *out)
{
    const npt_audit_scan *s = &g->scan;
    char shown[NPT_SHOW_BYTES];
    fprintf(out, "%*s%-13s%7" PRId64 " %12" PRId64 "  %-8s%-7s%-7s%-8s", INDENT, "", g->name,
            g->tensors, g->elements, dtype_or_dash(g->file),
            g->used ? dtype_or_dash(g->config) : "-", dtype_or_dash(g->record),
            dtype_or_dash(g->planned));
    fprintf(out, g->mismatch ? "%-18s  MISMATCH\n" : "%s\n", action_text(g));
    if (!audit->scanned || s->overflowed + s->flushed + s->nonfinite == 0) return;
    print_line(out, "",
               "  scanned: %" PRIu64 " of %" PRIu64 " become infinite, %" PRIu64
               " become zero, %" PRIu64 " are NaN or infinite in the file; largest %g%s%s",
               s->overflowed, s->values, s->flushed, s->nonfinite, (double)s->largest,
               s->worst[0] != '\0' ? "; worst " : "", npt_show(s->worst, shown));
}

static bool is_narrowed(const npt_audit_group *g)
{
    return g->fault == NPT_AUDIT_NONE && g->used && !g->evaluation &&
           npt_dtype_is_float(g->planned) && npt_dtype_is_float(g->file) && g->planned != NPT_F32 &&
           g->planned != g->file;
}

static void print_files(const npt_plan *plan, FILE *out)
{
    const npt_audit *audit = &plan->audit;
    const npt_config *c = &plan->setup.model->config;
    char shown[NPT_SHOW_BYTES];
    int64_t narrowed = 0;
    print_line(out, "FILES", "%zu tensors; config.json says %s, quantization %s", audit->tensors,
               c->dtype != NPT_DTYPE_NONE ? npt_dtype_name(c->dtype) : "no dtype",
               c->quantization[0] != '\0' ? npt_show(c->quantization, shown) : "none");
    fprintf(out, "%*s%-13s%7s %12s  %-8s%-7s%-7s%-8s%s\n", INDENT, "", "group", "tensors",
            "elements", "file", "config", "record", "planned", "what npt does");
    for (size_t i = 0; i < audit->count; i++) {
        print_group(audit, &audit->groups[i], out);
        if (is_narrowed(&audit->groups[i])) narrowed += audit->groups[i].elements;
    }
    if (narrowed > 0 && !audit->scanned)
        print_line(out, "",
                   "%" PRId64 " values are rounded; --scan counts those that become "
                   "infinite or zero",
                   narrowed);
    if (audit->scanned) print_line(out, "", "every float weight that training reads was scanned");
}

static void print_memory(const npt_plan *plan, FILE *out)
{
    const npt_plan_memory *m = &plan->memory;
    const double mib = 1024 * 1024;
    print_line(out, "MEMORY",
               "mapped %.1f MiB (weights in their files); resident %.1f MiB: weight copies "
               "%.1f, adapters %.1f, masters %.1f, moments %.1f, gradients %.1f, activations "
               "at most %.1f",
               (double)m->mapped / mib, (double)m->resident / mib, (double)m->copies / mib,
               (double)m->adapters / mib, (double)m->masters / mib, (double)m->moments / mib,
               (double)m->gradients / mib, (double)m->activations / mib);
    if (plan->options.memory_limit > 0)
        print_line(out, "",
                   "that is without --memory_limit; npt pretrain --dry_run shows what a run within "
                   "it takes");
}

/* ---- Elsewhere ---- */

static void print_would(const npt_would *w, FILE *out)
{
    const bool raised = w->exception[0] != '\0';
    print_line(out, "WOULD", "%s%s%s%s", w->where, w->site != NPT_SITE_COUNT ? " (at " : "",
               w->site != NPT_SITE_COUNT ? npt_site_name(w->site) : "",
               w->site != NPT_SITE_COUNT ? ")" : "");
    print_line(out, "", "%s%s%s%s", w->exception, raised ? " \"" : "", w->text, raised ? "\"" : "");
    print_line(out, "", "seen in %s; npt: %s", w->seen, w->instead);
}

/* ---- Casts ---- */

/* "L00-L31", "L00,L02,L05-L07"; what does not fit is counted. */
static void layers_text(const npt_casts *casts, const npt_cast_row *row, char *text, size_t bytes)
{
    enum { ROOM = 12 };
    size_t used = 0;
    int total = 0;
    text[0] = '\0';
    for (int i = 0; i < casts->layers; i++) {
        if (!row->layers[i]) continue;
        int last = i;
        while (last + 1 < casts->layers && row->layers[last + 1]) last++;
        char part[32];
        if (last > i)
            snprintf(part, sizeof part, "%sL%02d-L%02d", used > 0 ? "," : "", i, last);
        else
            snprintf(part, sizeof part, "%sL%02d", used > 0 ? "," : "", i);
        total += last - i + 1;
        used += (size_t)snprintf(text + used, bytes - used, "%s", part);
        if (used >= bytes) used = bytes - 1;
        i = last;
    }
    if (used > ROOM) snprintf(text, bytes, "(%d layers)", total);
}

/* "T:F S:FBR": teacher and student, forward, backward, recomputed in backward. */
static void passes_text(const npt_cast_row *row, char *text)
{
    static const char letters[] = "FBR";
    const unsigned who[] = {row->teacher, row->student};
    for (int w = 0; w < 2; w++) {
        if (who[w] == 0) continue;
        if (w == 1 && who[0] != 0) *text++ = ' ';
        *text++ = "TS"[w];
        *text++ = ':';
        for (int d = 0; d < NPT_DIRECTION_COUNT; d++)
            if (who[w] & 1u << d) *text++ = letters[d];
    }
    *text = '\0';
}

static void print_cast(const npt_cast_row *row, const char *layers, FILE *out)
{
    char label[96], arrow[32], passes[16];
    const uint64_t bytes = (uint64_t)row->per_token * npt_dtype_bytes(row->to);
    snprintf(label, sizeof label, "%s%s%s", layers, layers[0] != '\0' ? "." : "",
             npt_site_name(row->site));
    snprintf(arrow, sizeof arrow, "%s → %s", npt_dtype_name(row->from), npt_dtype_name(row->to));
    passes_text(row, passes);
    fprintf(out, "  ");
    print_cell(out, label, 26);
    print_cell(out, arrow, 12);
    fprintf(out, "%-6s%8" PRId64 " %8" PRIu64 "  %-10s", npt_plan_direction(row->from, row->to),
            row->per_token, bytes, passes);
    fprintf(out, "%s\n", npt_plan_cast_text(row->site));
}

static void print_casts(const npt_casts *casts, bool all, FILE *out)
{
    char layers[256];
    print_line(out, "CAST",
               "each place where values are rounded; by T teacher, S student; F "
               "forward, B backward, R replayed in backward");
    fprintf(out, "  %-26s%-12s%-6s%8s %8s  %-10s%s\n", "site", "from, to", "dir", "el/token",
            "B/token", "by", "why");
    for (size_t i = 0; i < casts->count; i++) {
        const npt_cast_row *row = &casts->rows[i];
        layers_text(casts, row, layers, sizeof layers);
        if (!all || row->model) print_cast(row, layers, out);
        for (int layer = 0; all && layer < casts->layers; layer++) {
            if (!row->layers[layer]) continue;
            snprintf(layers, sizeof layers, "L%02d", layer);
            print_cast(row, layers, out);
        }
    }
}

void npt_plan_print(const npt_plan *plan, bool all, FILE *out)
{
    print_head(plan, out);
    print_model(plan, out);
    print_policy(&plan->setup.policy, out);
    print_digest(plan, out);
    print_files(plan, out);
    print_memory(plan, out);
    for (size_t i = 0; i < plan->would_count; i++) print_would(plan->would[i], out);
    print_casts(&plan->casts, all, out);
}
