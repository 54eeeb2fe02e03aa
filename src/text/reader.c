/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "text/reader.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "base/memory.h"
#include "text/tokenizer_impl.h"

/* One window of plain bytes, [begin, end) of `window`, refilled from the file or from a
 * decompressor that is fed from `input`. A codec's read() gives at least one byte or none at the
 * end, and knows whether the end is a proper one. */

enum { INPUT_BYTES = 1 << 16, WINDOW_BYTES = 1 << 16 };

typedef npt_status read_function(npt_reader *reader, char *out, size_t room, size_t *got);

struct npt_reader {
    FILE *file;
    bool borrowed;
    char *path;
    read_function *read;
    size_t limit;

    char *window;
    size_t begin, end, capacity;
    int64_t offset; /* plain bytes before `begin` */
    bool at_end;

    unsigned char *input; /* compressed bytes [input_begin, input_end) */
    size_t input_begin, input_end;
    bool inside; /* a member or frame is not finished */
#ifdef HAVE_ZLIB
    z_stream gzip;
    bool has_gzip;
#endif
#ifdef HAVE_ZSTD
    ZSTD_DStream *zstd;
#endif
};

static npt_status read_file(npt_reader *r, void *out, size_t room, size_t *got)
{
    *got = fread(out, 1, room, r->file);
    if (*got == 0 && ferror(r->file))
        return npt_fail(NPT_E_IO, "%s: cannot read: %s", r->path, strerror(errno));
    return NPT_OK;
}

static npt_status read_plain(npt_reader *r, char *out, size_t room, size_t *got)
{
    return read_file(r, out, room, got);
}

#if defined(HAVE_ZLIB) || defined(HAVE_ZSTD)
/* Refills the empty input; *end at the end of the file, which must not be inside a member. */
static npt_status refill_input(npt_reader *r, bool *end)
{
    *end = false;
    if (r->input_begin < r->input_end) return NPT_OK;
    r->input_begin = 0;
    NPT_TRY(read_file(r, r->input, INPUT_BYTES, &r->input_end));
    *end = r->input_end == 0;
    if (*end && r->inside)
        return npt_fail(NPT_E_FORMAT, "%s: the compressed data ends early; the file is truncated",
                        r->path);
    return NPT_OK;
}

static npt_status start_input(npt_reader *r)
{
    r->input = npt_alloc(INPUT_BYTES, 1);
    r->inside = true;
    return r->input == NULL ? NPT_E_NOMEM : NPT_OK;
}
#endif

#ifdef HAVE_ZLIB
/* Members may follow each other; zero bytes after one are padding. */
static npt_status read_gzip(npt_reader *r, char *out, size_t room, size_t *got)
{
    bool end;

    *got = 0;
    while (*got == 0) {
        int code;
        NPT_TRY(refill_input(r, &end));
        if (end) return NPT_OK;
        if (!r->inside && r->input[r->input_begin] == 0) {
            r->input_begin++;
            continue;
        }
        if (!r->inside) inflateReset(&r->gzip);
        r->inside = true;
        r->gzip.next_in = r->input + r->input_begin;
        r->gzip.avail_in = (uInt)(r->input_end - r->input_begin);
        r->gzip.next_out = (unsigned char *)out;
        r->gzip.avail_out = (uInt)room;
        code = inflate(&r->gzip, Z_NO_FLUSH);
        r->input_begin = r->input_end - r->gzip.avail_in;
        *got = room - r->gzip.avail_out;
        if (code == Z_MEM_ERROR) return npt_fail(NPT_E_NOMEM, "%s: no memory to inflate", r->path);
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return npt_fail(NPT_E_FORMAT, "%s: damaged gzip data: %s", r->path,
                            r->gzip.msg != NULL ? r->gzip.msg : "unknown reason");
        if (code == Z_STREAM_END) r->inside = false;
    }
    return NPT_OK;
}

