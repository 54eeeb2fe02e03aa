/* SPDX-License-Identifier: BSD-2-Clause */
/* Status codes with one sentence of explanation.
 *
 * The function that decides that something is wrong calls npt_fail() once, with a sentence that
 * says what, where and what to do. Every caller above it only forwards the status. The sentence
 * is kept per thread and read with npt_error_message(). */
#ifndef NPT_BASE_STATUS_H
#define NPT_BASE_STATUS_H

#include "npt.h"

#if defined(__GNUC__)
#define NPT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define NPT_PRINTF(fmt, args)
#endif

/* Records the sentence for this thread and returns `status` (never NPT_OK). */
npt_status npt_fail(npt_status status, const char *format, ...) NPT_PRINTF(2, 3);

/* Puts "prefix: " before the sentence already recorded (a file's name, a line number). */
npt_status npt_fail_in(npt_status status, const char *format, ...) NPT_PRINTF(2, 3);

/* Forwards a failure. */
#define NPT_TRY(expression)                                                                        \
    do {                                                                                           \
        npt_status npt_try_status_ = (expression);                                                 \
        if (npt_try_status_ != NPT_OK) return npt_try_status_;                                     \
    } while (0)

/* The same where something must be cleaned up: sets `status`, jumps to `label`. */
#define NPT_TRY_GOTO(status, label, expression)                                                    \
    do {                                                                                           \
        (status) = (expression);                                                                   \
        if ((status) != NPT_OK) goto label;                                                        \
    } while (0)

/* An internal contract. Always on; a breach is a bug of ours, never of the user's input. */
#define NPT_ASSERT(condition)                                                                      \
    ((condition) ? (void)0 : npt_assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void npt_assert_failed(const char *condition, const char *file, int line);

#endif
