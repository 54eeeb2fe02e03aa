/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/st_header.h"

#include <sys/resource.h>
#include <unistd.h>

#include "unit/st_file.h"

/* Headers made to exhaust the reader: refused quickly, and in bounded memory. */

static void a_hundred_thousand_overlaps_are_refused(void **state)
{
    (void)state;
    enum { COUNT = 100000 };
    char *json = malloc(COUNT * 80);
    assert_non_null(json);
    size_t used = 0;
    for (int i = 0; i < COUNT; i++)
        used += (size_t)sprintf(json + used, "%c\"t%d\":" F32_AT(0, 4), i == 0 ? '{' : ',', i);
    used += (size_t)sprintf(json + used, "}");
    char *directory = temp_dir();
    char *path = write_st(directory, "overlap.safetensors", json, used, 4);
    assert_refused(path, NPT_E_FORMAT, "overlaps another");
    free(json);
    npt_free(path);
    temp_dir_remove(directory);
}

/* Ten million tensors need more than the 100 MB a header may have; as many as fit in those are
 * more than npt lets the JSON library build. */
static void ten_million_overlaps_are_refused_unread(void **state)
{
    (void)state;
    char *directory = temp_dir();
    static const uint8_t half_gigabyte[8] = {0, 0, 0, 0x20};
    char *path = temp_file(directory, "many.safetensors", half_gigabyte, 8);
    assert_int_equal(truncate(path, 600 << 20), 0); /* sparse */
    assert_refused(path, NPT_E_FORMAT, "the limit is 100000000");
    npt_free(path);
    temp_dir_remove(directory);
}

static long peak_kib(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

static void a_full_header_of_overlaps_takes_no_memory(void **state)
{
    (void)state;
    const size_t room = NPT_SAFETENSORS_MAX_HEADER;
    char *json = malloc(room);
    assert_non_null(json);
    memset(json, ' ', room);
    size_t used = 0;
    for (int i = 0; used + 100 < room; i++)
        used += (size_t)sprintf(json + used, "%c\"%d\":" F32_AT(0, 4), i == 0 ? '{' : ',', i);
    json[used++] = '}';
    long before = peak_kib();
    npt_st_header header = {0};
    assert_int_equal(npt_st_header_parse(json, room, 8 + (uint64_t)room + 4, &header),
                     NPT_E_FORMAT);
    assert_message_has("JSON values");
    assert_true(peak_kib() - before < 64 << 10);
    free(json);
}

static void brackets_without_end_are_refused(void **state)
{
    (void)state;
    enum { BYTES = 1000000 };
    char *directory = temp_dir();
    char *json = malloc(BYTES);
    assert_non_null(json);
    memset(json, '[', BYTES);
    memcpy(json, "{\"a\":", 5);
    char *path = write_st(directory, "deep.safetensors", json, BYTES, 0);
    assert_refused(path, NPT_E_FORMAT, "JSON");
    free(json);
    npt_free(path);
    temp_dir_remove(directory);
}

int main(void)
{
    const npt_case cases[] = {
        NPT_CASE("100 k overlapping tensors are refused", a_hundred_thousand_overlaps_are_refused),
        NPT_CASE("10 M overlapping tensors are refused unread",
                 ten_million_overlaps_are_refused_unread),
        NPT_CASE("a full header of overlaps takes no memory",
                 a_full_header_of_overlaps_takes_no_memory),
        NPT_CASE("brackets without end are refused", brackets_without_end_are_refused),
    };
    return npt_test_run("st_abuse", cases, NPT_COUNT(cases));
}
