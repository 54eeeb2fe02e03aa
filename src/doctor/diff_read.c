/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/diff.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"

/* A probe from its file, which anybody may have edited: every key must be there with its type and a
 * value that can be. null stands for a number that is not finite. */

static const char schema[] = "npt-doctor-probe/1";

/* JSON has nine digits: the largest F32 was rounded up. It is the nearest to this, too. */
static const double largest = 3.40282350e38;

enum { MAX_LAYER = 100000, MAX_PART = 1 << 20 };

/* ---- Keys that must be there ---- */

static npt_status missing(const char *what, const char *key)
{
    return npt_fail(NPT_E_FORMAT, "%s: there is no '%s': not a whole %s", what, key, schema);
}

static npt_status need_string(const json_t *object, const char *key, const char *what,
                              const char **value)
{
    NPT_TRY(npt_json_string(object, key, what, NULL, value));
    return *value != NULL ? NPT_OK : missing(what, key);
}

static npt_status need_int(const json_t *object, const char *key, const char *what, int64_t low,
                           int64_t high, int64_t *value)
{
    if (json_object_get(object, key) == NULL) return missing(what, key);
    NPT_TRY(npt_json_int(object, key, what, low - 1, low, high, value));
    return *value >= low ? NPT_OK : missing(what, key);
}

/* null is NAN. */
static npt_status need_real(const json_t *object, const char *key, const char *what, double low,
                            double high, double *value)
{
    if (json_object_get(object, key) == NULL) return missing(what, key);
    return npt_json_real(object, key, what, NAN, low, high, value);
}

static npt_status need_array(const json_t *object, const char *key, const char *what,
                             const json_t **array)
{
    *array = json_object_get(object, key);
    if (*array == NULL) return missing(what, key);
    if (json_is_array(*array)) return NPT_OK;
    return npt_fail(NPT_E_FORMAT, "%s: '%s' must be a list", what, key);
}

/* ---- Labels ---- */

/* Takes "suffix" off the end. */
static bool take_suffix(char *text, const char *suffix)
{
    const size_t length = strlen(text), end = strlen(suffix);
    if (length < end || strcmp(text + length - end, suffix) != 0) return false;
    text[length - end] = '\0';
    return true;
}

static void take_part(char *text, npt_probe_row *row)
{
    char *mark = strchr(text, '#');
    if (mark == NULL) return;
    const long part = strtol(mark + 1, NULL, 10);
    row->part = part < 2 || part > MAX_PART ? 0 : (int)part - 1;
    *mark = '\0';
}

static char *take_layer(char *text, npt_probe_row *row)
{
    char *end = text;
    row->layer = -1;
    const long layer = text[0] == 'L' ? strtol(text + 1, &end, 10) : -1;
    if (*end != '.' || layer < 0 || layer > MAX_LAYER) return text;
    row->layer = (int)layer;
    return end + 1;
}

/* The inverse of npt_probe_label(). What is no label is told by writing it again. */
static npt_status read_label(const char *label, const char *what, npt_probe_row *row)
{
    char copy[80], again[80], shown[NPT_SHOW_BYTES];
    snprintf(copy, sizeof copy, "%s", label);
    row->student = strncmp(copy, "teacher ", 8) != 0;
    take_part(copy, row);
    row->direction = take_suffix(copy, ".backward")    ? NPT_BACKWARD
                     : take_suffix(copy, ".recompute") ? NPT_RECOMPUTE
                                                       : NPT_FORWARD;
    const char *name = take_layer(copy + (row->student ? 0 : 8), row);
    for (int id = 0; id < NPT_SITE_COUNT; id++)
        if (strcmp(name, npt_site_name((npt_site_id)id)) == 0) {
            row->site = (npt_site_id)id;
            if (strcmp(label, npt_probe_label(row, again, sizeof again)) == 0) return NPT_OK;
        }
    return npt_fail(NPT_E_FORMAT, "%s: '%s' is no site", what, npt_show(label, shown));
}

/* ---- Rows ---- */

