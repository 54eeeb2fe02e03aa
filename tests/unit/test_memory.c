/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "base/memory.h"

#include "../npt_test.h"

/* Heap blocks, arenas, and requests that fail on purpose. */

static void heap_blocks_are_zeroed(void **state)
{
    (void)state;
    unsigned char *block = npt_alloc(1000, 3);
    assert_non_null(block);
    for (int i = 0; i < 3000; i++) assert_int_equal(block[i], 0);
    npt_free(block);
    npt_free(NULL);
}

static void requests_of_nothing_still_give_a_block(void **state)
{
    (void)state;
    void *block = npt_alloc(0, 8);
    assert_non_null(block);
    void *moved = npt_realloc(block, 0, 0);
    assert_non_null(moved);
    npt_free(moved);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    void *block = npt_alloc(4, 1);
    npt_arena *arena = npt_arena_create("test");
    assert_null(npt_alloc(SIZE_MAX / 2, 3));
    assert_true(strlen(npt_error_message()) > 0);
    assert_null(npt_alloc(SIZE_MAX, 1));
    assert_null(npt_realloc(block, SIZE_MAX / 4, 8));
    assert_null(npt_arena_alloc(arena, NPT_MEM_OTHER, SIZE_MAX / 2, 3));
    assert_null(npt_arena_alloc(arena, NPT_MEM_OTHER, PTRDIFF_MAX, 1));
    assert_null(npt_arena_zalloc(arena, NPT_MEM_OTHER, SIZE_MAX, SIZE_MAX));
    assert_int_equal(npt_arena_peak_bytes(arena), 0);
    npt_arena_destroy(arena);
    npt_free(block);
}

static void strings_are_copied_and_formatted(void **state)
{
    (void)state;
    char *whole = npt_strdup("adapter"), *part = npt_strndup("adapter", 5);
    char *beyond = npt_strndup("ad", 50), *made = npt_format("%s-%d", "epoch", 12);
    assert_string_equal(whole, "adapter");
    assert_string_equal(part, "adapt");
    assert_string_equal(beyond, "ad");
    assert_string_equal(made, "epoch-12");
    npt_free(whole);
    npt_free(part);
    npt_free(beyond);
    npt_free(made);
}

