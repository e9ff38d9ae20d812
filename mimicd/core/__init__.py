# SPDX-License-Identifier: GPL-2.0-only
"""The pure core: values and rules without I/O; time and randomness are arguments.

Modules here import one another and the standard library, nothing else.
"""
