# SPDX-License-Identifier: GPL-2.0-only
"""mimicd that can be asked what it holds: python -m tests.netns.counted, with mimicd's arguments.

On SIGUSR1 it drops its garbage and says how many blocks of memory Python holds then, on stderr.
What the allocator keeps for later is not among them, nor are up to 4096 names of attributes in the
interpreter's own cache, which pyroute2 fills slowly as it makes such names anew for each request.
"""

import asyncio
import gc
import signal
import sys

import mimicd.__main__ as daemon
from mimicd.command_line import Invocation

_serve = daemon._serve


def _tell() -> None:
    sys._clear_type_cache()
    gc.collect()
    print(f"holds {sys.getallocatedblocks()} blocks", file=sys.stderr, flush=True)


async def _asked(invocation: Invocation) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)
    return await _serve(invocation)


if __name__ == "__main__":
    daemon._serve = _asked
    sys.exit(daemon.main())
