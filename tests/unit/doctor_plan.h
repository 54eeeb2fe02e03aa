/* SPDX-License-Identifier: BSD-2-Clause */
/* npt doctor plan in process, as JSON that a test can ask. White-box: needs libnptcore. */
#ifndef NPT_TESTS_DOCTOR_PLAN_H
#define NPT_TESTS_DOCTOR_PLAN_H

#include <stdlib.h>

#include "files/json.h"
#include "npt.h"
#include "npt_test.h"

typedef struct planned {
    json_t *root; /* the object; NULL where the plan failed */
    npt_status status;
    npt_verdict verdict;
} planned;

static inline npt_train_options plan_options(const char *model)
{
    npt_train_options o;
    npt_train_options_init(&o, NPT_RECIPE_PRETRAIN);
    o.model_name = model;
    o.adapter_rank = 4;
    return o;
}

static inline planned plan_run(const npt_train_options *options, bool scan)
{
    const npt_doctor_options doctor = {.json = true, .scan = scan};
    planned p = {NULL, NPT_OK, NPT_VERDICT_FINE};
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    p.status = npt_doctor_plan(options, &doctor, out, &p.verdict);
    assert_int_equal(fclose(out), 0);
    if (p.status == NPT_OK)
        assert_int_equal(npt_json_parse(text, bytes, 0, "the plan", &p.root), NPT_OK);
    else
        assert_int_equal(bytes, 0); /* all or nothing */
    free(text);
    return p;
}

/* One that must work. */
static inline planned plan_of(const npt_train_options *options, bool scan)
{
    planned p = plan_run(options, scan);
    if (p.status != NPT_OK) fail_msg("%s", npt_error_message());
    return p;
}

/* "policy.line"; NULL where there is nothing. */
static inline const json_t *plan_at(const planned *p, const char *path)
{
    const json_t *at = p->root;
    char key[64];
    while (*path != '\0' && at != NULL) {
        const size_t length = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)length, path);
        at = json_object_get(at, key);
        path += length + (path[length] == '.');
    }
    return at;
}

static inline const char *plan_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static inline int64_t plan_number(const planned *p, const char *path)
{
    const json_t *value = plan_at(p, path);
    if (!json_is_integer(value)) fail_msg("there is no number at %s", path);
    return (int64_t)json_integer_value(value);
}

/* The first object of a list in which `key` is `text` (and `key2` is `text2`); NULL. */
static inline const json_t *plan_find(const planned *p, const char *list, const char *key,
                                      const char *text, const char *key2, const char *text2)
{
    const json_t *all = plan_at(p, list);
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *object = json_array_get(all, i);
        if (strcmp(plan_text(object, key), text) == 0 &&
            (key2 == NULL || strcmp(plan_text(object, key2), text2) == 0))
            return object;
    }
    return NULL;
}

#endif
