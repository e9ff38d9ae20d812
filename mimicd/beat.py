# SPDX-License-Identifier: GPL-2.0-only
"""Regular work at the same times for everybody: a process at rest wakes up once for all of it.

To wake up takes a multiple of what there is to do then, for nothing of it is in the caches.
"""

import asyncio
from collections.abc import Callable


def at_next(
    loop: asyncio.AbstractEventLoop, every_s: float, work: Callable[[], None]
) -> asyncio.TimerHandle:
    """Call `work` when the loop's clock comes to the next multiple of `every_s`."""
    return loop.call_later(every_s - loop.time() % every_s, work)
