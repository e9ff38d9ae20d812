# SPDX-License-Identifier: GPL-2.0-only
"""Gathers what core.preflight judges: reads and asks, and changes nothing."""

import asyncio
import errno
import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimicd.core.errors import MimicError, NoSuchInterfaceError
from mimicd.core.model import Filter, InterfaceConfig, Origin
from mimicd.core.preflight import Facts, Line, LinkFacts, TunnelFacts, examine
from mimicd.core.wireguard import filters_of
from mimicd.kernel import bpf, bpffs, btf, ethtool, xdp_features
from mimicd.kernel.guard import is_guarded
from mimicd.kernel.hooks import has_tcx
from mimicd.kernel.netlink import Link, Netlink
from mimicd.kernel.wireguard import read_tunnel
from mimicd.resolver import resolve

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
_SYS_ADMIN = 21
_SYSCTLS = (
    *("ipv4/conf/all/rp_filter", "ipv4/conf/{}/rp_filter"),
    *("ipv4/conf/lo/accept_local", "ipv4/conf/lo/route_localnet"),
    *("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"),
)
_UAPI = Path("/usr/include/linux/bpf.h")
_ANSWER_S = 3.0
_NFT_S = 10.0
_LOOPBACK = 772  # ARPHRD_LOOPBACK


async def check(
    net: Netlink, interface: str, config: InterfaceConfig, running: bool, probe: bool
) -> list[Line]:
    """All lines of one interface. `probe`: also ask the peers whether they answer."""
    names: dict[str, str] = {}
    known: list[Filter] = []
    for one in config.filters:
        try:
            known += await resolve([one])
            if one.host:
                names[one.host] = ""
        except MimicError as error:
            names[one.host or one.text()] = str(error)
    tunnels = {name: await _tunnel_facts(net, name) for name in config.wireguard}
    for name, found in tunnels.items():
        known += filters_of(name, found.tunnel, config.flow)
    facts = Facts(
        kernel=platform.release(),
        missing_capabilities=_missing_capabilities(),
        bpf_refused=_bpf_refused(),
        has_btf=btf.VMLINUX.exists(),
        reads_kernel=bpf.reads_kernel(),
        bpffs=str(bpffs.SYSTEM) if bpffs.is_bpffs(bpffs.SYSTEM) else "",
        missing_packages=_missing_packages(),
        link=await _link_facts(net, interface, running),
        sysctls=_sysctls(interface),
        ruleset=await _ruleset(),
        clock_s=time.time(),
        names=names,
        tunnels=tunnels,
    )
    if probe and not running:
        facts = replace(facts, answers=await _answers(known))
    return examine(interface, facts, known, config)


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _lacks(name: str) -> bool:
    # what CAP_BPF and CAP_PERFMON allow, CAP_SYS_ADMIN allows too (capabilities(7))
    wanted = 1 << _CAPABILITIES[name]
    if name in ("CAP_BPF", "CAP_PERFMON"):
        wanted |= 1 << _SYS_ADMIN
    return not _capabilities() & wanted


def _missing_capabilities() -> tuple[str, ...]:
    return tuple(name for name in _CAPABILITIES if _lacks(name))


def _bpf_refused() -> str:
    try:
        bpf.probe()
    except OSError as error:
        return error.strerror or errno.errorcode.get(error.errno or 0, "refused")
    return ""


def _missing_packages() -> tuple[str, ...]:
    missing = [] if importlib.util.find_spec("bcc") else ["python3-bpfcc"]
    return tuple(missing if _UAPI.exists() else [*missing, "linux-libc-dev"])


async def _link_facts(net: Netlink, interface: str, running: bool) -> LinkFacts | None:
    try:
        link = await net.link(interface)
    except NoSuchInterfaceError:
        return None
    return LinkFacts(
        name=link.name,
        mtu_bytes=link.mtu_bytes,
        is_up=link.is_up,
        link_type=link.link_type,
        kind=link.kind,
        xdp_owner=_xdp_owner(link),
        xdp_native=xdp_features.has_native_xdp(link.ifindex),
        has_ingress_qdisc="ingress" in await net.qdisc_kinds(link.ifindex),
        has_tcx=has_tcx(link.ifindex),
        is_running=running,
        features=ethtool.features(link.name),
        is_loopback=link.hardware_type == _LOOPBACK,
        is_bridged=link.kind == "bridge" or _is_bridge_port(link.name),
        is_guarded=await is_guarded(net, link),
    )


async def _tunnel_facts(net: Netlink, name: str) -> TunnelFacts:
    try:
        link = await net.link(name)
    except NoSuchInterfaceError:
        return TunnelFacts(missing=True)
    try:
        tunnel = await read_tunnel(name, link.kind)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return TunnelFacts(refused="it is no WireGuard interface")
        return TunnelFacts(refused=error.strerror or str(error))
    except ValueError as error:
        return TunnelFacts(refused=str(error))
    return TunnelFacts(mtu_bytes=link.mtu_bytes, tunnel=tunnel)


def _is_bridge_port(name: str) -> bool:
    return Path("/sys/class/net", name, "brport").exists()


def _xdp_owner(link: Link) -> str:
    if not link.xdp_program_id:
        return ""
    name = bpf.program_name(link.xdp_program_id) or "unnamed"
    return f"the XDP program {name} (id {link.xdp_program_id})"


def _sysctls(interface: str) -> dict[str, int]:
    found = {}
    for place in (one.format(interface) for one in _SYSCTLS):
        try:
            found[place] = int(Path("/proc/sys/net", place).read_text())
        except (OSError, ValueError):
            continue
    return found


async def _ruleset() -> Sequence[Mapping[str, Any]] | None:
    """What nftables has, and iptables through it; None without nft, or without the right."""
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if nft is None:
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            *(nft, "-j", "list", "ruleset"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _NFT_S)
        rules = json.loads(out)["nftables"]
    except (TimeoutError, ValueError, KeyError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
    return rules if process.returncode == 0 and isinstance(rules, list) else None


async def _answers(filters: Sequence[Filter]) -> dict[str, str]:
    """A TCP connection to each peer that is named with one port: mimicd and mimic answer it."""
    peers = [
        one
        for one in filters
        if one.origin is Origin.REMOTE and one.port == one.last_port and not one.is_network
    ]
    found = await asyncio.gather(*(_answer(one) for one in peers))
    return {one.end_text(): answer for one, answer in zip(peers, found, strict=True)}


async def _answer(peer: Filter) -> str:
    try:
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(str(peer.address), peer.port), _ANSWER_S
        )
    except ConnectionRefusedError:
        return "refused"
    except (OSError, TimeoutError):
        return "silent"
    writer.close()
    return "answered"
