# SPDX-License-Identifier: BSD-2-Clause
include $(top_srcdir)/src/cpu/kernels.mk
