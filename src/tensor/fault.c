/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "tensor/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tensor/dtype.h"

/* The grammar is KIND:[teacher.]SITE[.DIRECTION][=DTYPE][@STEP], SITE as npt_site_label() writes
 * it. */

static const struct {
    const char *name;
    npt_fault_kind kind;
} kinds[] = {
    {"overflow", NPT_FAULT_OVERFLOW}, {"underflow", NPT_FAULT_UNDERFLOW}, {"nan", NPT_FAULT_NAN},
    {"cast", NPT_FAULT_CAST},         {"no_master", NPT_FAULT_NO_MASTER},
};

static npt_status refused(const char *text, const char *why)
{
    return npt_fail(NPT_E_USAGE, "the fault \"%s\" %s; an example: overflow:L02.gate_mod@3", text,
                    why);
}

static bool take_kind(const char *word, npt_fault *fault)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(word, kinds[i].name) == 0) fault->kind = kinds[i].kind;
    if (strcmp(word, "nan-batch") == 0)
        *fault = (npt_fault){.kind = NPT_FAULT_NAN,
                             .site = NPT_SITE_EMBED,
                             .layer = -1,
                             .teacher = true,
                             .step = fault->step};
    return fault->kind != NPT_FAULT_NONE;
}

static bool take_dtype(const char *word, npt_fault *fault)
{
    for (int i = NPT_F32; i < NPT_DTYPE_COUNT; i++)
        if (strcmp(word, npt_dtype_name((npt_dtype)i)) == 0) fault->dtype = (npt_dtype)i;
    return fault->dtype != NPT_DTYPE_NONE;
}

static bool take_step(const char *word, npt_fault *fault)
{
    char *end;
    errno = 0;
    long long step = strtoll(word, &end, 10);
    fault->step = step;
    return *word >= '0' && *word <= '9' && *end == '\0' && errno == 0 && step >= 1;
}

static bool take_site(const char *word, npt_fault *fault)
{
    char label[64];
    fault->teacher = strncmp(word, "teacher.", 8) == 0;
    if (fault->teacher) word += 8;
    fault->layer = -1;
    if (word[0] == 'L') {
        char *end;
        long layer = strtol(word + 1, &end, 10);
        if (end == word + 1 || *end != '.' || layer < 0 || layer > 100000) return false;
        fault->layer = (int)layer;
    }
    for (int id = 0; id < NPT_SITE_COUNT; id++)
        for (int direction = 0; direction < NPT_DIRECTION_COUNT; direction++)
            if (strcmp(word, npt_site_label((npt_site_id)id, fault->layer, (npt_direction)direction,
                                            label, sizeof label)) == 0) {
                fault->site = (npt_site_id)id;
                fault->direction = (npt_direction)direction;
                return true;
            }
    return false;
}

npt_status npt_fault_parse(const char *text, npt_fault *fault)
{
    char copy[128];
    *fault = (npt_fault){0};
    if (strlen(text) >= sizeof copy) return refused(text, "is too long");
    strcpy(copy, text);
    char *step = strchr(copy, '@'), *dtype = strchr(copy, '='), *site = strchr(copy, ':');
    if (step != NULL) *step++ = '\0';
    if (dtype != NULL) *dtype++ = '\0';
    if (site != NULL) *site++ = '\0';
    if (step != NULL && !take_step(step, fault))
        return refused(text, "has no step from 1 after the @");
    if (!take_kind(copy, fault)) return refused(text, "is of no known kind");
    const bool whole = fault->kind == NPT_FAULT_NO_MASTER || fault->site == NPT_SITE_EMBED;
    if ((site != NULL) == whole) return refused(text, whole ? "takes no site" : "names no site");
    if (site != NULL && !take_site(site, fault)) return refused(text, "names a site that is none");
    if ((dtype != NULL) != (fault->kind == NPT_FAULT_CAST) ||
        (dtype != NULL && !take_dtype(dtype, fault)))
        return refused(text, "needs a dtype after = where it is a cast, and only there");
    return NPT_OK;
}

npt_status npt_fault_from_environment(npt_fault *fault)
{
    const char *text = getenv("NPT_DEBUG_FAULT");
    *fault = (npt_fault){0};
    if (text == NULL || text[0] == '\0') return NPT_OK;
    NPT_TRY(npt_fault_parse(text, fault));
    npt_log(NPT_LOG_WARNING, "NPT_DEBUG_FAULT: this run is damaged on purpose: %s", text);
    return NPT_OK;
}
