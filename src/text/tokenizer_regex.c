/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "text/utf8.h"

/* Patterns of tokenizer.json are written for Oniguruma (Ruby syntax) and run here by PCRE2. They
 * are translated, not passed on: classes whose members differ (\s \d \w) are spelt out, `^` and `$`
 * are those of lines, and a construct that both accept with different meanings is refused. What
 * is left means the same in both. A text is valid UTF-8 before it comes here. */

/* White_Space, and what is not; PCRE2's own \s also matches U+180E. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"                 \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"                    \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
/* Outside a class, Oniguruma asks Latin-1's table first, where superscripts and fractions are
 * words. */
#define WORDS WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

static const struct {
    char letter;
    const char *inside, *outside; /* of a […] class; NULL: not there */
} escapes[] = {
    {'s', SPACE, "[" SPACE "]"},
    {'S', NOT_SPACE, "[^" SPACE "]"},
    {'d', "\\p{Nd}", "\\p{Nd}"},
    {'D', "\\P{Nd}", "\\P{Nd}"},
    {'w', WORD, "[" WORDS "]"},
    {'W', NULL, "[^" WORDS "]"},
    {'b', "\\x{8}", "(?:(?<=[" WORDS "])(?![" WORDS "])|(?<![" WORDS "])(?=[" WORDS "]))"},
    {'B', NULL, "(?:(?<=[" WORDS "])(?=[" WORDS "])|(?<![" WORDS "])(?![" WORDS "]))"},
    {'n', "\\n", "\\n"},
    {'r', "\\r", "\\r"},
    {'t', "\\t", "\\t"},
    {'f', "\\f", "\\f"},
    {'a', "\\a", "\\a"},
    {'e', "\\e", "\\e"},
    {'v', "\\x{b}", "\\x{b}"},
    {'A', NULL, "\\A"},
    {'Z', NULL, "\\Z"},
    {'z', NULL, "\\z"},
    {'p', "\\p", "\\p"}, /* {name} follows and is copied */
    {'P', "\\P", "\\P"},
};

/* What may follow "(?". */
static const char *const groups[] = {"i:", "i)", "-i:", "-i)", ":", "=", "!", "<=", "<!", ">"};

/* Steps an exceedingly bad pattern may take on one match before it is stopped. */
enum { MATCH_LIMIT = 10000000, HEAP_LIMIT_KIB = 256 * 1024, JIT_STACK = 8 * 1024 * 1024 };

struct npt_pattern {
    char *literal; /* a plain string, or NULL and: */
    size_t literal_length;
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

typedef struct translation {
    const char *source, *what;
    size_t at;
    npt_bytes out;
    bool in_class;
    size_t class_start; /* first byte after "[" or "[^" */
} translation;

static npt_status refuse(const translation *t, const char *construct)
{
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_UNSUPPORTED,
                    "%s: the regular expression \"%s\" uses %s (at byte %zu), which npt does not "
                    "support",
                    t->what, npt_show(t->source, shown), construct, t->at);
}