static void arena_blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 63, 64, 65, 1000, 1 << 20, 3 << 20, 7};
    unsigned char *blocks[NPT_COUNT(sizes)];
    npt_arena *arena = npt_arena_create("test");
    for (size_t i = 0; i < NPT_COUNT(sizes); i++) {
        blocks[i] = npt_arena_alloc(arena, NPT_MEM_SCRATCH, sizes[i], 1);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        memset(blocks[i], (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < NPT_COUNT(sizes); i++)
        for (size_t j = 0; j < sizes[i]; j++)
            if (blocks[i][j] != i + 1) fail_msg("block %zu, byte %zu is overwritten", i, j);
    npt_arena_destroy(arena);
}

static void zeroed_blocks_are_zero_after_a_reset_too(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    for (int round = 0; round < 3; round++) {
        unsigned char *block = npt_arena_zalloc(arena, NPT_MEM_GRADIENTS, 500, 4);
        for (int i = 0; i < 2000; i++) assert_int_equal(block[i], 0);
        memset(block, 0xAB, 2000);
        npt_arena_reset(arena);
    }
    npt_arena_destroy(arena);
}

static void peaks_are_counted_in_all_and_per_tag(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    npt_arena_alloc(arena, NPT_MEM_WEIGHTS, 100, 1);
    npt_arena_mark mark = npt_arena_get_mark(arena);
    npt_arena_alloc(arena, NPT_MEM_SCRATCH, 50, 2);
    npt_arena_alloc(arena, NPT_MEM_SCRATCH, 30, 1);
    npt_arena_rewind(arena, mark);
    npt_arena_alloc(arena, NPT_MEM_ACTIVATIONS, 60, 1);
    assert_int_equal(npt_arena_peak_bytes(arena), 230);
    assert_int_equal(npt_arena_tag_bytes(arena, NPT_MEM_WEIGHTS), 100);
    assert_int_equal(npt_arena_tag_bytes(arena, NPT_MEM_SCRATCH), 130);
    assert_int_equal(npt_arena_tag_bytes(arena, NPT_MEM_ACTIVATIONS), 60);
    assert_int_equal(npt_arena_tag_bytes(arena, NPT_MEM_MOMENTS), 0);
    npt_arena_reset(arena);
    npt_arena_alloc(arena, NPT_MEM_WEIGHTS, 200, 1);
    assert_int_equal(npt_arena_peak_bytes(arena), 230);
    assert_int_equal(npt_arena_tag_bytes(arena, NPT_MEM_WEIGHTS), 200);
    npt_arena_destroy(arena);
}

static void a_rewind_hands_out_the_same_bytes_again(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    char *kept = npt_arena_alloc(arena, NPT_MEM_OTHER, 5000, 1);
    memset(kept, 'k', 5000);
    npt_arena_mark mark = npt_arena_get_mark(arena);
    void *first = npt_arena_alloc(arena, NPT_MEM_OTHER, 70, 1);
    for (int i = 0; i < 5; i++) npt_arena_alloc(arena, NPT_MEM_OTHER, 900000, 1);
    npt_arena_rewind(arena, mark);
    assert_true(npt_arena_alloc(arena, NPT_MEM_OTHER, 70, 1) == first);
    for (int i = 0; i < 5000; i++) assert_int_equal(kept[i], 'k');
    npt_arena_destroy(arena);
}

static void marks_nest_across_chunks(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    npt_arena_mark marks[40];
    void *blocks[40];
    for (int i = 0; i < 40; i++) {
        marks[i] = npt_arena_get_mark(arena);
        blocks[i] = npt_arena_alloc(arena, NPT_MEM_OTHER, 300000, 1);
        memset(blocks[i], i, 300000);
    }
    for (int i = 39; i >= 20; i--) npt_arena_rewind(arena, marks[i]);
    for (int i = 0; i < 20; i++) assert_int_equal(((unsigned char *)blocks[i])[299999], i);
    for (int i = 20; i < 40; i++) {
        void *again = npt_arena_alloc(arena, NPT_MEM_OTHER, 300000, 1);
        assert_true(again == blocks[i]);
    }
    assert_int_equal(npt_arena_peak_bytes(arena), 40 * 300000);
    npt_arena_destroy(arena);
}

/* After a reset everything fits one chunk: blocks lie behind each other. */
static void a_reset_merges_the_chunks(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    for (int i = 0; i < 10; i++) npt_arena_alloc(arena, NPT_MEM_OTHER, 900000, 1);
    npt_arena_reset(arena);
    char *before = npt_arena_alloc(arena, NPT_MEM_OTHER, 900000, 1);
    for (int i = 1; i < 10; i++) {
        char *next = npt_arena_alloc(arena, NPT_MEM_OTHER, 900000, 1);
        assert_true(next > before && next - before <= 900000 + 192);
        before = next;
    }
    npt_arena_destroy(arena);
}

static void the_nth_request_fails_once(void **state)
{
    (void)state;
    npt_arena *arena = npt_arena_create("test");
    long before = npt_alloc_count();
    npt_alloc_fail_at(3);
    void *one = npt_alloc(1, 1), *two = npt_arena_alloc(arena, NPT_MEM_OTHER, 1, 1);
    void *three = npt_alloc(1, 1), *four = npt_alloc(1, 1);
    assert_non_null(one);
    assert_non_null(two);
    assert_null(three);
    assert_non_null(four);
    assert_int_equal(npt_alloc_count() - before, 4);
    npt_alloc_fail_at(1);
    assert_null(npt_arena_alloc(arena, NPT_MEM_OTHER, 1, 1));
    npt_alloc_fail_at(1);
    npt_alloc_fail_at(0);
    void *five = npt_alloc(1, 1);
    assert_non_null(five);
    npt_free(one);
    npt_free(four);
    npt_free(five);
    npt_arena_destroy(arena);
}

static void a_failed_realloc_keeps_the_block(void **state)
{
    (void)state;
    char *block = npt_strdup("kept");
    npt_alloc_fail_at(1);
    assert_null(npt_realloc(block, 100, 1));
    assert_string_equal(block, "kept");
    npt_free(block);
}

static void every_tag_has_a_name(void **state)
{
    (void)state;
    for (int tag = 0; tag < NPT_MEM_TAG_COUNT; tag++)
        assert_true(strlen(npt_memory_tag_name((npt_memory_tag)tag)) > 0);
    assert_string_equal(npt_memory_tag_name(NPT_MEM_TAG_COUNT), "unknown");
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("heap blocks are zeroed", heap_blocks_are_zeroed),
        NPT_CASE("requests of nothing still give a block", requests_of_nothing_still_give_a_block),
        NPT_CASE("sizes that overflow are refused", sizes_that_overflow_are_refused),
        NPT_CASE("strings are copied and formatted", strings_are_copied_and_formatted),
        NPT_CASE("arena blocks are aligned and apart", arena_blocks_are_aligned_and_apart),
        NPT_CASE("zeroed blocks are zero after a reset too",
                 zeroed_blocks_are_zero_after_a_reset_too),
        NPT_CASE("peaks are counted in all and per tag", peaks_are_counted_in_all_and_per_tag),
        NPT_CASE("a rewind hands out the same bytes again",
                 a_rewind_hands_out_the_same_bytes_again),
        NPT_CASE("marks nest across chunks", marks_nest_across_chunks),
        NPT_CASE("a reset merges the chunks", a_reset_merges_the_chunks),
        NPT_CASE("the n-th request fails, once", the_nth_request_fails_once),
        NPT_CASE("a failed realloc keeps the block", a_failed_realloc_keeps_the_block),
        NPT_CASE("every tag has a name", every_tag_has_a_name),
    };
    return npt_test_run("memory", cases, NPT_COUNT(cases));
}
