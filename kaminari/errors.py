# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions of the tunnel, as one tree.

KaminariError
    UsageError            the command line, an option, or a file an option names
    RunError              the system refused what the tunnel needs to run
    ConnectError          a peer could not be reached
    ProtocolFault         what arrived does not follow the protocol
        FrameFault            RFC 6455 section 5
        HandshakeFault        RFC 6455 section 4
        TlsFault              a TLS alert, a refused certificate, a truncated stream
"""

from __future__ import annotations


class KaminariError(Exception):
    """One sentence (what failed, on what, why) and an optional hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(KaminariError):
    exit_code = 2


class RunError(KaminariError):
    pass


class ConnectError(KaminariError):
    pass


class ProtocolFault(KaminariError):
    pass


class FrameFault(ProtocolFault):
    """`close_code` is the status to end the WebSocket with (RFC 6455 section 7.4.1)."""

    def __init__(self, message: str, close_code: int = 1002) -> None:
        super().__init__(message)
        self.close_code = close_code


class HandshakeFault(ProtocolFault):
    """`status` is the HTTP status a server answers with; clients leave it 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TlsFault(ProtocolFault):
    pass
