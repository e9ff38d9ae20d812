# SPDX-License-Identifier: GPL-2.0-only
"""Who may change something: root, whom polkit allows, and on a private bus the daemon's own user.

polkit is asked on the same bus, without holding up other calls; where there is no polkit only
the user id counts. See polkit(8), "Authority" interface.
"""

from __future__ import annotations

import os

from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.connection import Connection, ReplyError
from mimicd.core.errors import BusError, NotAuthorizedError

_ALLOW_USER_INTERACTION = 1
_ANSWER_TIMEOUT_S = 15.0
_INTERACTIVE_TIMEOUT_S = 180.0
"""How long a person may take to enter a password."""

QUESTIONS = 32
"""To polkit at once: whoever lets his own go unanswered leaves calls in progress for others."""

_POLKIT_ABSENT = (names.SERVICE_UNKNOWN, names.NAME_HAS_NO_OWNER)


class Authorizer:
    """Decides for the callers on one bus connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        allowed = {0}
        if not names.is_system_bus(connection.address):
            allowed.add(os.getuid())
        self._allowed_uids = frozenset(allowed)
        self._questions = 0

    async def check(self, sender: str, interactive: bool) -> None:
        """Return if `sender` (a unique name) may change something, else NotAuthorizedError.

        `interactive`: the caller lets a person be asked for a password.
        """
        try:
            (uid,) = await self._connection.ask_driver("GetConnectionUnixUser", "s", [sender])
        except (ReplyError, BusError) as exc:
            raise NotAuthorizedError(f"the user of the caller is not known: {exc}") from exc
        if uid in self._allowed_uids:
            return
        if self._questions >= QUESTIONS:
            raise NotAuthorizedError(
                f"polkit is asked for {QUESTIONS} calls already", "try again later, or use sudo"
            )
        self._questions += 1
        try:
            await self._ask_polkit(sender, uid, interactive)
        finally:
            self._questions -= 1

    async def _ask_polkit(self, sender: str, uid: int, interactive: bool) -> None:
        subject = ["system-bus-name", {"name": Variant("s", sender)}]
        flags = _ALLOW_USER_INTERACTION if interactive else 0
        try:
            [[allowed, challenge, _details]] = await self._connection.ask(
                names.POLKIT_NAME,
                names.POLKIT_PATH,
                names.POLKIT_AUTHORITY,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [subject, names.ACTION_MANAGE, {}, flags, ""],
                timeout_s=_INTERACTIVE_TIMEOUT_S if interactive else _ANSWER_TIMEOUT_S,
            )
        except ReplyError as exc:
            if exc.name in _POLKIT_ABSENT:
                raise NotAuthorizedError(
                    f"changing anything needs root, the caller is user {uid}", "use sudo"
                ) from exc
            raise NotAuthorizedError(
                f"polkit could not decide on {names.ACTION_MANAGE} for user {uid}: {exc}",
                "see the log of polkit, or use sudo",
            ) from exc
        except BusError as exc:
            raise NotAuthorizedError(
                f"polkit could not decide on {names.ACTION_MANAGE} for user {uid}: {exc}",
                "see the log of polkit, or use sudo",
            ) from exc
        if allowed is not True:
            hint = "authenticate when asked, or use sudo" if challenge else "use sudo"
            raise NotAuthorizedError(
                f"polkit does not allow user {uid} the action {names.ACTION_MANAGE}", hint
            )
