# SPDX-License-Identifier: GPL-2.0-only
"""How a program comes to a hook of an interface, whether it is still there, and how it leaves.

XDP, and TC where the kernel has tcx (6.6), by a BPF link: nobody else can replace it, no other
program is in its way, and it holds while somebody has it open or pinned. TC of older kernels by a
filter on a clsact qdisc, which takes some 30 ns more for each packet.

Links stand among the descriptors of a data plane, by the names under which they are pinned.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from mimicd.core.errors import AttachError, XdpBusyError
from mimicd.kernel import bpf, compiler
from mimicd.kernel.netlink import EGRESS_PARENT, INGRESS_PARENT, Link, Netlink

XDP_LINK = "xdp_link"
_TC_LINKS = {EGRESS_PARENT: "egress_link", INGRESS_PARENT: "ingress_link"}
LINKS = frozenset({XDP_LINK, *_TC_LINKS.values()})
"""Those that may be among the descriptors, or pinned."""

_NEEDS = "mimicd needs CAP_NET_ADMIN and CAP_BPF, or root"


def has_tcx(ifindex: int) -> bool:
    """Whether programs can be attached to the interface's TC hooks by links.

    MIMICD_NO_TCX in the environment says no, as an older kernel would.
    """
    return not os.environ.get("MIMICD_NO_TCX") and bpf.has_tcx(ifindex)


def is_linked(fds: dict[str, int], ifindex: int) -> bool:
    """Whether each of the links still holds its program at the interface."""
    return all(bpf.link_ifindex(fds[name]) == ifindex for name in LINKS if name in fds)


def detach_link(fd: int) -> None:
    """At once, whoever else has it open."""
    # Refused where the interface is gone, and what was attached with it.
    with contextlib.suppress(OSError):
        bpf.detach_link(fd)


@contextlib.contextmanager
def _replacing(fds: dict[str, int], name: str) -> Iterator[None]:
    """A link that is attached meanwhile takes the place of what was; else that stays."""
    before = fds.pop(name, None)
    try:
        yield
    finally:
        if before is not None and fds.setdefault(name, before) != before:
            os.close(before)


# --- TC ---


async def attach_tc(
    net: Netlink, fds: dict[str, int], ifindex: int, parent: int, program: str
) -> bool:
    """Whether a clsact qdisc was made for it. Raises AttachError."""
    if not has_tcx(ifindex):
        made = await net.add_clsact(ifindex)
        await net.add_filter(ifindex, parent, fds[program], program)
        return made
    try:
        link = bpf.attach_tcx(fds[program], ifindex, parent == INGRESS_PARENT)
    except OSError as error:
        raise AttachError(
            f"cannot attach the BPF program {program}: {error.strerror}", _NEEDS
        ) from error
    fds[_TC_LINKS[parent]] = link
    return False


async def attach_tc_again(
    net: Netlink, fds: dict[str, int], ifindex: int, parent: int, program: str
) -> bool:
    """In place of what somebody detached. As `attach_tc`."""
    with _replacing(fds, _TC_LINKS[parent]):
        return await attach_tc(net, fds, ifindex, parent, program)


async def is_at_tc(
    net: Netlink, fds: dict[str, int], ifindex: int, parent: int, program: str
) -> bool:
    """Whether ours is attached there."""
    link = fds.get(_TC_LINKS[parent])
    if link is None:
        return await net.has_filter(ifindex, parent, program)
    return bpf.link_ifindex(link) == ifindex


async def detach_tc(net: Netlink, fds: dict[str, int], ifindex: int, parent: int) -> None:
    """What is gone already is fine."""
    link = fds.get(_TC_LINKS[parent])
    if link is None:
        await net.remove_filter(ifindex, parent)
    else:
        detach_link(link)


# --- XDP ---


def attach_xdp(fds: dict[str, int], link: Link, wanted: str) -> str:
    """The mode in which it is attached, "native" or "skb". Raises AttachError."""
    failure: OSError | None = None
    for mode in ("native", "skb"):
        if wanted not in ("auto", mode):
            continue
        try:
            fds[XDP_LINK] = bpf.attach_xdp(fds[compiler.INGRESS], link.ifindex, mode == "native")
            return mode
        except OSError as error:
            failure = error
    assert failure is not None
    if failure.errno in (errno.EBUSY, errno.EEXIST):
        raise xdp_busy(link)
    hint = _NEEDS
    if wanted == "native":
        hint = f"the driver of {link.name} may have no native XDP; try --xdp-mode skb"
    raise AttachError(f"cannot attach XDP to {link.name}: {failure.strerror}", hint) from failure


async def attach_xdp_again(net: Netlink, fds: dict[str, int], link: Link, mode: str) -> None:
    """In place of what somebody detached. Raises AttachError."""
    with _replacing(fds, XDP_LINK):
        try:
            attach_xdp(fds, link, mode)
        except XdpBusyError:
            raise xdp_busy(await net.link_by_index(link.ifindex)) from None


def is_at_xdp(fds: dict[str, int], ifindex: int) -> bool:
    """Whether ours is attached there, if it ever was."""
    return XDP_LINK not in fds or bpf.link_ifindex(fds[XDP_LINK]) == ifindex


def xdp_busy(link: Link) -> XdpBusyError:
    """Names who is there."""
    return XdpBusyError(
        f"{link.name} has {xdp_owner(link)}",
        f"`ip link show {link.name}` names it; `ip link set {link.name} xdp off` removes it, "
        "if it is not needed; --xdp-mode none does without XDP",
    )


def xdp_owner(link: Link) -> str:
    """Who is there, in words."""
    number = link.xdp_program_id
    name = bpf.program_name(number) if number else ""
    return "an XDP program of somebody else" + (
        f": {name or 'unnamed'} (id {number})" if number else ""
    )
