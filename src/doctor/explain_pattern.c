/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/memory.h"

/* Patterns of the rules. They are ours, the text is anybody's: the steps of one search are
 * limited, and a search that reaches the limit found nothing. */

enum { MATCH_LIMIT = 300000, HEAP_LIMIT_KIB = 16 * 1024 };

struct npt_explain_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    int group[NPT_EXPLAIN_GROUPS]; /* number; -1: the pattern has none of that name */
};

/* A blank that becomes nothing takes its quantifier with it. */
static char *translate(const char *source, npt_explain_blanks blanks)
{
    char *text = npt_alloc(strlen(source) * 2 + 1, 1), *out = text;
    if (text == NULL) return NULL;
    for (; *source != '\0'; source++) {
        if (*source != ' ')
            *out++ = *source;
        else if (blanks == NPT_EXPLAIN_BLANK_IS_SPACE)
            out = stpcpy(out, "\\s");
        else
            source += strspn(source + 1, "?*+");
    }
    return text;
}

static void find_groups(npt_explain_pattern *pattern)
{
    static const char *const names[NPT_EXPLAIN_GROUPS] = {"a", "b", "op"};
    for (int i = 0; i < NPT_EXPLAIN_GROUPS; i++) {
        const int number = pcre2_substring_number_from_name(pattern->code, (PCRE2_SPTR)names[i]);
        pattern->group[i] = number > 0 ? number : -1;
    }
}

static npt_status compile(npt_explain_pattern *pattern, const char *source, bool caseless)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    pattern->code =
        pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
                      PCRE2_DOTALL | (caseless ? PCRE2_CASELESS : 0), &code, &offset, NULL);
    if (pattern->code == NULL) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(code, why, sizeof(why));
        return npt_fail(NPT_E_INTERNAL, "a rule of explain does not compile at byte %zu: %s: %s",
                        (size_t)offset, (const char *)why, source);
    }
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    pattern->context = pcre2_match_context_create(NULL);
    if (pattern->match == NULL || pattern->context == NULL)
        return npt_fail(NPT_E_NOMEM, "no memory for a rule of explain");
    pcre2_set_match_limit(pattern->context, MATCH_LIMIT);
    pcre2_set_heap_limit(pattern->context, HEAP_LIMIT_KIB);
    find_groups(pattern);
    return NPT_OK;
}

npt_status npt_explain_pattern_open(npt_explain_pattern **pattern, const char *source,
                                    npt_explain_blanks blanks, bool caseless)
{
    npt_explain_pattern *p = npt_alloc(1, sizeof(*p));
    char *text = translate(source, blanks);
    npt_status status = p != NULL && text != NULL ? compile(p, text, caseless) : NPT_E_NOMEM;
    npt_free(text);
    if (status == NPT_OK)
        *pattern = p;
    else
        npt_explain_pattern_close(p);
    return status;
}

void npt_explain_pattern_close(npt_explain_pattern *pattern)
{
    if (pattern == NULL) return;
    pcre2_match_context_free(pattern->context);
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    npt_free(pattern);
}

bool npt_explain_pattern_find(npt_explain_pattern *pattern, const char *text, size_t length,
                              size_t from, npt_explain_match *match)
{
    const int code = pcre2_match(pattern->code, (PCRE2_SPTR)text, length, from, 0, pattern->match,
                                 pattern->context);
    if (code < 0) return false;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(pattern->match);
    *match = (npt_explain_match){.begin = at[0], .end = at[1]};
    for (int i = 0; i < NPT_EXPLAIN_GROUPS; i++) {
        const int number = pattern->group[i];
        if (number < 0 || number >= code || at[2 * number] == PCRE2_UNSET) continue;
        match->group[i].begin = at[2 * number];
        match->group[i].end = at[2 * number + 1];
    }
    return true;
}
