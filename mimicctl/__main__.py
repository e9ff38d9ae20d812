# SPDX-License-Identifier: GPL-2.0-only
"""The command mimicctl.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 daemon not reachable,
4 not authorised.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import mimicd.bus.names  # noqa: F401 - its package goes before dbus_next, see there
from mimicctl.arguments import Answer, parse_arguments
from mimicctl.output import Output
from mimicctl.stopping import Stopped, StopSignals
from mimicd.core.errors import EXIT_FAILED, MimicError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    stops = StopSignals()
    output = Output()
    # The D-Bus library logs to the root logger; what matters is told by exceptions too.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        request = parse_arguments(sys.argv[1:] if argv is None else argv)
        if isinstance(request, Answer):
            output.data(request.text)
            return 0
        # Imported late: help and usage faults need no bus, and signals are caught by now.
        from mimicctl.commands import perform

        asyncio.run(perform(request, output, stops))
    except MimicError as exc:
        output.error(exc)
        return exc.exit_code
    except Stopped:
        output.talk("interrupted")
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
