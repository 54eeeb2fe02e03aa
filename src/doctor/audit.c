/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "doctor/audit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/nf4.h"

/* The tensors npt wants are looked up one by one, as loading does (model/tensors.h has the names
 * and the decisions), and counted in groups. What is left over in the files is counted, too. Then
 * every group is asked what is wrong with it. */

typedef struct auditor {
    const npt_model *model;
    const npt_policy *policy;
    npt_exec *exec; /* NULL: no scan */
    npt_audit *audit;
    npt_remarks *remarks;
    bool *seen; /* of the tensors in the files, in their order */
} auditor;

/* ---- One tensor ---- */

static bool has_shape(const npt_st_tensor *t, const npt_wanted *wanted)
{
    return t->rank == wanted->rank && t->shape[0] == wanted->shape[0] &&
           (wanted->rank == 1 || t->shape[1] == wanted->shape[1]);
}

static int64_t elements_of(const npt_st_tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++) count *= t->shape[i];
    return count;
}

static const npt_st_tensor *piece_of(auditor *a, const char *name, const char *suffix)
{
    char full[192];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    return npt_st_find(a->model->st, full);
}

static bool is_piece(const npt_st_tensor *t, npt_dtype dtype, int64_t count)
{
    return t != NULL && t->dtype == dtype && (count < 0 || elements_of(t) == count);
}

static uint64_t odd_bytes(const npt_st_tensor *t)
{
    return t->dtype == NPT_F32 && !npt_tensor_is_aligned(t) ? t->bytes : 0;
}

/* A linear stored in 4 bits: are its pieces there, and how much is restored on load? The record
 * itself is data, which is not read here. */
