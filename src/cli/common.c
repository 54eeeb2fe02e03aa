/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* How the program speaks: one sentence a failure on standard error, with the command before it,
 * and exit codes a script can tell apart. */

static char program[4096] = "npt";
const char *const npt_cli_program = program;

/* Of a program that is not installed libtool starts <dir>/.libs/npt, which does not run by itself;
 * what does is the script <dir>/npt. */
void npt_cli_set_program(const char *argv0)
{
    if (strlen(argv0) == 0 || strlen(argv0) >= sizeof(program)) return;
    strcpy(program, argv0);
    char *hidden = strstr(program, ".libs/");
    if (hidden == NULL || (hidden > program && hidden[-1] != '/')) return;
    const char *name = hidden + strlen(".libs/");
    if (strncmp(name, "lt-", 3) == 0) name += 3;
    if (strchr(name, '/') == NULL) memmove(hidden, name, strlen(name) + 1);
}

int npt_cli_refuse(const char *command, const char *format, ...)
{
    char sentence[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    fprintf(stderr, "npt %s: %s\n", command, sentence);
    return 2;
}

int npt_cli_exit_code(const char *command, npt_status status)
{
    if (status == NPT_OK) return 0;
    const char *sentence = npt_error_message();
    fprintf(stderr, "npt %s: %s\n", command,
            sentence[0] != '\0' ? sentence : npt_status_name(status));
    if (status == NPT_E_INTERRUPTED) return 128 + SIGINT;
    return status == NPT_E_USAGE ? 2 : 1;
}

int npt_cli_finish(const char *command, int code)
{
    errno = 0;
    const bool had_error = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !had_error) return code;
    if (code != 0) return code;
    fprintf(stderr, "npt %s: cannot write to standard output: %s\n", command,
            errno != 0 ? strerror(errno) : "an earlier write failed");
    return 1;
}

void npt_cli_on_signals(void (*handler)(int number))
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* ---- Words of a command line ---- */

static bool is_plain(const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_=+./,:@%";
    return word[0] != '\0' && word[strspn(word, plain)] == '\0';
}

/* `word` at `dst`, in single quotes where it needs them; "'" itself is '\''. Returns the end. */
static char *put_word(char *dst, const char *word)
{
    if (is_plain(word)) return stpcpy(dst, word);
    *dst++ = '\'';
    for (; *word != '\0'; word++) {
        if (*word == '\'')
            dst = stpcpy(dst, "'\\''");
        else
            *dst++ = *word;
    }
    return stpcpy(dst, "'");
}

char *npt_cli_append_word(char *text, const char *word)
{
    const size_t used = text != NULL ? strlen(text) : 0;
    char *grown = realloc(text, used + 4 * strlen(word) + 4);
    if (grown == NULL) {
        free(text);
        return NULL;
    }
    char *end = grown + used;
    if (used > 0) *end++ = ' ';
    put_word(end, word);
    return grown;
}

/* ---- JSON ---- */

/* Length of the UTF-8 sequence at `s`, 0 where it is none. */
static int utf8_length(const unsigned char *s)
{
    static const unsigned smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const int length = s[0] < 0x80 ? 1 : s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC0 ? 2 : 0;
    if (length < 2) return length;
    unsigned point = s[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        point = point << 6 | (s[i] & 0x3Fu);
    }
    const bool legal = s[0] < 0xF8 && point >= smallest[length] && point <= 0x10FFFF &&
                       (point < 0xD800 || point > 0xDFFF);
    return legal ? length : 0;
}

void npt_cli_print_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        const int length = utf8_length(s);
        if (length == 0)
            fputs("\\ufffd", out);
        else if (*s < 0x20)
            fprintf(out, "\\u%04x", *s);
        else if (*s == '"' || *s == '\\')
            fprintf(out, "\\%c", *s);
        else
            fwrite(s, 1, (size_t)length, out);
        s += length > 0 ? length : 1;
    }
    fputc('"', out);
}
