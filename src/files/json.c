/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/json.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "files/files.h"

/* jansson parses; this says what is wrong in npt's words and keeps a hostile text from becoming
 * gigabytes of little objects: jansson needs some 100 bytes for each value, so the values are
 * counted before it is let at them. */

/* tokenizer.json is the largest JSON there is in practice (tens of MB, up to 2 M values). */
#define MAX_FILE_BYTES ((size_t)256 << 20)
#define MAX_VALUES     ((size_t)4 << 20)

/* Commas and opening brackets outside strings: at least as many as there are values, less one. */
static size_t count_values(const char *text, size_t bytes)
{
    size_t count = 0;
    bool inside = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '"')
            inside = !inside;
        else if (inside && c == '\\')
            i++;
        else if (!inside && (c == ',' || c == '[' || c == '{'))
            count++;
    }
    return count;
}

npt_status npt_json_load(const char *path, size_t flags, json_t **root)
{
    char *text = NULL;
    size_t bytes = 0;
    NPT_TRY(npt_read_file(path, MAX_FILE_BYTES, &text, &bytes));
    npt_status status = npt_json_parse(text, bytes, flags, path, root);
    npt_free(text);
    return status;
}

npt_status npt_json_parse(const char *text, size_t bytes, size_t flags, const char *what,
                          json_t **root)
{
    if (count_values(text, bytes) > MAX_VALUES)
        return npt_fail(NPT_E_FORMAT,
                        "%s: more than %zu JSON values; no file npt reads has that many", what,
                        MAX_VALUES);
    json_error_t error;
    json_t *parsed = json_loadb(text, bytes, flags, &error);
    if (parsed == NULL) {
        char shown[NPT_SHOW_BYTES];
        if (json_error_code(&error) == json_error_out_of_memory)
            return npt_fail(NPT_E_NOMEM, "%s: out of memory while reading JSON", what);
        return npt_fail(NPT_E_FORMAT, "%s, line %d: not valid JSON: %s", what, error.line,
                        npt_show(error.text, shown));
    }
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return npt_fail(NPT_E_FORMAT, "%s: the JSON is not an object ({ ... })", what);
    }
    *root = parsed;
    return NPT_OK;
}

static npt_status wrong_type(const char *what, const char *key, const char *wanted)
{
    char shown[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_FORMAT, "%s: '%s' must be %s", what, npt_show(key, shown), wanted);
}

npt_status npt_json_int(const json_t *object, const char *key, const char *what, int64_t absent,
                        int64_t low, int64_t high, int64_t *value)
{
    const json_t *found = json_object_get(object, key);
    if (found == NULL || json_is_null(found)) {
        *value = absent;
        return NPT_OK;
    }
    int64_t result;
    if (json_is_integer(found)) {
        result = json_integer_value(found);
    } else {
        /* 4096.0, and every integer of a file read with JSON_DECODE_INT_AS_REAL */
        double real = json_real_value(found);
        if (!json_is_real(found) || real != floor(real)) return wrong_type(what, key, "an integer");
        result = real >= 0x1p63 ? INT64_MAX : real < -0x1p63 ? INT64_MIN : (int64_t)real;
    }
    if (result < low || result > high) {
        char shown[NPT_SHOW_BYTES];
        return npt_fail(NPT_E_FORMAT, "%s: '%s' is %lld, not between %lld and %lld", what,
                        npt_show(key, shown), (long long)result, (long long)low, (long long)high);
    }
    *value = result;
    return NPT_OK;
}

npt_status npt_json_real(const json_t *object, const char *key, const char *what, double absent,
                         double low, double high, double *value)
{
    const json_t *found = json_object_get(object, key);
    if (found == NULL || json_is_null(found)) {
        *value = absent;
        return NPT_OK;
    }
    if (!json_is_number(found)) return wrong_type(what, key, "a number");
    double result = json_number_value(found);
    if (!(result >= low && result <= high)) {
        char shown[NPT_SHOW_BYTES];
        return npt_fail(NPT_E_FORMAT, "%s: '%s' is %g, not between %g and %g", what,
                        npt_show(key, shown), result, low, high);
    }
    *value = result;
    return NPT_OK;
}

npt_status npt_json_bool(const json_t *object, const char *key, const char *what, bool absent,
                         bool *value)
{
    const json_t *found = json_object_get(object, key);
    if (found == NULL || json_is_null(found)) {
        *value = absent;
        return NPT_OK;
    }
    if (!json_is_boolean(found)) return wrong_type(what, key, "true or false");
    *value = json_is_true(found);
    return NPT_OK;
}

npt_status npt_json_string(const json_t *object, const char *key, const char *what,
                           const char *absent, const char **value)
{
    const json_t *found = json_object_get(object, key);
    if (found == NULL || json_is_null(found)) {
        *value = absent;
        return NPT_OK;
    }
    if (!json_is_string(found)) return wrong_type(what, key, "a string");
    *value = json_string_value(found);
    return NPT_OK;
}

npt_status npt_json_save(const char *path, const json_t *root)
{
    const size_t flags = JSON_INDENT(2) | JSON_SORT_KEYS;
    size_t bytes = json_dumpb(root, NULL, 0, flags);
    if (bytes == 0) return npt_fail(NPT_E_NOMEM, "cannot write '%s': no JSON came of it", path);
    char *text = npt_alloc(bytes + 1, 1);
    if (text == NULL) return NPT_E_NOMEM;
    (void)json_dumpb(root, text, bytes, flags);
    text[bytes] = '\n';
    npt_status status = npt_write_file(path, text, bytes + 1);
    npt_free(text);
    return status;
}
