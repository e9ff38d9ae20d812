# SPDX-License-Identifier: GPL-2.0-only
"""A private message bus: a dbus-daemon of its own, in a folder of its own.

It runs in a namespace of the rig, which ends it when the test dies. Its Unix socket belongs to no
network namespace: any host reaches it.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rig.namespace import Namespace, RigError, wait_until

READY_WITHIN_S = 10.0
END_WITHIN_S = 5.0
MAX_SOCKET_PATH_BYTES = 100  # sun_path of unix(7) holds 108

_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    {ownership}
    <allow send_destination="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@dataclass
class Bus:
    """A running bus; `address` is what --address and DBUS_SYSTEM_BUS_ADDRESS take."""

    address: str
    process: subprocess.Popen[bytes]

    def owned(self, name: str) -> bool:
        """Whether somebody owns a bus name."""
        answer = self.call("NameHasOwner", f"string:{name}")
        return answer.rstrip().endswith("boolean true")

    def owner_pid(self, name: str) -> int:
        """The process that owns a bus name."""
        return int(self.call("GetConnectionUnixProcessID", f"string:{name}").split()[-1])

    def call(self, method: str, *arguments: str) -> str:
        """Call a method of the bus itself; dbus-send's words."""
        argv = ["dbus-send", f"--bus={self.address}", "--print-reply"]
        argv += ["--dest=org.freedesktop.DBus", "/", f"org.freedesktop.DBus.{method}"]
        done = subprocess.run(
            [*argv, *arguments], capture_output=True, text=True, timeout=10, check=False
        )
        if done.returncode != 0:
            raise RigError(f"the bus refused {method}: {done.stderr.strip()}")
        return done.stdout

    def ask(self, name: str, path: str, method: str, *arguments: str) -> str:
        """Call a method of whoever owns a name; dbus-send's words, of an error too."""
        argv = ["dbus-send", f"--bus={self.address}", "--print-reply", f"--dest={name}", path]
        done = subprocess.run(
            [*argv, f"{name}.{method}", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        """End the bus; its clients notice. Harmless when repeated."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def private_bus(namespace: Namespace, folder: Path, may_own: bool = True) -> Iterator[Bus]:
    """Run a bus with its files in an existing folder; `may_own` off refuses every name on it."""
    socket = folder / "bus"
    if len(str(socket)) > MAX_SOCKET_PATH_BYTES:
        raise RigError(f"{socket} is too long for a socket: use a shorter folder")
    configuration = folder / "bus.conf"
    rule = "allow" if may_own else "deny"
    ownership = f'<{rule} own="*"/>'
    configuration.write_text(_CONFIGURATION.format(socket=socket, ownership=ownership))
    log = folder / "bus.log"
    with log.open("wb") as words:
        process = namespace.start(
            *("dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile"),
            stdout=words,
            stderr=words,
        )
    bus = Bus(f"unix:path={socket}", process)
    try:
        wait_until(lambda: _answers(bus, log), READY_WITHIN_S, "the private bus answers")
        yield bus
    finally:
        bus.stop()
        socket.unlink(missing_ok=True)


def _answers(bus: Bus, log: Path) -> bool:
    if bus.process.poll() is not None:
        raise RigError(f"dbus-daemon ended at once: {log.read_text(errors='replace').strip()}")
    try:
        bus.call("GetId")
    except RigError:
        return False
    return True
