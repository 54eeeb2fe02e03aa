/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "bench/bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Reads the lists of `npt bench`: words, shapes, numbers of tokens. What is not asked for gets its
 * defaults here, the quick ones or the usual. */

enum { MAX_SIZE = 1 << 20, MAX_LAYERS = 1000, MAX_TOKENS = 1 << 20 };

static const char *const topic_names[] = {"matmul", "step", "start", "memory", NULL};

/* ---- Words ---- */

static npt_status unknown_word(const char *flag, const char *const *names, const char *word,
                               size_t length)
{
    char all[256] = "";
    for (int i = 0; names[i] != NULL; i++) {
        const size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    return npt_fail(NPT_E_USAGE, "%s does not know \"%.*s\"; there are: %s", flag, (int)length,
                    word, all);
}

/* The bit of a word in a table. */
static npt_status read_word(const char *flag, const char *const *names, const char *word,
                            size_t length, unsigned *bits)
{
    for (int i = 0; names[i] != NULL; i++)
        if (strlen(names[i]) == length && memcmp(names[i], word, length) == 0) {
            *bits |= 1u << i;
            return NPT_OK;
        }
    return unknown_word(flag, names, word, length);
}

static npt_status read_words(const char *flag, const char *const *names, const char *text,
                             unsigned *bits)
{
    if (text == NULL) return NPT_OK;
    *bits = 0;
    for (;; text++) {
        const size_t length = strcspn(text, ",");
        NPT_TRY(read_word(flag, names, text, length, bits));
        text += length;
        if (*text == '\0') return NPT_OK;
    }
}

/* ---- Numbers ---- */

static bool read_number(const char **text, int64_t high, int64_t *value)
{
    char *end;
    if (**text < '0' || **text > '9') return false;
    const long long number = strtoll(*text, &end, 10);
    if (number < 1 || number > high) return false;
    *value = number;
    *text = end;
    return true;
}

static bool read_shape(const char **text, npt_bench_shape *shape)
{
    if (!read_number(text, MAX_SIZE, &shape->hidden) || *(*text)++ != 'x') return false;
    if (!read_number(text, MAX_SIZE, &shape->inter)) return false;
    shape->layers = 0;
    if (**text != 'x') return true;
    ++*text;
    return read_number(text, MAX_LAYERS, &shape->layers);
}

/* Heads are of 128, 64 or 16; with their quarter of key and value heads. */
static npt_status check_shape(const npt_bench_shape *shape)
{
    if (shape->hidden % 64 == 0 && shape->inter % 2 == 0) return NPT_OK;
    return npt_fail(NPT_E_USAGE,
                    "--shape %" PRId64 "x%" PRId64 ": the hidden size must be a multiple of 64, "
                    "the MLP's even",
                    shape->hidden, shape->inter);
}

/* Each shape serves matmuls; steps need layers, and have 8 where nothing is said. */
static npt_status read_shapes(const char *text, npt_bench_request *r)
{
    const char *at = text;
    for (int i = 0; i < NPT_BENCH_LIST; i++, at++) {
        npt_bench_shape shape;
        if (!read_shape(&at, &shape) || (*at != ',' && *at != '\0')) break;
        NPT_TRY(check_shape(&shape));
        r->matmul_shapes[r->matmul_shape_count++] = shape;
        if (shape.layers == 0) shape.layers = 8;
        r->step_shapes[r->step_shape_count++] = shape;
        if (*at == '\0') return NPT_OK;
    }
    return npt_fail(NPT_E_USAGE,
                    "--shape %s: a list like 4096x14336 or 1024x2816x8,2048x5632x6 is expected "
                    "(hidden x MLP x layers), of at most %d",
                    text, NPT_BENCH_LIST);
}

static npt_status read_tokens(const char *text, npt_bench_request *r)
{
    const char *at = text;
    r->matmul_token_count = 0;
    for (int i = 0; i < NPT_BENCH_LIST; i++, at++) {
        int64_t tokens;
        if (!read_number(&at, MAX_TOKENS, &tokens) || (*at != ',' && *at != '\0')) break;
        r->matmul_tokens[r->matmul_token_count++] = r->step_tokens = tokens;
        if (*at == '\0') return NPT_OK;
    }
    return npt_fail(NPT_E_USAGE,
                    "--tokens %s: a list of numbers like 1,16,128,512 is expected, of "
                    "at most %d",
                    text, NPT_BENCH_LIST);
}

/* ---- All ---- */

static void set_defaults(const npt_bench_options *o, npt_bench_request *r)
{
    static const int64_t usual_tokens[] = {1, 16, 128, 512}, quick_tokens[] = {1, 16};
    *r = (npt_bench_request){.options = o,
                             .topics = NPT_BENCH_ALL,
                             .matmul_recipes = ~0u,
                             .step_recipes = 7, /* the three of method.md §6 */
                             .modes = 3,
                             .step_tokens = o->quick ? 32 : 512,
                             .seconds = o->seconds > 0 ? o->seconds
                                        : o->quick     ? 0.002
                                                       : 1,
                             .pool_bytes = (size_t)(o->quick ? 1 : 256) << 20};
    r->matmul_token_count = o->quick ? 2 : 4;
    memcpy(r->matmul_tokens, o->quick ? quick_tokens : usual_tokens,
           (size_t)r->matmul_token_count * sizeof(int64_t));
}

static void set_default_shapes(const npt_bench_options *o, npt_bench_request *r)
{
    static const npt_bench_shape llama_8b = {4096, 14336, 0}, small = {1024, 2816, 8},
                                 tiny = {128, 352, 2};
    r->matmul_shapes[r->matmul_shape_count++] = o->quick ? tiny : llama_8b;
    r->step_shapes[r->step_shape_count++] = o->quick ? tiny : small;
}

npt_status npt_bench_read(const npt_bench_options *o, npt_bench_request *r)
{
    set_defaults(o, r);
    if (o->topic_count > 0) r->topics = 0;
    for (int i = 0; i < o->topic_count; i++)
        NPT_TRY(
            read_word("npt bench", topic_names, o->topics[i], strlen(o->topics[i]), &r->topics));
    NPT_TRY(read_words("--dtypes", npt_bench_matmul_recipes, o->dtypes, &r->matmul_recipes));
    NPT_TRY(read_words("--recipes", npt_bench_step_recipes, o->recipes, &r->step_recipes));
    NPT_TRY(read_words("--distill", npt_bench_modes, o->distill, &r->modes));
    if (o->shapes != NULL)
        NPT_TRY(read_shapes(o->shapes, r));
    else
        set_default_shapes(o, r);
    if (o->tokens != NULL) NPT_TRY(read_tokens(o->tokens, r));
    return o->plot != NULL ? npt_bench_plot_check(o->plot) : NPT_OK;
}
