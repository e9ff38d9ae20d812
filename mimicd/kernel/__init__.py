# SPDX-License-Identifier: GPL-2.0-only
"""The edge to the kernel: the only importers of bcc, pyroute2 and raw sockets."""
