/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "doctor/plan.h"
#include "model/block.h"
#include "tensor/dtype.h"
#include "train/describe.h"

/* The schema is in doc/precision.md. Keys are added, never renamed. A NULL that jansson returns for
 * lack of memory travels up to the root, which is then NULL. */

/* null where nothing is said. */
static json_t *dtype_json(npt_dtype dtype)
{
    return dtype == NPT_DTYPE_NONE ? json_null() : json_string(npt_dtype_name(dtype));
}

static const char *site_text(npt_site_id site)
{
    return site == NPT_SITE_COUNT ? "" : npt_site_name(site);
}

static json_t *policy_json(const npt_policy *policy)
{
    char line[256];
    json_t *roles = json_array();
    for (int i = 0; i < NPT_ROLE_COUNT; i++) {
        const npt_role role = (npt_role)i;
        json_array_append_new(
            roles,
            json_pack("{s:s, s:o, s:i, s:s, s:s}", "role", npt_role_name(role), "dtype",
                      dtype_json(policy->dtype[role]), "rule", (int)policy->rule[role], "rule_text",
                      npt_rule_text(policy->rule[role]), "about", npt_plan_role_text(role)));
    }
    npt_policy_describe(policy, line, sizeof line);
    return json_pack("{s:s, s:i, s:s, s:b, s:o}", "line", line, "rule", (int)policy->base_rule,
                     "loss_scale", policy->dynamic_loss_scale ? "dynamic" : "off",
                     "quantize_on_load", (int)policy->quantize_on_load, "roles", roles);
}

static json_t *model_json(const npt_plan *plan)
{
    const npt_model *m = plan->setup.model;
    const npt_config *c = &m->config;
    json_t *layers = json_array();
    for (int i = 0; i < plan->adapters.layers; i++)
        if (plan->adapters.active[i]) json_array_append_new(layers, json_integer(i));
    return json_pack("{s:o, s:s, s:I, s:o, s:o, s:o, s:{s:i, s:s, s:o, s:I}}", "directory",
                     npt_describe_text(m->directory), "family", npt_family_name(c->family),
                     "layers", (json_int_t)c->layers, "file_dtype", dtype_json(m->file_dtype),
                     "config_dtype", dtype_json(c->dtype), "quantization",
                     c->quantization[0] != '\0' ? npt_describe_text(c->quantization) : json_null(),
                     "adapters", "rank", plan->adapters.rank, "modulation",
                     plan->adapters.kind->name, "layers", layers, "weights",
                     (json_int_t)npt_adapters_size(&plan->adapters));
}

static json_t *directions_json(unsigned bits)
{
    static const char *const names[NPT_DIRECTION_COUNT] = {"forward", "backward", "recompute"};
    json_t *list = json_array();
    for (int i = 0; i < NPT_DIRECTION_COUNT; i++)
        if (bits & 1u << i) json_array_append_new(list, json_string(names[i]));
    return list;
}

static json_t *cast_json(const npt_casts *casts, const npt_cast_row *row)
{
    json_t *layers = json_array();
    for (int i = 0; i < casts->layers; i++)
        if (row->layers[i]) json_array_append_new(layers, json_integer(i));
    return json_pack("{s:s, s:o, s:s, s:s, s:s, s:I, s:I, s:o, s:o, s:s}", "site",
                     npt_site_name(row->site), "layers", layers, "from", npt_dtype_name(row->from),
                     "to", npt_dtype_name(row->to), "direction",
                     npt_plan_direction(row->from, row->to), "elements_per_token",
                     (json_int_t)row->per_token, "bytes_per_token",
                     (json_int_t)((uint64_t)row->per_token * npt_dtype_bytes(row->to)), "teacher",
                     directions_json(row->teacher), "student", directions_json(row->student), "why",
                     npt_plan_cast_text(row->site));
}

static json_t *digest_json(const npt_sites *sites)
{
    char digest[32];
    snprintf(digest, sizeof digest, "%016" PRIx64, npt_sites_digest(sites));
    return json_pack("{s:s, s:i}", "digest", digest, "casts", npt_sites_count(sites));
}

