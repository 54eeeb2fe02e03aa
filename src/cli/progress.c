/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "cli/progress.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Nothing flickers and nothing tears because every change of the screen is one write: back to the
 * start of the line, the new text, spaces over what the old one had more. The live line is ASCII,
 * so bytes are columns. */

#define REDRAW_SECONDS 0.1
enum { COLUMNS_UNKNOWN = 80, OUT_SIZE = 8192 };

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return COLUMNS_UNKNOWN;
}

void npt_format_seconds(double seconds, char *text, size_t bytes)
{
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(text, bytes, "?");
        return;
    }
    const long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, bytes, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, bytes, "%lld:%02lld", s / 60, s % 60);
}

static void format_bytes(size_t count, char *text, size_t bytes)
{
    const double mib = (double)count / (1024.0 * 1024.0);
    if (mib >= 1024)
        snprintf(text, bytes, "%.1f GiB", mib / 1024);
    else
        snprintf(text, bytes, "%.0f MiB", mib);
}

static void format_step(const npt_step_info *info, char *text, size_t bytes)
{
    char left[32], peak[32];
    npt_format_seconds(info->seconds_left, left, sizeof(left));
    format_bytes(info->peak_bytes, peak, sizeof(peak));
    snprintf(
        text, bytes,
        "step %lld/%lld  loss %.5g  grad norm %.3g  rate %.3g  %.0f tokens/s  left %s  peak %s",
        (long long)info->step, (long long)info->total_steps, info->loss, info->grad_norm,
        info->learning_rate, info->tokens_per_second, left, peak);
}

/* ---- The live line ---- */

/* Appends the live line, cut to the terminal, and the spaces that hide the old one. */
static size_t put_live(npt_progress *progress, char *out, size_t used)
{
    const int room = terminal_columns() - 1; /* a full last column would wrap */
    int length = (int)strlen(progress->line);
    if (length > room) length = room > 0 ? room : 0;
    const int hide = progress->shown > length ? progress->shown - length : 0;
    used += (size_t)snprintf(out + used, OUT_SIZE - used, "\r%.*s%*s", length, progress->line, hide,
                             "");
    if (hide > 0)
        used += (size_t)snprintf(out + used, OUT_SIZE - used, "\r%.*s", length, progress->line);
    progress->shown = length;
    return used;
}

static void write_all(const char *text, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t n = write(STDERR_FILENO, text, bytes);
        if (n <= 0) return; /* progress is no reason to end a run */
        text += n;
        bytes -= (size_t)n;
    }
}

static void redraw(npt_progress *progress)
{
    char out[OUT_SIZE];
    write_all(out, put_live(progress, out, 0));
    progress->drawn_at = now_seconds();
}

/* ---- The loss as a row of blocks ---- */

static void remember(npt_progress *progress, double loss)
{
    if (progress->steps >= NPT_SPARK_COLUMNS * progress->per_column) {
        for (int i = 0; i < NPT_SPARK_COLUMNS / 2; i++) {
            progress->sums[i] = progress->sums[2 * i] + progress->sums[2 * i + 1];
            progress->counts[i] = progress->counts[2 * i] + progress->counts[2 * i + 1];
        }
        for (int i = NPT_SPARK_COLUMNS / 2; i < NPT_SPARK_COLUMNS; i++) {
            progress->sums[i] = 0;
            progress->counts[i] = 0;
        }
        progress->per_column *= 2;
    }
    const int64_t column = progress->steps++ / progress->per_column;
    if (!isfinite(loss)) return;
    progress->sums[column] += loss;
    progress->counts[column]++;
}

static void print_spark(const npt_progress *progress)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const plain[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
    const int levels = (int)(sizeof(blocks) / sizeof(blocks[0]));
    const int64_t columns = (progress->steps + progress->per_column - 1) / progress->per_column;
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < columns; i++) {
        if (progress->counts[i] == 0) continue;
        const double mean = progress->sums[i] / (double)progress->counts[i];
        low = fmin(low, mean);
        high = fmax(high, mean);
    }
    if (columns < 2 || !isfinite(low)) return;
    char out[NPT_SPARK_COLUMNS * 4 + 128];
    size_t used = (size_t)snprintf(out, sizeof(out), "loss ");
    for (int64_t i = 0; i < columns; i++) {
        const double mean = progress->sums[i] / (double)progress->counts[i];
        const double height = high > low ? (mean - low) / (high - low) : 0;
        const int level = height < 1 ? (int)(height * levels) : levels - 1;
        const char *mark = progress->counts[i] == 0 ? " "
                           : progress->utf8         ? blocks[level]
                                                    : plain[level];
        used += (size_t)snprintf(out + used, sizeof(out) - used, "%s", mark);
    }
    used += (size_t)snprintf(out + used, sizeof(out) - used, " %.3g to %.3g\n", low, high);
    write_all(out, used);
}

/* ---- Exported ---- */

void npt_progress_init(npt_progress *progress)
{
    const char *term = getenv("TERM");
    memset(progress, 0, sizeof(*progress));
    progress->live = isatty(STDERR_FILENO) && (term == NULL || strcmp(term, "dumb") != 0);
    progress->utf8 = strcasecmp(nl_langinfo(CODESET), "UTF-8") == 0;
    progress->per_column = 1;
}

void npt_progress_step(void *context, const npt_step_info *info)
{
    npt_progress *progress = context;
    progress->last = *info;
    remember(progress, info->loss);
    format_step(info, progress->line, sizeof(progress->line));
    if (!progress->live) {
        if (info->logged) fprintf(stderr, "%s\n", progress->line);
        return;
    }
    const bool last = info->step >= info->total_steps;
    if (last || now_seconds() - progress->drawn_at >= REDRAW_SECONDS) redraw(progress);
}

void npt_progress_log(void *context, npt_log_level level, const char *line)
{
    npt_progress *progress = context;
    const char *prefix = level == NPT_LOG_WARNING ? "npt: warning: " : "npt: ";
    if (!progress->live || progress->line[0] == '\0') {
        fprintf(stderr, "%s%s\n", prefix, line);
        return;
    }
    char out[OUT_SIZE];
    const int length = (int)(strlen(prefix) + strnlen(line, OUT_SIZE / 2));
    const int hide = progress->shown > length ? progress->shown - length : 0;
    const size_t used =
        (size_t)snprintf(out, sizeof(out), "\r%s%.*s%*s\n", prefix, OUT_SIZE / 2, line, hide, "");
    progress->shown = 0;
    write_all(out, put_live(progress, out, used));
}

void npt_progress_finish(npt_progress *progress)
{
    if (!progress->live || progress->line[0] == '\0') return;
    redraw(progress);
    write_all("\n", 1);
    progress->line[0] = '\0';
    progress->shown = 0;
    print_spark(progress);
}
