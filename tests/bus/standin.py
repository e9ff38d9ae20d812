# SPDX-License-Identifier: GPL-2.0-only
"""A daemon over the fake manager, to be started and killed: python -m tests.bus.standin ADDRESS.

`--running NAME`: an interface that a predecessor left running, `--bound` to its caller.
Ends on SIGTERM; with `--stop-first` it stops the interfaces before it leaves the bus. SIGUSR1
makes it write a log line about every running interface. `--note` adds a connection that does not
work, for this reason. In the end it prints the longest time
that its event loop was held up.
"""

import argparse
import asyncio
import os
import signal
import time

import uvloop

from mimicd.bus.keeper import BusKeeper
from mimicd.bus.names import bus_address
from tests.bus.fake_manager import FakeManager, connection

FILTER = "remote=203.0.113.5:51820"


async def beat(stalls_s: list[float]) -> None:
    """Note the time between two turns of the event loop.

    Counted in processor time of its thread: what other processes take is not its fault.
    """
    last = time.thread_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.thread_time()
        stalls_s[0] = max(stalls_s[0], now - last)
        last = now


async def serve(arguments: argparse.Namespace) -> None:
    manager = FakeManager()
    for name in arguments.running:
        manager.add(name, {"filter": [FILTER]})
        count = arguments.connections
        manager.connections_of[name] = [connection(number, name) for number in range(count)]
        manager.connections_of[name] += [connection(count, name, note) for note in arguments.note]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def speak() -> None:
        for view in manager.interfaces():
            manager.say(view.name, 2, f"{view.name} says hello")

    loop.add_signal_handler(signal.SIGUSR1, speak)
    address = bus_address(arguments.address, os.environ)
    bound = dict.fromkeys(arguments.running if arguments.bound else (), "")
    keeper = BusKeeper(manager, address, bound, grace_s=0.5)
    await keeper.start()
    stalls_s = [0.0]
    heart = asyncio.ensure_future(beat(stalls_s))
    await stop.wait()
    heart.cancel()
    print(f"longest stall {stalls_s[0]:.3f} s")
    if arguments.stop_first:
        for view in manager.interfaces():
            manager.remove(view.name)
    await keeper.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?")
    parser.add_argument("--running", action="append", default=[])
    parser.add_argument("--bound", action="store_true")
    parser.add_argument("--stop-first", action="store_true")
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--note", action="append", default=[])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
