/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/flags.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

/* The parser walks argv once. Every refusal is one sentence that names the flag, what was given
 * and what is allowed; nothing is guessed, and a flag given twice with two values is refused
 * rather than decided by order. Targets are written as flags are read: after a refusal they are
 * not to be used. */

enum { NO_EXIT = -1 };

/* One flag as it stands on the command line. */
typedef struct flag_use {
    const npt_flag *row;
    void *target;
    int number;       /* of the row, over all groups */
    bool negated;     /* --no_X of a flag X, or --X of a flag no_X */
    const char *name; /* as it is spelled in the table */
} flag_use;

static bool is_boolean(const npt_flag *row)
{
    return row->kind == NPT_FLAG_BOOL || row->kind == NPT_FLAG_LATER_BOOL;
}

/* ---- Names ---- */

bool npt_flags_same_name(const char *name, size_t length, const char *other)
{
    for (size_t i = 0; i < length; i++) {
        const char a = name[i] == '-' ? '_' : name[i];
        const char b = other[i] == '-' ? '_' : other[i];
        if (b == '\0' || a != b) return false;
    }
    return other[length] == '\0';
}

static int min3(int a, int b, int c)
{
    const int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

int npt_flags_distance(const char *a, const char *b)
{
    enum { LIMIT = 64 }; /* longer names are compared by their beginnings */
    int rows[3][LIMIT + 1];
    const int m = (int)strnlen(a, LIMIT), n = (int)strnlen(b, LIMIT);
    for (int j = 0; j <= n; j++) rows[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *now = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            const int replace = above[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = min3(above[j] + 1, now[j - 1] + 1, replace);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                above2[j - 2] + 1 < now[j])
                now[j] = above2[j - 2] + 1;
        }
    }
    return rows[m % 3][n];
}

/* The distance, but a name cut short ("--model") is as near as one slip. */
static int nearness(const char *typed, const char *name)
{
    const size_t length = strlen(typed);
    if (length >= 3 && strncmp(typed, name, length) == 0) return 1;
    return npt_flags_distance(typed, name);
}

static const char *nearest_name(const npt_flag_set *set, const char *typed, size_t length)
{
    char plain[64];
    const char *best = "help";
    if (length >= sizeof(plain)) length = sizeof(plain) - 1;
    for (size_t i = 0; i < length; i++) plain[i] = typed[i] == '-' ? '_' : typed[i];
    plain[length] = '\0';
    int best_distance = nearness(plain, best);
    for (const npt_flag_group *group = set->groups; group->title != NULL; group++) {
        for (const npt_flag *row = group->rows; row->name != NULL; row++) {
            const int distance = nearness(plain, row->name);
            if (distance >= best_distance) continue;
            best_distance = distance;
            best = row->name;
        }
    }
    return best;
}

/* Whether `name` is the opposite of the boolean flag `row`. */
static bool is_negation(const npt_flag *row, const char *name, size_t length)
{
    if (!is_boolean(row)) return false;
    if (strncmp(row->name, "no_", 3) == 0) return npt_flags_same_name(name, length, row->name + 3);
    return length > 3 && npt_flags_same_name(name, 3, "no_") &&
           npt_flags_same_name(name + 3, length - 3, row->name);
}

static bool find_flag(const npt_flag_set *set, const char *name, size_t length, flag_use *use)
{
    int number = 0;
    for (const npt_flag_group *group = set->groups; group->title != NULL; group++) {
        for (const npt_flag *row = group->rows; row->name != NULL; row++, number++) {
            const bool negated = is_negation(row, name, length);
            if (!negated && !npt_flags_same_name(name, length, row->name)) continue;
            *use = (flag_use){row, group->target, number, negated, row->name};
            return number < NPT_FLAGS_MAX;
        }
    }
    return false;
}

/* ---- Values ---- */

static int refuse_range(const npt_flag_set *set, const npt_flag *row, const char *text,
                        const char *what)
{
    if (isinf(row->high))
        return npt_cli_refuse(set->command, "--%s %s: it must be %s of at least %.15g", row->name,
                              text, what, row->low);
    return npt_cli_refuse(set->command, "--%s %s: it must be %s from %.15g to %.15g", row->name,
                          text, what, row->low, row->high);
}