static json_t *scan_json(const npt_audit_scan *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:s}", "values", (json_int_t)s->values,
                     "become_infinite", (json_int_t)s->overflowed, "become_zero",
                     (json_int_t)s->flushed, "not_finite", (json_int_t)s->nonfinite, "largest",
                     (double)s->largest, "worst", s->worst);
}

static json_t *group_json(const npt_audit *audit, const npt_audit_group *g)
{
    const bool scanned = audit->scanned && g->scan.values > 0;
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:I, s:b, s:b, s:o}",
                     "group", g->name, "first", g->first, "tensors", (json_int_t)g->tensors,
                     "elements", (json_int_t)g->elements, "bytes", (json_int_t)g->bytes, "file",
                     dtype_json(g->file), "config", dtype_json(g->config), "record",
                     dtype_json(g->record), "planned", dtype_json(g->planned), "action",
                     npt_plan_action_name(g), "copied_bytes", (json_int_t)g->copied, "mismatch",
                     (int)g->mismatch, "evaluation_only", (int)g->evaluation, "scan",
                     scanned ? scan_json(&g->scan) : json_null());
}

static json_t *files_json(const npt_audit *audit)
{
    json_t *groups = json_array();
    for (size_t i = 0; i < audit->count; i++)
        json_array_append_new(groups, group_json(audit, &audit->groups[i]));
    return json_pack("{s:I, s:I, s:b, s:o}", "tensors", (json_int_t)audit->tensors, "bytes",
                     (json_int_t)audit->mapped, "scanned", (int)audit->scanned, "groups", groups);
}

static json_t *memory_json(const npt_plan_memory *m)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights_mapped",
                     (json_int_t)m->mapped, "weights_copied", (json_int_t)m->copies, "adapters",
                     (json_int_t)m->adapters, "masters", (json_int_t)m->masters, "moments",
                     (json_int_t)m->moments, "gradients", (json_int_t)m->gradients, "activations",
                     (json_int_t)m->activations, "resident", (json_int_t)m->resident);
}

static json_t *would_json(const npt_would *w)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", w->id, "where", w->where,
                     "exception", w->exception, "text", w->text, "seen", w->seen, "site",
                     site_text(w->site), "severity_there", npt_plan_verdict_name(w->severity_there),
                     "npt", w->instead);
}

static json_t *remark_json(const npt_remark *r)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "verdict", npt_plan_verdict_name(r->verdict),
                     "kind", r->kind, "site", npt_site_name(r->site), "group", r->group, "tensor",
                     r->tensor, "text", npt_describe_text(r->text));
}

static json_t *plan_json(const npt_plan *plan)
{
    json_t *casts = json_array(), *would = json_array(), *findings = json_array();
    for (size_t i = 0; i < plan->casts.count; i++)
        json_array_append_new(casts, cast_json(&plan->casts, &plan->casts.rows[i]));
    for (size_t i = 0; i < plan->would_count; i++)
        json_array_append_new(would, would_json(plan->would[i]));
    for (size_t i = 0; i < plan->remarks.count; i++)
        json_array_append_new(findings, remark_json(&plan->remarks.list[i]));
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:{s:o, s:o}, s:o, s:o, s:o, s:o}", "schema",
                     "npt-doctor-plan/1", "npt_version", npt_version(), "verdict",
                     npt_plan_verdict_name(plan->verdict), "findings", findings, "model",
                     model_json(plan), "policy", policy_json(&plan->setup.policy), "digest",
                     "student", digest_json(plan->student), "teacher", digest_json(plan->teacher),
                     "casts", casts, "files", files_json(&plan->audit), "memory",
                     memory_json(&plan->memory), "would", would);
}

npt_status npt_plan_dump(const npt_plan *plan, FILE *out)
{
    json_t *root = plan_json(plan);
    if (root == NULL) return npt_fail(NPT_E_NOMEM, "out of memory");
    int failed =
        json_dumpf(root, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    json_decref(root);
    putc('\n', out);
    return failed == 0 || ferror(out) ? NPT_OK : npt_fail(NPT_E_NOMEM, "out of memory");
}
