# SPDX-License-Identifier: GPL-2.0-only
"""Several processes that share one listening port with SO_REUSEPORT; the kernel spreads the load.

The parent holds no connection: it passes signals on, and when one worker fails it ends them all,
so that nobody mistakes a part of the service for the whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys

from kaminari.service import Service

logger = logging.getLogger("kaminari")

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PARENT_CHECK_S = 1.0


def run_workers(service: Service, count: int) -> int:
    """Fork `count` workers and wait for all of them; 0 if each stopped cleanly."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    parent = os.getpid()
    children: set[int] = set()
    for number in range(count):
        child = os.fork()
        if child == 0:
            os._exit(_run_worker(service, parent, announce=number == 0))
        children.add(child)
    return _supervise(service, children)


def _run_worker(service: Service, parent: int, announce: bool) -> int:
    os.setpgid(0, 0)  # Ctrl-C reaches a worker once, through its parent
    # The others stay blocked until the service has handlers for them: one that comes before
    # would end this worker as if it had failed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        return service.run(announce=announce, supervisor=parent)
    except Exception as error:
        print(f"a worker failed: {error}", file=sys.stderr)
        return 1


def _supervise(service: Service, children: set[int]) -> int:
    code = 0
    starter = os.getppid()
    while children:
        received = signal.sigtimedwait({*PASSED_ON, signal.SIGCHLD}, PARENT_CHECK_S)
        if received is None:
            if service.plugin and os.getppid() != starter:
                _signal_all(children, signal.SIGTERM)
        elif received.si_signo != signal.SIGCHLD:
            _signal_all(children, received.si_signo)
        else:
            code |= _reap(children)
    return code


def _reap(children: set[int]) -> int:
    code = 0
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            break
        children.discard(child)
        if os.waitstatus_to_exitcode(status) != 0:
            code = 1
            logger.error("a worker ended unexpectedly; the others stop")
            _signal_all(children, signal.SIGTERM)
    return code


def _signal_all(children: set[int], number: int) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
