# SPDX-License-Identifier: GPL-2.0-only
"""The command mimicd: arguments, event loop, signals, wiring.

SIGTERM and SIGINT stop: RST to every peer, detach, remove pins. SIGUSR2 leaves everything
attached for the next daemon. SIGHUP reads configuration files again: those in /etc/mimic of the
interfaces that run, or the one after -F. Exit codes: 0 stopped, 1 failed, 2 bad usage or
configuration, 3 the bus is not reachable.

Beside the bus, or instead of it, the varlink socket is served.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimicd import logs
from mimicd.command_line import Invocation, parse_command_line, read_options
from mimicd.core.errors import (
    EXIT_FAILED,
    AlreadyRunningError,
    FailedError,
    MimicError,
    MissingDependencyError,
)
from mimicd.core.preflight import is_good
from mimicd.core.terminal import check_table, colour_wanted
from mimicd.netns import check_namespace
from mimicd.notify import Watchdog, notify
from mimicd.varlink_socket import socket_of

if TYPE_CHECKING:
    # imported late, so that what is missing can be named
    from mimicd.core.connection import Connection, InterfaceView
    from mimicd.supervisor import Supervisor

    _Ended = asyncio.Future[signal.Signals]

log = logging.getLogger("mimicd")

_STOP = (signal.SIGTERM, signal.SIGINT)
_CONFIG_FOLDER = Path("/etc/mimic")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns its exit code."""
    try:
        invocation = parse_command_line(sys.argv[1:] if argv is None else argv)
        if invocation.text:
            sys.stdout.write(invocation.text)
            return 0
        logs.set_up(invocation.verbosity)
        if os.geteuid() != 0 and not _has_capabilities():
            raise FailedError(
                "mimicd cannot attach BPF programs as this user",
                "run it as root, or as a service with CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and"
                " CAP_PERFMON",
            )
        return _run(invocation)
    except MimicError as error:
        sys.stderr.write(f"mimicd: {error}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code


def _has_capabilities() -> bool:
    """CAP_NET_ADMIN (12), CAP_NET_RAW (13) and CAP_BPF (39) among the effective ones."""
    needed = 1 << 12 | 1 << 13 | 1 << 39
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16) & needed == needed
    return False


def _run(invocation: Invocation) -> int:
    try:
        import uvloop
    except ImportError:
        raise MissingDependencyError(
            "uvloop is not installed", "install the package python3-uvloop"
        ) from None
    # Not uvloop.install(): pyroute2 needs the stock loop on its own thread.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(invocation))


async def _serve(invocation: Invocation) -> int:
    try:
        from mimicd.guarding import guard
        from mimicd.supervisor import Supervisor
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is not installed", "install the package python3-pyroute2"
        ) from None
    for note in invocation.notes:
        log.warning("%s", note)
    if invocation.checks:
        return await _check(Supervisor(), invocation)
    if invocation.guards is not None:
        await guard(invocation.interface, invocation.options, invocation.guards)
        return 0
    loop = asyncio.get_running_loop()
    ended: _Ended = loop.create_future()

    def end(by: signal.Signals) -> None:
        if not ended.done():
            ended.set_result(by)

    for number in (*_STOP, signal.SIGUSR2):
        loop.add_signal_handler(number, end, number)
    supervisor = Supervisor()
    begun = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(supervisor, invocation, begun))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    if invocation.netns:
        check_namespace(invocation.netns)
    await supervisor.open(only=invocation.interface)
    if not invocation.interface:
        begun.set()
    by: signal.Signals | None = None
    watchdog = Watchdog()
    watchdog.start()
    try:
        if invocation.interface:
            await _serve_one(supervisor, invocation, begun, ended)
        elif invocation.uses_bus:
            await _serve_bus(supervisor, invocation, ended)
        else:
            async with socket_of(supervisor, invocation, supervisor.holders()) as served:
                if not served:
                    raise AlreadyRunningError(
                        "there is no socket to be asked at",
                        "stop the other mimicd first; --netns tells network namespaces apart",
                    )
                _ready()
                log.info("serving at the varlink socket, without a bus")
                await ended
        by = ended.result()
    finally:
        notify("STOPPING=1")
        watchdog.close()
        # Where this process could not even begin, what it took over is not its to stop.
        if by in _STOP:
            await supervisor.stop_all()
        else:
            await supervisor.leave_all()
    return 0


