/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include <math.h>

#include "doctor/audit.h"
#include "tensor/dtype.h"

/* Values are cast as loading casts them, with the same kernel, piece by piece, and forgotten. */

enum { PIECE = 1 << 20 };

typedef struct scan_buffers {
    void *aligned, *cast; /* PIECE elements of up to four bytes */
} scan_buffers;

static void scan_piece(npt_exec *exec, npt_in in, int64_t count, npt_dtype to,
                       const scan_buffers *buffers, npt_audit_scan *scan)
{
    npt_survey survey;
    npt_cast_stats stats = {0};
    const npt_kernels *kernels = npt_exec_kernels(exec);
    kernels->survey(npt_exec_run(exec), count, in, 0, &survey);
    if (to != in.dtype && to != NPT_F32)
        kernels->cast(npt_exec_run(exec), count, in, (npt_out){buffers->cast, to}, &stats);
    scan->values += (uint64_t)count;
    scan->nonfinite += (uint64_t)survey.nonfinite;
    scan->overflowed += stats.overflowed;
    scan->flushed += stats.flushed;
    scan->largest = fmaxf(scan->largest, fmaxf(fabsf(survey.min), fabsf(survey.max)));
}

static npt_status scan_pieces(npt_exec *exec, const npt_st_tensor *tensor, npt_dtype to,
                              npt_audit_scan *scan)
{
    const size_t bytes = npt_dtype_bytes(tensor->dtype);
    const int64_t count = (int64_t)(tensor->bytes / bytes);
    scan_buffers buffers = {npt_alloc(PIECE, sizeof(float)), npt_alloc(PIECE, sizeof(float))};
    const bool ready = buffers.aligned != NULL && buffers.cast != NULL;
    for (int64_t at = 0; ready && at < count; at += PIECE) {
        const int64_t size = count - at < PIECE ? count - at : PIECE;
        npt_in in = {(const char *)tensor->data + (size_t)at * bytes, tensor->dtype};
        if (!npt_tensor_is_aligned(tensor)) {
            memcpy(buffers.aligned, in.data, (size_t)size * bytes);
            in.data = buffers.aligned;
        }
        scan_piece(exec, in, size, to, &buffers, scan);
    }
    npt_free(buffers.aligned);
    npt_free(buffers.cast);
    return ready ? NPT_OK : NPT_E_NOMEM;
}

npt_status npt_audit_scan_tensor(npt_exec *exec, const npt_st_tensor *tensor, npt_dtype to,
                                 npt_audit_scan *scan)
{
    npt_audit_scan own = {0};
    NPT_TRY(scan_pieces(exec, tensor, to, &own));
    const uint64_t bad = own.overflowed + own.nonfinite;
    scan->values += own.values;
    scan->overflowed += own.overflowed;
    scan->flushed += own.flushed;
    scan->nonfinite += own.nonfinite;
    scan->largest = fmaxf(scan->largest, own.largest);
    if (bad <= scan->worst_count) return NPT_OK;
    scan->worst_count = bad;
    scan->worst = tensor->name;
    return NPT_OK;
}
