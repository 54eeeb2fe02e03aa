/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/model.h"

#include "files/hub.h"
#include "model/load.h"

/* Opening, loading and closing; what becomes of a tensor is decided in load.c. */

/* The dtype of the linears is what counts, never that of "the first parameter" (R7). */
static npt_dtype linear_dtype(const npt_model *model)
{
    const npt_st_tensor *tensor = npt_st_find(model->st, "model.layers.0.mlp.gate_proj.weight");
    if (tensor == NULL) return model->config.dtype;
    if (model->config.quantized && npt_tensor_is_packed(tensor)) return NPT_NF4;
    return npt_dtype_is_float(tensor->dtype) ? tensor->dtype : NPT_NF4;
}

npt_status npt_model_open(npt_model **model, const char *name)
{
    npt_model *m;
    NPT_TRY(npt_model_examine(&m, name));
    npt_status status = npt_model_check(m);
    if (status == NPT_OK)
        *model = m;
    else
        npt_model_close(m);
    return status;
}

npt_status npt_model_examine(npt_model **model, const char *name)
{
    npt_model *m = npt_alloc(1, sizeof *m);
    if (m == NULL) return NPT_E_NOMEM;
    npt_status status = NPT_E_NOMEM;
    m->arena = npt_arena_create("model");
    if (m->arena == NULL) goto fail;
    NPT_TRY_GOTO(status, fail, npt_hub_resolve(name, &m->directory));
    NPT_TRY_GOTO(status, fail, npt_config_examine(m->directory, &m->config));
    NPT_TRY_GOTO(status, fail, npt_st_open(&m->st, m->directory, false));
    m->double_quantization = true;
    m->file_dtype = linear_dtype(m);
    *model = m;
    return NPT_OK;
fail:
    npt_model_close(m);
    return status;
}

npt_status npt_model_check(const npt_model *m)
{
    NPT_TRY(npt_config_check_quantization(m->directory, &m->config));
    if (m->file_dtype != NPT_NF4 || m->config.quantized) return NPT_OK;
    return npt_fail(
        NPT_E_FORMAT,
        "%s: the linears are stored as integers, but config.json has no quantization_config; "
        "npt reads bitsandbytes NF4 checkpoints",
        m->directory);
}

npt_status npt_model_make_room(npt_model *model)
{
    const npt_config *c = &model->config;
    model->blocks =
        npt_arena_zalloc(model->arena, NPT_MEM_OTHER, (size_t)c->layers, sizeof *model->blocks);
    model->inverse_frequencies =
        npt_arena_alloc(model->arena, NPT_MEM_OTHER, (size_t)c->head_dim / 2, sizeof(float));
    if (model->blocks == NULL || model->inverse_frequencies == NULL) return NPT_E_NOMEM;
    npt_config_inverse_frequencies(c, model->inverse_frequencies);
    return NPT_OK;
}

npt_status npt_model_load(npt_model *model, npt_exec *exec, const npt_policy *policy,
                          npt_sites *sites)
{
    npt_weight_loader l = npt_weight_loader_for(model, exec, policy, sites);
    const npt_config *c = &model->config;
    NPT_TRY(npt_model_make_room(model));
    npt_wanted outside[NPT_MODEL_TENSORS];
    npt_model_tensors(c, outside);
    NPT_TRY(npt_load_plain(&l, &outside[NPT_WANTED_EMBED], &model->embed));
    for (int layer = 0; layer < c->layers; layer++) NPT_TRY(npt_load_block(&l, layer));
    return npt_st_check_unchanged(model->st);
}

npt_status npt_model_load_head(npt_model *model, npt_exec *exec, const npt_policy *policy,
                               npt_sites *sites)
{
    npt_weight_loader l = npt_weight_loader_for(model, exec, policy, sites);
    const npt_config *c = &model->config;
    npt_wanted outside[NPT_MODEL_TENSORS];
    npt_in in;
    npt_model_tensors(c, outside);
    npt_wanted head = outside[c->tied ? NPT_WANTED_EMBED : NPT_WANTED_HEAD];
    head.kind = NPT_TENSOR_HEAD;
    NPT_TRY(npt_load_plain(&l, &head, &in));
    model->lm_head =
        (npt_weight){.rows = c->vocab, .cols = c->hidden, .dtype = in.dtype, .data = in.data};
    return npt_load_plain(&l, &outside[NPT_WANTED_FINAL_NORM], &model->norm_final);
}

/* Fewer bytes than this stay mapped as a whole: to map a page again costs about a microsecond,
 * which steps on a small model would feel. */
enum { EMBEDDING_KEPT = 32 << 20 };

static const npt_st_tensor *embedding_of(const npt_model *model)
{
    npt_wanted outside[NPT_MODEL_TENSORS];
    npt_model_tensors(&model->config, outside);
    return npt_st_find(model->st, outside[NPT_WANTED_EMBED].name);
}

void npt_model_release_embedding(const npt_model *model)
{
    const npt_st_tensor *embed = embedding_of(model);
    if (embed->bytes >= EMBEDDING_KEPT && model->embed.data == embed->data)
        npt_st_unmap(model->st, embed);
}

uint64_t npt_model_embedding_row(const npt_model *model)
{
    const npt_st_tensor *embed = embedding_of(model);
    return embed != NULL ? embed->bytes / (uint64_t)model->config.vocab : 0;
}

uint64_t npt_model_embedding_bytes(const npt_model *model)
{
    enum { AROUND = 64 << 10 }; /* which Linux maps with a page that is read */
    const npt_st_tensor *embed = embedding_of(model);
    if (embed == NULL) return 0;
    const uint64_t rows = NPT_EMBEDDED_AT_ONCE * (npt_model_embedding_row(model) + AROUND);
    return embed->bytes < EMBEDDING_KEPT || rows > embed->bytes ? embed->bytes : rows;
}

void npt_model_close(npt_model *model)
{
    if (model == NULL) return;
    npt_model_end_stream(model);
    npt_st_close(model->st);
    npt_arena_destroy(model->arena);
    npt_free(model->directory);
    npt_free(model);
}

int64_t npt_model_window(const npt_model *model, int layer)
{
    return layer >= model->config.window_from_layer ? model->config.window : 0;
}
