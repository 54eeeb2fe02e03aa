/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/files.h"

/* Foreign bytes as a config.json. What is accepted must make sense, since sizes are computed from
 * it without another look; what is refused must have a sentence. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char directory[] = "/tmp/npt-fuzz-XXXXXX";
static char path[64];

static void clean_up(void)
{
    (void)npt_remove_tree(directory);
}

static void set_up(void)
{
    if (path[0] != '\0') return;
    if (mkdtemp(directory) == NULL) abort();
    atexit(clean_up);
    snprintf(path, sizeof path, "%s/config.json", directory);
}

static void check(const npt_config *c)
{
    float inverse[256];
    if (c->hidden < 1 || c->inter < 1 || c->layers < 1 || c->heads < 1 || c->vocab < 1) abort();
    if (c->kv_heads < 1 || c->heads % c->kv_heads != 0) abort();
    if (c->head_dim < 2 || c->head_dim > 512 || c->head_dim % 2 != 0) abort();
    if (c->window < 0 || c->window_from_layer < 0 || !(c->norm_epsilon >= 0)) abort();
    npt_config_inverse_frequencies(c, inverse);
    for (int64_t i = 0; i < c->head_dim / 2; i++)
        if (!isfinite(inverse[i]) || inverse[i] < 0 || inverse[i] > 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    npt_config config;
    set_up();
    FILE *file = fopen(path, "wb");
    if (file == NULL || (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) || fclose(file) != 0)
        abort();
    if (npt_config_examine(directory, &config) == NPT_OK &&
        npt_config_check_quantization(directory, &config) == NPT_OK)
        check(&config);
    else if (strstr(npt_error_message(), "config.json") == NULL)
        abort();
    return 0;
}
