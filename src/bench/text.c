/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <inttypes.h>
#include <string.h>

/* The tables. A line each for what was measured: its median, then the slowest and the fastest
 * repetition, then what it is held against. */

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static double real_at(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static int64_t number_at(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static double median_at(const json_t *object, const char *key)
{
    return real_at(json_object_get(object, key), "median");
}

/* median, min, max, runs */
static void print_timing(FILE *out, const json_t *object, const char *key, int digits)
{
    const json_t *t = json_object_get(object, key);
    fprintf(out, " %9.*f %9.*f %9.*f %4" PRId64, digits, real_at(t, "median"), digits,
            real_at(t, "min"), digits, real_at(t, "max"), number_at(t, "runs"));
}

static void print_machine(FILE *out, const json_t *root)
{
    const json_t *machine = json_object_get(root, "machine");
    const char *name;
    const json_t *version;
    fprintf(out, "npt %s, %s, %s, %" PRId64 " threads, calibration %s, %s\n",
            text_at(root, "npt_version"), text_at(machine, "cpu"), text_at(machine, "level"),
            number_at(machine, "threads"), text_at(machine, "calibration"), text_at(root, "when"));
    if (strcmp(text_at(machine, "clock"), "processor") == 0)
        fputs("one thread: matmuls and peaks in processor time\n", out);
    json_object_foreach(json_object_get(machine, "libraries"), name, version)
        fprintf(out, "%s: %.80s\n", name, json_string_value(version));
}

static void print_peaks(FILE *out, const json_t *root)
{
    const json_t *peaks = json_object_get(root, "peaks"), *read = json_object_get(root, "read");
    if (peaks == NULL) return;
    fprintf(out, "\nWhat this machine does at best%21s %9s %9s %9s %4s\n", "", "median", "slowest",
            "fastest", "runs");
    for (size_t i = 0; i < json_array_size(peaks); i++) {
        const json_t *peak = json_array_get(peaks, i);
        fprintf(out, "%-40s %10s", text_at(peak, "what"), "GFLOP/s");
        print_timing(out, peak, "gflops", 1);
        fputc('\n', out);
    }
    fprintf(out, "read, over %5" PRId64 " MiB %19s %10s", number_at(read, "bytes") >> 20, "",
            "GB/s");
    print_timing(out, read, "gbytes_per_second", 1);
    fputc('\n', out);
}

/* Of the same recipe, shape, pass and tokens: the best rate of another backend; ours without
 * pieces is not another. */
static double best_other(const json_t *list, const json_t *row)
{
    static const char *const same[] = {"recipe", "shape", "pass"};
    double best = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *other = json_array_get(list, i);
        bool equal = strcmp(text_at(other, "backend"), "native fma") != 0 &&
                     strncmp(text_at(other, "backend"), text_at(row, "backend"), 6) != 0 &&
                     number_at(other, "tokens") == number_at(row, "tokens");
        for (size_t k = 0; k < sizeof same / sizeof same[0]; k++)
            equal = equal && strcmp(text_at(other, same[k]), text_at(row, same[k])) == 0;
        if (equal && median_at(other, "gflops") > best) best = median_at(other, "gflops");
    }
    return best;
}

static void print_matmul(FILE *out, const json_t *root)
{
    const json_t *list = json_object_get(root, "matmul");
    const char *shape = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (strcmp(shape, text_at(row, "shape")) != 0) {
            shape = text_at(row, "shape");
            fprintf(out,
                    "\nmatmul: the seven linears of a layer of %s, GFLOP/s; y: forward, dx: "
                    "gradient of the input\n%-8s %-4s %6s  %-11s %9s %9s %9s %4s %8s %6s %s\n",
                    shape, "recipe", "pass", "tokens", "backend", "median", "slowest", "fastest",
                    "runs", "roof", "share", "/ others");
        }
        const double other = best_other(list, row);
        fprintf(out, "%-8s %-4s %6" PRId64 "  %-10s%c", text_at(row, "recipe"),
                text_at(row, "pass"), number_at(row, "tokens"), text_at(row, "backend"),
                json_is_true(json_object_get(row, "expanded")) ? '*' : ' ');
        print_timing(out, row, "gflops", 1);
        fprintf(out, " %7.0f%c %5.0f%%", real_at(row, "roof_gflops"),
                text_at(row, "bound")[0] == 'm' ? 'm' : ' ', 100 * real_at(row, "share"));
        if (other > 0) fprintf(out, " %8.2f", median_at(row, "gflops") / other);
        fputc('\n', out);
    }
    if (json_array_size(list) > 0)
        fputs("roof: the least of arithmetic (products in bf16 pieces where AMX is) and memory "
              "(m); share: of it;\n/ others: against the fastest other backend; *: weights as "
              "F32, expanded beforehand, uncounted\n",
              out);
}

