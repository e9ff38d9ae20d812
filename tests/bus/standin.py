# SPDX-License-Identifier: GPL-2.0-only
"""A daemon over the fake manager, to be started and killed: python -m tests.bus.standin ADDRESS.

`--running NAME`: an interface that a predecessor left running. Ends on SIGTERM; SIGUSR1 makes it
write a log line about every running interface.
"""

import argparse
import asyncio
import os
import signal

from mimicd.bus.keeper import BusKeeper
from mimicd.bus.names import bus_address
from tests.bus.fake_manager import FakeManager, connection

FILTER = "remote=203.0.113.5:51820"


async def serve(address: str, running: list[str], bound: bool) -> None:
    manager = FakeManager()
    for name in running:
        manager.add(name, {"filter": [FILTER]})
        manager.connections[name] = [connection(number, name) for number in range(3)]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def speak() -> None:
        for view in manager.interfaces():
            manager.say(view.name, 2, f"{view.name} says hello")

    loop.add_signal_handler(signal.SIGUSR1, speak)
    keeper = BusKeeper(manager, address, bound=running if bound else (), grace_s=0.5)
    await keeper.start()
    await stop.wait()
    await keeper.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?")
    parser.add_argument("--running", action="append", default=[])
    parser.add_argument("--bound", action="store_true")
    arguments = parser.parse_args()
    address = bus_address(arguments.address, os.environ)
    asyncio.run(serve(address, arguments.running, arguments.bound))


if __name__ == "__main__":
    main()
