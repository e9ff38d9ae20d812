# SPDX-License-Identifier: GPL-2.0-only
"""What could keep an interface from being disguised: facts in, one line for each matter out.

The facts are gathered by mimicd/facts.py, which changes nothing. Grades are those of the bus.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mimicd.core.model import PADDING_RANDOM, Filter, Handshake, InterfaceConfig, Origin
from mimicd.core.sources import strict_filters
from mimicd.core.terminal import counted
from mimicd.core.wireguard import Tunnel, mtu_bytes

OK, WARN, FAIL = "ok", "warn", "fail"
DISGUISE_BYTES = 12
WIREGUARD_BYTES = 32
"""Header and tag of a WireGuard data message (type 4)."""
_IPV6_LEAST_MTU = 1280
_OLDEST_KERNEL = (5, 9)
_XDP_KERNEL = (5, 18)
"""Which has bpf_xdp_load_bytes() and its like."""
# When this was written; a clock before it has not been set.
_EARLIEST_CLOCK_S = 1_700_000_000
_NO_CONFIG = InterfaceConfig()


@dataclass(frozen=True, slots=True)
class Line:
    """One matter: its name, "ok", "warn" or "fail", and what it is or what to do."""

    check: str
    grade: str
    words: str


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """The interface as the kernel describes it."""

    name: str
    mtu_bytes: int
    is_up: bool
    link_type: str
    """ "eth", "none", or "" for one that cannot be served."""
    kind: str
    """Of a virtual interface, such as "veth"."""
    xdp_owner: str = ""
    """Name and number of an XDP program that is attached, "" without one."""
    xdp_native: bool | None = None
    """Whether the driver says that it has native XDP; None where it is not told."""
    has_ingress_qdisc: bool = False
    """An ingress qdisc, which is no clsact."""
    has_tcx: bool = True
    """Programs come to TC by links, and need no qdisc."""
    is_running: bool = False
    """mimicd serves it already."""
    features: Mapping[str, bool] = field(default_factory=dict)
    """Of ethtool, by name; "lro" matters. Those that are not told are missing."""
    is_loopback: bool = False
    is_bridged: bool = False
    """It is a bridge, or a port of one."""
    is_guarded: bool = False
    """A guard, or that of strict filters, is on it."""


@dataclass(frozen=True, slots=True)
class TunnelFacts:
    """A WireGuard interface whose packets are to be disguised."""

    missing: bool = False
    """There is none of that name."""
    refused: str = ""
    """Why it cannot be asked."""
    mtu_bytes: int = 0
    tunnel: Tunnel = field(default_factory=Tunnel)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. Texts are reasons, "" where there is nothing wrong."""

    kernel: str
    """uname -r."""
    missing_capabilities: tuple[str, ...]
    bpf_refused: str
    """Why bpf(2) is refused."""
    has_btf: bool
    reads_kernel: bool
    """Programs may: there is CAP_PERFMON, and no lockdown for confidentiality."""
    bpffs: str
    """Where programs are pinned, "" for nowhere."""
    missing_packages: tuple[str, ...]
    link: LinkFacts | None
    """None: there is no such interface."""
    sysctls: Mapping[str, int]
    """Below net: "ipv4/conf/all/rp_filter". Those that are not there are missing."""
    ruleset: Sequence[Mapping[str, Any]] | None
    """Of `nft -j list ruleset`; None where it cannot be read."""
    clock_s: float
    """Unix time."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Host name -> why it does not resolve, "" if it does."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """Peer -> "answered", "refused" or "silent", where it was asked."""
    tunnels: Mapping[str, TunnelFacts] = field(default_factory=dict)
    """By name."""


def examine(
    interface: str,
    facts: Facts,
    filters: Sequence[Filter],
    config: InterfaceConfig = _NO_CONFIG,
) -> list[Line]:
    """All lines, in the order in which a person would look.

    `filters`: those of the configuration, with addresses, and those of WireGuard.
    """
    lines = [*_privileges(facts), *_kernel(facts)]
    if facts.link is None:
        words = f"there is no interface {interface} here; `ip link` lists them"
        return [*lines, Line("interface", FAIL, words)]
    lines += [
        *_link(facts.link, config.link_type, bool(strict_filters(filters))),
        *_xdp(facts.link, facts.kernel),
        *_offloads(facts.link),
    ]
    lines += [*_mtu(facts.link, filters), *_sysctls(facts.link, facts.sysctls)]
    lines += [*_firewall(facts.ruleset, filters), *_filters(facts, filters)]
    for name, one in facts.tunnels.items():
        lines += _tunnel(name, one, facts.link.mtu_bytes, config)
    lines += [*_clock(facts)]
    return lines


def is_good(lines: Iterable[Line]) -> bool:
    """Whether nothing failed."""
    return all(line.grade != FAIL for line in lines)


def largest_payload(mtu_bytes: int, filters: Iterable[Filter]) -> int:
    """The largest datagram that fits the MTU of every filter, in bytes."""
    rows = list(filters)
    headers = max((48 if _is_ipv6(one) else 28 for one in rows), default=28)
    return max(0, mtu_bytes - headers - DISGUISE_BYTES - _padding(rows))


def _is_ipv6(one: Filter) -> bool:
    return one.address is not None and one.address.version == 6


def _padding(filters: Iterable[Filter]) -> int:
    each = (one.settings.padding for one in filters)
    return max((10 if bytes_ == PADDING_RANDOM else bytes_ for bytes_ in each), default=0)


def _privileges(facts: Facts) -> Iterator[Line]:
    if facts.missing_capabilities:
        missing = ", ".join(facts.missing_capabilities)
        yield Line("privileges", FAIL, f"{missing} missing: run mimicd as root, or with these")
    else:
        yield Line("privileges", OK, "all that is needed")


def _kernel(facts: Facts) -> Iterator[Line]:
    if facts.bpf_refused:
        words = f"bpf(2) is refused ({facts.bpf_refused}): a container or service has to allow it"
        yield Line("kernel", FAIL, words)
    elif _version(facts.kernel) < _OLDEST_KERNEL:
        yield Line("kernel", WARN, f"{facts.kernel} is older than what mimicd was tried on")
    else:
        yield Line("kernel", OK, f"{facts.kernel}, BPF works")
    if not facts.has_btf:
        words = "no /sys/kernel/btf/vmlinux: all packets take the hop, which is right but slower"
        yield Line("BTF", WARN, words)
    elif not facts.reads_kernel:
        words = "the kernel lets nobody read it (lockdown, or no CAP_PERFMON): all packets take"
        yield Line("BTF", WARN, f"{words} the hop, which is right but slower")
    else:
        yield Line("BTF", OK, "the state of checksums can be read")
    if facts.bpffs:
        yield Line("bpffs", OK, f"{facts.bpffs}: the disguise outlives the daemon")
    else:
        words = "no bpffs: the disguise ends with the daemon; `mount -t bpf bpf /sys/fs/bpf`"
        yield Line("bpffs", WARN, words)
    for package in facts.missing_packages:
        yield Line("packages", FAIL, f"{package} is not installed: `apt install {package}`")


def _version(release: str) -> tuple[int, int]:
    numbers = release.replace("-", ".").split(".")
    return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 and numbers[1].isdigit() else 0


def _link(link: LinkFacts, wanted_type: str, strict: bool) -> Iterator[Line]:
    if not link.is_up:
        yield Line("interface", FAIL, f"{link.name} is down: `ip link set {link.name} up`")
    elif not link.link_type:
        words = "is neither Ethernet nor without link header; --link-type if you know better"
        yield Line("interface", FAIL, f"{link.name} {words}")
    else:
        shown = {"eth": "Ethernet", "none": "no link header"}[link.link_type]
        running = ", mimicd runs on it already" if link.is_running else ""
        yield Line("interface", OK, f"{link.name} is up, {shown}{running}")
    if wanted_type not in ("auto", link.link_type) and link.link_type:
        shown = (
            "begin with an Ethernet header" if link.link_type == "eth" else "have no link header"
        )
        words = f"packets of {link.name} {shown}: none will be found with link_type {wanted_type}"
        yield Line("link type", WARN, words)
    # the guard of strict filters is a filter on any kernel
    if link.has_ingress_qdisc and (strict or not link.has_tcx):
        words = "an ingress qdisc is in the way of clsact; `tc qdisc show` names it"
        yield Line("TC", FAIL, f"{words}, `tc qdisc del dev {link.name} ingress` removes it")
    elif link.has_tcx:
        yield Line("TC", OK, "programs are attached by links")
    else:
        yield Line("TC", OK, "programs are attached by filters, as before Linux 6.6")
    if link.is_guarded:
        words = "what is not disguised of guarded or strict filters is dropped here"
        yield Line("guard", OK, f"{words}; `mimicd guard --off {link.name}` ends that")


def _xdp(link: LinkFacts, kernel: str) -> Iterator[Line]:
    if link.link_type == "none" or link.kind == "veth":
        yield Line("XDP", OK, "not used here: TC receives")
    elif link.xdp_owner and not link.is_running:
        words = f"{link.xdp_owner} is attached: TC receives instead"
        yield Line("XDP", WARN, f"{words}; `ip link set {link.name} xdp off` if it is not needed")
    elif _version(kernel) < _XDP_KERNEL:
        yield Line("XDP", OK, "needs Linux 5.18: TC receives")
    elif link.xdp_native is False:
        yield Line("XDP", OK, "the driver has none: TC receives")
    elif link.xdp_native is None:
        yield Line("XDP", OK, "native if the driver has it, else TC receives")
    else:
        yield Line("XDP", OK, "the driver has it")


def _offloads(link: LinkFacts) -> Iterator[Line]:
    shown = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in link.features.items())
    if link.features.get("lro"):
        words = "LRO merges what the peer sent apart, and what it merges is dropped"
        yield Line("offloads", WARN, f"{words}: `ethtool -K {link.name} lro off`")
    else:
        yield Line("offloads", OK, f"{shown or 'not told'}; any mix will do")


def _mtu(link: LinkFacts, filters: Sequence[Filter]) -> Iterator[Line]:
    payload = largest_payload(link.mtu_bytes, filters)
    words = f"{link.mtu_bytes}: datagrams up to {payload} bytes, for WireGuard"
    words += f" MTU = {max(0, payload - WIREGUARD_BYTES)}"
    least = _IPV6_LEAST_MTU + DISGUISE_BYTES + _padding(filters)
    if any(map(_is_ipv6, filters)) and link.mtu_bytes < least:
        words += f"; IPv6 may send {_IPV6_LEAST_MTU} bytes always, which needs {least} here"
        yield Line("MTU", WARN, words)
    else:
        yield Line("MTU", OK, words)


def _sysctls(link: LinkFacts, sysctls: Mapping[str, int]) -> Iterator[Line]:
    places = ("ipv4/conf/all/rp_filter", f"ipv4/conf/{link.name}/rp_filter")
    if max((sysctls.get(place, 0) for place in places), default=0) == 1:
        words = "strict: packets are dropped whose answers would leave by another interface"
        yield Line("rp_filter", WARN, f"{words}; with several ways out, 2 is right")
    else:
        yield Line("rp_filter", OK, "not strict")
    if link.is_bridged:
        if any(sysctls.get(f"bridge/bridge-nf-call-{one}") for one in ("iptables", "ip6tables")):
            words = "bridge-nf-call-iptables is on: masqueraded flows find no way back"
            yield Line("bridge", WARN, f"{words}; sysctl net.bridge.bridge-nf-call-iptables=0")
        else:
            yield Line("bridge", OK, "netfilter does not look into it")
    if link.is_loopback:
        wanted = ("ipv4/conf/lo/accept_local", "ipv4/conf/lo/route_localnet")
        if all(sysctls.get(place) for place in wanted):
            yield Line("loopback", OK, "takes packets that have lost their route")
        else:
            words = "refuses packets that have lost their route: set"
            settings = " and ".join(f"net.{place.replace('/', '.')}=1" for place in wanted)
            yield Line("loopback", WARN, f"{words} {settings}")


def _firewall(
    ruleset: Sequence[Mapping[str, Any]] | None, filters: Sequence[Filter]
) -> Iterator[Line]:
    """Rules of this host see the UDP of the flow, never the TCP."""
    if ruleset is None:
        words = "the rules cannot be read; they have to let the UDP of the flow pass, TCP is not"
        yield Line("firewall", WARN, f"{words} seen by them")
        return
    local, remote = (
        {one.port for one in filters if one.origin is origin}
        for origin in (Origin.LOCAL, Origin.REMOTE)
    )
    faults = [*_rule_faults(ruleset, local, "input"), *_rule_faults(ruleset, remote, "output")]
    if remote:
        faults += _drops_replies(ruleset)
    faults = list(dict.fromkeys(faults))
    if faults:
        yield from (Line("firewall", grade, words) for grade, words in faults)
    else:
        yield Line("firewall", OK, "nothing was found that would drop the flow")


def _rule_faults(
    ruleset: Sequence[Mapping[str, Any]], ports: set[int], hook: str
) -> Iterator[tuple[str, str]]:
    """Of `ports` at the local end, that "input" would drop; or at the remote one, and "output"."""
    rules = [entry["rule"] for entry in ruleset if "rule" in entry]
    chains = [entry["chain"] for entry in ruleset if "chain" in entry]
    other = {"input": "output", "output": "input"}[hook]
    elsewhere = {_place(one, "name") for one in chains if one.get("hook") == other}
    rules = [rule for rule in rules if _place(rule, "chain") not in elsewhere]
    for rule in rules:
        where = f"{rule.get('table')} {rule.get('chain')}"
        verdicts = {key for part in rule.get("expr", ()) for key in part}
        for port in sorted(_udp_ports(rule) & ports):
            if verdicts & {"drop", "reject"}:
                why = {"input": "mimicd gives it to the host", "output": "the host sends it first"}
                yield FAIL, f"a rule in {where} drops UDP port {port}: {why[hook]}"
    admitted = {
        port
        for rule in rules
        if any("accept" in part for part in rule.get("expr", ()))
        for port in _udp_ports(rule)
    }
    for chain in chains:
        if chain.get("hook") == hook and chain.get("policy") == "drop":
            for port in sorted(ports - admitted):
                yield (
                    WARN,
                    f"{chain.get('table')} {chain.get('name')} drops what no rule accepts, and none"
                    f" names UDP port {port}: `udp dport {port} accept`",
                )


def _drops_replies(ruleset: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Chains that let in only what some rule accepts, where none of theirs accepts replies."""
    accepting = {
        _place(entry["rule"], "chain")
        for entry in ruleset
        if "rule" in entry
        and any("accept" in part for part in entry["rule"].get("expr", ()))
        and any(map(_is_of_established, entry["rule"].get("expr", ())))
    }
    for chain in (entry["chain"] for entry in ruleset if "chain" in entry):
        drops = chain.get("hook") == "input" and chain.get("policy") == "drop"
        if drops and _place(chain, "name") not in accepting:
            yield (
                WARN,
                f"{chain.get('table')} {chain.get('name')} drops the peer's datagrams unless a rule"
                " accepts them: `ct state established,related accept`",
            )


