/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "model/load.h"
#include "tensor/nf4.h"

/* A model whose blocks pass by. The feed brings a block's bytes, npt_load_block() makes of them
 * what it makes of a mapped file, in an arena that lasts as long as the block. Invariant: between a
 * take and its release, and only then, model->blocks[layer] of that layer may be read. */

struct npt_model_stream {
    npt_weight_loader loader;
    npt_feed *feed;
    npt_st_tensor embed; /* as the header has it */
    bool held;           /* the feed's group is still in use */
    int counted;         /* layers whose conversions are counted */
};

/* Everything that the file has under the block's name. */
static npt_status add_block(npt_feed *feed, const npt_st *st, int layer)
{
    char prefix[64];
    const int length = snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    for (size_t i = 0; i < npt_st_count(st); i++) {
        const npt_st_tensor *tensor = npt_st_at(st, i);
        if (strncmp(tensor->name, prefix, (size_t)length) == 0)
            NPT_TRY(npt_feed_add(feed, (size_t)layer, tensor));
    }
    return NPT_OK;
}

/* Up through the blocks, and down again as far as backward goes; the highest is read once. */
static npt_status set_order(npt_feed *feed, int layers, int back_to)
{
    size_t count = 0, *order = npt_alloc(2 * (size_t)layers, sizeof *order);
    if (order == NULL) return NPT_E_NOMEM;
    for (int layer = 0; layer < layers; layer++) order[count++] = (size_t)layer;
    for (int layer = layers - 2; layer >= back_to; layer--) order[count++] = (size_t)layer;
    npt_status status = npt_feed_set_order(feed, order, count);
    npt_free(order);
    return status;
}

static npt_status make_feed(npt_model *model, int back_to, npt_feed **feed)
{
    npt_feed *made = NULL;
    const int layers = (int)model->config.layers;
    npt_status status = npt_feed_create(&made, model->st, (size_t)layers);
    for (int layer = 0; status == NPT_OK && layer < layers; layer++)
        status = add_block(made, model->st, layer);
    if (status == NPT_OK) status = set_order(made, layers, back_to);
    if (status == NPT_OK)
        *feed = made;
    else
        npt_feed_destroy(made);
    return status;
}

/* Whether a tensor that is rounded to another dtype can be so in the feed's buffer. */
static bool fits_its_place(const npt_policy *policy, npt_tensor_kind kind,
                           const npt_st_tensor *tensor)
{
    return npt_tensor_is_aligned(tensor) &&
           npt_dtype_bytes(npt_tensor_planned(policy, kind, tensor->dtype)) ==
               npt_dtype_bytes(tensor->dtype);
}

/* Linears that are all converted to another size leave nothing in the buffer that is needed after:
 * then the rest is copied too, and the buffer is free for the next block at once. */
static bool is_detached(const npt_model *model, const npt_policy *policy, const npt_wanted *list,
                        int count)
{
    for (int i = 0; i < count; i++) {
        const npt_st_tensor *tensor = npt_st_find(model->st, list[i].name);
        if (list[i].kind != NPT_TENSOR_LINEAR || tensor == NULL) continue;
        const npt_load_action action =
            npt_tensor_action(policy, model->config.quantized, list[i].kind, tensor);
        if (action != NPT_LOAD_CONVERTED && action != NPT_LOAD_QUANTIZED) return false;
        if (action == NPT_LOAD_CONVERTED && fits_its_place(policy, list[i].kind, tensor))
            return false;
    }
    return true;
}

/* Bytes of copies that npt_load_block() will make of one tensor; streamed: out of the feed's
 * buffer, else out of the mapped file. */
