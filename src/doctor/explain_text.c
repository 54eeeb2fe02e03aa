/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/explain.h"

#include <ctype.h>
#include <string.h>

#include "base/memory.h"
#include "text/utf8.h"

/* What people paste went through terminals, log collectors, chats and web pages. Here that is
 * undone as far as it matters for recognising a sentence, in two passes: characters (colours,
 * entities, quotation marks, frames, broken encodings), then lines (prefixes, empty lines,
 * repeated blanks). Neither makes a text longer, but for a line break at its end. */

/* ---- Characters ---- */

typedef struct reader {
    const char *at, *end;
    char *out;
} reader;

static const struct {
    const char *name, *text;
} entities[] = {
    {"&quot;", "\""}, {"&#34;", "\""}, {"&#39;", "'"},  {"&#x27;", "'"}, {"&apos;", "'"},
    {"&lt;", "<"},    {"&gt;", ">"},   {"&nbsp;", " "}, {"&#160;", " "}, {"&amp;", "&"},
};

/* Tags of pages; <module> and <string> of tracebacks are none. */
static const char *const tags[] = {"code", "pre",    "br", "p",  "span", "div", "b",
                                   "em",   "strong", "td", "tr", "li",   "i"};

/* Escape characters as they look when they were escaped themselves. */
static const char *const escapes[] = {"\x1b", "\\x1b", "\\u001b", "\\033", "\\e[", "^[["};

static const struct {
    uint32_t first, last;
    const char *text;
} replacements[] = {
    {0x80, 0xA0, " "},      {0xAB, 0xAB, "\""},     {0xAD, 0xAD, ""},       {0xB4, 0xB4, "'"},
    {0xBB, 0xBB, "\""},     {0xD7, 0xD7, "x"},      {0x2000, 0x200A, " "},  {0x200B, 0x200F, ""},
    {0x2010, 0x2015, "-"},  {0x2018, 0x201B, "'"},  {0x201C, 0x201F, "\""}, {0x2026, 0x2026, "..."},
    {0x2028, 0x2029, "\n"}, {0x202F, 0x202F, " "},  {0x2032, 0x2032, "'"},  {0x2033, 0x2033, "\""},
    {0x2060, 0x2060, ""},   {0x2190, 0x21FF, " "},  {0x2212, 0x2212, "-"},  {0x2260, 0x2260, "!="},
    {0x2264, 0x2264, "<="}, {0x2265, 0x2265, ">="}, {0x2500, 0x25FF, " "},  {0x2713, 0x27BF, " "},
    {0x3000, 0x3000, " "},  {0x3001, 0x3001, ","},  {0x3002, 0x3002, "."},  {0x300C, 0x300F, "\""},
    {0xFEFF, 0xFEFF, ""},   {0xFFFD, 0xFFFD, " "},
};

static void put(reader *r, const char *text)
{
    const size_t length = strlen(text);
    memcpy(r->out, text, length);
    r->out += length;
}

static bool starts(const reader *r, const char *text)
{
    const size_t length = strlen(text);
    return (size_t)(r->end - r->at) >= length && memcmp(r->at, text, length) == 0;
}

/* Bytes of a colour ("[31;1m", from the bracket on), 0 where it is none. */
static size_t colour_length(const char *at, const char *end)
{
    const char *s = at;
    if (s == end || *s++ != '[') return 0;
    while (s < end && s - at < 24 && (isdigit((unsigned char)*s) || strchr(";:?=", *s) != NULL) &&
           *s != '\0')
        s++;
    return s < end && isalpha((unsigned char)*s) ? (size_t)(s - at) + 1 : 0;
}

static bool skip_escape(reader *r)
{
    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        if (!starts(r, escapes[i])) continue;
        r->at += strlen(escapes[i]);
        if (r->at[-1] == '[') r->at--; /* it belongs to what follows */
        r->at += colour_length(r->at, r->end);
        return true;
    }
    /* a colour whose escape character is lost */
    const size_t length = *r->at == '[' ? colour_length(r->at, r->end) : 0;
    if (length < 3 || r->at[length - 1] != 'm') return false;
    r->at += length;
    return true;
}

static bool skip_tag(reader *r)
{
    const char *name = r->at + 1;
    if (*r->at != '<') return false;
    if (name < r->end && *name == '/') name++;
    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
        const size_t length = strlen(tags[i]);
        if ((size_t)(r->end - name) <= length || strncmp(name, tags[i], length) != 0) continue;
        if (strchr(" >/", name[length]) == NULL || name[length] == '\0') continue;
        const size_t room = (size_t)(r->end - name) < 120 ? (size_t)(r->end - name) : 120;
        const char *close = memchr(name, '>', room);
        if (close == NULL) return false;
        r->at = close + 1;
        put(r, "\n");
        return true;
    }
    return false;
}

