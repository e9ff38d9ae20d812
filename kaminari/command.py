# SPDX-License-Identifier: GPL-2.0-only
"""The commands kaminaric and kaminaris. Exit codes: 0 stopped, 1 failed, 2 bad usage."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from kaminari import __version__
from kaminari.address import parse_address
from kaminari.errors import KaminariError, UsageError
from kaminari.help_text import help_text, usage_text
from kaminari.options import Role, parse_options
from kaminari.plugin import Arguments, read_environment

logger = logging.getLogger("kaminari")


def client_main() -> int:
    return run(Role.CLIENT, sys.argv[1:])


def server_main() -> int:
    return run(Role.SERVER, sys.argv[1:])


def run(role: Role, argv: Sequence[str]) -> int:
    name = "kaminaric" if role is Role.CLIENT else "kaminaris"
    try:
        arguments = _read_arguments(role, name, argv)
        if arguments is None:
            return 0
        options, warnings = parse_options(arguments.options, role)
        _start_log(name, options.log)
        for warning in warnings:
            logger.warning("%s", warning)
        # Imported late: the above has to answer at once, and needs none of it.
        from kaminari.service import Service
        from kaminari.workers import run_workers

        service = Service(arguments, options)
        if options.workers > 1:
            return run_workers(service, options.workers)
        return service.run()
    except KaminariError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _read_arguments(role: Role, name: str, argv: Sequence[str]) -> Arguments | None:
    """What to do, or None when a question was answered on stdout. Raises UsageError."""
    words = list(argv)
    if words and words[0] in ("-h", "--help"):
        print(help_text(role, name))
        return None
    if words and words[0] in ("-V", "--version"):
        print(f"{name} {__version__}")
        return None
    if words and words[0] == "--":
        del words[0]
    if not words:
        from_environment = read_environment(os.environ, role)
        if from_environment is not None:
            return from_environment
    if words and words[0].startswith("-"):
        raise UsageError(f"unknown argument '{words[0]}'", usage_text(name))
    if len(words) != 3:
        raise UsageError(f"three arguments are wanted, {len(words)} are given", usage_text(name))
    listen = parse_address(words[0], "local address")
    connect = parse_address(words[1], "remote address")
    return Arguments(listen, connect, words[2], plugin=False)


def _start_log(name: str, level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format=f"{name}: %(levelname)s: %(message)s"
    )
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(number, logging.getLevelName(number).lower())
    logging.getLogger("asyncio").setLevel(logging.ERROR)


if __name__ == "__main__":
    # python3 -m kaminari.command client|server ...: for a checkout that is not installed
    sys.exit(run(Role(sys.argv[1]), sys.argv[2:]) if sys.argv[1:] else 2)
