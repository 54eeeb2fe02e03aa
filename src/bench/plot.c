/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"

/* A roofline: rate over FLOP a byte, both logarithmic; a line for each peak under the slope of the
 * memory, a point for each product measured. gnuplot draws; it is looked for in PATH when it is
 * wanted, and reads a script that carries the data. */

extern char **environ;

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length > tail && strcmp(text + length - tail, end) == 0;
}

npt_status npt_bench_plot_check(const char *path)
{
    for (const char *c = path; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20)
            return npt_fail(NPT_E_USAGE, "--plot: the name holds a control character");
    if (ends_with(path, ".svg") || ends_with(path, ".png")) return NPT_OK;
    return npt_fail(NPT_E_USAGE, "--plot %s: the name must end in .svg or .png", path);
}

/* NULL where PATH has none. */
static char *find_program(const char *name)
{
    const char *at = getenv("PATH");
    while (at != NULL && *at != '\0') {
        const size_t length = strcspn(at, ":");
        char *path = npt_format("%.*s/%s", (int)length, at, name);
        if (path == NULL || (length > 0 && access(path, X_OK) == 0)) return path;
        npt_free(path);
        at += length + (at[length] == ':');
    }
    return NULL;
}

/* ---- The script ---- */

static double number_of(const json_t *object, const char *key, const char *which)
{
    return json_number_value(json_object_get(json_object_get(object, key), which));
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* In gnuplot's single quotes, where two of them are one. */
static void write_quoted(FILE *file, const char *text)
{
    putc('\'', file);
    for (; *text != '\0'; text++) {
        if (*text == '\'') putc('\'', file);
        putc((unsigned char)*text < 0x20 ? ' ' : *text, file);
    }
    putc('\'', file);
}

/* Whether `row` is the first of its recipe and backend. */
static bool first_of_series(const json_t *list, size_t index)
{
    const json_t *row = json_array_get(list, index);
    for (size_t i = 0; i < index; i++) {
        const json_t *other = json_array_get(list, i);
        if (strcmp(text_at(other, "recipe"), text_at(row, "recipe")) == 0 &&
            strcmp(text_at(other, "backend"), text_at(row, "backend")) == 0)
            return false;
    }
    return true;
}

/* Every product of one recipe by one backend. */
static void write_block(FILE *file, const json_t *list, size_t series)
{
    const json_t *first = json_array_get(list, series);
    fprintf(file, "$series%zu << END\n", series);
    for (size_t i = series; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (strcmp(text_at(row, "recipe"), text_at(first, "recipe")) != 0 ||
            strcmp(text_at(row, "backend"), text_at(first, "backend")) != 0)
            continue;
        fprintf(file, "%.6g %.6g\n", json_number_value(json_object_get(row, "flop_per_byte")),
                number_of(row, "gflops", "median"));
    }
    fputs("END\n", file);
}

static void write_curves(FILE *file, const json_t *root)
{
    const json_t *list = json_object_get(root, "matmul"), *peaks = json_object_get(root, "peaks");
    const double read = number_of(json_object_get(root, "read"), "gbytes_per_second", "max");
    const char *separator = "plot ";
    for (size_t i = 0; i < json_array_size(peaks); i++) {
        const json_t *peak = json_array_get(peaks, i);
        const double most = number_of(peak, "gflops", "max");
        fprintf(file, "%s(x * %.6g < %.6g ? x * %.6g : %.6g) with lines dashtype 2 title ",
                separator, read, most, read, most);
        write_quoted(file, text_at(peak, "what"));
        separator = ", \\\n  ";
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char title[2 * NPT_BENCH_NAME];
        const json_t *row = json_array_get(list, i);
        if (!first_of_series(list, i)) continue;
        snprintf(title, sizeof title, "%s, %s%s", text_at(row, "recipe"), text_at(row, "backend"),
                 json_is_true(json_object_get(row, "expanded")) ? "*" : "");
        fprintf(file, "%s$series%zu with points title ", separator, i);
        write_quoted(file, title);
    }
    putc('\n', file);
}

static void write_script(FILE *file, const json_t *root, const char *path, bool svg)
{
    const json_t *list = json_object_get(root, "matmul");
    fprintf(file, "set terminal %s size 1100,750\nset output ", svg ? "svg" : "pngcairo");
    write_quoted(file, path);
    fputs("\nset title ", file);
    write_quoted(file, text_at(json_object_get(root, "machine"), "cpu"));
    fputs(" noenhanced\nset logscale xy\nset grid\nset key outside right noenhanced\n"
          "set xlabel 'FLOP a byte'\nset ylabel 'GFLOP/s'\nset xrange [0.1:10000]\n",
          file);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (first_of_series(list, i)) write_block(file, list, i);
    write_curves(file, root);
}

/* ---- Running ---- */

static npt_status run_gnuplot(const char *program, char *script)
{
    char name[] = "gnuplot";
    char *const words[] = {name, script, NULL};
    pid_t process;
    int status = 0;
    const int error = posix_spawn(&process, program, NULL, NULL, words, environ);
    if (error != 0) return npt_fail(NPT_E_IO, "%s cannot be started: %s", program, strerror(error));
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NPT_OK;
    return npt_fail(NPT_E_IO, "%s failed; what it said is above", program);
}

static npt_status draw(const json_t *root, const char *program, const char *path,
                       const char *unfinished, char *script)
{
    FILE *file = fopen(script, "w");
    if (file == NULL)
        return npt_fail(NPT_E_IO, "%s: cannot be written: %s", script, strerror(errno));
    write_script(file, root, unfinished, ends_with(path, ".svg"));
    const bool bad = ferror(file) != 0;
    if (fclose(file) != 0 || bad)
        return npt_fail(NPT_E_IO, "%s: cannot be written: %s", script, strerror(errno));
    NPT_TRY(run_gnuplot(program, script));
    if (rename(unfinished, path) == 0) return NPT_OK;
    return npt_fail(NPT_E_IO, "%s: the plot cannot be put there: %s", path, strerror(errno));
}

npt_status npt_bench_plot(const json_t *root, const char *path)
{
    char *program = find_program("gnuplot");
    if (json_array_size(json_object_get(root, "matmul")) == 0) {
        npt_free(program);
        return npt_fail(NPT_E_USAGE, "--plot draws the matmuls, and none were measured; name the "
                                     "topic matmul, or none");
    }
    if (program == NULL)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "--plot %s: gnuplot is not installed (Debian: "
                        "gnuplot-nox); the numbers are in the output, use --json",
                        path);
    char *unfinished = npt_format("%s.tmp-%d", path, (int)getpid());
    char *script = npt_format("%s.gnuplot-%d", path, (int)getpid());
    npt_status status = NPT_E_NOMEM;
    if (unfinished != NULL && script != NULL)
        status = draw(root, program, path, unfinished, script);
    if (unfinished != NULL) unlink(unfinished);
    if (script != NULL) unlink(script);
    npt_free(unfinished);
    npt_free(script);
    npt_free(program);
    return status;
}
