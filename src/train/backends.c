/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "npt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "files/json.h"
#include "train/calibration.h"
#include "train/products.h"
#include "train/rates.h"
#include "train/setup.h"

/* npt backends: first everything is collected into one JSON object, which is the answer with
 * --json; the table for people is printed from the same object, so that the two cannot differ.
 * No weight is read: descriptors follow from config.json and the headers. */

enum { REASON_BYTES = 128, POLICY_BYTES = 256 };

static const struct {
    unsigned bit;
    const char *name;
} features[] = {
    {NPT_CPU_AVX512_BF16, "avx512_bf16"},
    {NPT_CPU_AVX512_FP16, "avx512_fp16"},
    {NPT_CPU_AVX512_VBMI, "avx512_vbmi"},
    {NPT_CPU_AMX_BF16, "amx_bf16"},
};

static const char *const precision_names[] = {"auto", "fma", "pieces"};

/* ---- What is here ---- */

/* Backends that are a library's, with its version. */
static json_t *libraries_json(const npt_exec *exec)
{
    json_t *libraries = json_object();
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++) {
        const npt_matmul_backend *backend = npt_exec_backend(exec, i);
        char text[REASON_BYTES];
        if (backend->library != NULL)
            json_object_set_new(libraries, backend->name, json_string(backend->library(text)));
    }
    return libraries;
}

static json_t *route_json(const npt_route *route)
{
    char kind[NPT_ROUTE_TEXT];
    return json_pack("{s:s, s:s, s:f, s:s, s:f}", "kind", npt_route_kind_text(&route->kind, kind),
                     "backend", route->backend, "gflops", route->gflops, "before", route->before,
                     "gflops_before", route->gflops_before);
}

/* The calibration in use, or "none". */
static json_t *calibration_json(const npt_exec *exec)
{
    const npt_routes *routes = npt_exec_routes(exec);
    char label[NPT_CALIBRATION_LABEL];
    json_t *list = json_array();
    for (size_t i = 0; routes != NULL && i < routes->count; i++)
        json_array_append_new(list, route_json(&routes->list[i]));
    return json_pack("{s:s, s:o}", "digest", npt_calibration_label(exec, label), "routes", list);
}

static json_t *machine_json(const npt_exec *exec)
{
    const npt_cpu *cpu = npt_exec_cpu(exec);
    json_t *names = json_array(), *backends = json_array();
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        if ((cpu->features & features[i].bit) != 0)
            json_array_append_new(names, json_string(features[i].name));
    for (size_t i = 0; i < npt_exec_backend_count(exec); i++)
        json_array_append_new(backends, json_string(npt_exec_backend(exec, i)->name));
    return json_pack(
        "{s:s, s:{s:s, s:s, s:o}, s:i, s:s, s:o, s:o, s:s, s:o}", "version", npt_version(), "cpu",
        "brand", cpu->brand, "level", npt_cpu_level_name(cpu->level), "features", names, "threads",
        npt_exec_threads(exec), "kernels", npt_exec_kernels(exec)->name, "backends", backends,
        "libraries", libraries_json(exec), "matmul_precision",
        precision_names[npt_exec_precision(exec)], "calibration", calibration_json(exec));
}

/* ---- Where products go ---- */

/* The backends before the chosen one, each with its reason. */
static json_t *refusals_json(const npt_exec *exec, const npt_matmul_desc *desc,
                             const npt_matmul_backend *chosen)
{
    json_t *list = json_array();
    for (size_t i = 0; npt_exec_backend(exec, i) != chosen; i++) {
        const npt_matmul_backend *backend = npt_exec_backend(exec, i);
        char text[REASON_BYTES]; /* who does not refuse was passed over by a measured route */
        const char *reason = backend->refuse(desc, npt_exec_cpu(exec), text);
        json_array_append_new(list, json_pack("{s:s, s:s}", "backend", backend->name, "reason",
                                              reason != NULL ? reason : "slower by calibration"));
    }
    return list;
}

