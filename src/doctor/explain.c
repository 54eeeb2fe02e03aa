/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

#include <ctype.h>
#include <jansson.h>
#include <string.h>

#include "base/memory.h"
#include "text/utf8.h"

/* Which kind a pasted text is about. All rules are tried; then the last error in the text decides,
 * because the earlier ones are what was tried before or what it was raised from. An error that no
 * rule knows decides as well, for "unknown": a description in plain words or a warning is believed
 * only where no such error follows. Among rules that match the same words the first in the table
 * wins. A claim that is not sure is not made. */

enum { LINE_MAX_SHOWN = 400, WIDTH = 80, LABEL = 7, MATCHES_MAX = 4000 };

/* The last place where a rule holds, in bytes of clean. */
typedef struct finding {
    bool found;
    size_t begin, end;
    char a[32], b[32], op[64]; /* "" where the rule has none */
} finding;

typedef struct diagnosis {
    const npt_explain_rule *rule; /* NULL: none */
    const finding *finding;       /* of the rule */
    size_t begin, end;            /* of what decided, in clean; equal where nothing did */
    bool also[NPT_EXPLAIN_KIND_COUNT];
} diagnosis;

/* ---- Rules: the texts, then the descriptions ---- */

static size_t rule_count(void)
{
    return npt_explain_text_count + npt_explain_symptom_count;
}

static const npt_explain_rule *rule_at(size_t i)
{
    return i < npt_explain_text_count ? &npt_explain_texts[i]
                                      : &npt_explain_symptoms[i - npt_explain_text_count];
}

typedef struct matcher {
    npt_explain_pattern *pattern;
    npt_explain_pattern *near[NPT_EXPLAIN_NEAR_MAX], *absent[NPT_EXPLAIN_ABSENT_MAX];
} matcher;

static bool in_dense(const npt_explain_rule *rule)
{
    return rule->level == NPT_EXPLAIN_ERROR || rule->level == NPT_EXPLAIN_WARNING;
}

static void matcher_close(matcher *m)
{
    npt_explain_pattern_close(m->pattern);
    for (int i = 0; i < NPT_EXPLAIN_NEAR_MAX; i++) npt_explain_pattern_close(m->near[i]);
    for (int i = 0; i < NPT_EXPLAIN_ABSENT_MAX; i++) npt_explain_pattern_close(m->absent[i]);
}

/* The patterns of the context; the rule's own is open already. */
static npt_status open_context(matcher *m, const npt_explain_rule *rule)
{
    for (int i = 0; i < NPT_EXPLAIN_NEAR_MAX && rule->near[i] != NULL; i++)
        NPT_TRY(
            npt_explain_pattern_open(&m->near[i], rule->near[i], NPT_EXPLAIN_BLANK_IS_SPACE, true));
    for (int i = 0; i < NPT_EXPLAIN_ABSENT_MAX && rule->absent[i] != NULL; i++)
        NPT_TRY(npt_explain_pattern_open(&m->absent[i], rule->absent[i], NPT_EXPLAIN_BLANK_IS_SPACE,
                                         true));
    return NPT_OK;
}

/* Descriptions are searched where what they deny is struck out. */
static const char *spaced_form(const npt_explain_text *text, const npt_explain_rule *rule)
{
    return rule->level == NPT_EXPLAIN_SYMPTOM ? text->asserted : text->clean;
}

static bool holds(const matcher *m, const npt_explain_text *text, const npt_explain_rule *rule,
                  size_t begin, size_t end)
{
    const size_t from = begin > rule->reach ? begin - rule->reach : 0;
    const size_t to = text->length - end > rule->reach ? end + rule->reach : text->length;
    const char *subject = spaced_form(text, rule) + from;
    npt_explain_match match;
    for (int i = 0; i < NPT_EXPLAIN_NEAR_MAX && m->near[i] != NULL; i++)
        if (!npt_explain_pattern_find(m->near[i], subject, to - from, 0, &match)) return false;
    for (int i = 0; i < NPT_EXPLAIN_ABSENT_MAX && m->absent[i] != NULL; i++)
        if (npt_explain_pattern_find(m->absent[i], subject, to - from, 0, &match)) return false;
    return true;
}

