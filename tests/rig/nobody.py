# SPDX-License-Identifier: GPL-2.0-only
"""A user without rights, who may read this tree wherever it lies: also below /root."""

NOBODY = 65534
_READS = "+dac_read_search"
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *(f"--inh-caps={_READS}", f"--ambient-caps={_READS}", "--"),
)
"""In front of a command. Only ambient capabilities(7) stay across a change of user."""
