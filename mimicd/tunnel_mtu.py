# SPDX-License-Identifier: GPL-2.0-only
"""The MTU of WireGuard interfaces: says, or sets, what fits, and puts back what was."""

from collections.abc import Callable, Mapping, Sequence

from mimicd.core.errors import MimicError
from mimicd.kernel.netlink import Link, Netlink
from mimicd.logs import INFO, WARNING

_IPV6_LEAST_BYTES = 1280


class TunnelMtus:
    """Those that one interface changed."""

    def __init__(
        self, net: Netlink, log: Callable[[int, str], None], changed: Mapping[str, Sequence[int]]
    ) -> None:
        """`changed`: what `saved` told before."""
        self._net = net
        self._log = log
        self._changed: dict[str, tuple[int, int, int]] = {
            name: (values[0], values[1], values[2])
            for name, values in changed.items()
            if len(values) == 3
        }
        self._told: dict[str, str] = {}

    @property
    def saved(self) -> dict[str, list[int]]:
        """Name -> its ifindex, the MTU that it had, the MTU that it got."""
        return {name: list(values) for name, values in self._changed.items()}

    async def fit(self, link: Link, fitting_bytes: int, may_set: bool) -> bool:
        """Lower its MTU to `fitting_bytes`, or say what is to be done; whether it was set."""
        ifindex, before, ours = self._changed.get(link.name, (0, 0, 0))
        is_ours = ifindex == link.ifindex and ours == link.mtu_bytes
        if may_set and is_ours and ours < fitting_bytes:
            # The interface below grew.
            wanted = min(before, fitting_bytes)
        elif link.mtu_bytes > fitting_bytes:
            wanted = fitting_bytes
        else:
            return False
        if wanted == link.mtu_bytes:
            return False
        if not may_set:
            self._tell_once(
                link.name,
                f"the MTU of {link.name} is {link.mtu_bytes} and should be {wanted}:"
                f" `ip link set {link.name} mtu {wanted}`, or --set-mtu",
            )
            return False
        known = self._changed.get(link.name)
        original = before if ifindex == link.ifindex and before else link.mtu_bytes
        # first of all: who is cancelled meanwhile has set it all the same
        self._changed[link.name] = (link.ifindex, original, wanted)
        try:
            await self._net.set_mtu(link.ifindex, wanted)
        except MimicError as error:
            del self._changed[link.name]
            if known is not None:
                self._changed[link.name] = known
            self._tell_once(link.name, str(error))
            return False
        self._log(INFO, f"the MTU of {link.name} is {wanted} now, it was {link.mtu_bytes}")
        if wanted < _IPV6_LEAST_BYTES:
            self._log(WARNING, f"IPv6 needs {_IPV6_LEAST_BYTES}, so {link.name} has no IPv6 now")
        return True

    async def restore(self) -> None:
        """Put back what nobody else changed since."""
        for name, (ifindex, before, ours) in self._changed.items():
            try:
                link = await self._net.link_by_index(ifindex)
                if link.mtu_bytes == ours:
                    await self._net.set_mtu(ifindex, before)
                    self._log(INFO, f"the MTU of {name} is {before} again")
            except MimicError:
                continue  # it is gone, and its MTU with it
        self._changed.clear()

    def _tell_once(self, name: str, words: str) -> None:
        if self._told.get(name) != words:
            self._told[name] = words
            self._log(WARNING, words)
