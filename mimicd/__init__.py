# SPDX-License-Identifier: GPL-2.0-only
"""mimicd: chosen UDP flows leave an interface as TCP segments and come back as UDP."""

__version__ = "0.1.0"