static npt_status start_gzip(npt_reader *r)
{
    NPT_TRY(start_input(r));
    r->has_gzip = inflateInit2(&r->gzip, 16 + MAX_WBITS) == Z_OK; /* 16: gzip, nothing else */
    r->read = read_gzip;
    return r->has_gzip ? NPT_OK : npt_fail(NPT_E_NOMEM, "%s: no memory to inflate", r->path);
}
#else
static npt_status start_gzip(npt_reader *r)
{
    return npt_fail(NPT_E_UNSUPPORTED,
                    "%s: npt was built without zlib; decompress the file with gzip -d first",
                    r->path);
}
#endif

#ifdef HAVE_ZSTD
static npt_status read_zstd(npt_reader *r, char *out, size_t room, size_t *got)
{
    bool end;

    *got = 0;
    while (*got == 0) {
        ZSTD_outBuffer to = {out, room, 0};
        ZSTD_inBuffer from;
        size_t code;
        NPT_TRY(refill_input(r, &end));
        if (end) return NPT_OK;
        from = (ZSTD_inBuffer){r->input + r->input_begin, r->input_end - r->input_begin, 0};
        code = ZSTD_decompressStream(r->zstd, &to, &from);
        if (ZSTD_isError(code))
            return npt_fail(NPT_E_FORMAT, "%s: damaged zstd data: %s", r->path,
                            ZSTD_getErrorName(code));
        r->input_begin += from.pos;
        r->inside = code != 0;
        *got = to.pos;
    }
    return NPT_OK;
}

static npt_status start_zstd(npt_reader *r)
{
    NPT_TRY(start_input(r));
    r->zstd = ZSTD_createDStream();
    r->read = read_zstd;
    return r->zstd != NULL ? NPT_OK : npt_fail(NPT_E_NOMEM, "%s: no memory for zstd", r->path);
}
#else
static npt_status start_zstd(npt_reader *r)
{
    return npt_fail(NPT_E_UNSUPPORTED,
                    "%s: npt was built without zstd; decompress the file with zstd -d first",
                    r->path);
}
#endif

static npt_status start(npt_reader *r)
{
    size_t length = strlen(r->path);

    if (npt_name_ends(r->path, length, ".gz")) return start_gzip(r);
    if (npt_name_ends(r->path, length, ".zst")) return start_zstd(r);
    r->read = read_plain;
    return NPT_OK;
}

static npt_status create(npt_reader **reader, const char *name, size_t limit)
{
    npt_reader *r = npt_alloc(1, sizeof(*r));
    if (r == NULL) return NPT_E_NOMEM;
    r->limit = limit;
    r->path = npt_strdup(name);
    if (r->path == NULL) {
        npt_reader_close(r);
        return NPT_E_NOMEM;
    }
    *reader = r;
    return NPT_OK;
}

npt_status npt_reader_open(npt_reader **reader, const char *path, size_t limit)
{
    npt_reader *r = NULL;
    npt_status status;

    NPT_TRY(create(&r, path, limit));
    NPT_TRY_GOTO(status, out, start(r));
    r->file = fopen(path, "rb");
    if (r->file == NULL) {
        status = npt_fail(NPT_E_IO, "%s: cannot open: %s", path, strerror(errno));
        goto out;
    }
    *reader = r;
    return NPT_OK;
out:
    npt_reader_close(r);
    return status;
}

npt_status npt_reader_attach(npt_reader **reader, FILE *file, const char *name, size_t limit)
{
    npt_reader *r = NULL;

    NPT_TRY(create(&r, name, limit));
    r->file = file;
    r->borrowed = true;
    r->read = read_plain;
    *reader = r;
    return NPT_OK;
}