static size_t copies_of(const npt_model *model, const npt_policy *policy, const npt_wanted *wanted,
                        bool streamed, bool detached)
{
    enum { ROUNDING = 64 };
    const npt_st_tensor *tensor = npt_st_find(model->st, wanted->name);
    if (tensor == NULL) return 0;
    const size_t count = (size_t)(wanted->shape[0] * (wanted->rank == 2 ? wanted->shape[1] : 1)),
                 scales = (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK * sizeof(float);
    size_t bytes = wanted->kind == NPT_TENSOR_BIAS ? count * sizeof(float) + ROUNDING : 0;
    switch (npt_tensor_action(policy, model->config.quantized, wanted->kind, tensor)) {
    case NPT_LOAD_QUANTIZED: bytes += count / 2 + scales; break;
    case NPT_LOAD_STORED: bytes += scales; break;
    case NPT_LOAD_CONVERTED:
        if (streamed && !detached && fits_its_place(policy, wanted->kind, tensor)) break;
        bytes += count * npt_dtype_bytes(npt_tensor_planned(policy, wanted->kind, tensor->dtype));
        break;
    case NPT_LOAD_ALIGNED: bytes += tensor->bytes; break;
    default: bytes += detached ? tensor->bytes : 0;
    }
    return bytes + 2 * ROUNDING;
}

/* Bytes of the file that npt_load_block() reads once, where it loads for good. */
static size_t given_back(const npt_model *model, const npt_policy *policy, const npt_wanted *wanted)
{
    const npt_st_tensor *tensor = npt_st_find(model->st, wanted->name);
    if (tensor == NULL) return 0;
    switch (npt_tensor_action(policy, model->config.quantized, wanted->kind, tensor)) {
    case NPT_LOAD_CONVERTED:
    case NPT_LOAD_QUANTIZED: return tensor->bytes;
    default: return 0;
    }
}

npt_status npt_model_stream_needs(npt_model *model, const npt_policy *policy, int back_to,
                                  npt_stream_needs *needs)
{
    npt_feed *feed;
    *needs = (npt_stream_needs){0};
    NPT_TRY(make_feed(model, back_to, &feed));
    needs->least = npt_feed_least_bytes(feed);
    needs->most = npt_feed_most_bytes(feed);
    needs->in_place = npt_feed_all_bytes(feed);
    needs->pass = npt_feed_pass_bytes(feed);
    npt_feed_destroy(feed);
    for (int layer = 0; layer < model->config.layers; layer++) {
        npt_wanted list[NPT_BLOCK_TENSORS_MAX];
        const int count = npt_block_tensors(&model->config, layer, list);
        const bool detached = is_detached(model, policy, list, count);
        size_t copies = 0;
        for (int i = 0; i < count; i++) {
            copies += copies_of(model, policy, &list[i], true, detached);
            needs->all_copies += copies_of(model, policy, &list[i], false, false);
            needs->in_place -= given_back(model, policy, &list[i]);
        }
        if (copies > needs->copies) needs->copies = copies;
    }
    return NPT_OK;
}

npt_status npt_model_stream(npt_model *model, npt_exec *exec, const npt_policy *policy,
                            npt_sites *sites, const npt_stream_options *options)
{
    npt_wanted outside[NPT_MODEL_TENSORS];
    const npt_st_tensor *embed;
    npt_stream_needs needs;
    NPT_TRY(npt_model_make_room(model));
    npt_model_tensors(&model->config, outside);
    const npt_wanted *wanted = &outside[NPT_WANTED_EMBED];
    NPT_TRY(npt_st_require(model->st, wanted->name, NPT_DTYPE_NONE, wanted->rank, wanted->shape,
                           &embed));
    struct npt_model_stream *s = npt_arena_zalloc(model->arena, NPT_MEM_OTHER, 1, sizeof *s);
    if (s == NULL) return NPT_E_NOMEM;
    s->loader = npt_weight_loader_for(model, exec, policy, sites);
    s->loader.arena = npt_arena_create("block");
    s->loader.own = true;
    s->embed = *embed;
    model->stream = s; /* from here on npt_model_close() cleans up */
    if (s->loader.arena == NULL) return NPT_E_NOMEM;
    NPT_TRY(npt_model_stream_needs(model, policy, options->back_to, &needs));
    npt_arena_expect(s->loader.arena, needs.copies);
    NPT_TRY(make_feed(model, options->back_to, &s->feed));
    return npt_feed_start(s->feed, model->arena, options->buffer);
}

npt_status npt_model_take_block(npt_model *model, int layer)
{
    struct npt_model_stream *s = model->stream;
    npt_wanted list[NPT_BLOCK_TENSORS_MAX];
    const int count = npt_block_tensors(&model->config, layer, list);
    NPT_TRY(npt_feed_take(s->feed, (size_t)layer));
    s->held = true;
    npt_arena_reset(s->loader.arena);
    s->loader.detached = is_detached(model, s->loader.policy, list, count);
    s->loader.counted = layer < s->counted;
    NPT_TRY(npt_load_block(&s->loader, layer));
    if (layer >= s->counted) s->counted = layer + 1;
    if (!s->loader.detached) return NPT_OK;
    npt_feed_release(s->feed);
    s->held = false;
    return NPT_OK;
}

void npt_model_release_block(npt_model *model)
{
    if (model->stream->held) npt_feed_release(model->stream->feed);
    model->stream->held = false;
}

npt_status npt_model_rewind_blocks(npt_model *model)
{
    npt_feed_rewind(model->stream->feed);
    model->stream->held = false;
    return npt_st_check_unchanged(model->st);
}

npt_status npt_model_read_embedding(npt_model *model, const int32_t *ids, int64_t count, void *rows)
{
    const npt_st_tensor *embed = &model->stream->embed;
    const size_t bytes = (size_t)model->config.hidden * npt_dtype_bytes(embed->dtype);
    for (int64_t i = 0; i < count; i++)
        NPT_TRY(npt_st_read(model->st, embed, (uint64_t)ids[i] * bytes,
                            (char *)rows + (size_t)i * bytes, bytes));
    npt_st_forget(model->st, embed);
    return NPT_OK;
}

npt_dtype npt_model_embedding_dtype(const npt_model *model)
{
    return model->stream->embed.dtype;
}

void npt_model_end_stream(npt_model *model)
{
    if (model->stream == NULL) return;
    npt_feed_destroy(model->stream->feed);
    npt_arena_destroy(model->stream->loader.arena);
    model->stream = NULL;
}

npt_feed_figures npt_model_streamed(const npt_model *model)
{
    return npt_feed_told(model->stream->feed);
}
