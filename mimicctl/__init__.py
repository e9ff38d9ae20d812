# SPDX-License-Identifier: GPL-2.0-only
"""mimicctl: asks mimicd over D-Bus, shows the answer to people and programs."""
