/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/tokenizer_impl.h"

#include <string.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "text/utf8.h"

/* Reads the normalizer, pre_tokenizer and decoder of a tokenizer.json into lists of steps. One
 * table says which step is known at which stage and how its settings are read; a step that is not
 * in it is refused by name. */

/* The pattern of ByteLevel's use_regex, published with GPT-2. */
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
    "\\s+(?!\\S)|\\s+";

typedef npt_status load_function(npt_step *step, const json_t *json, const char *what);

static npt_status load_nothing(npt_step *step, const json_t *json, const char *what)
{
    (void)step;
    (void)json;
    (void)what;
    return NPT_OK;
}

static npt_status load_content(npt_step *step, const json_t *json, const char *key,
                               const char *what)
{
    const char *content;
    NPT_TRY(npt_json_string(json, key, what, NULL, &content));
    if (content == NULL) return npt_fail(NPT_E_FORMAT, "%s: a step has no \"%s\"", what, key);
    step->content = npt_strdup(content);
    if (step->content == NULL) return NPT_E_NOMEM;
    step->content_length = strlen(content);
    return NPT_OK;
}

/* {"String": "…"} or {"Regex": "…"}. */
static npt_status load_pattern(npt_step *step, const json_t *json, const char *what)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *string = NULL, *regex = NULL;

    if (json_is_object(pattern)) {
        NPT_TRY(npt_json_string(pattern, "String", what, NULL, &string));
        NPT_TRY(npt_json_string(pattern, "Regex", what, NULL, &regex));
    }
    if ((string == NULL) == (regex == NULL))
        return npt_fail(NPT_E_FORMAT,
                        "%s: the pattern of a Split or Replace step must be {\"String\": …} or "
                        "{\"Regex\": …}",
                        what);
    if (string != NULL) return npt_pattern_literal(&step->pattern, string);
    return npt_pattern_regex(&step->pattern, regex, what);
}

static npt_status load_prepend(npt_step *step, const json_t *json, const char *what)
{
    return load_content(step, json, "prepend", what);
}

static npt_status load_replace(npt_step *step, const json_t *json, const char *what)
{
    NPT_TRY(load_pattern(step, json, what));
    return load_content(step, json, "content", what);
}

static npt_status load_split(npt_step *step, const json_t *json, const char *what)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    char shown[NPT_SHOW_BYTES];
    const char *behavior;
    int i = 0;

    NPT_TRY(load_pattern(step, json, what));
    NPT_TRY(npt_json_bool(json, "invert", what, false, &step->invert));
    NPT_TRY(npt_json_string(json, "behavior", what, "", &behavior));
    while (i < 5 && strcmp(behavior, names[i]) != 0) i++;
    if (i == 5)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: Split has the behavior \"%s\", which npt does not "
                        "know",
                        what, npt_show(behavior, shown));
    step->behavior = (npt_behavior)i;
    return NPT_OK;
}

static npt_status load_byte_level(npt_step *step, const json_t *json, const char *what)
{
    bool use_regex;
    NPT_TRY(npt_json_bool(json, "add_prefix_space", what, true, &step->prefix_space));
    NPT_TRY(npt_json_bool(json, "use_regex", what, true, &use_regex));
    return use_regex ? npt_pattern_regex(&step->pattern, gpt2_regex, what) : NPT_OK;
}

/* Older files say add_prefix_space instead of prepend_scheme. */
static npt_status load_metaspace(npt_step *step, const json_t *json, const char *what)
{
    static const char *const names[] = {"always", "first", "never"};
    char shown[NPT_SHOW_BYTES];
    const char *scheme;
    bool prefix;
    size_t one = 0;
    int i = 0;

    NPT_TRY(load_content(step, json, "replacement", what));
    if (step->content_length > 0) npt_utf8_next(step->content, &one);
    if (one == 0 || one != step->content_length)
        return npt_fail(NPT_E_FORMAT, "%s: Metaspace's replacement must be one character", what);
    NPT_TRY(npt_json_bool(json, "add_prefix_space", what, true, &prefix));
    NPT_TRY(npt_json_string(json, "prepend_scheme", what, prefix ? "always" : "never", &scheme));
    while (i < 3 && strcmp(scheme, names[i]) != 0) i++;
    if (i == 3)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s: Metaspace has the prepend_scheme \"%s\", which npt "
                        "does not know",
                        what, npt_show(scheme, shown));
    step->scheme = (npt_prepend_scheme)i;
    if (!prefix && step->scheme != NPT_PREPEND_NEVER)
        return npt_fail(NPT_E_FORMAT,
                        "%s: Metaspace's add_prefix_space contradicts its "
                        "prepend_scheme \"%s\"",
                        what, scheme);
    NPT_TRY(npt_json_bool(json, "split", what, true, &step->split));
    return npt_pattern_literal(&step->pattern, step->content);
}

