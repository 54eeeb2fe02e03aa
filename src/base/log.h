/* SPDX-License-Identifier: BSD-2-Clause */
/* Notes and warnings for the person who runs the program. Errors travel as npt_status. */
#ifndef NPT_BASE_LOG_H
#define NPT_BASE_LOG_H

#include "base/status.h"

/* Sends one line (no trailing newline) to the sink set with npt_log_set(); standard error, with
 * "npt: " or "npt: warning: " before it, where none was set. Any thread. NPT_LOG_VERBOSE lines
 * are dropped unless NPT_VERBOSE=1 is in the environment. */
void npt_log(npt_log_level level, const char *format, ...) NPT_PRINTF(2, 3);

/* Appends every line to a file as well, until called with NULL. NPT_E_IO. */
npt_status npt_log_copy_to(const char *path);

/* Whether NPT_VERBOSE=1 is set. */
bool npt_verbose(void);

#endif