/* One head for all the tables of steps; says the shape once. */
static bool new_shape(const json_t *row, const char **shape)
{
    if (strcmp(*shape, text_at(row, "shape")) == 0) return false;
    *shape = text_at(row, "shape");
    return true;
}

static void print_steps(FILE *out, const json_t *root)
{
    const json_t *list = json_object_get(root, "step");
    const char *shape = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (new_shape(row, &shape))
            fprintf(out,
                    "\nstep: %s, rows of %" PRId64 " tokens; seconds\n%-16s %-10s %4s %9s %9s %9s "
                    "%4s %9s %8s %9s\n",
                    shape, number_at(row, "row_tokens"), "recipe", "distill", "rows", "median",
                    "fastest", "slowest", "runs", "tokens/s", "peak MiB", "/ matmuls");
        fprintf(out, "%-16s %-10s %4" PRId64, text_at(row, "recipe"), text_at(row, "distill"),
                number_at(row, "rows_per_step"));
        print_timing(out, row, "seconds", 4);
        fprintf(out, " %9.1f %8.0f %9.2f\n", median_at(row, "tokens_per_second"),
                (double)number_at(row, "peak_bytes") / 1048576, real_at(row, "step_over_matmul"));
    }
    if (json_array_size(list) > 0)
        fputs("/ matmuls: the step over the sum of its matrix products, each measured alone\n",
              out);
}

static void print_start(FILE *out, const json_t *root)
{
    const json_t *list = json_object_get(root, "start");
    const char *shape = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        if (new_shape(row, &shape))
            fprintf(out, "\nstart: %s; milliseconds, medians\n%-16s %-10s %12s %12s %12s %12s\n",
                    shape, "recipe", "distill", "doctor plan", "open", "load", "first step");
        fprintf(out, "%-16s %-10s %12.1f %12.1f %12.1f %12.1f\n", text_at(row, "recipe"),
                text_at(row, "distill"), 1e3 * median_at(row, "plan_s"),
                1e3 * median_at(row, "open_s"), 1e3 * median_at(row, "load_s"),
                1e3 * median_at(row, "first_step_s"));
    }
}

static double mebibytes_at(const json_t *object, const char *key)
{
    return (double)number_at(object, key) / 1048576;
}

static void print_memory(FILE *out, const json_t *root)
{
    static const char *const parts[] = {"weights",   "adapters",    "masters", "moments",
                                        "gradients", "activations", "scratch"};
    static const int widths[] = {7, 8, 7, 7, 9, 11, 7};
    enum { PARTS = sizeof parts / sizeof parts[0] };
    const json_t *list = json_object_get(root, "memory");
    const char *shape = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i), *bytes = json_object_get(row, "bytes");
        if (new_shape(row, &shape)) {
            fprintf(out, "\nmemory: %s, rows of %" PRId64 " tokens; MiB\n%-16s %-10s %8s", shape,
                    number_at(row, "row_tokens"), "recipe", "distill", "peak");
            for (int k = 0; k < PARTS; k++) fprintf(out, " %*s", widths[k], parts[k]);
            fputc('\n', out);
        }
        fprintf(out, "%-16s %-10s %8.1f", text_at(row, "recipe"), text_at(row, "distill"),
                mebibytes_at(row, "peak_bytes"));
        for (int k = 0; k < PARTS; k++)
            fprintf(out, " %*.1f", widths[k], mebibytes_at(bytes, parts[k]));
        fputc('\n', out);
    }
    if (json_array_size(list) > 0)
        fputs("peak: resident, of the whole process; weights: of the file, mapped\n", out);
}

void npt_bench_print(const json_t *root, FILE *out)
{
    print_machine(out, root);
    print_peaks(out, root);
    print_matmul(out, root);
    print_steps(out, root);
    print_start(out, root);
    print_memory(out, root);
}