static json_t *product_json(npt_exec *exec, const npt_product *product)
{
    const npt_matmul_desc *d = &product->desc;
    const npt_matmul_backend *backend = npt_exec_choose(exec, d);
    char route[REASON_BYTES];
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:s, s:s, "
                     "s:o}",
                     "product", product->name, "pass", product->pass, "per_step",
                     (json_int_t)product->per_step, "m", (json_int_t)d->m, "n", (json_int_t)d->n,
                     "k", (json_int_t)d->k, "a", npt_dtype_name(d->a), "w", npt_dtype_name(d->w),
                     "c", npt_dtype_name(d->c), "trans_a", (int)d->trans_a, "trans_w",
                     (int)d->trans_w, "accumulate", (int)d->accumulate, "bias", (int)d->bias,
                     "backend", backend->name, "route", npt_exec_route(exec, d, route), "refused",
                     refusals_json(exec, d, backend));
}

static int add_routes(json_t *root, const npt_setup *setup, const npt_backends_options *options)
{
    const npt_model *model = setup->model;
    char policy[POLICY_BYTES];
    npt_products products;
    json_t *list = json_array();
    npt_products_list(model, &setup->policy,
                      &(npt_products_run){.tokens = options->tokens, .rank = options->adapter_rank},
                      &products);
    for (size_t i = 0; i < products.count; i++)
        json_array_append_new(list, product_json(setup->exec, &products.list[i]));
    npt_policy_describe(&setup->policy, policy, sizeof policy);
    int bad = json_object_set_new(root, "model",
                                  json_pack("{s:s, s:s, s:I, s:s}", "directory", model->directory,
                                            "family", npt_family_name(model->config.family),
                                            "layers", (json_int_t)model->config.layers,
                                            "file_dtype", npt_dtype_name(model->file_dtype)));
    bad |= json_object_set_new(root, "policy", json_string(policy));
    bad |= json_object_set_new(root, "tokens", json_integer(options->tokens));
    bad |= json_object_set_new(root, "adapter_rank", json_integer(options->adapter_rank));
    const double predicted = npt_calibration_predict(setup->exec, &products);
    if (predicted > 0)
        bad |= json_object_set_new(root, "calibrated_matmul_s", json_real(predicted));
    return bad | json_object_set_new(root, "products", list);
}

