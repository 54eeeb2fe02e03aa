/* SPDX-License-Identifier: BSD-2-Clause */
/* Hand-made safetensors files, and the question whether they are refused as they should. */
#ifndef NPT_TESTS_ST_FILE_H
#define NPT_TESTS_ST_FILE_H

#include "files/safetensors.h"
#include "unit/temp_dir.h"

#define F32_AT(begin, end)                                                                         \
    "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" #begin "," #end "]}"

/* `directory/name` with this header, N telling its length, and `data_bytes` of data. */
static inline char *write_st(const char *directory, const char *name, const char *json,
                             size_t json_bytes, size_t data_bytes)
{
    size_t bytes = 8 + json_bytes + data_bytes;
    uint8_t *all = calloc(1, bytes);
    assert_non_null(all);
    for (int i = 0; i < 8; i++) all[i] = (uint8_t)((uint64_t)json_bytes >> (8 * i));
    memcpy(all + 8, json, json_bytes);
    for (size_t i = 0; i < data_bytes; i++) all[8 + json_bytes + i] = (uint8_t)i;
    char *path = temp_file(directory, name, all, bytes);
    free(all);
    return path;
}

/* The file is refused, in both modes, with a sentence that names it and says `part`. */
static inline void assert_refused(const char *path, npt_status expected, const char *part)
{
    for (int headers_only = 0; headers_only < 2; headers_only++) {
        npt_st *st = (npt_st *)-1;
        npt_status status = npt_st_open(&st, path, headers_only != 0);
        if (status == NPT_OK) fail_msg("accepted, but should say '%s'", part);
        assert_message_has(part);
        assert_message_has(path);
        assert_int_equal(status, expected);
        assert_true(st == (npt_st *)-1); /* outputs are written on success only */
        assert_null(strchr(npt_error_message(), '\n'));
    }
}

#endif
