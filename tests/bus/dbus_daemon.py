# SPDX-License-Identifier: GPL-2.0-only
"""A message bus for one test, in a folder that every user may enter; needs no root."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.rig.namespace import scratch_folder, wait_until

READY_WITHIN_S = 10.0

_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  {policy}
</busconfig>
"""

OPEN_POLICY = """\
<policy context="default">
  <allow user="*"/>
  <allow own="*"/>
  <allow send_destination="*"/>
  <allow receive_sender="*"/>
</policy>
"""

SYSTEM_POLICY = """\
<policy context="default">
  <allow user="*"/>
  <deny own="*"/>
  <deny send_type="method_call"/>
  <allow send_type="signal"/>
  <allow send_requested_reply="true" send_type="method_return"/>
  <allow send_requested_reply="true" send_type="error"/>
  <allow receive_type="method_call"/>
  <allow receive_type="method_return"/>
  <allow receive_type="error"/>
  <allow receive_type="signal"/>
  <allow send_destination="org.freedesktop.DBus"/>
</policy>
"""
"""As the system bus has it: nothing is allowed that no policy file allows."""


@dataclass
class PrivateBus:
    """A dbus-daemon; `address` is what --address takes."""

    folder: Path
    policy: str = OPEN_POLICY
    """Elements of its configuration."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def path(self) -> Path:
        return self.folder / "bus"

    @property
    def address(self) -> str:
        return f"unix:path={self.path}"

    def start(self) -> Self:
        """Start it, also again after it was stopped."""
        configuration = self.folder / "bus.conf"
        services = self.folder / "services"
        services.mkdir(exist_ok=True)
        configuration.write_text(
            _CONFIGURATION.format(
                socket=self.path,
                services=services,
                policy=self.policy,
            )
        )
        self.path.unlink(missing_ok=True)
        log = self.folder / "bus.log"
        with log.open("wb") as words:
            self._process = subprocess.Popen(
                # It must not outlive the tests, however they end.
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={"PATH": os.environ["PATH"]},
            )

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, log.read_text(errors="replace")
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self.path)) == 0

        wait_until(listens, READY_WITHIN_S, "the bus listens")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """While in this context the bus does nothing, but its sockets stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def private_bus(policy: str = OPEN_POLICY) -> Iterator[PrivateBus]:
    with scratch_folder() as folder:
        folder.chmod(0o755)
        bus = PrivateBus(folder, policy).start()
        try:
            yield bus
        finally:
            bus.stop()
