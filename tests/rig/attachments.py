# SPDX-License-Identifier: GPL-2.0-only
"""What is attached to a host's network: to compare before and after, or to wait for.

Pins are looked for in every bpffs that is mounted: without one at /sys/fs/bpf the daemon has its
own.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.rig.network import Host
from tests.rig.tcx import tcx_programs

MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Attachments:
    """A snapshot; two are equal when nothing was left and nothing was taken."""

    links: tuple[str, ...]
    qdiscs: tuple[str, ...]
    filters: tuple[str, ...]
    """TC programs, by whatever they are attached: "eth0 egress: ..." """
    xdp: tuple[str, ...]
    """ "eth0 12 native": interface, program id, mode."""
    pins: tuple[str, ...]
    """Below the folder of this namespace in any bpffs, and that folder itself."""
    packet_sockets: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """TC programs on both sides, the last to be attached: the data path is in place."""
        sides = {filter_.split()[1] for filter_ in self.filters}
        return sides == {"egress:", "ingress:"}


def attachments(host: Host) -> Attachments:
    """What is attached in a host's namespace now."""
    run = host.namespace.run
    links = json.loads(run("ip", "-json", "-details", "link", "show").stdout)
    names = [str(link["ifname"]) for link in links]
    filters = [
        f"{name} {hook}: {line.strip()}"
        for name in names
        for hook in ("ingress", "egress")
        # An interface without clsact refuses the question.
        for line in run(
            *("tc", "filter", "show", "dev", name, hook), check=False
        ).stdout.splitlines()
    ]
    indexes = {str(link["ifname"]): int(link["ifindex"]) for link in links}
    filters += host.namespace.call(lambda: _linked(indexes))
    sockets = run("cat", "/proc/net/packet").stdout.splitlines()[1:]
    return Attachments(
        links=tuple(sorted(names)),
        qdiscs=tuple(sorted(run("tc", "qdisc", "show").stdout.splitlines())),
        filters=tuple(filters),
        xdp=tuple(line for link in links for line in _xdp(link)),
        pins=tuple(_pins(host.namespace.inode)),
        packet_sockets=tuple(sorted(" ".join(line.split()[2:5]) for line in sockets)),
    )


def _linked(indexes: dict[str, int]) -> list[str]:
    return [
        f"{name} {hook}: link {program} id {number}"
        for name, ifindex in indexes.items()
        for hook in ("ingress", "egress")
        for number, program in tcx_programs(ifindex, hook)
    ]


def _xdp(link: dict[str, object]) -> list[str]:
    xdp = link.get("xdp")
    if not isinstance(xdp, dict):
        return []
    modes = {1: "native", 2: "generic", 3: "offloaded"}
    attached = xdp.get("attached") or [xdp]
    return [
        f"{link['ifname']} {one.get('prog', {}).get('id')} {modes.get(one.get('mode'), 'other')}"
        for one in attached
    ]


def _pins(inode: int) -> list[str]:
    folders = [mount / "mimicd" / str(inode) for mount in bpf_mounts()]
    return sorted(
        str(path.relative_to(folder.parents[1]))
        for folder in folders
        if folder.is_dir()
        for path in (folder, *folder.rglob("*"))
    )


def bpf_mounts() -> list[Path]:
    """Where a bpffs is mounted."""
    mounts = (line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines())
    return [Path(where) for _source, where, kind, *_ in mounts if kind == "bpf"]
