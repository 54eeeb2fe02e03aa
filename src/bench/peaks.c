/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/peaks.h"

/* What the machine does at best, measured in the same run as what is held against it: arithmetic
 * without memory, and memory without arithmetic, on all threads. Kinds take turns. */

enum { TURNS = 5, MAX_RUNS = 64, READ_SLICES = 64 };

typedef struct peak_job {
    npt_peak peak;
    const uint16_t *data;
    int64_t rounds;
    float *results; /* [workers] */
} peak_job;

static void peak_task(void *context, int64_t index, int worker)
{
    peak_job *job = context;
    (void)worker;
    job->results[index] = job->peak.run(job->data, job->rounds);
}

static double run_peak(npt_exec *exec, peak_job *job)
{
    const double begun = npt_meter_now(exec);
    npt_threads_run(npt_exec_run(exec)->threads, peak_task, job, npt_exec_threads(exec));
    return npt_meter_now(exec) - begun;
}

/* Rounds that take about `seconds` each. */
static void size_job(npt_exec *exec, peak_job *job, double seconds)
{
    job->rounds = 1000;
    while (job->rounds < (int64_t)1 << 40 && run_peak(exec, job) < seconds) job->rounds *= 2;
}

static npt_status measure_peaks(npt_exec *exec, double seconds, const uint16_t *data, json_t *list)
{
    const int threads = npt_exec_threads(exec);
    npt_peak peaks[NPT_MAX_PEAKS];
    peak_job jobs[NPT_MAX_PEAKS];
    double samples[NPT_MAX_PEAKS][TURNS];
    const size_t count = npt_cpu_peaks(npt_exec_cpu(exec), peaks);
    float *results = npt_alloc((size_t)threads, sizeof *results);
    if (results == NULL) return NPT_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        jobs[i] = (peak_job){.peak = peaks[i], .data = data, .results = results};
        size_job(exec, &jobs[i], seconds / TURNS);
    }
    for (int turn = 0; turn < TURNS; turn++)
        for (size_t i = 0; i < count; i++) samples[i][turn] = run_peak(exec, &jobs[i]);
    for (size_t i = 0; i < count; i++) {
        const npt_timing timing = npt_timing_of(samples[i], TURNS);
        const double work = peaks[i].flops * (double)jobs[i].rounds * threads;
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:o}", "what", peaks[i].name, "threads",
                                        threads, "gflops", npt_bench_timing(&timing, work, 1e-9)));
    }
    npt_free(results);
    return NPT_OK;
}

/* ---- Reading ---- */

typedef struct read_job {
    const uint64_t *data;
    size_t words; /* of a slice */
    uint64_t sums[READ_SLICES];
} read_job;

/* Some places at a time, a little of each: one alone does not keep the memory busy. */
static void read_task(void *context, int64_t index, int worker)
{
    enum { PLACES = 4, SOME = 128 /* words */ };
    read_job *job = context;
    const size_t part = job->words / PLACES;
    const uint64_t *from = job->data + (size_t)index * job->words;
    uint64_t sums[8] = {0};
    (void)worker;
    for (size_t i = 0; i + SOME <= part; i += SOME)
        for (size_t p = 0; p < PLACES; p++)
            for (size_t j = 0; j < SOME; j += 8)
                for (size_t k = 0; k < 8; k++) sums[k] += from[p * part + i + j + k];
    for (size_t k = 1; k < 8; k++) sums[0] += sums[k];
    job->sums[index] = sums[0];
}

static npt_status measure_read(npt_exec *exec, const npt_bench_request *request, json_t *root)
{
    npt_threads *pool = npt_exec_run(exec)->threads;
    double samples[MAX_RUNS];
    int count = 0;
    uint64_t *data = npt_alloc(request->pool_bytes / sizeof *data, sizeof *data);
    if (data == NULL) return NPT_E_NOMEM;
    npt_memory_walk(data, request->pool_bytes);
    memset(data, 1, request->pool_bytes); /* pages of zeros may all be one */
    read_job job = {.data = data, .words = request->pool_bytes / sizeof *data / READ_SLICES};
    npt_threads_run(pool, read_task, &job, READ_SLICES);
    for (const double begun = npt_seconds_now();
         count < 3 || (count < MAX_RUNS && npt_seconds_now() - begun < request->seconds);) {
        const double start = npt_meter_now(exec);
        npt_threads_run(pool, read_task, &job, READ_SLICES);
        samples[count++] = npt_meter_now(exec) - start;
    }
    npt_free(data);
    const npt_timing timing = npt_timing_of(samples, count);
    json_object_set_new(root, "read",
                        json_pack("{s:i, s:I, s:o}", "threads", npt_exec_threads(exec), "bytes",
                                  (json_int_t)request->pool_bytes, "gbytes_per_second",
                                  npt_bench_timing(&timing, (double)request->pool_bytes, 1e-9)));
    return NPT_OK;
}

npt_status npt_bench_peaks(npt_exec *exec, const npt_bench_request *request, json_t *root)
{
    _Alignas(64) uint16_t data[NPT_PEAK_DATA];
    json_t *list = json_array();
    for (uint32_t i = 0, state = 1; i < NPT_PEAK_DATA; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes */
        data[i] = npt_bf16_from_f32((float)(int32_t)state * 0x1p-31f);
    }
    json_object_set_new(root, "peaks", list);
    NPT_TRY(measure_peaks(exec, request->seconds, data, list));
    return measure_read(exec, request, root);
}

/* ---- The roof ---- */

/* The fastest: what disturbs a measurement of a peak is not the machine's. */
static double most_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(json_object_get(object, key), "max"));
}

npt_bench_roof npt_bench_roof_of(const json_t *root, int pieces, double intensity)
{
    const json_t *peaks = json_object_get(root, "peaks");
    npt_bench_roof roof = {0};
    for (size_t i = 0; i < json_array_size(peaks); i++) {
        const json_t *peak = json_array_get(peaks, i);
        const char *what = json_string_value(json_object_get(peak, "what"));
        const bool bf16 = what != NULL && strncmp(what, "bf16", 4) == 0;
        roof.arithmetic = fmax(roof.arithmetic, most_of(peak, "gflops") / (bf16 ? pieces : 1));
    }
    roof.memory = most_of(json_object_get(root, "read"), "gbytes_per_second") * intensity;
    return roof;
}
