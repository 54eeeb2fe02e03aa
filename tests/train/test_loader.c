/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "train/loader.h"

#include "unit/temp_dir.h"

/* The rows of steps and micro-batches: row i of the file is i+1 ids, all of them i. */

static char *rows_file(const char *directory, int rows)
{
    char text[4096] = "";
    for (int i = 0; i < rows; i++) {
        strcat(text, "{\"input_ids\":[");
        for (int k = 0; k <= i; k++) sprintf(text + strlen(text), k == 0 ? "%d" : ",%d", i);
        strcat(text, "]}\n");
    }
    return temp_file(directory, "rows.jsonl", text, strlen(text));
}

static npt_status open_loader(npt_loader *loader, const char *path, int64_t batch, int64_t accumulate)
{
    const npt_dataset_options options = {.path = path, .vocab_size = 100, .max_length = 4};
    npt_dataset *dataset;
    NPT_TRY(npt_dataset_open(&dataset, &options));
    return npt_loader_init(loader, dataset, batch, accumulate);
}

static void steps_end_with_epochs(void **state)
{
    (void)state;
    static const int64_t rows[] = {4, 1, 4, 1}, tokens[] = {1 + 2 + 3 + 4, 4, 10, 4};
    static const int64_t batches[] = {2, 1, 2, 1}, epochs[] = {0, 0, 1, 1};
    char *directory = temp_dir(), *path = rows_file(directory, 5);
    npt_loader loader;
    assert_int_equal(open_loader(&loader, path, 2, 2), NPT_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(npt_loader_fill(&loader, true), NPT_OK);
        assert_int_equal(loader.rows, rows[i]);
        assert_int_equal(loader.tokens, tokens[i]); /* rows are cut to four ids */
        assert_int_equal(npt_loader_batches(&loader), batches[i]);
        assert_int_equal(loader.epoch, epochs[i]);
        assert_int_equal(loader.position.row, i % 2 == 0 ? 0 : 4);
    }
    npt_loader_fini(&loader);
    npt_free(path);
    temp_dir_remove(directory);
}

static void micro_batches_have_no_padding(void **state)
{
    (void)state;
    static const int64_t offsets[] = {0, 1, 3};
    static const int32_t ids[] = {0, 1, 1}, positions[] = {0, 0, 1};
    char *directory = temp_dir(), *path = rows_file(directory, 3);
    npt_loader loader;
    npt_batch batch;
    assert_int_equal(open_loader(&loader, path, 2, 4), NPT_OK);
    assert_int_equal(npt_loader_fill(&loader, true), NPT_OK);
    assert_int_equal(npt_loader_batches(&loader), 2);
    assert_int_equal(npt_loader_batch(&loader, 0, &batch), NPT_OK);
    assert_int_equal(batch.sequences, 2);
    assert_int_equal(batch.tokens, 3);
    assert_int_equal(batch.longest, 2);
    assert_memory_equal(batch.offsets, offsets, sizeof offsets);
    assert_memory_equal(batch.ids, ids, sizeof ids);
    assert_memory_equal(batch.positions, positions, sizeof positions);
    assert_int_equal(npt_loader_batch(&loader, 1, &batch), NPT_OK); /* the shorter last one */
    assert_int_equal(batch.sequences, 1);
    assert_int_equal(batch.tokens, 3);
    assert_int_equal(batch.ids[2], 2);
    assert_int_equal(batch.positions[2], 2);
    npt_loader_fini(&loader);
    npt_free(path);
    temp_dir_remove(directory);
}

static void positions_lead_back(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = rows_file(directory, 7);
    npt_loader loader, other;
    assert_int_equal(open_loader(&loader, path, 1, 3), NPT_OK);
    for (int i = 0; i < 12; i++) {
        assert_int_equal(npt_loader_fill(&loader, true), NPT_OK);
        const int64_t epoch = loader.epoch;
        const npt_dataset_position next = npt_dataset_tell(loader.dataset);
        assert_int_equal(npt_loader_fill(&loader, true), NPT_OK);
        assert_int_equal(open_loader(&other, path, 1, 3), NPT_OK);
        assert_int_equal(npt_loader_seek(&other, epoch, next), NPT_OK);
        assert_int_equal(npt_loader_fill(&other, true), NPT_OK);
        assert_int_equal(other.epoch, loader.epoch);
        assert_int_equal(other.rows, loader.rows);
        assert_int_equal(other.tokens, loader.tokens);
        assert_int_equal(other.row[0].data[0], loader.row[0].data[0]);
        npt_loader_fini(&other);
    }
    npt_loader_fini(&loader);
    npt_free(path);
    temp_dir_remove(directory);
}

static void the_end_is_told(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = rows_file(directory, 2);
    npt_loader loader;
    assert_int_equal(open_loader(&loader, path, 2, 1), NPT_OK);
    assert_int_equal(npt_loader_fill(&loader, false), NPT_OK);
    assert_int_equal(loader.rows, 2);
    assert_int_equal(npt_loader_fill(&loader, false), NPT_OK);
    assert_int_equal(loader.rows, 0);
    npt_loader_fini(&loader);
    npt_free(path);
    path = rows_file(directory, 0);
    for (int repeat = 0; repeat < 2; repeat++) {
        assert_int_equal(open_loader(&loader, path, 2, 1), NPT_OK);
        assert_int_equal(npt_loader_fill(&loader, repeat), NPT_E_DATA);
        assert_message_has("no usable row");
        npt_loader_fini(&loader);
    }
    npt_free(path);
    temp_dir_remove(directory);
}

static npt_status two_steps(npt_loader *loader, const char *path)
{
    npt_batch batch;
    NPT_TRY(open_loader(loader, path, 2, 2));
    for (int i = 0; i < 2; i++) {
        NPT_TRY(npt_loader_fill(loader, true));
        for (int64_t k = 0; k < npt_loader_batches(loader); k++)
            NPT_TRY(npt_loader_batch(loader, k, &batch));
    }
    return NPT_OK;
}

static void survives_every_failed_allocation(void **state)
{
    (void)state;
    char *directory = temp_dir(), *path = rows_file(directory, 5);
    npt_status status = NPT_E_NOMEM;
    long n = 0;
    while (status != NPT_OK && n < 1000) {
        npt_loader loader = {0};
        npt_alloc_fail_at(++n);
        status = two_steps(&loader, path);
        npt_alloc_fail_at(0);
        if (status != NPT_OK) assert_int_equal(status, NPT_E_NOMEM);
        npt_loader_fini(&loader);
    }
    assert_true(n > 8);
    npt_free(path);
    temp_dir_remove(directory);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("a step never crosses an epoch: the last one of it is shorter", steps_end_with_epochs),
        NPT_CASE("a micro-batch is its rows one after the other, without padding",
                 micro_batches_have_no_padding),
        NPT_CASE("a position leads back to the same rows, in every epoch", positions_lead_back),
        NPT_CASE("the end of the data, and data without a row, are told apart", the_end_is_told),
        NPT_CASE("every failed allocation is said and leaks nothing", survives_every_failed_allocation),
    };
    return npt_test_run("loader", cases, NPT_COUNT(cases));
}