static bool read_entity(reader *r)
{
    if (*r->at != '&') return false;
    for (size_t i = 0; i < sizeof(entities) / sizeof(entities[0]); i++) {
        if (!starts(r, entities[i].name)) continue;
        r->at += strlen(entities[i].name);
        put(r, entities[i].text);
        return true;
    }
    return false;
}

/* A backslash: "\n" of a quoted log is a line break, "\_" of Markdown an underscore. */
static bool read_backslash(reader *r)
{
    if (*r->at != '\\' || r->end - r->at < 2) return false;
    const char next = r->at[1];
    if (next == 'n' || next == 'r')
        put(r, "\n");
    else if (next == 't')
        put(r, " ");
    else if (!ispunct((unsigned char)next))
        return false;
    else
        *r->out++ = next;
    r->at += 2;
    return true;
}

/* Windows-1252 is what is neither ASCII nor UTF-8, most often. */
static void read_stray_byte(reader *r)
{
    const unsigned char byte = (unsigned char)*r->at++;
    put(r, byte == 0x91 || byte == 0x92   ? "'"
           : byte == 0x93 || byte == 0x94 ? "\""
           : byte == 0x96 || byte == 0x97 ? "-"
                                          : " ");
}

static void read_wide(reader *r)
{
    size_t length = 0;
    const size_t room = (size_t)(r->end - r->at) < 4 ? (size_t)(r->end - r->at) : 4;
    for (size_t bytes = 2; bytes <= room && length == 0; bytes++)
        if (npt_utf8_valid_prefix(r->at, bytes) == bytes) length = bytes;
    if (length == 0) {
        read_stray_byte(r);
        return;
    }
    size_t at = 0;
    const uint32_t point = npt_utf8_next(r->at, &at);
    if (point >= 0xFF01 && point <= 0xFF5E) { /* full-width ASCII */
        *r->out++ = (char)(point - 0xFEE0);
    } else {
        size_t i = 0;
        const size_t count = sizeof(replacements) / sizeof(replacements[0]);
        while (i < count && (point < replacements[i].first || point > replacements[i].last)) i++;
        if (i < count) {
            put(r, replacements[i].text);
        } else {
            memcpy(r->out, r->at, at);
            r->out += at;
        }
    }
    r->at += at;
}

/* `out` has room for `count` bytes; returns its end. */
static char *read_characters(const char *bytes, size_t count, char *out)
{
    reader r = {bytes, bytes + count, out};
    while (r.at < r.end) {
        const unsigned char byte = (unsigned char)*r.at;
        if (byte >= 0x80) {
            read_wide(&r);
        } else if (skip_escape(&r) || skip_tag(&r) || read_entity(&r) || read_backslash(&r)) {
            continue;
        } else {
            if (byte == '\r' || byte == '\n')
                *r.out++ = '\n';
            else if (byte >= ' ' && byte != 0x7F)
                *r.out++ = (char)byte;
            else if (byte != '\0') /* NULs are half of UTF-16 */
                *r.out++ = ' ';
            r.at++;
        }
    }
    return r.out;
}

/* ---- Lines ---- */

/* What collectors, launchers, chats and test runners put before a line. Case counts. */
static const char prefixes[] =
    "\\A(?:[ |]+"
    "|>+ ?"
    "|\\[(?:rank|default|proc|worker|gpu|node|GPU)?[ _-]?\\d+\\](?: ?<stderr>)?:? ?"
    "|\\[?\\d{4}[-/]\\d\\d[-/]\\d\\d(?:[T ,_]?\\d\\d:\\d\\d(?::\\d\\d)?(?:[.,]\\d+)?)?"
    "(?:Z| ?UTC|[+-]\\d\\d:?\\d\\d)?\\]?[ :,-]*"
    "|\\[?\\d\\d:\\d\\d:\\d\\d(?:[.,]\\d+)?\\]?[ :,-]*"
    "|\\[?(?:INFO|WARN|WARNING|ERROR|DEBUG|CRITICAL|FATAL|TRACE)(?:\\|[^\\]\\n]{0,80})?\\]?"
    "[ :|-]+(?:[\\w.<>/-]+:[\\w.<>]+:\\d+ ?-? ?)?"
    "|>> ?"
    "|\\((?:\\w+ )?pid=\\d+(?:, ip=[\\d.]+)?\\) ?"
    "|E  +(?=\\S)"
    "|[\\w.-]+-\\d+ +\\| ?"
    "|[A-Z][a-z][a-z] +\\d\\d? \\d\\d:\\d\\d:\\d\\d [\\w.-]+ [\\w.-]+\\[\\d+\\]: "
    "|[IWEF]\\d{4} \\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)? (?:\\d+ )*[\\w/.]+:\\d+\\] ?"
    ")";

