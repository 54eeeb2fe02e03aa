/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/files.h"
#include "tensor/nf4.h"

/* Foreign bytes as the weights of a checkpoint that says it is quantized: names, shapes, dtypes and
 * the quantization records are whatever they are. What loads is then read to its last byte. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":104,\"head_dim\":12,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"num_hidden_layers\":2,\"vocab_size\":96,"
    "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":\"bitsandbytes\","
    "\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\"}}";

static char directory[] = "/tmp/npt-fuzz-XXXXXX";
static char path[64];
static npt_exec *exec;

static void clean_up(void)
{
    npt_exec_destroy(exec);
    (void)npt_remove_tree(directory);
}

static void set_up(void)
{
    char name[64];
    if (path[0] != '\0') return;
    if (mkdtemp(directory) == NULL || npt_exec_create(&exec, "reference", 1) != NPT_OK) abort();
    atexit(clean_up);
    snprintf(name, sizeof name, "%s/config.json", directory);
    if (npt_write_file(name, config, sizeof config - 1) != NPT_OK) abort();
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
}

static void read_all(const npt_weight *w)
{
    const size_t count = (size_t)(w->rows * w->cols);
    float *values = malloc(count * sizeof *values);
    if (values == NULL) abort();
    if (w->dtype == NPT_NF4)
        npt_nf4_dequantize(w->data, w->absmax, w->levels, count, values, NPT_F32);
    else
        for (size_t i = 0; i < count; i++) values[i] = npt_load(w->data, w->dtype, i);
    free(values);
}

static void use(npt_model *model)
{
    npt_policy policy;
    const npt_policy_request request = {.base_is_quantized = true};
    if (npt_policy_decide(&request, &policy) != NPT_OK) abort();
    if (npt_model_load(model, exec, &policy, NULL) != NPT_OK) return;
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        const npt_block_weights *b = &model->blocks[layer];
        const npt_weight *weights[] = {&b->q, &b->k, &b->v, &b->o, &b->gate, &b->up, &b->down};
        for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) read_all(weights[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    npt_model *model;
    set_up();
    FILE *file = fopen(path, "wb");
    if (file == NULL || (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) || fclose(file) != 0)
        abort();
    if (npt_model_open(&model, directory) != NPT_OK) return 0;
    use(model);
    npt_model_close(model);
    return 0;
}
