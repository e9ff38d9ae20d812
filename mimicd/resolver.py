# SPDX-License-Identifier: GPL-2.0-only
"""Asks the system's resolver for the addresses of a host name.

getaddrinfo(3) blocks, for half a minute where name servers are silent, and cannot be ended. So it
runs in a thread that nobody waits for at the end of the process.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from mimicd.core.errors import NameResolutionError, quote
from mimicd.core.model import Filter, InterfaceConfig
from mimicd.core.sources import gather_filters, hosts_of

Address = IPv4Address | IPv6Address

TIMEOUT_S = 10.0
_AT_ONCE = 8


class Resolver:
    """Bounds how many names are asked for at the same time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def addresses(self, host: str) -> list[Address]:
        """All addresses that can be a peer's, each once. Raises NameResolutionError."""
        try:
            async with self._slots, asyncio.timeout(TIMEOUT_S):
                found = await _ask(host)
        except TimeoutError:
            raise NameResolutionError(
                f"the name {quote(host)} was not resolved within {TIMEOUT_S:.0f} s",
                "check the name servers, or give an address",
            ) from None
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise NameResolutionError(
                f"the name {quote(host)} does not resolve: {reason}",
                "check its spelling and the name servers, or give an address",
            ) from None
        usable = [address for address in found if not address.is_unspecified]
        if not usable:
            raise NameResolutionError(
                f"the name {quote(host)} has only the address {found[0] if found else 'none'},"
                " which is no peer's",
                "a name server or a filter of names may be in the way; give an address",
            )
        return list(dict.fromkeys(usable))


async def resolve(filters: Sequence[Filter]) -> list[Filter]:
    """The filters with every name replaced by all its addresses. Raises NameResolutionError."""
    resolver = Resolver()
    hosts = hosts_of(InterfaceConfig(filters=tuple(filters)))
    answers = await asyncio.gather(*map(resolver.addresses, hosts))
    addresses = dict(zip(hosts, answers, strict=True))
    return gather_filters(InterfaceConfig(filters=tuple(filters)), addresses, {})


async def _ask(host: str) -> list[Address]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def tell(result: list[Address] | OSError | UnicodeError) -> None:
        if answer.done():
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result: list[Address] | OSError | UnicodeError
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
            result = [ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
        except (OSError, UnicodeError) as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await answer
