/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/flags.h"

#include <string.h>

/* Help pages: flags on the left, sentences on the right, wrapped. The default of a flag is what
 * its target holds, so this is called before anything is parsed into it. */

enum { WIDTH = 96, TEXT_COLUMN = 34 };

/* Words of `text` from `column` on, wrapped to start at `indent`; returns the column reached. */
static int print_wrapped(FILE *out, const char *text, int column, int indent)
{
    while (*text != '\0') {
        const int length = (int)strcspn(text, " ");
        const bool first = column <= indent;
        if (!first && column + 1 + length > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (!first) {
            fputc(' ', out);
            column++;
        } else if (column < indent) {
            fprintf(out, "%*s", indent - column, "");
            column = indent;
        }
        fwrite(text, 1, (size_t)length, out);
        column += length;
        text += length;
        while (*text == ' ') text++;
    }
    return column;
}

static const char *choice_name(const npt_flag_choice *choices, int value)
{
    for (; choices->name != NULL; choices++)
        if (choices->value == value) return choices->name;
    return "?";
}

static void format_default(const npt_flag *row, const void *base, char *text, size_t bytes)
{
    const char *target = base != NULL ? (const char *)base + row->offset : NULL;
    text[0] = '\0';
    if (row->default_text != NULL) {
        snprintf(text, bytes, "%s", row->default_text);
        return;
    }
    if (target == NULL) return;
    switch (row->kind) {
    case NPT_FLAG_BOOL: snprintf(text, bytes, "%s", *(const bool *)target ? "on" : "off"); break;
    case NPT_FLAG_INT: snprintf(text, bytes, "%d", *(const int *)(const void *)target); break;
    case NPT_FLAG_INT64:
        snprintf(text, bytes, "%lld", (long long)*(const int64_t *)(const void *)target);
        break;
    case NPT_FLAG_UINT64:
        snprintf(text, bytes, "%llu", (unsigned long long)*(const uint64_t *)(const void *)target);
        break;
    case NPT_FLAG_REAL: snprintf(text, bytes, "%g", *(const double *)(const void *)target); break;
    case NPT_FLAG_CHOICE:
        snprintf(text, bytes, "%s", choice_name(row->choices, *(const int *)(const void *)target));
        break;
    case NPT_FLAG_TEXT:
    case NPT_FLAG_AUTO_TEXT: {
        const char *value = *(const char *const *)(const void *)target;
        snprintf(text, bytes, "%s", value != NULL ? value : "none");
        break;
    }
    case NPT_FLAG_BYTES:
    case NPT_FLAG_LATER_BOOL: break;
    }
}

static void format_value(const npt_flag *row, char *text, size_t bytes)
{
    static const char *const by_kind[] = {
        [NPT_FLAG_BOOL] = "",
        [NPT_FLAG_INT] = " N",
        [NPT_FLAG_INT64] = " N",
        [NPT_FLAG_UINT64] = " N",
        [NPT_FLAG_REAL] = " X",
        [NPT_FLAG_TEXT] = " TEXT",
        [NPT_FLAG_CHOICE] = " ",
        [NPT_FLAG_LATER_BOOL] = "",
        [NPT_FLAG_BYTES] = " BYTES",
        [NPT_FLAG_AUTO_TEXT] = " [TEXT]",
    };
    if (row->value_name != NULL)
        snprintf(text, bytes, " %s", row->value_name);
    else
        snprintf(text, bytes, "%s", by_kind[row->kind]);
    if (row->kind != NPT_FLAG_CHOICE) return;
    const npt_flag_choice *previous = NULL;
    for (const npt_flag_choice *c = row->choices; c->name != NULL; previous = c++) {
        const size_t used = strlen(text);
        if (previous != NULL && previous->value == c->value) continue;
        snprintf(text + used, bytes - used, "%s%s", previous != NULL ? "|" : "", c->name);
    }
}

static void print_flag(FILE *out, const npt_flag *row, const void *target)
{
    char value[128], absent[128], sentence[640];
    const bool later = row->kind == NPT_FLAG_LATER_BOOL;
    format_value(row, value, sizeof(value));
    format_default(row, target, absent, sizeof(absent));
    if (later)
        snprintf(sentence, sizeof(sentence), "not yet: %s (default off)", row->help);
    else if (absent[0] != '\0')
        snprintf(sentence, sizeof(sentence), "%s (default %s)", row->help, absent);
    else
        snprintf(sentence, sizeof(sentence), "%s", row->help);
    int column = fprintf(out, "  --%s%s", row->name, value);
    if (column > TEXT_COLUMN - 2) {
        fputc('\n', out);
        column = 0;
    }
    print_wrapped(out, sentence, column, TEXT_COLUMN);
    fputc('\n', out);
}

void npt_flags_print_help(const npt_flag_set *set, FILE *out)
{
    const char *title = "";
    fprintf(out, "usage: npt %s %s\n\n", set->command, set->synopsis);
    print_wrapped(out, set->purpose, 0, 0);
    fputc('\n', out);
    for (const npt_flag_group *group = set->groups; group->title != NULL; group++) {
        if (strcmp(title, group->title) != 0) fprintf(out, "\n%s\n", group->title);
        title = group->title;
        for (const npt_flag *row = group->rows; row->name != NULL; row++)
            print_flag(out, row, group->target);
    }
    fprintf(out, "\n  %-*sprint this page\n", TEXT_COLUMN - 2, "--help");
    fputs("\nIn names '_' and '-' are the same. --flag VALUE and --flag=VALUE are the same. A flag "
          "that is\non or off is --flag, --no_flag, --flag=true or --flag=false.\n",
          out);
    if (set->closing != NULL) fprintf(out, "\n%s\n", set->closing);
}
