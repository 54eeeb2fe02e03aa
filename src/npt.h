/* SPDX-License-Identifier: BSD-2-Clause */
/* npt: trains NPT adapters on Llama-family checkpoints.
 *
 * The one installed header. Every function returns npt_status unless it cannot fail; outputs are
 * written only on NPT_OK; npt_error_message() then holds one sentence for the calling thread.
 * The library never exits, never aborts on bad input and installs no signal handler. Strings
 * passed in are borrowed for the call unless a comment says otherwise. */
#ifndef NPT_H
#define NPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(NPT_BUILDING) && defined(__GNUC__)
#define NPT_API __attribute__((visibility("default")))
#else
#define NPT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -------------------------------------------------------------------------------- */

typedef enum npt_status {
    NPT_OK = 0,
    NPT_E_USAGE,       /* the request itself is wrong: a flag, a value, two that conflict */
    NPT_E_NOMEM,       /* memory is short, or a size overflows */
    NPT_E_IO,          /* the system refused: open, read, write, rename */
    NPT_E_FORMAT,      /* a file is not what it claims to be */
    NPT_E_UNSUPPORTED, /* legal, but not something npt does */
    NPT_E_DATA,        /* a dataset cannot be used */
    NPT_E_NUMERIC,     /* non-finite values that no loss scale mends */
    NPT_E_INTERRUPTED, /* asked to stop; what was done is saved */
    NPT_E_INTERNAL     /* a bug of ours */
} npt_status;

/* "usage", "io", … */
NPT_API const char *npt_status_name(npt_status status);
/* The sentence of the last failure in this thread; "" where there was none. Valid until the next
 * failure in this thread. */
NPT_API const char *npt_error_message(void);
/* "0.1.0" */
NPT_API const char *npt_version(void);

typedef enum npt_log_level { NPT_LOG_VERBOSE, NPT_LOG_NOTE, NPT_LOG_WARNING } npt_log_level;
/* Lines meant for a person, one per call, without newline. Called from the thread that runs the
 * library call. NULL restores the default, standard error. Not thread-safe against running calls. */
typedef void npt_log_sink(void *context, npt_log_level level, const char *line);
NPT_API void npt_log_set(npt_log_sink *sink, void *context);

/* ---- Dtypes -------------------------------------------------------------------------------- */

typedef enum npt_dtype {
    NPT_DTYPE_NONE = 0, /* "not said" */
    NPT_F32,
    NPT_F16,
    NPT_BF16,
    NPT_NF4, /* 4-bit NormalFloat, blocks of 64, F32 absmax; frozen weights only */
    /* found in files; never computed with */
    NPT_F64,
    NPT_C64,
    NPT_U64,
    NPT_I64,
    NPT_U32,
    NPT_I32,
    NPT_U16,
    NPT_I16,
    NPT_U8,
    NPT_I8,
    NPT_F8_E4M3,
    NPT_F8_E5M2,
    NPT_BOOL,
    NPT_DTYPE_COUNT
} npt_dtype;

/* "F32", "BF16", … as safetensors spells them; "NF4"; "none". */
NPT_API const char *npt_dtype_name(npt_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
