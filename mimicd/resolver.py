# SPDX-License-Identifier: GPL-2.0-only
"""Host names in filters become addresses."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

from mimicd.core.errors import NameResolutionError, quote
from mimicd.core.filter_text import check_address
from mimicd.core.model import Filter

_TIMEOUT_S = 10.0


async def resolve(filters: Sequence[Filter]) -> list[Filter]:
    """The filters with every name replaced by all its addresses, in order.

    Raises NameResolutionError, or InvalidConfigError for an address that cannot be one.
    """
    loop = asyncio.get_running_loop()
    resolved: dict[str, Filter] = {}
    for filter_ in filters:
        if filter_.address is not None:
            resolved.setdefault(filter_.text(), filter_)
            continue
        try:
            found = await asyncio.wait_for(
                loop.getaddrinfo(filter_.host, None, type=socket.SOCK_DGRAM), _TIMEOUT_S
            )
        except TimeoutError:
            raise NameResolutionError(
                f"the name {quote(filter_.host)} was not resolved within {_TIMEOUT_S:.0f} s",
                "check the name servers, or give an address",
            ) from None
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise NameResolutionError(
                f"the name {quote(filter_.host)} does not resolve: {reason}",
                "check its spelling and the name servers, or give an address",
            ) from None
        for *_, address in found:
            one = replace(filter_, address=ip_address(str(address[0]).split("%")[0]))
            check_address(one)
            resolved.setdefault(one.text(), one)
    return list(resolved.values())
