/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/calibration.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "files/files.h"
#include "files/json.h"

/* The file: reading, writing, and taking into use. It lies in a directory that anybody's program
 * may write to, so nothing in it is believed: a route that cannot be is a damaged file, and a
 * damaged file is no calibration. */

static const char format_name[] = "npt calibration 1";
enum { FILE_LIMIT = 1 << 20 };

/* ---- Which machine, and where ---- */

static void append(char *text, const char *separator, const char *word)
{
    const size_t used = strlen(text);
    snprintf(text + used, NPT_CALIBRATION_MACHINE - used, "%s%s", used > 0 ? separator : "", word);
}

const char *npt_calibration_machine(const npt_exec *exec, char text[NPT_CALIBRATION_MACHINE])
{
    const npt_cpu *cpu = npt_exec_cpu(exec);
    const npt_matmul_backend *list[NPT_MAX_BACKENDS];
    const size_t count = npt_cpu_backends(cpu, list);
    char words[128];
    text[0] = '\0';
    append(text, "", cpu->brand[0] != '\0' ? cpu->brand : "unknown CPU");
    snprintf(words, sizeof words, "%s, features %#x", npt_cpu_level_name(cpu->level),
             cpu->features);
    append(text, "; ", words);
    snprintf(words, sizeof words, "%d threads%s", npt_exec_threads(exec),
             npt_exec_precision(exec) == NPT_MATMUL_FMA ? ", matmul precision fma" : "");
    append(text, "; ", words);
    snprintf(words, sizeof words, "npt %s", npt_version());
    append(text, "; ", words);
    for (size_t i = 0; i < count; i++) {
        append(text, "; ", list[i]->name);
        if (list[i]->library != NULL) append(text, " = ", list[i]->library(words));
    }
    return text;
}

/* A path that is not absolute does not count (XDG Base Directory Specification). */
static char *cache_directory(void)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg != NULL && xdg[0] == '/') return npt_format("%s/npt", xdg);
    if (home != NULL && home[0] == '/') return npt_format("%s/.cache/npt", home);
    npt_fail(NPT_E_IO, "there is no place for a calibration: neither XDG_CACHE_HOME nor HOME is "
                       "an absolute path");
    return NULL;
}

npt_status npt_calibration_path(const char *machine, char **path)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = machine; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    char *directory = cache_directory();
    if (directory == NULL) return NPT_E_IO;
    *path = npt_format("%s/calibration-%016" PRIx64 ".json", directory, hash);
    npt_free(directory);
    return *path != NULL ? NPT_OK : NPT_E_NOMEM;
}

/* ---- Reading ---- */

static npt_status read_word(const json_t *object, const char *key, const char *what,
                            const char **word)
{
    NPT_TRY(npt_json_string(object, key, what, NULL, word));
    if (*word == NULL) return npt_fail(NPT_E_FORMAT, "%s: a route without '%s'", what, key);
    return NPT_OK;
}

static npt_status read_dtype(const json_t *object, const char *key, const char *what, bool nf4,
                             npt_dtype *dtype)
{
    const char *word;
    NPT_TRY(read_word(object, key, what, &word));
    for (int d = NPT_F32; d <= (nf4 ? NPT_NF4 : NPT_BF16); d++)
        if (strcmp(npt_dtype_name((npt_dtype)d), word) == 0) {
            *dtype = (npt_dtype)d;
            return NPT_OK;
        }
    return npt_fail(NPT_E_FORMAT, "%s: '%s' of a route is not a dtype of a product", what, key);
}

/* Which of `count` names a word is. */
static npt_status read_choice(const json_t *object, const char *key, const char *what,
                              const char *(*name)(int), int count, int *choice)
{
    const char *word;
    NPT_TRY(read_word(object, key, what, &word));
    for (int i = 0; i < count; i++)
        if (strcmp(name(i), word) == 0) {
            *choice = i;
            return NPT_OK;
        }
    return npt_fail(NPT_E_FORMAT, "%s: '%s' of a route is none that npt knows", what, key);
}

static const char *pass_name(int pass)
{
    return npt_product_pass_name((npt_product_pass)pass);
}

static const char *size_name(int size)
{
    return npt_size_bucket_name((npt_size_bucket)size);
}

static npt_status read_backend(const json_t *object, const char *key, const char *what,
                               char name[NPT_ROUTE_NAME])
{
    const char *word;
    NPT_TRY(read_word(object, key, what, &word));
    const size_t length = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_");
    if (length == 0 || length >= NPT_ROUTE_NAME || word[length] != '\0')
        return npt_fail(NPT_E_FORMAT, "%s: '%s' of a route is not the name of a backend", what,
                        key);
    memcpy(name, word, length + 1);
    return NPT_OK;
}

