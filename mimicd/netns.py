# SPDX-License-Identifier: GPL-2.0-only
"""Network namespaces with a name, as `ip netns` makes them."""

import os
from pathlib import Path

from mimicd.core.options import UsageError

_FOLDER = Path("/run/netns")
_OWN = Path("/proc/self/ns/net")


def check_namespace(name: str) -> None:
    """UsageError unless this process is in the one of that name.

    mimicd never changes its namespace; the name tells others how to find it.
    """
    if "/" in name or name in ("", ".", ".."):
        raise UsageError(f"{name!r} is not the name of a network namespace", "see `ip netns`")
    try:
        wanted, own = os.stat(_FOLDER / name), os.stat(_OWN)
    except OSError as error:
        raise UsageError(
            f"there is no network namespace {name}: {error.strerror}", "`ip netns` lists them"
        ) from None
    if (wanted.st_dev, wanted.st_ino) != (own.st_dev, own.st_ino):
        raise UsageError(
            f"this process is not in the network namespace {name}",
            f"start it there: `ip netns exec {name} mimicd --netns {name}`",
        )