static void copy_group(char *dst, size_t bytes, const char *subject, const npt_explain_match *match,
                       int group)
{
    size_t length = match->group[group].end - match->group[group].begin;
    if (length >= bytes) length = bytes - 1;
    memcpy(dst, subject + match->group[group].begin, length);
    dst[length] = '\0';
}

static npt_status find_rule(const npt_explain_rule *rule, const npt_explain_text *text,
                            finding *out)
{
    const bool dense = in_dense(rule);
    const char *subject = dense ? text->dense : spaced_form(text, rule);
    const size_t length = dense ? text->dense_length : text->length;
    matcher m = {0};
    npt_explain_match match;
    npt_status status;
    bool ready = false;
    /* people describe before or after a log, not in it */
    size_t stop = rule->level == NPT_EXPLAIN_SYMPTOM &&
                          length > NPT_EXPLAIN_PROSE_HEAD + NPT_EXPLAIN_PROSE_TAIL
                      ? NPT_EXPLAIN_PROSE_HEAD
                      : length;

    NPT_TRY_GOTO(status, done,
                 npt_explain_pattern_open(
                     &m.pattern, rule->pattern,
                     dense ? NPT_EXPLAIN_BLANK_IS_NOTHING : NPT_EXPLAIN_BLANK_IS_SPACE, true));
    for (size_t at = 0, count = 0; at < length && count < MATCHES_MAX;) {
        if (!npt_explain_pattern_find(m.pattern, subject, stop, at, &match)) {
            if (stop == length) break;
            at = length - NPT_EXPLAIN_PROSE_TAIL;
            stop = length;
            continue;
        }
        at = match.end > match.begin ? match.end : match.end + 1;
        if (!ready) NPT_TRY_GOTO(status, done, open_context(&m, rule));
        ready = true;
        count += m.near[0] != NULL || m.absent[0] != NULL; /* the others cost nothing */
        if (match.end == match.begin) continue;
        const size_t begin = dense ? text->origin[match.begin] : match.begin;
        const size_t end = dense ? text->origin[match.end - 1] + 1 : match.end;
        if (!holds(&m, text, rule, begin, end)) continue;
        out->found = true;
        out->begin = begin;
        out->end = end;
        copy_group(out->a, sizeof(out->a), subject, &match, NPT_EXPLAIN_A);
        copy_group(out->b, sizeof(out->b), subject, &match, NPT_EXPLAIN_B);
        copy_group(out->op, sizeof(out->op), subject, &match, NPT_EXPLAIN_OP);
    }
done:
    matcher_close(&m);
    return status;
}

/* ---- Errors that are not ours ---- */

typedef struct other_errors {
    bool found;
    size_t begin, end; /* of the last one */
} other_errors;

static size_t line_begin(const npt_explain_text *text, size_t at)
{
    while (at > 0 && text->clean[at - 1] != '\n') at--;
    return at;
}

static size_t line_end(const npt_explain_text *text, size_t at)
{
    while (at < text->length && text->clean[at] != '\n') at++;
    return at;
}

static void find_last_other(const npt_explain_text *text, npt_explain_pattern *const patterns[3],
                            other_errors *other)
{
    npt_explain_match match, inner;
    for (size_t at = 0; at < text->length; at = match.end) {
        if (!npt_explain_pattern_find(patterns[0], text->clean, text->length, at, &match)) break;
        if (match.end == match.begin) match.end++;
        const size_t stop = line_end(text, match.begin) - match.begin;
        if (npt_explain_pattern_find(patterns[1], text->clean + match.begin, stop, 0, &inner) ||
            npt_explain_pattern_find(patterns[2], text->clean + match.begin, stop, 0, &inner))
            continue;
        *other = (other_errors){true, match.begin, match.end};
    }
}

