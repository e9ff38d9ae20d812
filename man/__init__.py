# SPDX-License-Identifier: GPL-2.0-only
"""The manual pages: their hand-written parts (*.in), and what makes pages of them."""
