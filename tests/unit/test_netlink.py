# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.netlink: what kernels refuse that cannot be had in a test."""

import asyncio
import errno
from typing import Any

import pytest

from mimicd.core.errors import AttachError
from mimicd.kernel.netlink import Netlink
from mimicd.kernel.netlink_library import NetlinkError


class Kernel:
    """Makes links, and refuses messages that have some attribute."""

    def __init__(self, refused: str, code: int) -> None:
        self.refused, self.code = refused, code
        self.links: dict[int, dict[str, Any]] = {}

    def link(self, verb: str, **given: Any) -> None:
        if self.refused in given:
            raise NetlinkError(self.code)
        if verb == "add":
            self.links |= {5: {"ifname": given["ifname"]}, 6: dict(given["peer"])}
        elif verb == "set":
            self.links[given["index"]] |= given
        else:
            self.links.clear()  # with one end goes the other

    def link_lookup(self, ifname: str) -> list[int]:
        return [number for number, link in self.links.items() if link["ifname"] == ifname]


def make_veth(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> tuple[int, int]:
    async def make() -> tuple[int, int]:
        net = Netlink()
        monkeypatch.setattr(net, "_ipr", kernel)
        try:
            return await net.make_veth("eth0-hop0", "eth0-hop1", 65535, "ours")
        finally:
            monkeypatch.setattr(net, "_ipr", None)
            await net.close()

    return asyncio.run(make())


def test_a_kernel_without_ipv6_has_a_pair_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("IFLA_AF_SPEC", errno.EAFNOSUPPORT)
    assert make_veth(monkeypatch, kernel) == (5, 6)
    assert [link["ifalias"] for link in kernel.links.values()] == ["ours", "ours"]


@pytest.mark.parametrize(
    ("refused", "code"), [("IFLA_AF_SPEC", errno.EPERM), ("ifalias", errno.EINVAL)]
)
def test_of_a_pair_that_cannot_be_finished_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, refused: str, code: int
) -> None:
    kernel = Kernel(refused, code)
    with pytest.raises(AttachError, match="cannot make the veth pair eth0-hop0"):
        make_veth(monkeypatch, kernel)
    assert kernel.links == {}