static npt_status find_other(const npt_explain_text *text, other_errors *other)
{
    static const char *const sources[] = {npt_explain_other_error, npt_explain_wrapper,
                                          npt_explain_nan_error};
    npt_explain_pattern *patterns[3] = {NULL, NULL, NULL};
    npt_status status = NPT_OK;
    for (int i = 0; i < 3 && status == NPT_OK; i++)
        status =
            npt_explain_pattern_open(&patterns[i], sources[i], NPT_EXPLAIN_BLANK_IS_SPACE, i == 2);
    if (status == NPT_OK) find_last_other(text, patterns, other);
    for (int i = 0; i < 3; i++) npt_explain_pattern_close(patterns[i]);
    return status;
}

/* ---- The decision ---- */

static bool is_error(const npt_explain_rule *rule)
{
    return rule->level == NPT_EXPLAIN_ERROR || rule->level == NPT_EXPLAIN_ERROR_OP;
}

/* The rule whose words stand last; of those that share words with it, the first in the table. */
static size_t last_error(const finding *findings)
{
    const size_t none = rule_count();
    size_t best = none;
    for (size_t i = 0; i < none; i++) {
        if (!findings[i].found || !is_error(rule_at(i))) continue;
        if (best == none || findings[i].begin >= findings[best].end) best = i;
    }
    return best;
}

static size_t first_of_level(const finding *findings, npt_explain_level level)
{
    size_t i = 0;
    while (i < rule_count() && !(findings[i].found && rule_at(i)->level == level)) i++;
    return i;
}

/* Python says so where an exception was raised from another: the other is the cause. */
static bool is_raised_from(const npt_explain_text *text, size_t error_end, size_t other_begin)
{
    static const char link[] = "The above exception was the direct cause of the following";
    return other_begin > error_end &&
           memmem(text->clean + error_end, other_begin - error_end, link, sizeof(link) - 1) != NULL;
}

static void choose(diagnosis *d, const finding *findings, size_t index)
{
    if (index >= rule_count()) return;
    d->rule = rule_at(index);
    d->finding = &findings[index];
    d->begin = d->finding->begin;
    d->end = d->finding->end;
}

static void list_others(diagnosis *d, const finding *findings)
{
    for (size_t i = 0; i < rule_count(); i++) {
        const npt_explain_rule *rule = rule_at(i);
        const bool overlaps =
            d->rule != NULL && findings[i].begin < d->end && findings[i].end > d->begin;
        if (findings[i].found && rule->level != NPT_EXPLAIN_SYMPTOM && !overlaps)
            d->also[rule->kind] = true;
    }
    d->also[NPT_EXPLAIN_NEAR_MISS] = false;
    if (d->rule != NULL) d->also[d->rule->kind] = false;
}

static void decide(diagnosis *d, const npt_explain_text *text, const finding *findings,
                   const other_errors *other)
{
    const size_t error = last_error(findings);
    const bool known = error < rule_count();
    if (known && (!other->found || findings[error].end > other->begin ||
                  is_raised_from(text, findings[error].end, other->begin))) {
        choose(d, findings, error);
    } else if (other->found) {
        d->begin = other->begin;
        d->end = other->end;
    } else {
        size_t index = first_of_level(findings, NPT_EXPLAIN_SYMPTOM);
        if (index == rule_count()) index = first_of_level(findings, NPT_EXPLAIN_WARNING);
        choose(d, findings, index);
    }
    list_others(d, findings);
}

/* ---- Words ---- */

