# SPDX-License-Identifier: BSD-2-Clause
# Installed under $(pkgdatadir), one variable a folder.
