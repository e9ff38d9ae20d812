# SPDX-License-Identifier: GPL-2.0-only
"""One host of the demonstration with mimicd on a bus of its own, used as somebody at it would."""

import signal
from contextlib import ExitStack
from dataclasses import fields
from typing import Self

from tests.demo.report import Report
from tests.rig.attachments import Attachments, attachments
from tests.rig.daemon import Daemon, Program
from tests.rig.namespace import RigError
from tests.rig.network import Host


class Machine:
    """A host, its daemon and its `mimicctl run`; ends what it started, last first."""

    def __init__(self, name: str, host: Host, report: Report) -> None:
        self.name = name
        self._host = host
        self._report = report
        self._stack = ExitStack()
        self._untouched = attachments(host)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def run(self, *filters: str) -> None:
        """Daemon, then `mimicctl run` in the foreground; returns when the interface is attached."""
        interface = self._host.interface
        self._report.command(self.name, "mimicd")
        self._daemon = self._stack.enter_context(Daemon(self._host))
        options = [word for text in filters for word in ("-f", text)]
        self._report.command(self.name, " ".join(["mimicctl run", *options, interface]))
        self._client = self._stack.enter_context(self._daemon.client("run", *options, interface))
        self._client.await_attached()
        self._report.quote(self._client.log)

    def show(self) -> None:
        interface = self._host.interface
        self._report.command(self.name, f"mimicctl show {interface}")
        answer = self._daemon.ctl("show", interface)
        self._report.quote(answer.stdout + answer.stderr)
        established = sum("established  " in line for line in answer.stdout.splitlines())
        self._report.check(
            f"mimicctl show at {self.name} names established connections",
            answer.exit_code == 0 and established > 0,
            f"{established} established",
        )

    def stop(self) -> None:
        """Ctrl-C for `mimicctl run`, then for mimicd: both end well and nothing of them is left."""
        self._interrupt(self._client, "mimicctl run")
        self._interrupt(self._daemon, "mimicd")
        left = _difference(self._untouched, attachments(self._host))
        self._report.check(
            f"nothing is left on {self.name}'s interface", not left, left or "as before"
        )

    def _interrupt(self, program: Program, words: str) -> None:
        self._report.command(self.name, f"^C  ({words})")
        program.signal(signal.SIGINT)
        try:
            ended = f"exit code {program.wait()}"
        except RigError as exc:
            ended = str(exc)
        self._report.check(f"{words} at {self.name} ends at Ctrl-C", ended == "exit code 0", ended)


def _difference(before: Attachments, after: Attachments) -> str:
    """What came or went, in one line; empty when all is as it was."""
    changes = []
    for kind in fields(Attachments):
        old, new = set(getattr(before, kind.name)), set(getattr(after, kind.name))
        changes += [f"left: {line}" for line in sorted(new - old)]
        changes += [f"gone: {line}" for line in sorted(old - new)]
    return "; ".join(changes)