static npt_audit_fault check_stored(auditor *a, const npt_wanted *wanted, const npt_st_tensor *t,
                                    uint64_t *copied)
{
    const char *name = wanted->name;
    const int64_t count = wanted->shape[0] * wanted->shape[1],
                  blocks = (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK;
    const npt_st_tensor *absmax = piece_of(a, name, ".absmax"),
                        *map = piece_of(a, name, ".quant_map"),
                        *nested = piece_of(a, name, ".nested_absmax"),
                        *nested_map = piece_of(a, name, ".nested_quant_map");
    const bool two = absmax != NULL && absmax->dtype == NPT_U8;
    if (t->bytes != (uint64_t)(count + 1) / 2 ||
        piece_of(a, name, ".quant_state.bitsandbytes__nf4") == NULL ||
        !is_piece(map, NPT_F32, 16) || !is_piece(absmax, two ? NPT_U8 : NPT_F32, blocks) ||
        (two && (!is_piece(nested, NPT_F32, -1) || !is_piece(nested_map, NPT_F32, 256))))
        return NPT_AUDIT_PIECES;
    *copied = odd_bytes(map) + odd_bytes(absmax);
    if (two)
        *copied += (uint64_t)blocks * sizeof(float) + odd_bytes(nested) + odd_bytes(nested_map);
    return NPT_AUDIT_NONE;
}

static npt_audit_fault check_float(const auditor *a, const npt_wanted *wanted,
                                   const npt_st_tensor *t, npt_load_action action)
{
    if (!npt_dtype_is_float(t->dtype)) {
        const bool wide = t->dtype == NPT_F64 || t->dtype == NPT_C64;
        const bool silent = a->model->config.quantization[0] == '\0';
        return wanted->kind == NPT_TENSOR_LINEAR && silent && !wide ? NPT_AUDIT_INTEGER
                                                                    : NPT_AUDIT_DTYPE;
    }
    if (!has_shape(t, wanted)) return NPT_AUDIT_SHAPE;
    if (action == NPT_LOAD_QUANTIZED && !npt_tensor_is_aligned(t)) return NPT_AUDIT_UNALIGNED;
    return NPT_AUDIT_NONE;
}

/* What loading allocates for a tensor that it can load. */
static uint64_t copied_bytes(const npt_policy *policy, const npt_wanted *wanted,
                             const npt_st_tensor *t, npt_load_action action)
{
    const uint64_t count = (uint64_t)elements_of(t);
    const uint64_t bias = wanted->kind == NPT_TENSOR_BIAS ? count * sizeof(float) : 0;
    switch (action) {
    case NPT_LOAD_ALIGNED: return t->bytes + bias;
    case NPT_LOAD_CONVERTED: return count * npt_dtype_bytes(policy->dtype[NPT_ROLE_COMPUTE]) + bias;
    case NPT_LOAD_QUANTIZED:
        return (count + 1) / 2 + (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK * sizeof(float);
    case NPT_LOAD_IN_PLACE:
    case NPT_LOAD_WIDENED:
    case NPT_LOAD_STORED:
    case NPT_LOAD_ACTION_COUNT: break;
    }
    return bias;
}

/* The dtype in which a wanted tensor is used. */
static npt_dtype planned_dtype(const npt_policy *policy, npt_tensor_kind kind, npt_dtype file,
                               npt_load_action action)
{
    if (kind == NPT_TENSOR_EMBED) return policy->dtype[NPT_ROLE_ACT]; /* rounded where looked up */
    if (action == NPT_LOAD_QUANTIZED || action == NPT_LOAD_STORED) return NPT_NF4;
    npt_dtype planned = npt_tensor_planned(policy, kind, file);
    return planned == NPT_NF4 ? policy->dtype[NPT_ROLE_COMPUTE] : planned;
}

/* ---- Groups ---- */

static bool belongs(const npt_audit_group *g, const npt_audit_group *like)
{
    return strcmp(g->name, like->name) == 0 && g->file == like->file && g->fault == like->fault &&
           g->action == like->action && g->evaluation == like->evaluation;
}

static npt_status find_group(auditor *a, const npt_audit_group *like, const char *first,
                             npt_audit_group **group)
{
    npt_audit *audit = a->audit;
    for (size_t i = 0; i < audit->count; i++)
        if (belongs(&audit->groups[i], like)) {
            *group = &audit->groups[i];
            return NPT_OK;
        }
    npt_audit_group *groups = npt_realloc(audit->groups, audit->count + 1, sizeof *groups);
    if (groups == NULL) return NPT_E_NOMEM;
    audit->groups = groups;
    *group = &groups[audit->count];
    **group = *like;
    (*group)->scan.worst = "";
    (*group)->first = npt_strdup(first);
    if ((*group)->first == NULL) return NPT_E_NOMEM;
    audit->count++;
    return NPT_OK;
}

/* `t` NULL: it is missing. */
static npt_status count_tensor(auditor *a, const npt_audit_group *like, const char *name,
                               const npt_st_tensor *t, npt_audit_group **group)
{
    NPT_TRY(find_group(a, like, name, group));
    (*group)->tensors++;
    if (t == NULL) return NPT_OK;
    (*group)->elements += elements_of(t);
    (*group)->bytes += t->bytes;
    a->seen[t - npt_st_at(a->model->st, 0)] = true;
    return NPT_OK;
}

static bool differs(const npt_audit_group *g)
{
    if (g->record != NPT_DTYPE_NONE)
        return g->action != NPT_LOAD_STORED && npt_dtype_is_float(g->file);
    return npt_dtype_is_float(g->file) && g->config != NPT_DTYPE_NONE && g->file != g->config;
}

static npt_status look_at(auditor *a, const npt_wanted *wanted)
{
    const npt_config *c = &a->model->config;
    const npt_st_tensor *t = npt_st_find(a->model->st, wanted->name);
    const bool recorded = wanted->kind == NPT_TENSOR_LINEAR && c->quantized;
    uint64_t copied = 0;
    npt_audit_group like = {.name = wanted->group,
                            .kind = wanted->kind,
                            .config = c->dtype,
                            .record = recorded ? NPT_NF4 : NPT_DTYPE_NONE,
                            .fault = NPT_AUDIT_MISSING,
                            .used = true,
                            .evaluation = wanted->evaluation};
    if (t != NULL) {
        like.file = t->dtype;
        like.action = npt_tensor_action(a->policy, c->quantized, wanted->kind, t);
        like.fault = like.action == NPT_LOAD_STORED ? check_stored(a, wanted, t, &copied)
                                                    : check_float(a, wanted, t, like.action);
        if (like.fault == NPT_AUDIT_NONE && like.action != NPT_LOAD_STORED)
            copied = copied_bytes(a->policy, wanted, t, like.action);
    }
    like.planned = planned_dtype(a->policy, wanted->kind, like.file, like.action);
    like.mismatch = differs(&like);
    npt_audit_group *group;
    NPT_TRY(count_tensor(a, &like, wanted->name, t, &group));
    group->copied += copied;
    if (!wanted->evaluation) a->audit->copied += copied;
    if (a->exec == NULL || like.fault != NPT_AUDIT_NONE || wanted->evaluation ||
        like.action == NPT_LOAD_STORED)
        return NPT_OK;
    return npt_audit_scan_tensor(a->exec, t, like.planned == NPT_NF4 ? NPT_F32 : like.planned,
                                 &group->scan);
}

/* What npt does not ask for: the pieces of 4-bit linears, and the rest. */
static npt_status look_at_rest(auditor *a)
{
    for (size_t i = 0; i < npt_st_count(a->model->st); i++) {
        const npt_st_tensor *t = npt_st_at(a->model->st, i);
        a->audit->mapped += t->bytes;
        if (a->seen[i]) continue;
        const bool piece = strstr(t->name, ".weight.") != NULL;
        const npt_audit_group like = {.name = piece ? "quantization" : "others",
                                      .file = t->dtype,
                                      .used = piece && a->model->config.quantized};
        npt_audit_group *group;
        NPT_TRY(count_tensor(a, &like, t->name, t, &group));
    }
    return NPT_OK;
}

static npt_status look_at_all(auditor *a)
{
    const npt_config *c = &a->model->config;
    npt_wanted outside[NPT_MODEL_TENSORS], list[NPT_BLOCK_TENSORS_MAX];
    const int others = npt_model_tensors(c, outside);
    NPT_TRY(look_at(a, &outside[NPT_WANTED_EMBED]));
    for (int layer = 0; layer < c->layers; layer++) {
        const int count = npt_block_tensors(c, layer, list);
        for (int i = 0; i < count; i++) NPT_TRY(look_at(a, &list[i]));
    }
    for (int i = NPT_WANTED_FINAL_NORM; i < others; i++) NPT_TRY(look_at(a, &outside[i]));
    return look_at_rest(a);
}

/* ---- What is wrong ---- */

static const struct fault_row {
    const char *kind, *text;
} faults[NPT_AUDIT_FAULT_COUNT] = {
    [NPT_AUDIT_MISSING] = {"missing-tensor", "not in the files"},
    [NPT_AUDIT_INTEGER] = {"integer-without-record",
                           "integers, and config.json has no quantization_config that says what "
                           "they mean; npt reads bitsandbytes NF4 with its record"},
    [NPT_AUDIT_DTYPE] = {"unsupported-dtype", "nothing npt computes with; it reads F32, F16, BF16 "
                                              "and bitsandbytes NF4"},
    [NPT_AUDIT_SHAPE] = {"wrong-shape", "not of the shape that config.json asks for"},
    [NPT_AUDIT_PIECES] = {"broken-record",
                          "stored in 4 bits, but absmax, quant_map or quant_state is missing or of "
                          "another size"},
    [NPT_AUDIT_UNALIGNED] = {"unaligned", "at odd addresses in the file, where quantization cannot "
                                          "read it; save the checkpoint again"},
};

static npt_remark remark_on(const npt_audit_group *g, npt_verdict verdict, const char *kind)
{
    return (npt_remark){.verdict = verdict,
                        .kind = kind,
                        .site = g->kind == NPT_TENSOR_EMBED && g->used ? NPT_SITE_EMBED
                                                                       : NPT_SITE_WEIGHT,
                        .group = g->name,
                        .tensor = g->first};
}

/* What training does not read hinders only evaluation. */
static npt_status remark_fault(auditor *a, const npt_audit_group *g)
{
    npt_remark remark = remark_on(g, g->evaluation ? NPT_VERDICT_WARNING : NPT_VERDICT_WOULD_FAIL,
                                  faults[g->fault].kind);
    if (g->file == NPT_DTYPE_NONE)
        remark.text =
            npt_format("%s: %" PRId64 " %s %s%s", g->name, g->tensors,
                       g->tensors == 1 ? "tensor is" : "tensors are", faults[g->fault].text,
                       g->evaluation ? "; evaluation needs it" : "");
    else
        remark.text =
            npt_format("%s: %" PRId64 " %s in %s: %s%s", g->name, g->tensors,
                       g->tensors == 1 ? "tensor" : "tensors", npt_dtype_name(g->file),
                       faults[g->fault].text, g->evaluation ? "; evaluation needs it" : "");
    return npt_remarks_add(a->remarks, remark);
}

static npt_status remark_scan(auditor *a, const npt_audit_group *g)
{
    const npt_audit_scan *s = &g->scan;
    const char *to = npt_dtype_name(g->planned);
    npt_remark remark = remark_on(g, NPT_VERDICT_NUMERIC, "narrowing-overflow");
    if (s->worst[0] != '\0') remark.tensor = s->worst;
    if (s->overflowed > 0) {
        remark.text = npt_format("%s: %" PRIu64 " of %" PRIu64
                                 " values become infinite in %s, the largest is %g; use --use_bf16 "
                                 "or no precision flag",
                                 g->name, s->overflowed, s->values, to, (double)s->largest);
        NPT_TRY(npt_remarks_add(a->remarks, remark));
    }
    if (s->nonfinite > 0) {
        remark.kind = "non-finite";
        remark.text = npt_format("%s: %" PRIu64 " of %" PRIu64
                                 " values in the files are NaN or infinite; no dtype mends them",
                                 g->name, s->nonfinite, s->values);
        NPT_TRY(npt_remarks_add(a->remarks, remark));
    }
    if (s->flushed * 100 <= s->values) return NPT_OK;
    remark = remark_on(g, NPT_VERDICT_WARNING, "narrowing-underflow");
    remark.text = npt_format("%s: %" PRIu64 " of %" PRIu64 " values become zero in %s", g->name,
                             s->flushed, s->values, to);
    return npt_remarks_add(a->remarks, remark);
}

static npt_status remark_mismatch(auditor *a, const npt_audit_group *g)
{
    npt_remark remark = remark_on(g, NPT_VERDICT_WARNING, "config-dtype");
    if (g->record != NPT_DTYPE_NONE) {
        remark.kind = "record-dtype";
        remark.text = npt_format("%s: config.json says quantized (%s), but %" PRId64
                                 " %s; npt computes with them as they are (R1), in F32",
                                 g->name, a->model->config.quantization, g->tensors,
                                 g->tensors == 1 ? "tensor is a float" : "tensors are floats");
    } else {
        remark.text =
            npt_format("%s: config.json says %s, %" PRId64 " %s %s; npt goes by the file", g->name,
                       npt_dtype_name(g->config), g->tensors,
                       g->tensors == 1 ? "tensor is" : "tensors are", npt_dtype_name(g->file));
    }
    return npt_remarks_add(a->remarks, remark);
}

/* One remark a part of the model, at the second dtype it has. */
static npt_status remark_mixture(auditor *a, size_t index)
{
    const npt_audit_group *g = &a->audit->groups[index], *other = NULL;
    int before = 0;
    for (size_t i = 0; i < index; i++) {
        const npt_audit_group *o = &a->audit->groups[i];
        if (strcmp(o->name, g->name) != 0 || o->file == NPT_DTYPE_NONE) continue;
        if (o->file == g->file) return NPT_OK;
        if (before++ == 0) other = o;
    }
    if (other == NULL || before > 1 || !g->used || g->kind == NPT_TENSOR_SCALES ||
        g->file == NPT_DTYPE_NONE || strcmp(g->name, "quantization") == 0)
        return NPT_OK;
    npt_remark remark = remark_on(g, NPT_VERDICT_WARNING, "mixed-dtypes");
    remark.text =
        npt_format("%s: the files have %" PRId64 " in %s and %" PRId64 " in %s, first %s; npt "
                   "treats each by its own dtype",
                   g->name, other->tensors, npt_dtype_name(other->file), g->tensors,
                   npt_dtype_name(g->file), g->first);
    return npt_remarks_add(a->remarks, remark);
}

static npt_status remark_all(auditor *a)
{
    const npt_config *c = &a->model->config;
    if (c->quantization[0] != '\0' && !c->quantized) {
        npt_remark remark = {
            NPT_VERDICT_WOULD_FAIL, "unsupported-quantization", NPT_SITE_WEIGHT, "", "", NULL};
        remark.text = npt_format("config.json says quantized by %s; npt reads bitsandbytes NF4",
                                 c->quantization);
        NPT_TRY(npt_remarks_add(a->remarks, remark));
    }
    for (size_t i = 0; i < a->audit->count; i++) {
        const npt_audit_group *g = &a->audit->groups[i];
        if (g->fault != NPT_AUDIT_NONE) NPT_TRY(remark_fault(a, g));
        if (g->mismatch) NPT_TRY(remark_mismatch(a, g));
        NPT_TRY(remark_mixture(a, i));
        NPT_TRY(remark_scan(a, g));
    }
    return NPT_OK;
}

/* ---- Exported ---- */

npt_status npt_audit_run(npt_audit *audit, const npt_model *model, const npt_policy *policy,
                         npt_exec *exec, npt_remarks *remarks)
{
    auditor a = {model, policy, exec, audit, remarks, NULL};
    *audit = (npt_audit){.tensors = npt_st_count(model->st), .scanned = exec != NULL};
    a.seen = npt_alloc(audit->tensors + 1, sizeof *a.seen);
    npt_status status = a.seen != NULL ? look_at_all(&a) : NPT_E_NOMEM;
    if (status == NPT_OK) status = remark_all(&a);
    if (status == NPT_OK && exec != NULL) status = npt_st_check_unchanged(model->st);
    npt_free(a.seen);
    if (status != NPT_OK) npt_audit_fini(audit);
    return status;
}

void npt_audit_fini(npt_audit *audit)
{
    for (size_t i = 0; i < audit->count; i++) npt_free(audit->groups[i].first);
    npt_free(audit->groups);
    *audit = (npt_audit){0};
}