/* A dtype as PyTorch's messages for people spell it. */
static const char *dtype_word(const char *found)
{
    static const struct {
        const char *found, *word;
    } words[] = {{"half", "Half"},         {"float16", "Half"},      {"float", "Float"},
                 {"float32", "Float"},     {"bfloat16", "BFloat16"}, {"byte", "Byte"},
                 {"unsignedchar", "Byte"}, {"uint8", "Byte"},        {"char", "Char"},
                 {"signedchar", "Char"},   {"int8", "Char"}};
    char lower[32] = "";
    for (size_t i = 0; found[i] != '\0' && i + 1 < sizeof(lower); i++)
        lower[i] = (char)tolower((unsigned char)found[i]);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(lower, words[i].found) == 0) return words[i].word;
    return found;
}

/* The sentence with what was found put in; NULL without an error where it has no use for it. */
static char *fill_sentence(const char *template, const finding *f)
{
    const char *const values[] = {dtype_word(f->a), dtype_word(f->b), f->op};
    static const char *const names[] = {"{a}", "{b}", "{op}"};
    char *text = npt_alloc(strlen(template) + 256 + sizeof(f->op), 1), *out = text;
    if (text == NULL) return NULL;
    while (*template != '\0') {
        size_t i = 0;
        while (i < 3 && strncmp(template, names[i], strlen(names[i])) != 0) i++;
        if (i < 3 && (size_t)(out - text) < 256 + strlen(template)) {
            out = stpcpy(out, values[i]);
            template += strlen(names[i]);
        } else {
            *out++ = *template ++;
        }
    }
    return text;
}

static bool has_values(const char *template, const finding *f)
{
    return (strstr(template, "{a}") == NULL || f->a[0] != '\0') &&
           (strstr(template, "{b}") == NULL || f->b[0] != '\0') &&
           (strstr(template, "{op}") == NULL || f->op[0] != '\0');
}

static char *what_happened(const diagnosis *d, const npt_explain_answer *answer)
{
    if (d->rule == NULL || d->rule->what == NULL || !has_values(d->rule->what, d->finding))
        return npt_strdup(answer->what);
    return fill_sentence(d->rule->what, d->finding);
}

/* The lines that decided, as one. Valid UTF-8, and no longer than a person wants. */
static char *matched_line(const npt_explain_text *text, const diagnosis *d)
{
    if (d->begin == d->end) return npt_strdup("");
    const size_t begin = line_begin(text, d->begin);
    size_t from = begin, to = line_end(text, d->end > 0 ? d->end - 1 : 0);
    if (d->begin - from > LINE_MAX_SHOWN / 2) from = d->begin - LINE_MAX_SHOWN / 2;
    if (to - from > LINE_MAX_SHOWN) to = from + LINE_MAX_SHOWN;
    while (from < to && ((unsigned char)text->shown[from] & 0xC0) == 0x80) from++;
    char *line = npt_strndup(text->shown + from, to - from);
    if (line == NULL) return NULL;
    for (char *c = line; *c != '\0'; c++)
        if (*c == '\n') *c = ' ';
    line[npt_utf8_valid_prefix(line, strlen(line))] = '\0';
    return line;
}

/* ---- Printing ---- */

typedef struct report {
    const npt_explain_answer *answer;
    char *what, *matched;
    const bool *also;
} report;

static json_t *strings(const report *r, bool seen)
{
    json_t *array = json_array();
    for (int i = 0; seen && i < NPT_EXPLAIN_SEEN_MAX && r->answer->seen[i] != NULL; i++)
        json_array_append_new(array, json_string(r->answer->seen[i]));
    for (int kind = 0; !seen && kind < NPT_EXPLAIN_KIND_COUNT; kind++)
        if (r->also[kind])
            json_array_append_new(array, json_string(npt_explain_answers[kind].slug));
    return array;
}

static npt_status print_json(const report *r, FILE *out)
{
    const npt_explain_answer *a = r->answer;
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:o}", "schema",
                             "npt-doctor-explain/1", "kind", a->slug, "what", r->what, "cause",
                             a->cause, "where", a->where, "npt", a->npt, "do", a->todo, "seen",
                             strings(r, true), "matched", r->matched, "also", strings(r, false));
    const int failed = root == NULL ? -1 : json_dumpf(root, out, JSON_INDENT(2));
    json_decref(root);
    if (failed != 0 && !ferror(out)) return npt_fail(NPT_E_NOMEM, "no memory for the answer");
    fputc('\n', out);
    return NPT_OK;
}

