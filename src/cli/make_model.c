/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>

#include "cli/cli.h"
#include "cli/flags.h"

/* npt make-model: a random model of any shape, for measurements and tests. */

#define AT(field) offsetof(npt_make_model_options, field)

static const npt_flag flags[] = {
    {"family", NPT_FLAG_TEXT, AT(family), 0, 0, NULL, "llama|mistral|qwen2|qwen3", NULL,
     "architecture"},
    {"hidden", NPT_FLAG_INT64, AT(hidden), 1, 1048576, NULL, NULL, NULL, "hidden size"},
    {"inter", NPT_FLAG_INT64, AT(inter), 1, 4194304, NULL, NULL, NULL, "MLP size"},
    {"layers", NPT_FLAG_INT64, AT(layers), 1, 10000, NULL, NULL, NULL, "blocks"},
    {"heads", NPT_FLAG_INT64, AT(heads), 1, 65536, NULL, NULL, NULL, "attention heads"},
    {"kv_heads", NPT_FLAG_INT64, AT(kv_heads), 1, 65536, NULL, NULL, NULL,
     "key and value heads; divides --heads"},
    {"head_dim", NPT_FLAG_INT64, AT(head_dim), 0, 65536, NULL, NULL, NULL,
     "size of a head; 0: hidden / heads"},
    {"vocab", NPT_FLAG_INT64, AT(vocab), 1, 134217728, NULL, NULL, NULL, "vocabulary"},
    {"dtype", NPT_FLAG_CHOICE, AT(dtype), 0, 0, npt_file_dtype_choices, NULL, NULL,
     "dtype of the weights in the file"},
    {"seed", NPT_FLAG_UINT64, AT(seed), 0, INFINITY, NULL, NULL, NULL, "of the weights"},
    {"tie_embeddings", NPT_FLAG_BOOL, AT(tie_embeddings), 0, 0, NULL, NULL, NULL,
     "the output layer is the embedding; no lm_head in the file"},
    {"quantize", NPT_FLAG_BOOL, AT(quantize), 0, 0, NULL, NULL, NULL,
     "store the blocks' linears in NF4, doubly quantized, as bitsandbytes does"},
    {NULL, NPT_FLAG_BOOL, 0, 0, 0, NULL, NULL, NULL, NULL}};

int npt_command_make_model(int argc, char **argv)
{
    npt_make_model_options options;
    npt_make_model_options_init(&options);
    npt_flag_set set = {
        .command = "make-model",
        .synopsis = "[FLAG...] OUT",
        .purpose = "Writes a random model in the Hugging Face layout into the new directory OUT: "
                   "config.json and model.safetensors.",
        .groups = {{"Flags", flags, &options}},
        .positionals_wanted = 1,
    };
    const int code = npt_flags_parse(&set, argc, argv);
    if (code >= 0) return code;
    if (set.positional_count == 0)
        return npt_cli_refuse(set.command, "OUT is missing: the directory to write the model into");
    options.path = set.positionals[0];
    const npt_status status = npt_make_model(&options);
    return npt_cli_finish(set.command, npt_cli_exit_code(set.command, status));
}