/* No word of a sentence is longer, and patterns would try every place of it. */
enum { LONGEST_WORD = 512 };

/* Appends the line without its prefix, blanks folded, words cut, and a line break; nothing where nothing is
 * left, or only the marks that point at a column. */
static char *put_line(const char *line, size_t length, npt_explain_pattern *prefix, char *out)
{
    npt_explain_match match;
    for (int i = 0; i < 8 && length > 0; i++) {
        const size_t looked_at = length < 256 ? length : 256;
        if (!npt_explain_pattern_find(prefix, line, looked_at, 0, &match) || match.end == 0) break;
        line += match.end;
        length -= match.end;
    }
    while (length > 0 && (line[length - 1] == ' ' || line[length - 1] == '|')) length--;
    size_t marks = 0;
    while (marks < length && strchr("~^- ", line[marks]) != NULL) marks++;
    if (marks == length) return out;
    size_t word = 0;
    for (size_t i = 0; i < length; i++) {
        word = line[i] == ' ' ? 0 : word + 1;
        if (word <= LONGEST_WORD && (i == 0 || line[i] != ' ' || line[i - 1] != ' '))
            *out++ = line[i];
    }
    *out++ = '\n';
    return out;
}

static char *read_lines(const char *text, const char *end, npt_explain_pattern *prefix, char *out)
{
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (stop == NULL) stop = end;
        out = put_line(text, (size_t)(stop - text), prefix, out);
        text = stop + 1;
    }
    return out;
}

/* ---- The four forms ---- */

static bool is_quote(char c)
{
    return c == '"' || c == '`' || c == '\'';
}

static npt_status fill_forms(npt_explain_text *text)
{
    text->clean = npt_alloc(text->length + 1, 1);
    text->dense = npt_alloc(text->length + 1, 1);
    text->asserted = npt_alloc(text->length + 1, 1);
    text->origin = npt_alloc(text->length + 1, sizeof(*text->origin));
    if (text->clean == NULL || text->dense == NULL || text->asserted == NULL ||
        text->origin == NULL)
        return NPT_E_NOMEM;
    for (size_t i = 0; i < text->length; i++) {
        const char c = is_quote(text->shown[i]) ? '\'' : text->shown[i];
        text->clean[i] = c;
        if (c == ' ' || c == '\n' || c == '\'' || c == '\\' || c == '*') continue;
        text->origin[text->dense_length] = (uint32_t)i;
        text->dense[text->dense_length++] = c;
    }
    text->origin[text->dense_length] = (uint32_t)text->length;
    memcpy(text->asserted, text->clean, text->length);
    return npt_explain_strike_denied(text->asserted, text->length);
}

static npt_status fill_shown(npt_explain_text *text, const char *bytes, size_t count)
{
    const size_t most = NPT_EXPLAIN_HEAD_BYTES + NPT_EXPLAIN_TAIL_BYTES;
    const size_t head = count > most ? NPT_EXPLAIN_HEAD_BYTES : count;
    const size_t tail = count > most ? NPT_EXPLAIN_TAIL_BYTES : 0;
    npt_explain_pattern *prefix = NULL;
    char *characters = npt_alloc(head + tail + 2, 1), *end;
    npt_status status;

    text->shown = npt_alloc(head + tail + 4, 1);
    status = characters != NULL && text->shown != NULL ? NPT_OK : NPT_E_NOMEM;
    if (status == NPT_OK)
        status = npt_explain_pattern_open(&prefix, prefixes, NPT_EXPLAIN_BLANK_IS_SPACE, false);
    if (status == NPT_OK) {
        end = read_characters(bytes, head, characters);
        if (tail > 0) *end++ = '\n';
        if (tail > 0) end = read_characters(bytes + count - tail, tail, end);
        end = read_lines(characters, end, prefix, text->shown);
        text->length = (size_t)(end - text->shown);
    }
    npt_explain_pattern_close(prefix);
    npt_free(characters);
    return status;
}

npt_status npt_explain_text_init(npt_explain_text *text, const char *bytes, size_t count)
{
    npt_status status;
    *text = (npt_explain_text){0};
    NPT_TRY_GOTO(status, failed, fill_shown(text, bytes, count));
    NPT_TRY_GOTO(status, failed, fill_forms(text));
    return NPT_OK;
failed:
    npt_explain_text_fini(text);
    return status;
}

void npt_explain_text_fini(npt_explain_text *text)
{
    npt_free(text->shown);
    npt_free(text->clean);
    npt_free(text->dense);
    npt_free(text->asserted);
    npt_free(text->origin);
    *text = (npt_explain_text){0};
}