static size_t width_of(const char *text, size_t bytes)
{
    size_t width = 0;
    for (size_t i = 0; i < bytes; i++) width += ((unsigned char)text[i] & 0xC0) != 0x80;
    return width;
}

/* "label  words", wrapped, the next lines below the first word. */
static void print_paragraph(FILE *out, const char *label, const char *text)
{
    size_t column = (size_t)fprintf(out, "%-*s", LABEL, label);
    while (*text != '\0') {
        const size_t length = strcspn(text, " "), width = width_of(text, length);
        if (column > LABEL && column + 1 + width > WIDTH) {
            fprintf(out, "\n%*s", LABEL, "");
            column = LABEL;
        }
        if (column > LABEL) fputc(' ', out);
        column += width + (column > LABEL);
        fwrite(text, 1, length, out);
        text += length;
        while (*text == ' ') text++;
    }
    fputc('\n', out);
}

static void print_list(FILE *out, const char *label, const json_t *list)
{
    char text[1024] = "";
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        const size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s%s", used > 0 ? ", " : "",
                 json_string_value(item));
    }
    if (text[0] != '\0') print_paragraph(out, label, text);
}

static npt_status print_text(const report *r, FILE *out)
{
    json_t *seen = strings(r, true), *also = strings(r, false);
    print_paragraph(out, "Kind", r->answer->slug);
    if (r->matched[0] != '\0') print_paragraph(out, "Line", r->matched);
    print_paragraph(out, "What", r->what);
    print_paragraph(out, "Cause", r->answer->cause);
    print_paragraph(out, "Where", r->answer->where);
    print_paragraph(out, "npt", r->answer->npt);
    print_paragraph(out, "Do", r->answer->todo);
    print_list(out, "Seen", seen);
    print_list(out, "Also", also);
    json_decref(seen);
    json_decref(also);
    return NPT_OK;
}

static npt_status print_diagnosis(const npt_explain_text *text, const diagnosis *d, bool json,
                                  FILE *out)
{
    const npt_explain_kind kind = d->rule != NULL ? d->rule->kind : NPT_EXPLAIN_UNKNOWN;
    report r = {.answer = &npt_explain_answers[kind], .also = d->also};
    npt_status status = NPT_E_NOMEM;
    r.what = what_happened(d, r.answer);
    r.matched = matched_line(text, d);
    if (r.what != NULL && r.matched != NULL)
        status = json ? print_json(&r, out) : print_text(&r, out);
    npt_free(r.what);
    npt_free(r.matched);
    return status;
}

/* ---- The door ---- */

npt_status npt_doctor_explain(const char *text, size_t bytes, bool json, FILE *out,
                              npt_verdict *verdict)
{
    npt_explain_text forms = {0};
    finding *findings = NULL;
    other_errors other = {0};
    diagnosis d = {0};
    npt_status status;

    NPT_TRY(npt_explain_text_init(&forms, text, bytes));
    findings = npt_alloc(rule_count(), sizeof(*findings));
    status = findings != NULL ? NPT_OK : NPT_E_NOMEM;
    for (size_t i = 0; i < rule_count() && status == NPT_OK; i++)
        status = find_rule(rule_at(i), &forms, &findings[i]);
    if (status == NPT_OK) status = find_other(&forms, &other);
    if (status == NPT_OK) {
        decide(&d, &forms, findings, &other);
        status = print_diagnosis(&forms, &d, json, out);
    }
    if (status == NPT_OK)
        *verdict = d.rule != NULL && d.rule->kind != NPT_EXPLAIN_NEAR_MISS ? NPT_VERDICT_FINE
                                                                           : NPT_VERDICT_WARNING;
    npt_free(findings);
    npt_explain_text_fini(&forms);
    return status;
}
