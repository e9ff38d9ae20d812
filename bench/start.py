# SPDX-License-Identifier: GPL-2.0-only
"""How long it takes from asking the daemon to run an interface until it is attached.

The time is that of the command `mimicctl run --detach`, which ends when the interface is attached:
what a user waits, with the start of the client in it.
"""

import shutil
import time

from bench import arms
from bench.session import Session
from tests.rig.daemon import Daemon
from tests.rig.namespace import scratch_folder
from tests.rig.network import direct


def start(session: Session) -> dict[str, float]:
    """With programs compiled before, and the first time; for this project alone."""
    if session.arm.name != arms.OURS:
        return {}
    with (
        scratch_folder() as cache,
        direct() as net,
        Daemon(net.a, env={"CACHE_DIRECTORY": str(cache)}) as daemon,
    ):
        shutil.rmtree(cache)
        text = f"remote={net.b.address()}:{arms.PORT}"
        first_ms = _run_ms(daemon, text)
        return {"start.compiled_ms": _run_ms(daemon, text), "start.first_time_ms": first_ms}


def _run_ms(daemon: Daemon, text: str) -> float:
    start_s = time.monotonic()
    daemon.ctl("run", "--detach", "-f", text, daemon.host.interface, check=True)
    took_s = time.monotonic() - start_s
    daemon.ctl("stop", daemon.host.interface, check=True)
    return took_s * 1000
