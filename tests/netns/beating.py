# SPDX-License-Identifier: GPL-2.0-only
"""mimicd whose event loop is watched: python -m tests.netns.beating, with mimicd's arguments.

When it ends it says how long the loop was held up at most, on stderr.
"""

import asyncio
import sys

import mimicd.__main__ as daemon
from mimicd.command_line import Invocation
from tests.bus.standin import beat

_serve = daemon._serve


async def _watched(invocation: Invocation) -> int:
    stalls_s = [0.0]
    heart = asyncio.ensure_future(beat(stalls_s))
    try:
        return await _serve(invocation)
    finally:
        heart.cancel()
        print(f"longest stall {stalls_s[0]:.4f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    daemon._serve = _watched
    sys.exit(daemon.main())
