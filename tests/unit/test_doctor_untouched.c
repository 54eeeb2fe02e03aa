/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doctor_plan.h"
#include "temp_dir.h"

/* A checkpoint of the shape of an 8 B model, whose 15 GiB of weights are a hole in its file: the
 * plan is made from the header, and afterwards the system holds no page of the hole. */

/* What read-ahead may bring along with the header. */
static const size_t near_header = 16u << 20;

static const char config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 4096, \"intermediate_size\": 14336,"
    " \"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8,"
    " \"vocab_size\": 128256, \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-05,"
    " \"rope_theta\": 500000.0, \"rope_scaling\": {\"factor\": 8.0, \"low_freq_factor\": 1.0,"
    " \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192,"
    " \"rope_type\": \"llama3\"}, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}";

typedef struct header {
    char *text;
    size_t used, room;
    uint64_t data; /* bytes of tensors so far */
} header;

/* `cols` 0: a vector. */
static void add(header *h, const char *name, uint64_t rows, uint64_t cols)
{
    const uint64_t bytes = 2 * rows * (cols != 0 ? cols : 1);
    char shape[64];
    snprintf(shape, sizeof shape, cols != 0 ? "%" PRIu64 ",%" PRIu64 : "%" PRIu64, rows, cols);
    h->used += (size_t)snprintf(h->text + h->used, h->room - h->used,
                                "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":["
                                "%" PRIu64 ",%" PRIu64 "]}",
                                h->used > 1 ? "," : "", name, shape, h->data, h->data + bytes);
    assert_true(h->used < h->room);
    h->data += bytes;
}

static void add_block(header *h, int layer)
{
    static const struct {
        const char *part;
        uint64_t rows, cols;
    } parts[] = {
        {"input_layernorm", 4096, 0},          {"mlp.down_proj", 4096, 14336},
        {"mlp.gate_proj", 14336, 4096},        {"mlp.up_proj", 14336, 4096},
        {"post_attention_layernorm", 4096, 0}, {"self_attn.k_proj", 1024, 4096},
        {"self_attn.o_proj", 4096, 4096},      {"self_attn.q_proj", 4096, 4096},
        {"self_attn.v_proj", 1024, 4096},
    };
    for (size_t i = 0; i < NPT_COUNT(parts); i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, parts[i].part);
        add(h, name, parts[i].rows, parts[i].cols);
    }
}

static header make_header(void)
{
    header h = {.room = 1 << 18};
    h.text = calloc(1, h.room);
    assert_non_null(h.text);
    h.text[h.used++] = '{';
    add(&h, "lm_head.weight", 128256, 4096);
    add(&h, "model.embed_tokens.weight", 128256, 4096);
    for (int layer = 0; layer < 32; layer++) add_block(&h, layer);
    add(&h, "model.norm.weight", 4096, 0);
    h.text[h.used++] = '}';
    while (h.used % 8 != 0) h.text[h.used++] = ' ';
    return h;
}

/* The file's size; 0 where the file system takes no file of that size. */
static uint64_t make_sparse(const char *path)
{
    header h = make_header();
    uint8_t prefix[8];
    const uint64_t size = sizeof prefix + h.used + h.data;
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)h.used >> (8 * i));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, prefix, sizeof prefix), (ssize_t)sizeof prefix);
    assert_int_equal(write(fd, h.text, h.used), (ssize_t)h.used);
    const bool fits = ftruncate(fd, (off_t)size) == 0;
    assert_int_equal(close(fd), 0);
    free(h.text);
    return fits ? size : 0;
}

/* Pages of the file, from `near_header` on, that are in memory; with `touch`, after one is read. */
static size_t resident_pages(const char *path, uint64_t size, bool touch)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)(size - near_header),
                 pages = (bytes + page - 1) / page;
    size_t count = 0;
    unsigned char *in_memory = malloc(pages);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && in_memory != NULL);
    unsigned char *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)near_header);
    assert_true(map != MAP_FAILED);
    if (touch) assert_int_equal(*(volatile unsigned char *)(map + bytes / 2), 0);
    assert_int_equal(mincore(map, bytes, (void *)in_memory), 0);
    for (size_t i = 0; i < pages; i++) count += in_memory[i] & 1;
    munmap(map, bytes);
    close(fd);
    free(in_memory);
    return count;
}

static char *directory;
static char *weights;
static uint64_t weights_size;

static void plan_with(const npt_precision_options *precision)
{
    npt_train_options o = plan_options(directory);
    o.precision = *precision;
    o.adapter_rank = 16;
    planned p = plan_of(&o, false);
    assert_int_equal(p.verdict, NPT_VERDICT_FINE);
    assert_int_equal(plan_number(&p, "files.tensors"), 291);
    assert_int_equal(plan_number(&p, "memory.weights_mapped"), 16060522496);
    assert_int_equal(plan_number(&p, "model.adapters.weights"), 32 * 16 * (4096 + 14336 + 14336));
    json_decref(p.root);
}

static void no_page_of_the_weights_is_read(void **state)
{
    (void)state;
    const npt_precision_options choices[] = {{0},
                                             {.use_fp16 = true},
                                             {.use_bf16 = true},
                                             {.use_quantization = true},
                                             {.mixed_precision = NPT_F16}};
    for (size_t i = 0; i < NPT_COUNT(choices); i++) {
        plan_with(&choices[i]);
        assert_int_equal(resident_pages(weights, weights_size, false), 0);
    }
}

static void a_page_that_is_read_would_be_seen(void **state)
{
    (void)state;
    assert_true(resident_pages(weights, weights_size, true) > 0);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("no page of the weights is read", no_page_of_the_weights_is_read),
        NPT_CASE("a page that is read would be seen", a_page_that_is_read_would_be_seen),
    };
    directory = temp_dir();
    npt_free(temp_file(directory, "config.json", config, sizeof config - 1));
    weights = npt_path_join(directory, "model.safetensors");
    weights_size = make_sparse(weights);
    int code = weights_size == 0 || weights_size > SIZE_MAX
                   ? npt_test_skip_all("no sparse file of 15 GiB can be made here")
                   : npt_test_run("doctor plan: 8 B", cases, NPT_COUNT(cases));
    npt_free(weights);
    temp_dir_remove(directory);
    return code;
}
