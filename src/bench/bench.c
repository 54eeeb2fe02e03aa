/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "train/calibration.h"
#include "train/trainer.h"

/* npt_bench(): the parts in the order that lets the first of them fork, then the answer. */

json_t *npt_bench_timing(const npt_timing *t, double work, double unit)
{
    if (work == 0)
        return json_pack("{s:f, s:f, s:f, s:i}", "median", t->median, "min", t->min, "max", t->max,
                         "runs", t->runs);
    return json_pack("{s:f, s:f, s:f, s:i}", "median", work / t->median * unit, "min",
                     work / t->max * unit, "max", work / t->min * unit, "runs", t->runs);
}

static json_t *machine_json(const npt_exec *exec)
{
    const npt_cpu *cpu = npt_exec_cpu(exec);
    json_t *libraries = json_object();
    char text[128], label[NPT_CALIBRATION_LABEL];
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++) {
        const npt_matmul_backend *backend = npt_exec_backend(exec, i);
        if (backend->library != NULL)
            json_object_set_new(libraries, backend->name, json_string(backend->library(text)));
    }
    return json_pack("{s:s, s:s, s:i, s:i, s:s, s:o, s:s}", "cpu", cpu->brand, "level",
                     npt_cpu_level_name(cpu->level), "features", (int)cpu->features, "threads",
                     npt_exec_threads(exec), "clock",
                     npt_exec_threads(exec) > 1 ? "monotonic" : "processor", "libraries", libraries,
                     "calibration", npt_calibration_label(exec, label));
}

static json_t *root_json(const npt_bench_request *request)
{
    char when[32];
    const time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    return json_pack("{s:s, s:s, s:s, s:b, s:f}", "format", "npt bench 1", "npt_version",
                     npt_version(), "when", when, "quick", (int)request->options->quick, "seconds",
                     request->seconds);
}

static npt_status measure_matmul(const npt_bench_request *request, npt_exec *exec, json_t *root)
{
    if ((request->topics & NPT_BENCH_MATMUL) == 0) return NPT_OK;
    NPT_TRY(npt_bench_peaks(exec, request, root));
    return npt_bench_matmul(exec, request, root);
}

static npt_status measure(const npt_bench_request *request, json_t *root)
{
    npt_setup setup = {0};
    if ((request->topics & ~(unsigned)NPT_BENCH_MATMUL) != 0)
        NPT_TRY(npt_bench_steps(request, root));
    npt_status status = npt_setup_exec(&setup, &request->options->compute);
    if (status == NPT_OK) {
        json_object_set_new(root, "machine", machine_json(setup.exec));
        status = measure_matmul(request, setup.exec, root);
    }
    npt_setup_close(&setup);
    return status;
}

static npt_status print(const json_t *root, bool json, FILE *out)
{
    errno = 0;
    if (json) {
        (void)json_dumpf(root, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
        putc('\n', out);
    } else {
        npt_bench_print(root, out);
    }
    if (fflush(out) == 0 && !ferror(out)) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot write the output: %s",
                    errno != 0 ? strerror(errno) : "the stream reports an error");
}

npt_status npt_bench(const npt_bench_options *options, FILE *out)
{
    npt_bench_request request;
    NPT_TRY(npt_bench_read(options, &request));
    npt_request_stop(0);
    json_t *root = root_json(&request);
    if (root == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    npt_status status = measure(&request, root);
    if (status == NPT_OK) status = print(root, options->json, out);
    if (status == NPT_OK && options->plot != NULL) status = npt_bench_plot(root, options->plot);
    json_decref(root);
    return status;
}