def _ready() -> None:
    """Tell the service manager. What is there by now stays, so no collection looks at it again:
    full ones are short then, and come often enough that no garbage piles up."""
    gc.freeze()
    gc.collect()  # of nothing: how much there is decides when the next full one is due
    notify("READY=1")


async def _check(supervisor: Supervisor, invocation: Invocation) -> int:
    """Exit code 0 where nothing failed."""
    await supervisor.open_to_look()
    try:
        lines = await supervisor.check(invocation.interface, invocation.options)
    finally:
        await supervisor.close_after_looking()
    colour = colour_wanted(sys.stdout.isatty(), os.environ)
    sys.stdout.write(check_table([(one.check, one.grade, one.words) for one in lines], colour))
    return 0 if is_good(lines) else EXIT_FAILED


async def _reload(supervisor: Supervisor, invocation: Invocation, begun: asyncio.Event) -> None:
    """What cannot be read or applied changes nothing and is logged.

    `begun`: what was asked for before that waits, for what is read now may be newer than what it
    begins with.
    """
    await begun.wait()
    for view in supervisor.interfaces():
        path = _CONFIG_FOLDER / f"{view.name}.conf"
        try:
            if invocation.interface:
                options = parse_command_line(invocation.argv).options
            elif path.exists():
                options = read_options(str(path))
            else:
                log.info("%s: there is no %s, nothing is changed", view.name, path)
                continue
            await supervisor.reload(view.name, options)
        except MimicError as error:
            log.error("%s: not reloaded: %s", view.name, error)


async def _serve_one(
    supervisor: Supervisor, invocation: Invocation, begun: asyncio.Event, ended: _Ended
) -> None:
    adopted = any(view.name == invocation.interface for view in supervisor.interfaces())
    begin = supervisor.reload if adopted else supervisor.run
    await begin(invocation.interface, invocation.options)
    begun.set()
    supervisor.set_holder(invocation.interface, "")
    unsubscribe = supervisor.subscribe(_EndsWith(invocation.interface, ended))
    try:
        async with socket_of(supervisor, invocation):
            _ready()
            await ended
    finally:
        unsubscribe()


class _EndsWith:
    """A core.manager.Listener that ends the process with the one interface that it serves."""

    def __init__(self, interface: str, ended: _Ended) -> None:
        self._interface = interface
        self._ended = ended

    def interface_removed(self, name: str) -> None:
        if name == self._interface and not self._ended.done():
            self._ended.set_result(signal.SIGTERM)

    def interface_renamed(self, before: str, view: InterfaceView) -> None:
        if before == self._interface:
            self._interface = view.name

    def interface_added(self, view: InterfaceView) -> None:
        """Told for each change of its settings."""

    def connection_changed(self, connection: Connection) -> None:
        """Of no concern."""

    def log(self, interface: str, level: int, text: str) -> None:
        """Of no concern."""


async def _serve_bus(supervisor: Supervisor, invocation: Invocation, ended: _Ended) -> None:
    try:
        from mimicd.bus.keeper import BusKeeper
        from mimicd.bus.names import bus_address, bus_name
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is not installed", "install the package python3-dbus-next"
        ) from None
    held = supervisor.holders()
    by_varlink = [name for name, holder in held.items() if holder.startswith("varlink")]
    by_bus = {name: holder for name, holder in held.items() if name not in by_varlink}
    address = bus_address(invocation.address, os.environ)
    keeper = BusKeeper(supervisor, address, by_bus, bus_name=bus_name(invocation.netns))
    await keeper.start()
    _ready()
    log.info("serving on the bus")
    try:
        async with socket_of(supervisor, invocation, by_varlink):
            await ended
    finally:
        await keeper.close()


if __name__ == "__main__":
    sys.exit(main())