static int read_integer(const npt_flag_set *set, const flag_use *use, const char *text)
{
    const npt_flag *row = use->row;
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (isspace((unsigned char)text[0]) || end == text || *end != '\0' || errno == ERANGE ||
        (double)value < row->low || (double)value > row->high ||
        (row->kind == NPT_FLAG_INT && (value < INT_MIN || value > INT_MAX)))
        return refuse_range(set, row, text, "a whole number");
    char *target = (char *)use->target + row->offset;
    if (row->kind == NPT_FLAG_INT)
        *(int *)(void *)target = (int)value;
    else
        *(int64_t *)(void *)target = value;
    return NO_EXIT;
}

static int read_unsigned(const npt_flag_set *set, const flag_use *use, const char *text)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    /* strtoull takes a minus sign and counts backwards from 2^64 */
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno == ERANGE)
        return npt_cli_refuse(set->command,
                              "--%s %s: it must be a whole number from 0 to 18446744073709551615",
                              use->name, text);
    *(uint64_t *)(void *)((char *)use->target + use->row->offset) = value;
    return NO_EXIT;
}

static int read_real(const npt_flag_set *set, const flag_use *use, const char *text)
{
    const npt_flag *row = use->row;
    char *end = NULL;
    const double value = strtod(text, &end);
    /* the character set keeps out white space, hexadecimal, "nan" and "inf" */
    if (text[strspn(text, "0123456789+-.eE")] != '\0' || end == text || *end != '\0' ||
        !isfinite(value) || value < row->low || value > row->high)
        return refuse_range(set, row, text, "a number");
    *(double *)(void *)((char *)use->target + row->offset) = value;
    return NO_EXIT;
}

static bool same_word(const char *a, const char *b);

/* A number and a unit: MB is a million bytes, MiB is 2^20. */
static int read_bytes(const npt_flag_set *set, const flag_use *use, const char *text)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    const size_t digits = strspn(text, "0123456789.");
    char number[32] = "", *end = number;
    if (digits < sizeof(number)) memcpy(number, text, digits);
    const double value = strtod(number, &end);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        const double bytes = value * units[i].bytes;
        if (end == number || *end != '\0' || !same_word(text + digits, units[i].name)) continue;
        if (bytes < 1 || bytes > 0x1p62) break;
        *(uint64_t *)(void *)((char *)use->target + use->row->offset) = (uint64_t)bytes;
        return NO_EXIT;
    }
    return npt_cli_refuse(set->command,
                          "--%s %s: it must be a size, as 1.2GB, 900MB, 1GiB or 1200000000",
                          use->name, text);
}

static bool same_word(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        const int x = *a == '-' ? '_' : tolower((unsigned char)*a);
        const int y = *b == '-' ? '_' : tolower((unsigned char)*b);
        if (x != y) return false;
    }
    return *a == *b;
}

static int read_choice(const npt_flag_set *set, const flag_use *use, const char *text)
{
    char names[256] = "";
    const npt_flag_choice *previous = NULL;
    for (const npt_flag_choice *c = use->row->choices; c->name != NULL; previous = c++) {
        if (same_word(text, c->name)) {
            *(int *)(void *)((char *)use->target + use->row->offset) = c->value;
            return NO_EXIT;
        }
        if (previous != NULL && previous->value == c->value) continue; /* another spelling */
        const size_t used = strlen(names);
        snprintf(names + used, sizeof(names) - used, "%s%s", used > 0 ? ", " : "", c->name);
    }
    return npt_cli_refuse(set->command, "--%s %s: it must be one of %s", use->name, text, names);
}

static int read_boolean(const npt_flag_set *set, const flag_use *use, const char **text)
{
    static const npt_flag_choice words[] = {{"true", 1}, {"false", 0}, {"1", 1}, {"0", 0},
                                            {"yes", 1},  {"no", 0},    {NULL, 0}};
    int value = 1;
    if (*text != NULL) {
        const npt_flag_choice *word = words;
        while (word->name != NULL && !same_word(*text, word->name)) word++;
        if (word->name == NULL)
            return npt_cli_refuse(set->command, "--%s=%s: it must be true or false", use->name,
                                  *text);
        value = word->value;
    }
    value ^= use->negated;
    *text = value ? "true" : "false";
    if (use->row->kind == NPT_FLAG_LATER_BOOL && value)
        return npt_cli_refuse(set->command, "--%s: %s", use->name, use->row->help);
    if (use->row->kind == NPT_FLAG_BOOL) *(bool *)((char *)use->target + use->row->offset) = value;
    return NO_EXIT;
}