/* More plain bytes behind the window's end. */
static npt_status refill(npt_reader *r)
{
    size_t got;

    if (r->begin > 0 && r->begin == r->end) r->begin = r->end = 0;
    if (r->capacity - r->end < WINDOW_BYTES / 2 && r->begin > 0) {
        memmove(r->window, r->window + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
    }
    NPT_TRY(npt_grow(&r->window, &r->capacity, r->end + WINDOW_BYTES, 1));
    NPT_TRY(r->read(r, r->window + r->end, r->capacity - r->end - 1, &got));
    r->end += got;
    r->at_end = got == 0;
    return NPT_OK;
}

static void consume(npt_reader *r, size_t bytes)
{
    r->begin += bytes;
    r->offset += (int64_t)bytes;
}

/* What is left of a line that is over the limit. */
static npt_status pass_line(npt_reader *r)
{
    for (;;) {
        const char *end =
            r->begin < r->end ? memchr(r->window + r->begin, '\n', r->end - r->begin) : NULL;
        if (end != NULL) {
            consume(r, (size_t)(end - r->window) - r->begin + 1);
            return NPT_OK;
        }
        consume(r, r->end - r->begin);
        if (r->at_end) return NPT_OK;
        NPT_TRY(refill(r));
    }
}

npt_status npt_reader_line(npt_reader *r, npt_line *line)
{
    size_t scanned = 0, length;
    char *end = NULL;

    *line = (npt_line){0};
    for (;;) {
        size_t held = r->end - r->begin;
        if (held > scanned) end = memchr(r->window + r->begin + scanned, '\n', held - scanned);
        if (end != NULL || r->at_end) break;
        scanned = held;
        if (held > r->limit) {
            line->too_long = true;
            return pass_line(r);
        }
        NPT_TRY(refill(r));
    }
    length = end != NULL ? (size_t)(end - r->window) - r->begin : r->end - r->begin;
    line->end = end == NULL && length == 0;
    if (line->end) return NPT_OK;
    line->text = r->window + r->begin;
    line->length = length;
    consume(r, length + (end != NULL));
    line->too_long = length > r->limit;
    if (line->too_long) line->text = NULL;
    if (!line->too_long && length > 0 && line->text[length - 1] == '\r') line->length--;
    return NPT_OK;
}

int64_t npt_reader_tell(const npt_reader *r)
{
    return r->offset;
}

static npt_status too_short(const npt_reader *r, int64_t wanted, int64_t size)
{
    return npt_fail(NPT_E_DATA,
                    "%s: has %lld bytes, not the %lld at which reading should go on; it is not the "
                    "file it was",
                    r->path, (long long)size, (long long)wanted);
}

/* A plain file need not be read up to there. */
static npt_status skip_plain(npt_reader *r, int64_t bytes)
{
    int64_t size;

    if (fseeko(r->file, 0, SEEK_END) != 0 || (size = ftello(r->file)) < 0)
        return npt_fail(NPT_E_IO, "%s: cannot seek: %s", r->path, strerror(errno));
    if (size < bytes) return too_short(r, bytes, size);
    if (fseeko(r->file, bytes, SEEK_SET) != 0)
        return npt_fail(NPT_E_IO, "%s: cannot seek: %s", r->path, strerror(errno));
    r->offset = bytes;
    return NPT_OK;
}

npt_status npt_reader_skip(npt_reader *r, int64_t bytes)
{
    int64_t wanted = bytes;

    if (bytes > 0 && r->read == read_plain) return skip_plain(r, bytes);
    while (bytes > 0) {
        size_t held = r->end - r->begin;
        if (held > (uint64_t)bytes) held = (size_t)bytes;
        consume(r, held);
        bytes -= (int64_t)held;
        if (bytes > 0 && r->at_end) return too_short(r, wanted, r->offset);
        if (bytes > 0) NPT_TRY(refill(r));
    }
    return NPT_OK;
}

void npt_reader_close(npt_reader *r)
{
    if (r == NULL) return;
#ifdef HAVE_ZLIB
    if (r->has_gzip) inflateEnd(&r->gzip);
#endif
#ifdef HAVE_ZSTD
    ZSTD_freeDStream(r->zstd);
#endif
    if (r->file != NULL && !r->borrowed) fclose(r->file);
    npt_free(r->input);
    npt_free(r->window);
    npt_free(r->path);
    npt_free(r);
}

bool npt_name_ends(const char *name, size_t length, const char *suffix)
{
    size_t n = strlen(suffix);
    return length >= n && strncasecmp(name + length - n, suffix, n) == 0;
}

bool npt_name_compressed(const char *name, size_t *length)
{
    if (npt_name_ends(name, *length, ".gz"))
        *length -= 3;
    else if (npt_name_ends(name, *length, ".zst"))
        *length -= 4;
    else
        return false;
    return true;
}