static npt_status read_dtype(const json_t *object, const char *what, npt_dtype *dtype)
{
    static const npt_dtype known[] = {NPT_F32, NPT_F16, NPT_BF16};
    const char *name;
    char shown[NPT_SHOW_BYTES];
    NPT_TRY(need_string(object, "dtype", what, &name));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, npt_dtype_name(known[i])) == 0) {
            *dtype = known[i];
            return NPT_OK;
        }
    return npt_fail(NPT_E_FORMAT, "%s: 'dtype' is '%s', not F32, F16 or BF16", what,
                    npt_show(name, shown));
}

static npt_status read_sample(const json_t *object, const char *what, float sample[8])
{
    const json_t *list;
    NPT_TRY(need_array(object, "sample", what, &list));
    if (json_array_size(list) != 8)
        return npt_fail(NPT_E_FORMAT, "%s: 'sample' has %zu numbers, not 8", what,
                        json_array_size(list));
    for (size_t i = 0; i < 8; i++) {
        const json_t *number = json_array_get(list, i);
        const double value = json_is_number(number) ? json_number_value(number) : (double)NAN;
        if (!json_is_null(number) && !(fabs(value) <= largest))
            return npt_fail(NPT_E_FORMAT, "%s: 'sample' has what is no F32 number", what);
        sample[i] = (float)value;
    }
    return NPT_OK;
}

static npt_status read_values(const json_t *object, const char *what, npt_probe_row *row)
{
    double low, high;
    NPT_TRY(need_int(object, "elements", what, 1, (int64_t)1 << 50, &row->elements));
    NPT_TRY(need_int(object, "nonfinite", what, 0, row->elements, &row->survey.nonfinite));
    NPT_TRY(need_int(object, "nan", what, 0, row->survey.nonfinite, &row->survey.nan));
    NPT_TRY(need_real(object, "min", what, -largest, largest, &low));
    NPT_TRY(need_real(object, "max", what, -largest, largest, &high));
    NPT_TRY(need_real(object, "rms", what, 0, largest, &row->rms));
    NPT_TRY(need_real(object, "flushed", what, 0, 1, &row->flushed));
    NPT_TRY(need_real(object, "error", what, 0, INFINITY, &row->error));
    row->survey.min = (float)low;
    row->survey.max = (float)high;
    return read_sample(object, what, row->sample);
}

static npt_status read_row(const json_t *object, const char *path, npt_probe_row *row)
{
    const char *label;
    char shown[NPT_SHOW_BYTES], what[4096 + NPT_SHOW_BYTES];
    if (!json_is_object(object))
        return npt_fail(NPT_E_FORMAT, "%s: 'sites' must be a list of objects", path);
    NPT_TRY(need_string(object, "site", path, &label));
    snprintf(what, sizeof what, "%s, %s", path, npt_show(label, shown));
    NPT_TRY(read_label(label, path, row));
    NPT_TRY(read_dtype(object, what, &row->dtype));
    return read_values(object, what, row);
}

static npt_status read_rows(npt_diff_side *side)
{
    const json_t *list;
    NPT_TRY(need_array(side->root, "sites", side->path, &list));
    const size_t count = json_array_size(list);
    if (count == 0) return npt_fail(NPT_E_FORMAT, "%s: 'sites' is empty", side->path);
    side->rows = npt_alloc(count, sizeof *side->rows);
    if (side->rows == NULL) return NPT_E_NOMEM;
    for (; side->count < count; side->count++) {
        npt_probe_row *row = &side->rows[side->count];
        NPT_TRY(read_row(json_array_get(list, side->count), side->path, row));
        if (row->layer >= side->layers) side->layers = row->layer + 1;
        if (row->site == NPT_SITE_OPERAND || row->site == NPT_SITE_ADAPTER_OPERAND)
            side->operand = row->dtype;
    }
    return NPT_OK;
}

/* ---- The rest ---- */