static npt_status read_route(const json_t *object, const char *what, npt_route *route)
{
    int pass = 0, size = 0;
    if (!json_is_object(object))
        return npt_fail(NPT_E_FORMAT, "%s: a route is not an object", what);
    NPT_TRY(read_dtype(object, "a", what, false, &route->kind.a));
    NPT_TRY(read_dtype(object, "w", what, true, &route->kind.w));
    NPT_TRY(read_dtype(object, "c", what, false, &route->kind.c));
    NPT_TRY(read_choice(object, "pass", what, pass_name, NPT_PASS_COUNT, &pass));
    NPT_TRY(read_choice(object, "tokens", what, npt_token_bucket_name, NPT_TOKEN_BUCKETS,
                        &route->kind.tokens));
    NPT_TRY(read_choice(object, "size", what, size_name, NPT_SIZE_COUNT, &size));
    NPT_TRY(read_backend(object, "backend", what, route->backend));
    NPT_TRY(read_backend(object, "before", what, route->before));
    NPT_TRY(npt_json_real(object, "gflops", what, 0, 0, 1e12, &route->gflops));
    NPT_TRY(npt_json_real(object, "gflops_before", what, 0, 0, 1e12, &route->gflops_before));
    route->kind.pass = (npt_product_pass)pass;
    route->kind.size = (npt_size_bucket)size;
    return NPT_OK;
}

static npt_status read_routes(const json_t *root, const char *what, npt_routes *routes)
{
    const json_t *list = json_object_get(root, "routes");
    if (!json_is_array(list) || json_array_size(list) > NPT_MAX_ROUTES)
        return npt_fail(NPT_E_FORMAT, "%s: 'routes' must be a list of at most %d", what,
                        NPT_MAX_ROUTES);
    for (size_t i = 0; i < json_array_size(list); i++) {
        npt_route route = {0};
        NPT_TRY(read_route(json_array_get(list, i), what, &route));
        if (npt_routes_find(routes, &route.kind) != NULL)
            return npt_fail(NPT_E_FORMAT, "%s: two routes for one kind of product", what);
        npt_routes_put(routes, &route);
    }
    return NPT_OK;
}

static const char *rate_name(int kind)
{
    return npt_rate_name((npt_rate_kind)kind);
}

static npt_status read_rate(const json_t *object, const char *what, npt_routes *routes)
{
    npt_dtype act;
    int kind;
    double rate;
    if (!json_is_object(object)) return npt_fail(NPT_E_FORMAT, "%s: a rate is not an object", what);
    NPT_TRY(read_dtype(object, "act", what, false, &act));
    NPT_TRY(read_choice(object, "kind", what, rate_name, NPT_RATES, &kind));
    NPT_TRY(npt_json_real(object, "per_second", what, 0, 0, 1e21, &rate));
    routes->rates[act][kind] = rate;
    return NPT_OK;
}

/* Files from before there were rates have none. */
static npt_status read_rates(const json_t *root, const char *what, npt_routes *routes)
{
    const json_t *list = json_object_get(root, "rates");
    if (list != NULL && !json_is_array(list))
        return npt_fail(NPT_E_FORMAT, "%s: 'rates' must be a list", what);
    for (size_t i = 0; i < json_array_size(list); i++)
        NPT_TRY(read_rate(json_array_get(list, i), what, routes));
    return NPT_OK;
}

static npt_status read_root(const json_t *root, const char *what, const char *machine,
                            npt_routes *routes)
{
    const char *format, *made_for;
    NPT_TRY(npt_json_string(root, "format", what, "", &format));
    if (strcmp(format, format_name) != 0)
        return npt_fail(NPT_E_FORMAT, "%s: not a calibration of this version of npt", what);
    NPT_TRY(npt_json_string(root, "machine", what, "", &made_for));
    if (strcmp(made_for, machine) != 0)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: made for another machine, library or number of "
                        "threads",
                        what);
    NPT_TRY(read_routes(root, what, routes));
    return read_rates(root, what, routes);
}

npt_status npt_calibration_parse(const char *text, size_t bytes, const char *what,
                                 const char *machine, npt_routes *routes)
{
    json_t *root = NULL;
    npt_routes *found = npt_alloc(1, sizeof *found);
    if (found == NULL) return NPT_E_NOMEM;
    npt_status status = npt_json_parse(text, bytes, JSON_REJECT_DUPLICATES, what, &root);
    if (status == NPT_OK) status = read_root(root, what, machine, found);
    if (status == NPT_OK) *routes = *found;
    json_decref(root);
    npt_free(found);
    return status;
}

