# SPDX-License-Identifier: GPL-2.0-only
"""The demonstration: the main job on real traffic, told step by step and checked at the end."""
