# SPDX-License-Identifier: GPL-2.0-only
"""From a method call on the bus to its answer.

Every call becomes one task that ends in exactly one reply, whatever happens: results, a standard
error for a call that makes no sense, org.mimicd1.Error.* for what went wrong inside. Nobody can
have more than a few calls in progress, so a flood costs its sender, not the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from dbus_next.constants import MessageFlag
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.connection import Connection, PackedMessage, ReplyError, wants_reply
from mimicd.bus.encode import clean_text, encode_method_return
from mimicd.bus.objects import Call, Handler, Objects, PackedBody, resolve
from mimicd.bus.transport import MESSAGE_LIMIT_BYTES
from mimicd.core.errors import FailedError, MimicError

log = logging.getLogger(__name__)

CALLS_PER_SENDER = 16
CALLS_IN_ALL = 128
"""Calls in progress; one more is refused with LimitsExceeded."""

Authorize = Callable[[str, bool], Awaitable[None]]
"""(sender, interactive): returns if the sender may change something, else raises MimicError."""


class Dispatcher:
    """Answers the calls on one connection."""

    def __init__(
        self,
        connection: Connection,
        tree: Objects,
        handlers: Mapping[tuple[str, str], Handler],
        authorize: Authorize,
    ) -> None:
        self._connection = connection
        self._tree = tree
        self._handlers = handlers
        self._authorize = authorize
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_progress: Counter[str] = Counter()

    def on_call(self, message: Message, oversized: bool) -> None:
        """Start to answer; `oversized`: the body was too large to be read."""
        sender = message.sender or ""
        if oversized:
            text = f"a message may have {MESSAGE_LIMIT_BYTES // 1024} KiB, this one had more"
            self._refuse(message, text)
        elif self._in_progress[sender] >= CALLS_PER_SENDER:
            self._refuse(message, f"{CALLS_PER_SENDER} calls of this caller are in progress")
        elif len(self._tasks) >= CALLS_IN_ALL:
            self._refuse(message, f"{CALLS_IN_ALL} calls are in progress")
        else:
            self._in_progress[sender] += 1
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._answered(done, sender))

    def close(self) -> None:
        """Drop the calls in progress; changes that have begun are finished by their handlers."""
        for task in self._tasks:
            task.cancel()

    def _refuse(self, message: Message, text: str) -> None:
        if wants_reply(message):
            self._connection.post(Message.new_error(message, names.LIMITS_EXCEEDED, text))

    def _answered(self, task: asyncio.Task[None], sender: str) -> None:
        self._tasks.discard(task)
        self._in_progress[sender] -= 1
        if not self._in_progress[sender]:
            del self._in_progress[sender]
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a reply could not be sent", exc_info=exc)

    async def _answer(self, message: Message) -> None:
        try:
            reply = await self._perform(message)
        except ReplyError as exc:
            reply = _error(message, exc.name, str(exc))
        except MimicError as exc:
            reply = _error(message, names.ERROR_PREFIX + exc.error_name, error_text(exc))
        except Exception:
            log.exception("%s.%s failed", message.interface, message.member)
            reply = _error(
                message,
                names.ERROR_PREFIX + FailedError.error_name,
                f"{message.member} failed by a fault of mimicd, its log has the details",
            )
        if wants_reply(message):
            await self._connection.deliver(reply)

    async def _perform(self, message: Message) -> Message:
        interface, method = resolve(
            self._tree, message.path, message.interface, message.member, message.signature
        )
        call = Call(
            sender=message.sender or "",
            path=message.path,
            interface=interface,
            method=method,
            body=message.body,
            interactive=bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION),
        )
        if method.changes:
            await self._authorize(call.sender, call.interactive)
        results = await self._handlers[interface.name, method.name](call)
        if isinstance(results, PackedBody):
            return _packed_return(message, method.out_signature, results.data)
        return Message.new_method_return(message, method.out_signature, results)


def _error(message: Message, name: str, text: str) -> Message:
    return Message.new_error(message, name, clean_text(text))


def error_text(exc: MimicError) -> str:
    """The message of an error reply: what follows the last line break, if any, is the hint."""
    if exc.hint or "\n" in str(exc):
        return f"{exc}\n{exc.hint}"
    return str(exc)


def _packed_return(message: Message, signature: str, body: bytes | bytearray) -> Message:
    sender, reply_serial = message.sender or "", message.serial
    return PackedMessage(
        lambda serial: encode_method_return(serial, reply_serial, sender, signature, body)
    )
