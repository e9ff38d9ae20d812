# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks: what the disguise costs beside plain UDP and beside other programs.

docs/benchmarks.md says what each figure means. Nothing of the product imports this.
"""