npt_status npt_calibration_load(const char *path, const char *machine, npt_routes *routes)
{
    char *text = NULL;
    size_t bytes;
    routes->count = 0;
    if (!npt_path_exists(path)) return NPT_OK;
    NPT_TRY(npt_read_file(path, FILE_LIMIT, &text, &bytes));
    npt_status status = npt_calibration_parse(text, bytes, path, machine, routes);
    npt_free(text);
    return status;
}

/* ---- Writing ---- */

static json_t *route_json(const npt_route *r)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:f}", "a",
                     npt_dtype_name(r->kind.a), "w", npt_dtype_name(r->kind.w), "c",
                     npt_dtype_name(r->kind.c), "pass", npt_product_pass_name(r->kind.pass),
                     "tokens", npt_token_bucket_name(r->kind.tokens), "size",
                     npt_size_bucket_name(r->kind.size), "backend", r->backend, "before", r->before,
                     "gflops", r->gflops, "gflops_before", r->gflops_before);
}

static npt_status make_parent(const char *path)
{
    char *directory = npt_strndup(path, (size_t)(strrchr(path, '/') - path));
    if (directory == NULL) return NPT_E_NOMEM;
    npt_status status = npt_make_directories(directory);
    npt_free(directory);
    return status;
}

npt_status npt_calibration_save(const char *path, const char *machine, const npt_routes *routes)
{
    json_t *list = json_array(), *rates = json_array();
    int bad = 0;
    for (size_t i = 0; i < routes->count; i++)
        bad |= json_array_append_new(list, route_json(&routes->list[i]));
    for (int act = NPT_F32; act <= NPT_BF16; act++)
        for (int kind = 0; kind < NPT_RATES; kind++)
            if (routes->rates[act][kind] > 0)
                bad |= json_array_append_new(rates,
                                             json_pack("{s:s, s:s, s:f}", "kind", rate_name(kind),
                                                       "act", npt_dtype_name((npt_dtype)act),
                                                       "per_second", routes->rates[act][kind]));
    json_t *root = json_pack("{s:s, s:s, s:o, s:o}", "format", format_name, "machine", machine,
                             "routes", list, "rates", rates);
    npt_status status = NPT_OK;
    if (root == NULL || bad != 0)
        status = npt_fail(NPT_E_NOMEM, "out of memory while writing the calibration");
    if (status == NPT_OK) status = make_parent(path);
    if (status == NPT_OK) status = npt_json_save(path, root);
    json_decref(root);
    return status;
}

/* ---- Use ---- */

static npt_status wanted(const npt_exec *exec, const npt_compute_options *compute, bool *yes)
{
    const char *word = getenv("NPT_CALIBRATION");
    if (word == NULL || word[0] == '\0') word = "on";
    if (strcmp(word, "on") != 0 && strcmp(word, "off") != 0)
        return npt_fail(NPT_E_USAGE, "NPT_CALIBRATION is \"%s\"; it may be on or off", word);
    *yes = strcmp(word, "on") == 0 && !compute->no_calibration && !npt_exec_named(exec);
    return NPT_OK;
}

npt_status npt_calibration_apply(npt_exec *exec, const npt_compute_options *compute)
{
    char machine[NPT_CALIBRATION_MACHINE], *path;
    bool yes = false;
    NPT_TRY(wanted(exec, compute, &yes));
    if (!yes) return NPT_OK;
    npt_calibration_machine(exec, machine);
    if (npt_calibration_path(machine, &path) != NPT_OK) return NPT_OK; /* nowhere to look */
    npt_routes *routes = npt_alloc(1, sizeof *routes);
    npt_status status = routes != NULL ? npt_calibration_load(path, machine, routes) : NPT_E_NOMEM;
    if (status == NPT_OK) {
        status = npt_exec_use_routes(exec, routes);
    } else if (status != NPT_E_NOMEM) {
        npt_log(NPT_LOG_NOTE, "the calibration is ignored, the built-in order holds: %s",
                npt_error_message());
        status = NPT_OK;
    }
    npt_free(routes);
    npt_free(path);
    return status;
}

const char *npt_calibration_label(const npt_exec *exec, char text[NPT_CALIBRATION_LABEL])
{
    const npt_routes *routes = npt_exec_routes(exec);
    if (routes == NULL)
        snprintf(text, NPT_CALIBRATION_LABEL, "none");
    else
        snprintf(text, NPT_CALIBRATION_LABEL, "%016" PRIx64, npt_routes_digest(routes));
    return text;
}
