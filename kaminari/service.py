# SPDX-License-Identifier: GPL-2.0-only
"""A tunnel as a process: the event loop, signals, and how it all begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable

from kaminari.datagram_client import DatagramClient
from kaminari.errors import KaminariError
from kaminari.listen import bind
from kaminari.options import Options, Role
from kaminari.plugin import Arguments, watch_parent
from kaminari.poller import Poller
from kaminari.tls_context import EngineFactory, make_client_factory, make_server_factory
from kaminari.tunnel import StreamTunnel

logger = logging.getLogger("kaminari")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service:
    """Everything that can be refused is refused here, before the first connection."""

    def __init__(self, arguments: Arguments, options: Options) -> None:
        """Read the files and bind the port. Raises UsageError, RunError."""
        self._arguments = arguments
        self._options = options
        self.plugin = arguments.plugin
        self._factory: EngineFactory | None = None
        if options.tls:
            make = make_client_factory if options.role is Role.CLIENT else make_server_factory
            self._factory = make(options.tls)
        self._kind = (
            socket.SOCK_DGRAM if options.uot and options.role is Role.CLIENT else socket.SOCK_STREAM
        )
        self.sockets = bind(arguments.listen, self._kind)
        if options.workers > 1:
            # The bind above has shown that nobody else has the port.
            for sock in self.sockets:
                sock.close()
            self.sockets = []

    def run(self, announce: bool = True, supervisor: int = 0) -> int:
        """Serve until a stop signal; the exit code.

        One worker's life, where there are several; it ends with its `supervisor` then.
        """
        if not self.sockets:
            self.sockets = bind(self._arguments.listen, self._kind, share=True)
        raise_file_limit()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(self._serve(announce, supervisor))

    async def _serve(self, announce: bool, supervisor: int) -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        kill = asyncio.Event()
        options, remote = self._options, self._arguments.connect
        kind = DatagramClient if options.uot and options.role is Role.CLIENT else StreamTunnel
        poller = Poller(loop)
        tunnel = kind(poller, options, remote, self._factory, self.sockets)

        def on_stop() -> None:
            (kill if stop.is_set() else stop).set()

        with contextlib.ExitStack() as undo:
            undo.callback(poller.close)
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, on_stop)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            # a worker begins with them blocked, see workers.py
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGHUP})
            if supervisor or self.plugin:
                parent = supervisor or os.getppid()
                undo.enter_context(watch_parent(loop, parent, on_stop))
            tunnel.start()
            if announce:
                logger.info(
                    "listening on %s, %s, connecting to %s",
                    self._arguments.listen,
                    options.layers,
                    remote,
                )
            await stop.wait()
            stopping = loop.create_task(tunnel.stop())
            killed = loop.create_task(kill.wait())
            await asyncio.wait({stopping, killed}, return_when=asyncio.FIRST_COMPLETED)
            killed.cancel()
            stopping.cancel()
            await asyncio.gather(stopping, killed, return_exceptions=True)
            for number in STOP_SIGNALS:  # one more of them must not spoil the exit code now
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return 0

    def _reload(self) -> None:
        if self._factory is None:
            logger.info("nothing to reload without tls")
            return
        try:
            self._factory.reload()
        except KaminariError as error:
            logger.error("nothing reloaded: %s", error)
        else:
            logger.info("reloaded; new connections use what the files hold now")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's event loop where it is installed, asyncio's otherwise."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def raise_file_limit() -> None:
    """Allow as many descriptors as may be had: a connection takes two, and at times a pipe."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