static int read_text(const flag_use *use, const char *text)
{
    *(const char **)(void *)((char *)use->target + use->row->offset) = text;
    return NO_EXIT;
}

static int read_value(npt_flag_set *set, const flag_use *use, const char *text)
{
    int code = NO_EXIT;
    if (text != NULL && text[0] == '\0')
        return npt_cli_refuse(set->command, "--%s: its value is empty", use->name);
    switch (use->row->kind) {
    case NPT_FLAG_BOOL:
    case NPT_FLAG_LATER_BOOL: code = read_boolean(set, use, &text); break;
    case NPT_FLAG_INT:
    case NPT_FLAG_INT64: code = read_integer(set, use, text); break;
    case NPT_FLAG_UINT64: code = read_unsigned(set, use, text); break;
    case NPT_FLAG_REAL: code = read_real(set, use, text); break;
    case NPT_FLAG_CHOICE: code = read_choice(set, use, text); break;
    case NPT_FLAG_TEXT:
    case NPT_FLAG_AUTO_TEXT: code = read_text(use, text); break;
    case NPT_FLAG_BYTES: code = read_bytes(set, use, text); break;
    }
    if (code != NO_EXIT) return code;
    const char *before = set->given[use->number];
    if (before != NULL && strcmp(before, text) != 0)
        return npt_cli_refuse(set->command, "--%s is given twice, as %s and as %s; give it once",
                              use->name, before, text);
    set->given[use->number] = text;
    return NO_EXIT;
}

/* ---- The walk ---- */

/* argv[*at] is a flag; *at moves on to its last word. */
static int read_flag(npt_flag_set *set, int argc, char **argv, int *at)
{
    const size_t dashes = strspn(argv[*at], "-");
    const char *name = argv[*at] + dashes;
    const size_t length = strcspn(name, "=");
    const char *text = name[length] == '=' ? name + length + 1 : NULL;
    flag_use use;
    if (dashes != 2 || !find_flag(set, name, length, &use))
        return npt_cli_refuse(set->command, "there is no flag %.*s; the nearest is --%s",
                              (int)(name + length - argv[*at]), argv[*at],
                              nearest_name(set, name, length));
    if (text == NULL && !is_boolean(use.row)) {
        const bool alone = *at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0;
        if (alone && use.row->kind != NPT_FLAG_AUTO_TEXT)
            return npt_cli_refuse(set->command, "--%s needs a value after it", use.name);
        text = alone ? "auto" : argv[++*at];
    }
    return read_value(set, &use, text);
}

static int read_positional(npt_flag_set *set, const char *before, const char *word)
{
    if (set->positional_count < set->positionals_wanted) {
        set->positionals[set->positional_count++] = word;
        return NO_EXIT;
    }
    if (same_word(word, "true") || same_word(word, "false"))
        return npt_cli_refuse(set->command,
                              "\"%s\" stands where a flag is expected; write it as %s=%s", word,
                              before, word);
    return npt_cli_refuse(set->command, "\"%s\" stands where a flag is expected", word);
}

int npt_flags_parse(npt_flag_set *set, int argc, char **argv)
{
    bool flags_ended = false;
    for (int i = 1; i < argc; i++) {
        int code = NO_EXIT;
        if (!flags_ended && strcmp(argv[i], "--") == 0) {
            flags_ended = true;
        } else if (!flags_ended && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            npt_flags_print_help(set, stdout);
            return npt_cli_finish(set->command, 0);
        } else if (!flags_ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            code = read_flag(set, argc, argv, &i);
        } else {
            code = read_positional(set, argv[i - 1], argv[i]);
        }
        if (code != NO_EXIT) return code;
    }
    return NO_EXIT;
}

const char *npt_flags_given(const npt_flag_set *set, const char *name)
{
    flag_use use;
    return find_flag(set, name, strlen(name), &use) ? set->given[use.number] : NULL;
}