static npt_status put(translation *t, const char *text)
{
    return npt_bytes_append(&t->out, text, strlen(text));
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \x41, \x{41}, \u0041; at = the letter. */
static npt_status translate_code(translation *t)
{
    const char *s = t->source + t->at + 1;
    char code[40];
    size_t digits = 0, skip;
    bool braces = *s == '{';
    size_t most = braces ? 8 : t->source[t->at] == 'u' ? 4 : 2;

    if (braces && t->source[t->at] == 'u') return refuse(t, "\\u{…}");
    if (braces) s++;
    while (digits < most && is_hex(s[digits])) digits++;
    if (digits == 0 || (braces && s[digits] != '}') || (!braces && digits != most))
        return refuse(t, "an incomplete character code");
    if (!braces && most == 2 && s[0] >= '8') return refuse(t, "a byte above \\x7f");
    snprintf(code, sizeof(code), "\\x{%.*s}", (int)digits, s);
    skip = 1 + digits + (braces ? 2 : 0);
    t->at += skip;
    return put(t, code);
}

/* at = the character after the backslash. */
static npt_status translate_escape(translation *t)
{
    char c = t->source[t->at];
    char name[] = "the escape \\?";

    if (c == 'x' || c == 'u') return translate_code(t);
    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        const char *text = t->in_class ? escapes[i].inside : escapes[i].outside;
        if (escapes[i].letter != c || text == NULL) continue;
        if ((c == 'p' || c == 'P') && t->source[t->at + 1] != '{')
            return refuse(t, "\\p without {");
        t->at++;
        NPT_TRY(put(t, text));
        while ((c == 'p' || c == 'P') && t->source[t->at] != '\0') {
            NPT_TRY(npt_bytes_append(&t->out, t->source + t->at, 1));
            if (t->source[t->at++] == '}') break;
        }
        return NPT_OK;
    }
    name[sizeof(name) - 2] = c;
    if (c == '\0') return refuse(t, "a backslash at its end");
    if ((unsigned char)c < 0x80 && strchr("\n !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) == NULL)
        return refuse(t, name);
    t->at++;
    NPT_TRY(npt_bytes_append(&t->out, "\\", (unsigned char)c < 0x80));
    return npt_bytes_append(&t->out, &c, 1);
}

/* One character inside […]. */
static npt_status translate_in_class(translation *t)
{
    const char *s = t->source + t->at;

    if (*s == '[') return refuse(t, "a class inside a class");
    if (s[0] == '&' && s[1] == '&') return refuse(t, "an intersection of classes");
    if (*s == ']' && t->at > t->class_start) t->in_class = false;
    t->at++;
    return npt_bytes_append(&t->out, s, 1);
}

static npt_status translate_open(translation *t)
{
    t->in_class = true;
    t->at++;
    NPT_TRY(put(t, "["));
    if (t->source[t->at] == '^') {
        t->at++;
        NPT_TRY(put(t, "^"));
    }
    t->class_start = t->at;
    return NPT_OK;
}

static npt_status translate_group(translation *t)
{
    const char *after = t->source + t->at + 1;

    if (*after == '*') return refuse(t, "a verb (*…)");
    if (*after == '?') {
        size_t i = 0, count = sizeof(groups) / sizeof(groups[0]);
        while (i < count && strncmp(after + 1, groups[i], strlen(groups[i])) != 0) i++;
        if (i == count) return refuse(t, "this kind of group");
    }
    t->at++;
    return put(t, "(");
}

/* {n}, {n,}, {,m}, {n,m}; anything else is a brace. */
static npt_status translate_brace(translation *t)
{
    const char *s = t->source + t->at + 1;
    size_t low = strspn(s, "0123456789");
    bool comma = s[low] == ',';
    size_t high = comma ? strspn(s + low + 1, "0123456789") : 0;
    size_t length = low + (comma ? 1 + high : 0);

    if (s[length] != '}' || low + high == 0) {
        t->at++;
        return put(t, "\\{");
    }
    if (s[length + 1] == '+') return refuse(t, "\"{…}+\"");
    t->at += length + 2;
    NPT_TRY(put(t, low == 0 ? "{0" : "{"));
    return npt_bytes_append(&t->out, s, length + 1);
}

static npt_status translate(translation *t)
{
    while (t->source[t->at] != '\0') {
        char c = t->source[t->at];
        if (c == '\\') {
            t->at++;
            NPT_TRY(translate_escape(t));
        } else if (t->in_class) {
            NPT_TRY(translate_in_class(t));
        } else if (c == '[') {
            NPT_TRY(translate_open(t));
        } else if (c == '(') {
            NPT_TRY(translate_group(t));
        } else if (c == '{') {
            NPT_TRY(translate_brace(t));
        } else {
            t->at++;
            NPT_TRY(npt_bytes_append(&t->out, &c, 1));
        }
    }
    return NPT_OK;
}

static npt_status compile(npt_pattern *pattern, const translation *t)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    int code = 0;
    PCRE2_SIZE offset = 0;

    if (context == NULL) return npt_fail(NPT_E_NOMEM, "%s: no memory for a pattern", t->what);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pattern->code =
        pcre2_compile((PCRE2_SPTR)t->out.data, t->out.count, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (pattern->code == NULL) {
        PCRE2_UCHAR why[128] = "";
        char shown[NPT_SHOW_BYTES];
        pcre2_get_error_message(code, why, sizeof(why));
        return npt_fail(NPT_E_UNSUPPORTED, "%s: the regular expression \"%s\" does not compile: %s",
                        t->what, npt_show(t->source, shown), (const char *)why);
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* without it: slower, the same result */
    pattern->match = pcre2_match_data_create(1, NULL);
    pattern->context = pcre2_match_context_create(NULL);
    pattern->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK, NULL);
    if (pattern->match == NULL || pattern->context == NULL)
        return npt_fail(NPT_E_NOMEM, "%s: no memory for a pattern", t->what);
    pcre2_set_match_limit(pattern->context, MATCH_LIMIT);
    pcre2_set_heap_limit(pattern->context, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(pattern->context, NULL, pattern->stack);
    return NPT_OK;
}

npt_status npt_pattern_regex(npt_pattern **pattern, const char *regex, const char *what)
{
    translation t = {.source = regex, .what = what};
    npt_pattern *p = npt_alloc(1, sizeof(*p));
    npt_status status;

    if (p == NULL) return NPT_E_NOMEM;
    NPT_TRY_GOTO(status, out, npt_bytes_set(&t.out, "", 0));
    NPT_TRY_GOTO(status, out, translate(&t));
    NPT_TRY_GOTO(status, out, compile(p, &t));
    *pattern = p;
    p = NULL;
out:
    npt_bytes_fini(&t.out);
    npt_pattern_close(p);
    return status;
}

npt_status npt_pattern_literal(npt_pattern **pattern, const char *text)
{
    npt_pattern *p = npt_alloc(1, sizeof(*p));
    if (p == NULL) return NPT_E_NOMEM;
    p->literal = npt_strdup(text);
    if (p->literal == NULL) {
        npt_free(p);
        return NPT_E_NOMEM;
    }
    p->literal_length = strlen(text);
    *pattern = p;
    return NPT_OK;
}

void npt_pattern_close(npt_pattern *pattern)
{
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    pcre2_match_data_free(pattern->match);
    pcre2_match_context_free(pattern->context);
    pcre2_jit_stack_free(pattern->stack);
    npt_free(pattern->literal);
    npt_free(pattern);
}

/* The first match in text[from, length). */
static npt_status find(npt_pattern *p, const char *text, size_t length, size_t from, bool *found,
                       npt_span *match)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    PCRE2_UCHAR why[128] = "";
    const PCRE2_SIZE *at;
    int code;

    if (p->literal != NULL) {
        const char *hit = memmem(text + from, length - from, p->literal, p->literal_length);
        *found = hit != NULL;
        if (*found) match->begin = (size_t)(hit - text);
        if (*found) match->end = match->begin + p->literal_length;
        return NPT_OK;
    }
    code = pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK, p->match, p->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has the heap instead */
        code = pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           p->match, p->context);
    *found = code >= 0;
    if (code == PCRE2_ERROR_NOMEMORY) return npt_fail(NPT_E_NOMEM, "no memory to match a pattern");
    if (code < 0 && code != PCRE2_ERROR_NOMATCH) {
        pcre2_get_error_message(code, why, sizeof(why));
        return npt_fail(NPT_E_DATA, "the tokenizer's pattern gives up on this text: %s",
                        (const char *)why);
    }
    if (code < 0) return NPT_OK;
    at = pcre2_get_ovector_pointer(p->match);
    match->begin = at[0];
    match->end = at[1] < at[0] ? at[0] : at[1]; /* a look-ahead with \K cannot be written here */
    return NPT_OK;
}

npt_status npt_pattern_cut(npt_pattern *pattern, const char *text, size_t begin, size_t end,
                           npt_spans *cut)
{
    const char *s = text + begin;
    size_t length = end - begin, previous = 0, from = 0;
    bool any = false, found;
    npt_span match;

    while (from <= length) {
        NPT_TRY(find(pattern, s, length, from, &found, &match));
        if (!found) break;
        if (match.begin == match.end && any && match.end == previous) {
            /* nothing, right behind the last match: look one character further on */
            if (from == length) break;
            npt_utf8_next(s, &from);
            continue;
        }
        if (match.begin > previous)
            NPT_TRY(npt_spans_push(cut, begin + previous, begin + match.begin, false));
        NPT_TRY(npt_spans_push(cut, begin + match.begin, begin + match.end, true));
        previous = from = match.end;
        any = true;
    }
    if (previous < length) NPT_TRY(npt_spans_push(cut, begin + previous, end, false));
    return NPT_OK;
}