def _is_of_established(part: Mapping[str, Any]) -> bool:
    match = part.get("match", {})
    if not isinstance(match, Mapping) or match.get("left") != {"ct": {"key": "state"}}:
        return False
    right = match.get("right")
    wanted = right.get("set", ()) if isinstance(right, Mapping) else right
    return match.get("op") != "!=" and wanted is not None and "established" in wanted


def _place(entry: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    """The chain that a rule or a chain is about."""
    return entry.get("family"), entry.get("table"), entry.get(name)


def _udp_ports(rule: Mapping[str, Any]) -> set[int]:
    """The UDP ports that a rule names as destination."""
    ports: set[int] = set()
    for part in rule.get("expr", ()):
        match = part.get("match", {})
        left = match.get("left", {}) if isinstance(match, Mapping) else {}
        payload = left.get("payload", {}) if isinstance(left, Mapping) else {}
        if payload == {"protocol": "udp", "field": "dport"} and match.get("op") in ("==", "in"):
            ports |= _numbers(match.get("right"))
    return ports


def _numbers(right: Any) -> set[int]:
    """Single ports, sets and ranges of them, as nft words them."""
    if isinstance(right, int):
        return {right}
    if isinstance(right, Mapping):
        if "set" in right:
            return {one for part in right["set"] for one in _numbers(part)}
        if "range" in right:
            first, last = right["range"]
            return set(range(first, last + 1))
    return set()


def _filters(facts: Facts, filters: Sequence[Filter]) -> Iterator[Line]:
    for host, reason in facts.names.items():
        words = f"{host}: {reason}" if reason else f"{host} resolves"
        yield Line("names", FAIL if reason else OK, words)
    for peer, answer in facts.answers.items():
        match answer:
            case "answered":
                yield Line("peer", OK, f"{peer} answers on TCP")
            case "refused":
                words = f"{peer} answers with RST: start mimicd there, or look at its filter"
                yield Line("peer", FAIL, words)
            case _:
                words = f"{peer} does not answer: is it on, and does a firewall drop TCP?"
                yield Line("peer", WARN, words)
    passive = [one for one in filters if one.settings.handshake.is_passive]
    if filters and len(passive) == len(filters) and _names_a_peer(filters):
        words = f"every filter is passive (handshake={Handshake(0).interval_s}): only the peer can"
        yield Line("handshake", WARN, f"{words} begin")


def _tunnel(
    name: str, one: TunnelFacts, link_mtu_bytes: int, config: InterfaceConfig
) -> Iterator[Line]:
    if one.missing:
        yield Line("wireguard", WARN, f"there is no interface {name} yet; it will be waited for")
        return
    if one.refused:
        words = f"{name} cannot be asked: {one.refused}; `wg show` lists WireGuard interfaces"
        yield Line("wireguard", FAIL, words)
        return
    port, peers = one.tunnel.listen_port, len(one.tunnel.endpoints)
    if port or peers:
        words = f"{name} listens on port {port}" if port else f"{name} listens on no port yet"
        yield Line(
            "wireguard", OK, f"{words} and knows where {counted(peers, 'peer')} may be found"
        )
    else:
        words = f"{name} has neither port nor endpoints: `wg show {name}`"
        yield Line("wireguard", WARN, words)
    fitting = mtu_bytes(link_mtu_bytes, config.flow.padding)
    if one.mtu_bytes <= fitting:
        yield Line("wireguard", OK, f"the MTU of {name} is {one.mtu_bytes}, up to {fitting} fit")
    elif config.set_mtu:
        yield Line("wireguard", OK, f"the MTU of {name} will be {fitting}, it is {one.mtu_bytes}")
    else:
        words = f"the MTU of {name} is {one.mtu_bytes} and should be {fitting}:"
        words += f" `ip link set {name} mtu {fitting}`, or --set-mtu"
        yield Line("wireguard", WARN, words)


def _names_a_peer(filters: Iterable[Filter]) -> bool:
    return any(one.origin is Origin.REMOTE for one in filters)


def _clock(facts: Facts) -> Iterator[Line]:
    if facts.clock_s < _EARLIEST_CLOCK_S:
        words = "it was never set: certificates will look as if they were not valid yet"
        yield Line("clock", WARN, words)
    else:
        yield Line("clock", OK, "it is set")