static npt_status read_updates(npt_diff_side *side)
{
    const json_t *list;
    NPT_TRY(need_array(side->root, "updates", side->path, &list));
    for (size_t i = 0; i < json_array_size(list) && i < NPT_ADAPTER_MAX_PARAMETERS; i++) {
        const json_t *object = json_array_get(list, i);
        npt_diff_update *u = &side->updates[i];
        if (!json_is_object(object))
            return npt_fail(NPT_E_FORMAT, "%s: 'updates' must be a list of objects", side->path);
        NPT_TRY(need_string(object, "parameter", side->path, &u->parameter));
        NPT_TRY(need_real(object, "lost_with_master", side->path, 0, 1, &u->lost));
        side->update_count++;
    }
    return NPT_OK;
}

static npt_status read_backends(npt_diff_side *side)
{
    const json_t *list;
    size_t used = 0;
    NPT_TRY(need_array(side->root, "backends", side->path, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        char shown[NPT_SHOW_BYTES];
        if (name == NULL)
            return npt_fail(NPT_E_FORMAT, "%s: 'backends' must be a list of names", side->path);
        if (used < sizeof side->backends)
            used += (size_t)snprintf(side->backends + used, sizeof side->backends - used, "%s%s",
                                     i > 0 ? ", " : "", npt_show(name, shown));
    }
    return NPT_OK;
}

static npt_status check_schema(const npt_diff_side *side)
{
    const char *found, *version;
    char shown[NPT_SHOW_BYTES], author[NPT_SHOW_BYTES];
    NPT_TRY(npt_json_string(side->root, "schema", side->path, NULL, &found));
    if (found == NULL)
        return npt_fail(NPT_E_FORMAT,
                        "%s is not a probe: it has no 'schema'; npt doctor probe --json makes one",
                        side->path);
    if (strcmp(found, schema) == 0) return NPT_OK;
    npt_show(found, shown);
    if (strncmp(found, schema, strlen(schema) - 1) != 0)
        return npt_fail(NPT_E_FORMAT, "%s is '%s', not a probe; npt doctor probe --json makes one",
                        side->path, shown);
    NPT_TRY(npt_json_string(side->root, "npt_version", side->path, "of unknown version", &version));
    return npt_fail(NPT_E_FORMAT,
                    "%s is '%s', written by npt %s; this npt, %s, reads %s: make both probes with "
                    "one version",
                    side->path, shown, npt_show(version, author), npt_version(), schema);
}

static npt_status read_header(npt_diff_side *side)
{
    const json_t *root = side->root;
    const char *path = side->path;
    int64_t threads;
    NPT_TRY(need_string(root, "npt_version", path, &side->version));
    NPT_TRY(need_string(root, "model", path, &side->model));
    NPT_TRY(need_string(root, "policy", path, &side->policy));
    NPT_TRY(need_string(root, "digest", path, &side->digest));
    NPT_TRY(need_string(root, "cpu", path, &side->cpu));
    NPT_TRY(need_string(root, "cpu_level", path, &side->cpu_level));
    NPT_TRY(need_int(root, "threads", path, 1, 1 << 20, &threads));
    NPT_TRY(need_int(root, "sequences", path, 1, (int64_t)1 << 40, &side->sequences));
    NPT_TRY(need_int(root, "tokens", path, 1, (int64_t)1 << 40, &side->tokens));
    NPT_TRY(need_real(root, "loss", path, -INFINITY, INFINITY, &side->loss));
    NPT_TRY(need_real(root, "loss_scale", path, 0x1p-149, 0x1p1000, &side->loss_scale));
    if (isnan(side->loss_scale)) return missing(path, "loss_scale");
    side->threads = (int)threads;
    side->nf4 = strncmp(side->policy, "base NF4", 8) == 0;
    return read_backends(side);
}

npt_status npt_diff_side_open(npt_diff_side *side, const char *path)
{
    *side = (npt_diff_side){.path = path};
    npt_status status = npt_json_load(path, JSON_REJECT_DUPLICATES, &side->root);
    if (status == NPT_OK) status = check_schema(side);
    if (status == NPT_OK) status = read_header(side);
    if (status == NPT_OK) status = read_updates(side);
    if (status == NPT_OK) status = read_rows(side);
    if (status != NPT_OK) npt_diff_side_close(side);
    return status;
}

void npt_diff_side_close(npt_diff_side *side)
{
    npt_free(side->rows);
    json_decref(side->root);
    *side = (npt_diff_side){0};
}