/* ---- For people ---- */

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static int64_t number_at(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void print_words(FILE *out, const char *label, const json_t *list)
{
    fprintf(out, "%-10s", label);
    for (size_t i = 0; i < json_array_size(list); i++)
        fprintf(out, "%s%s", i > 0 ? ", " : "", json_string_value(json_array_get(list, i)));
    fprintf(out, "%s\n", json_array_size(list) == 0 ? "none" : "");
}

static double real_at(const json_t *object, const char *key)
{
    return json_real_value(json_object_get(object, key));
}

static void print_calibration(FILE *out, const json_t *calibration)
{
    const json_t *routes = json_object_get(calibration, "routes");
    fprintf(out, "%-10s%s\n", "routes",
            json_array_size(routes) == 0 ? "the built-in order; no calibration is in use"
                                         : text_at(calibration, "digest"));
    if (json_array_size(routes) == 0) return;
    fprintf(out, "\n%-50s %-12s %8s  %-12s %8s\n", "kind of product, by calibration", "backend",
            "GFLOP/s", "built-in", "GFLOP/s");
    for (size_t i = 0; i < json_array_size(routes); i++) {
        const json_t *r = json_array_get(routes, i);
        fprintf(out, "%-50s %-12s %8.1f  %-12s %8.1f\n", text_at(r, "kind"), text_at(r, "backend"),
                real_at(r, "gflops"), text_at(r, "before"), real_at(r, "gflops_before"));
    }
}

static void print_machine(FILE *out, const json_t *root)
{
    const json_t *cpu = json_object_get(root, "cpu");
    const char *brand = text_at(cpu, "brand");
    fprintf(out, "%-10s%s\n", "npt", text_at(root, "version"));
    fprintf(out, "%-10s%s\n", "cpu", brand[0] != '\0' ? brand : "unknown");
    fprintf(out, "%-10s%s\n", "level", text_at(cpu, "level"));
    print_words(out, "features", json_object_get(cpu, "features"));
    fprintf(out, "%-10s%" PRId64 "\n", "threads", number_at(root, "threads"));
    fprintf(out, "%-10s%s\n", "kernels", text_at(root, "kernels"));
    print_words(out, "backends", json_object_get(root, "backends"));
    fprintf(out, "%-10s%s\n", "precision", text_at(root, "matmul_precision"));
    print_calibration(out, json_object_get(root, "calibration"));
}

static void print_product(FILE *out, const json_t *p)
{
    const json_t *refused = json_object_get(p, "refused");
    const char *route = text_at(p, "route");
    fprintf(out, "%-16s %-4s %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 "  %-4s %-4s %-4s%s",
            text_at(p, "product"), text_at(p, "pass"), number_at(p, "per_step"), number_at(p, "m"),
            number_at(p, "n"), number_at(p, "k"), text_at(p, "a"), text_at(p, "w"), text_at(p, "c"),
            json_is_true(json_object_get(p, "accumulate")) ? "+ " : "  ");
    fprintf(out, "%-10s%-34s", text_at(p, "backend"), route[0] != '\0' ? route : "-");
    for (size_t i = 0; i < json_array_size(refused); i++) {
        const json_t *entry = json_array_get(refused, i);
        fprintf(out, "%s%s: %s", i > 0 ? "; " : "", text_at(entry, "backend"),
                text_at(entry, "reason"));
    }
    fputs(json_array_size(refused) > 0 ? "\n" : "-\n", out);
}

static void print_routes(FILE *out, const json_t *root)
{
    const json_t *model = json_object_get(root, "model"),
                 *products = json_object_get(root, "products");
    fprintf(out, "\n%-10s%s (%s, %" PRId64 " layers, %s)\n", "model", text_at(model, "directory"),
            text_at(model, "family"), number_at(model, "layers"), text_at(model, "file_dtype"));
    fprintf(out, "%-10s%s\n", "policy", text_at(root, "policy"));
    fprintf(out, "%-10s%" PRId64 " tokens, adapters of rank %" PRId64 " in all layers\n", "step",
            number_at(root, "tokens"), number_at(root, "adapter_rank"));
    if (json_object_get(root, "calibrated_matmul_s") != NULL)
        fprintf(out, "%-10s%.4g s in the products of such a step, at the calibrated rates\n",
                "predicted", real_at(root, "calibrated_matmul_s"));
    fprintf(out,
            "\nC[m,n] = A[m,k] W[k,n]; y: forward, dx: gradient of the input, dw: of an adapter; "
            "+: added to C\n");
    fprintf(out, "%-16s %-4s %8s %8s %8s %8s  %-4s %-4s %-6s%-10s%-34s%s\n", "product", "pass",
            "per step", "m", "n", "k", "A", "W", "C", "backend", "by", "refused before");
    for (size_t i = 0; i < json_array_size(products); i++)
        print_product(out, json_array_get(products, i));
}

/* ---- Calibration ---- */

/* Long rows and short ones: with more tokens than the first, nothing changes but the time. */
static const int64_t calibrated_tokens[] = {384, 128};
enum { TOKEN_CHOICES = sizeof calibrated_tokens / sizeof calibrated_tokens[0] };
enum { LONGEST_ROW = 512 }; /* of what is no product */

static npt_status calibrate_model(npt_exec *exec, const npt_model *model, const npt_policy *policy,
                                  const npt_backends_options *o, npt_price *prices,
                                  npt_routes *routes)
{
    npt_products products;
    for (int i = 0; i < TOKEN_CHOICES; i++) {
        const int64_t most = calibrated_tokens[i];
        if (i > 0 && o->tokens < most) break;
        const npt_products_run run = {.tokens = o->tokens < most ? o->tokens : most,
                                      .rank = o->adapter_rank};
        npt_products_list(model, policy, &run, &products);
        NPT_TRY(npt_calibration_measure(exec, &products, o->seconds / (TOKEN_CHOICES + 1), prices,
                                        routes));
    }
    return npt_rates_measure(exec, &model->config, policy,
                             o->tokens < LONGEST_ROW ? o->tokens : LONGEST_ROW, o->adapter_rank,
                             o->seconds / (TOKEN_CHOICES + 1), routes);
}

/* Without a model: the shapes of a small Llama, in every precision. */
static npt_status calibrate_common(npt_exec *exec, const npt_backends_options *o, npt_price *prices,
                                   npt_routes *routes)
{
    static const npt_policy_request requests[] = {
        {0}, {.use_bf16 = true}, {.use_fp16 = true}, {.use_quantization = true}};
    enum { REQUESTS = sizeof requests / sizeof requests[0] };
    npt_model model = {.config = {.hidden = 2048,
                                  .inter = 8192,
                                  .layers = 16,
                                  .heads = 32,
                                  .kv_heads = 8,
                                  .head_dim = 64}};
    npt_backends_options part = *o;
    part.seconds /= REQUESTS;
    for (int i = 0; i < REQUESTS; i++) {
        npt_policy policy;
        NPT_TRY(npt_policy_decide(&requests[i], &policy));
        model.file_dtype = policy.dtype[NPT_ROLE_COMPUTE];
        NPT_TRY(calibrate_model(exec, &model, &policy, &part, prices, routes));
    }
    return NPT_OK;
}

/* Adds to what the file holds already; of a damaged one nothing is kept. */
static npt_status calibrate(const npt_setup *setup, const npt_backends_options *o)
{
    char machine[NPT_CALIBRATION_MACHINE], *path;
    npt_price prices[NPT_MAX_BACKENDS] = {{0}};
    if (npt_exec_named(setup->exec) || o->compute.no_calibration)
        return npt_fail(NPT_E_USAGE, "--calibrate compares all backends: leave --backend, "
                                     "NPT_BACKEND and --no_calibration out");
    NPT_TRY(npt_calibration_path(npt_calibration_machine(setup->exec, machine), &path));
    npt_routes *routes = npt_alloc(1, sizeof *routes);
    npt_status status = routes != NULL ? NPT_OK : NPT_E_NOMEM;
    if (status == NPT_OK && npt_calibration_load(path, machine, routes) != NPT_OK)
        routes->count = 0;
    if (status == NPT_OK)
        status = setup->model != NULL
                     ? calibrate_model(setup->exec, setup->model, &setup->policy, o, prices, routes)
                     : calibrate_common(setup->exec, o, prices, routes);
    if (status == NPT_OK) status = npt_calibration_save(path, machine, routes);
    if (status == NPT_OK) status = npt_exec_use_routes(setup->exec, routes);
    if (status == NPT_OK)
        npt_log(NPT_LOG_NOTE, "calibrated %zu kinds of products; kept in %s", routes->count, path);
    npt_free(routes);
    npt_free(path);
    return status;
}

/* ---- The command ---- */

static npt_status print(const json_t *root, bool json, FILE *out)
{
    errno = 0;
    if (json) {
        (void)json_dumpf(root, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putc('\n', out);
    } else {
        print_machine(out, root);
        if (json_object_get(root, "products") != NULL) print_routes(out, root);
    }
    if (fflush(out) == 0 && !ferror(out)) return NPT_OK;
    return npt_fail(NPT_E_IO, "cannot write the output: %s",
                    errno != 0 ? strerror(errno) : "the stream reports an error");
}

static npt_status check_options(const npt_backends_options *o)
{
    if (o->tokens < 1)
        return npt_fail(NPT_E_USAGE, "--tokens %" PRId64 ": there must be at least one", o->tokens);
    if (o->adapter_rank < 1)
        return npt_fail(NPT_E_USAGE, "--adapter_rank %d: it must be at least 1", o->adapter_rank);
    if (o->calibrate && !(o->seconds > 0))
        return npt_fail(NPT_E_USAGE, "--seconds %g: measuring takes some", o->seconds);
    return NPT_OK;
}

npt_status npt_backends(const npt_backends_options *options, FILE *out)
{
    npt_setup setup = {0};
    json_t *root = NULL;
    npt_status status;
    if (options->model_name != NULL || options->calibrate) NPT_TRY(check_options(options));
    if (options->model_name != NULL)
        status =
            npt_setup_open(&setup, options->model_name, &options->precision, &options->compute);
    else
        status = npt_setup_exec(&setup, &options->compute);
    if (status == NPT_OK && options->calibrate) status = calibrate(&setup, options);
    if (status != NPT_OK) {
        npt_setup_close(&setup);
        return status;
    }
    root = machine_json(setup.exec);
    if (root == NULL || (setup.model != NULL && add_routes(root, &setup, options) != 0))
        status = npt_fail(NPT_E_NOMEM, "out of memory while listing the backends");
    else
        status = print(root, options->json, out);
    json_decref(root);
    npt_setup_close(&setup);
    return status;
}
