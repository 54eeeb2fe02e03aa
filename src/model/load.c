/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "files/json.h"
#include "tensor/nf4.h"

/* From names in a file to operands. Every tensor passes load_plain() or load_linear(), which do
 * what npt_tensor_action() decides; nothing is read before its shape and dtype are checked. */

npt_weight_loader npt_weight_loader_for(npt_model *model, npt_exec *exec, const npt_policy *policy,
                                        npt_sites *sites)
{
    return (npt_weight_loader){model, exec, policy, sites, model->arena, false, false, false};
}

/* ---- One tensor ---- */

/* The tensor in the dtype planned for its kind (F32, or what the plan says of NPT_SITE_WEIGHT), in
 * place where its bytes will do. */
static npt_status load_floats(npt_weight_loader *l, const npt_st_tensor *tensor,
                              npt_tensor_kind kind, int64_t count, npt_in *in)
{
    npt_load_action action = npt_tensor_action(l->policy, l->model->config.quantized, kind, tensor);
    *in = (npt_in){tensor->data, tensor->dtype};
    if (l->detached && action != NPT_LOAD_CONVERTED) action = NPT_LOAD_ALIGNED;
    if (action == NPT_LOAD_IN_PLACE || action == NPT_LOAD_WIDENED) return NPT_OK;
    npt_dtype to = action == NPT_LOAD_ALIGNED
                       ? tensor->dtype
                       : npt_site(l->sites, NPT_SITE_WEIGHT, -1, NPT_FORWARD, tensor->dtype, count);
    /* rounding within the same number of bytes needs no other place */
    const bool stays = l->own && !l->detached && npt_tensor_is_aligned(tensor) &&
                       npt_dtype_bytes(to) == npt_dtype_bytes(tensor->dtype);
    void *copy =
        stays ? (void *)(uintptr_t)tensor->data
              : npt_arena_alloc(l->arena, NPT_MEM_WEIGHTS, (size_t)count, npt_dtype_bytes(to));
    if (copy == NULL) return NPT_E_NOMEM;
    if (action == NPT_LOAD_ALIGNED) {
        memcpy(copy, tensor->data, tensor->bytes);
    } else {
        npt_cast_stats stats = {0};
        npt_exec_kernels(l->exec)->cast(npt_exec_run(l->exec), count, *in, (npt_out){copy, to},
                                        &stats);
        if (!l->own) npt_st_unmap(l->model->st, tensor);
        if (l->counted) stats = (npt_cast_stats){0};
        l->model->narrowing.overflowed += stats.overflowed;
        l->model->narrowing.flushed += stats.flushed;
        l->model->narrowed += l->counted ? 0 : count;
    }
    *in = (npt_in){copy, to};
    return NPT_OK;
}

npt_status npt_load_plain(npt_weight_loader *l, const npt_wanted *wanted, npt_in *in)
{
    const npt_st_tensor *tensor;
    const int64_t count = wanted->shape[0] * (wanted->rank == 2 ? wanted->shape[1] : 1);
    NPT_TRY(npt_st_require(l->model->st, wanted->name, NPT_DTYPE_NONE, wanted->rank, wanted->shape,
                           &tensor));
    return load_floats(l, tensor, wanted->kind, count, in);
}

/* A bias takes the dtype of the model, then F32, in which it is added. */
static npt_status load_bias(npt_weight_loader *l, const npt_wanted *wanted, const float **bias)
{
    const size_t size = (size_t)wanted->shape[0];
    npt_in in;
    NPT_TRY(npt_load_plain(l, wanted, &in));
    float *copy = npt_arena_alloc(l->arena, NPT_MEM_WEIGHTS, size, sizeof *copy);
    if (copy == NULL) return NPT_E_NOMEM;
    for (size_t i = 0; i < size; i++) copy[i] = npt_load(in.data, in.dtype, i);
    *bias = copy;
    return NPT_OK;
}

/* ---- NF4 ---- */

/* Blocks of NF4 know nothing of each other: the work is cut between them. */
enum { QUANTIZED_AT_ONCE = 4096 * NPT_NF4_BLOCK };

typedef struct quantizing {
    const npt_st_tensor *tensor;
    size_t count;
    uint8_t *packed;
    float *absmax;
} quantizing;

static void quantize_part(void *context, int64_t index, int worker)
{
    const quantizing *q = context;
    const size_t begin = (size_t)index * QUANTIZED_AT_ONCE, left = q->count - begin,
                 count = left < QUANTIZED_AT_ONCE ? left : QUANTIZED_AT_ONCE;
    (void)worker;
    npt_nf4_quantize((const char *)q->tensor->data + begin * npt_dtype_bytes(q->tensor->dtype),
                     q->tensor->dtype, count, q->packed + begin / 2,
                     q->absmax + begin / NPT_NF4_BLOCK);
}

