# SPDX-License-Identifier: GPL-2.0-only
"""Where the files stand that mimicd reads but does not import.

`bpf/` and `dbus/` are folders at the top of the source tree. The package holds them as `_bpf`
and `_dbus`: links in a checkout, folders of their own where the package is installed. So one
rule finds them in both.
"""

from pathlib import Path


def bpf_directory() -> Path:
    """The folder of the BPF sources (*.c) and the headers they include (*.h)."""
    return Path(__file__).resolve().with_name("_bpf").resolve()
