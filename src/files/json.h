/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON through jansson, with sentences for what is wrong. Objects are jansson's: json_decref(). */
#ifndef NPT_FILES_JSON_H
#define NPT_FILES_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Parses a file; NPT_E_FORMAT names file, line and cause. `flags` are jansson's. The root must be
 * an object. More than 4 M values (commas and opening brackets) are refused before they take
 * memory: jansson needs some 100 bytes for each. */
npt_status npt_json_load(const char *path, size_t flags, json_t **root);
npt_status npt_json_parse(const char *text, size_t bytes, size_t flags, const char *what,
                          json_t **root);
/* Typed look-ups: absent or null gives the default; present with another type, or out of
 * [low, high], is NPT_E_FORMAT naming `what` (the file) and the key. */
npt_status npt_json_int(const json_t *object, const char *key, const char *what, int64_t absent,
                        int64_t low, int64_t high, int64_t *value);
npt_status npt_json_real(const json_t *object, const char *key, const char *what, double absent,
                         double low, double high, double *value);
npt_status npt_json_bool(const json_t *object, const char *key, const char *what, bool absent,
                         bool *value);
/* Borrowed from the object. */
npt_status npt_json_string(const json_t *object, const char *key, const char *what,
                           const char *absent, const char **value);
/* Indent 2, sorted keys, newline at the end; all or nothing (npt_write_file). */
npt_status npt_json_save(const char *path, const json_t *root);

#endif
