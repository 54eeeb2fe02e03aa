/* SPDX-License-Identifier: BSD-2-Clause */
/* The subcommands of npt doctor, one or two a file. */
#ifndef NPT_CLI_DOCTOR_H
#define NPT_CLI_DOCTOR_H

#include "cli/cli.h"

npt_command_run npt_command_doctor_plan, npt_command_doctor_probe, npt_command_doctor_diff;

#endif
