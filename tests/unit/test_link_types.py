# SPDX-License-Identifier: GPL-2.0-only
"""What packets of an interface begin with, by its ARPHRD number (linux/if_arp.h)."""

import pytest

from mimicd.kernel.netlink import Link


@pytest.mark.parametrize(
    ("hardware_type", "link_type"),
    [
        (1, "eth"),
        (772, "eth"),  # loopback
        (512, "none"),  # PPP
        (519, "none"),  # raw IP
        (65534, "none"),  # TUN, WireGuard
        (768, "none"),  # tunnels: IPIP, IP6IP6, SIT, GRE
        (769, "none"),
        (776, "none"),
        (778, "none"),
        (823, "none"),
        (24, ""),  # FireWire
        (32, ""),  # InfiniBand
    ],
)
def test_the_link_type_is_detected(hardware_type: int, link_type: str) -> None:
    link = Link("x0", 7, 1500, True, hardware_type, "", 0)
    assert link.link_type == link_type
