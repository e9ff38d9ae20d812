# SPDX-License-Identifier: GPL-2.0-only
"""Completions for shells, made from the tables of commands and settings: see build.py."""