static npt_status quantize(npt_weight_loader *l, const npt_st_tensor *tensor, npt_weight *weight)
{
    size_t count = (size_t)(weight->rows * weight->cols),
           blocks = (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK;
    uint8_t *packed = npt_arena_alloc(l->arena, NPT_MEM_WEIGHTS, (count + 1) / 2, 1);
    float *absmax = npt_arena_alloc(l->arena, NPT_MEM_WEIGHTS, blocks, sizeof *absmax);
    if (packed == NULL || absmax == NULL) return NPT_E_NOMEM;
    if (!npt_tensor_is_aligned(tensor))
        return npt_fail(NPT_E_FORMAT, "%s: tensor %s is not aligned; save the checkpoint again",
                        tensor->file, tensor->name);
    quantizing q = {tensor, count, packed, absmax};
    npt_threads_run(npt_exec_run(l->exec)->threads, quantize_part, &q,
                    (int64_t)((count + QUANTIZED_AT_ONCE - 1) / QUANTIZED_AT_ONCE));
    if (!l->own) npt_st_unmap(l->model->st, tensor);
    if (l->model->double_quantization) {
        size_t nested = (blocks + NPT_NF4_NESTED_BLOCK - 1) / NPT_NF4_NESTED_BLOCK;
        float map[256], offset;
        uint8_t *codes = npt_alloc(blocks, 1);
        float *scales = npt_alloc(nested, sizeof *scales);
        if (codes != NULL && scales != NULL) {
            npt_nf4_dynamic_map(map);
            npt_nf4_nest(absmax, blocks, codes, scales, &offset);
            npt_nf4_unnest(codes, map, scales, NPT_NF4_NESTED_BLOCK, offset, blocks, absmax);
        }
        bool short_of_memory = codes == NULL || scales == NULL;
        npt_free(codes);
        npt_free(scales);
        if (short_of_memory) return NPT_E_NOMEM;
    }
    weight->dtype = NPT_NF4;
    weight->data = packed;
    weight->absmax = absmax;
    weight->levels = npt_nf4_levels;
    return NPT_OK;
}

/* What .quant_state says; the maps and scales are tensors of their own. */
typedef struct quant_state {
    int64_t block, nested_block;
    double offset;
    bool nested;
} quant_state;

static npt_status parse_quant_state(const npt_st_tensor *tensor, const npt_weight *weight,
                                    quant_state *state)
{
    json_t *root = NULL;
    const char *type;
    npt_status status = npt_json_parse(tensor->data, tensor->bytes, 0, tensor->name, &root);
    if (status != NPT_OK) return status;
    NPT_TRY_GOTO(status, out, npt_json_string(root, "quant_type", tensor->name, "", &type));
    NPT_TRY_GOTO(status, out,
                 npt_json_int(root, "blocksize", tensor->name, 64, 1, 1 << 20, &state->block));
    NPT_TRY_GOTO(
        status, out,
        npt_json_int(root, "nested_blocksize", tensor->name, 0, 1, 1 << 20, &state->nested_block));
    NPT_TRY_GOTO(
        status, out,
        npt_json_real(root, "nested_offset", tensor->name, 0, -1e30, 1e30, &state->offset));
    state->nested = state->nested_block > 0;
    json_t *shape = json_object_get(root, "shape");
    bool fits = json_array_size(shape) == 2 &&
                json_integer_value(json_array_get(shape, 0)) == weight->rows &&
                json_integer_value(json_array_get(shape, 1)) == weight->cols;
    if (strcmp(type, "nf4") != 0 || state->block != NPT_NF4_BLOCK)
        status = npt_fail(NPT_E_UNSUPPORTED,
                          "%s: %s says quant_type \"%s\", blocksize %" PRId64
                          "; npt reads nf4 with blocks of 64",
                          tensor->file, tensor->name, type, state->block);
    else if (!fits)
        status = npt_fail(NPT_E_FORMAT,
                          "%s: %s has another shape than config.json asks for ([%" PRId64
                          ", %" PRId64 "])",
                          tensor->file, tensor->name, weight->rows, weight->cols);
out:
    json_decref(root);
    return status;
}

/* `name` + suffix, with its dtype and number of elements checked; F32 ones aligned (copied if need
 * be). */
static npt_status require_piece(npt_weight_loader *l, const char *name, const char *suffix,
                                npt_dtype dtype, int64_t size, const void **data)
{
    char full[512];
    const npt_st_tensor *tensor;
    snprintf(full, sizeof full, "%s%s", name, suffix);
    NPT_TRY(npt_st_require(l->model->st, full, dtype, 1, &size, &tensor));
    npt_in in = {tensor->data, dtype};
    if (dtype == NPT_F32) NPT_TRY(load_floats(l, tensor, NPT_TENSOR_SCALES, size, &in));
    *data = in.data;
    return NPT_OK;
}

static npt_status load_stored_nf4(npt_weight_loader *l, const char *name,
                                  const npt_st_tensor *tensor, npt_weight *weight)
{
    char full[512];
    quant_state state = {0};
    int64_t count = weight->rows * weight->cols,
            blocks = (count + NPT_NF4_BLOCK - 1) / NPT_NF4_BLOCK;
    snprintf(full, sizeof full, "%.300s.quant_state.bitsandbytes__nf4", name);
    const npt_st_tensor *record = npt_st_find(l->model->st, full);
    if (record == NULL)
        return npt_fail(NPT_E_FORMAT, "%s: %s is stored in 4 bits, but %s is missing", tensor->file,
                        name, full);
    NPT_TRY(parse_quant_state(record, weight, &state));
    if (tensor->bytes != (uint64_t)(count + 1) / 2)
        return npt_fail(NPT_E_FORMAT, "%s: %s holds %" PRIu64 " bytes, its shape needs %" PRId64,
                        tensor->file, name, tensor->bytes, (count + 1) / 2);
    const void *levels, *absmax;
    NPT_TRY(require_piece(l, name, ".quant_map", NPT_F32, 16, &levels));
    NPT_TRY(require_piece(l, name, ".absmax", state.nested ? NPT_U8 : NPT_F32, blocks, &absmax));
    if (state.nested) {
        const void *map, *scales;
        int64_t nested = (blocks + state.nested_block - 1) / state.nested_block;
        NPT_TRY(require_piece(l, name, ".nested_quant_map", NPT_F32, 256, &map));
        NPT_TRY(require_piece(l, name, ".nested_absmax", NPT_F32, nested, &scales));
        float *restored =
            npt_arena_alloc(l->arena, NPT_MEM_WEIGHTS, (size_t)blocks, sizeof *restored);
        if (restored == NULL) return NPT_E_NOMEM;
        npt_nf4_unnest(absmax, map, scales, (size_t)state.nested_block, (float)state.offset,
                       (size_t)blocks, restored);
        absmax = restored;
    }
    npt_memory_walk(tensor->data, tensor->bytes);
    weight->dtype = NPT_NF4;
    weight->data = tensor->data;
    weight->absmax = absmax;
    weight->levels = levels;
    return NPT_OK;
}

/* ---- Blocks ---- */

static npt_status load_linear(npt_weight_loader *l, const npt_wanted *wanted, npt_weight *weight)
{
    const npt_model *m = l->model;
    const npt_st_tensor *tensor = npt_st_find(m->st, wanted->name);
    weight->rows = wanted->shape[0];
    weight->cols = wanted->shape[1];
    if (tensor != NULL &&
        npt_tensor_action(l->policy, m->config.quantized, wanted->kind, tensor) == NPT_LOAD_STORED)
        return load_stored_nf4(l, wanted->name, tensor, weight);
    NPT_TRY(npt_st_require(m->st, wanted->name, NPT_DTYPE_NONE, 2, wanted->shape, &tensor));
    if (npt_tensor_action(l->policy, m->config.quantized, wanted->kind, tensor) ==
        NPT_LOAD_QUANTIZED)
        return quantize(l, tensor, weight);
    npt_in in;
    NPT_TRY(load_floats(l, tensor, wanted->kind, weight->rows * weight->cols, &in));
    if (in.data == tensor->data) npt_memory_walk(tensor->data, tensor->bytes);
    weight->data = in.data;
    weight->dtype = in.dtype;
    return NPT_OK;
}

npt_status npt_load_block(npt_weight_loader *l, int layer)
{
    npt_wanted list[NPT_BLOCK_TENSORS_MAX];
    const int count = npt_block_tensors(&l->model->config, layer, list);
    for (int i = 0; i < count; i++) {
        void *at = (char *)&l->model->blocks[layer] + list[i].offset;
        if (list[i].kind == NPT_TENSOR_LINEAR)
            NPT_TRY(load_linear(l, &list[i], at));
        else if (list[i].kind == NPT_TENSOR_BIAS)
            NPT_TRY(load_bias(l, &list[i], &((npt_weight *)at)->bias));
        else
            NPT_TRY(npt_load_plain(l, &list[i], at));
    }
    return NPT_OK;
}
