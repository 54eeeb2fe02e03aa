/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines of a file: plain, .gz or .zst, read as a stream, with the position in the plain bytes. */
#ifndef NPT_TEXT_READER_H
#define NPT_TEXT_READER_H

#include "base/status.h"

typedef struct npt_reader npt_reader;

typedef struct npt_line {
    const char *text; /* without its end of line; valid until the next call */
    size_t length;
    bool end;      /* no more lines; nothing else is set */
    bool too_long; /* more than the limit: passed over, text is NULL */
} npt_line;

/* The name says what the file is. `limit`: bytes that a line may have. NPT_E_IO;
 * NPT_E_UNSUPPORTED where npt was built without the library for it. */
npt_status npt_reader_open(npt_reader **reader, const char *path, size_t limit);
/* A plain file that is open already, and stays so; `name` (copied) is for messages. */
npt_status npt_reader_attach(npt_reader **reader, FILE *file, const char *name, size_t limit);
/* NPT_E_IO; NPT_E_FORMAT for damaged or truncated compressed data. */
npt_status npt_reader_line(npt_reader *reader, npt_line *line);
/* Plain bytes before the next line. */
int64_t npt_reader_tell(const npt_reader *reader);
/* Goes `bytes` forward from the start of a reader not yet used; NPT_E_DATA where there are fewer.
 */
npt_status npt_reader_skip(npt_reader *reader, int64_t bytes);
void npt_reader_close(npt_reader *reader);

/* Whether the name ends so; ".gz" and ".zst" (*length is then lowered to the name without). */
bool npt_name_ends(const char *name, size_t length, const char *suffix);
bool npt_name_compressed(const char *name, size_t *length);

#endif