static npt_status load_digits(npt_step *step, const json_t *json, const char *what)
{
    bool individual;
    NPT_TRY(npt_json_bool(json, "individual_digits", what, false, &individual));
    step->behavior = individual ? NPT_SPLIT_ISOLATED : NPT_SPLIT_CONTIGUOUS;
    return NPT_OK;
}

static npt_status load_strip(npt_step *step, const json_t *json, const char *what)
{
    NPT_TRY(load_content(step, json, "content", what));
    NPT_TRY(npt_json_int(json, "start", what, 0, 0, INT32_MAX, &step->start));
    return npt_json_int(json, "stop", what, 0, 0, INT32_MAX, &step->stop);
}

/* Stages as bits, so that a step known at two of them is one line. */
enum { NORMALIZER = 1, PRE_TOKENIZER = 2, DECODER = 4 };

static const struct {
    const char *name;
    int stages;
    npt_step_kind kind;
    load_function *load;
} known[] = {
    {"NFC", NORMALIZER, NPT_STEP_NFC, load_nothing},
    {"Prepend", NORMALIZER, NPT_STEP_PREPEND, load_prepend},
    {"Replace", NORMALIZER | DECODER, NPT_STEP_REPLACE, load_replace},
    {"Split", PRE_TOKENIZER, NPT_STEP_SPLIT, load_split},
    {"ByteLevel", PRE_TOKENIZER | DECODER, NPT_STEP_BYTE_LEVEL, load_byte_level},
    {"Metaspace", PRE_TOKENIZER | DECODER, NPT_STEP_METASPACE, load_metaspace},
    {"Digits", PRE_TOKENIZER, NPT_STEP_DIGITS, load_digits},
    {"ByteFallback", DECODER, NPT_STEP_BYTE_FALLBACK, load_nothing},
    {"Fuse", DECODER, NPT_STEP_FUSE, load_nothing},
    {"Strip", DECODER, NPT_STEP_STRIP, load_strip},
};

static const struct {
    const char *key, *list; /* "list": where a Sequence of this stage has its steps */
    int stage;
} stages[] = {
    {"normalizer", "normalizers", NORMALIZER},
    {"pre_tokenizer", "pretokenizers", PRE_TOKENIZER},
    {"decoder", "decoders", DECODER},
};

static npt_status load_step(npt_steps *steps, const json_t *json, size_t stage, const char *what)
{
    const char *type, *key = stages[stage].key;
    size_t i = 0, count = sizeof(known) / sizeof(known[0]);
    char shown[NPT_SHOW_BYTES];
    npt_step *step;

    if (!json_is_object(json))
        return npt_fail(NPT_E_FORMAT, "%s: a step of \"%s\" is not an object", what, key);
    NPT_TRY(npt_json_string(json, "type", what, "", &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, stages[stage].list), *item;
        size_t at;
        if (!json_is_array(list))
            return npt_fail(NPT_E_FORMAT, "%s: a Sequence in \"%s\" has no list \"%s\"", what, key,
                            stages[stage].list);
        json_array_foreach(list, at, item) NPT_TRY(load_step(steps, item, stage, what));
        return NPT_OK;
    }
    while (i < count &&
           (strcmp(type, known[i].name) != 0 || !(known[i].stages & stages[stage].stage)))
        i++;
    if (i == count)
        return npt_fail(NPT_E_UNSUPPORTED, "%s: the %s \"%s\" is not one that npt supports", what,
                        key, npt_show(type, shown));
    NPT_TRY(npt_grow(&steps->data, &steps->capacity, steps->count + 1, sizeof(*steps->data)));
    step = &steps->data[steps->count++];
    *step = (npt_step){.kind = known[i].kind};
    return known[i].load(step, json, what);
}

npt_status npt_steps_load(npt_steps *steps, const json_t *root, const char *stage, const char *what)
{
    const json_t *json = json_object_get(root, stage);
    size_t i = 0;

    if (json == NULL || json_is_null(json)) return NPT_OK;
    while (strcmp(stages[i].key, stage) != 0) i++;
    return load_step(steps, json, i, what);
}

void npt_steps_fini(npt_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        npt_pattern_close(steps->data[i].pattern);
        npt_free(steps->data[i].content);
    }
    npt_free(steps->data);
    *steps = (npt_steps){0};
}
