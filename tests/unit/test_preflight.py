# SPDX-License-Identifier: GPL-2.0-only
"""What `check` says of facts: each trouble is told in its own line, with what to do."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from mimicd.core.model import PADDING_RANDOM, FlowSettings, InterfaceConfig
from mimicd.core.preflight import (
    FAIL,
    OK,
    WARN,
    Facts,
    Line,
    LinkFacts,
    TunnelFacts,
    examine,
    is_good,
    largest_payload,
)
from mimicd.core.settings import parse_filter
from mimicd.core.wireguard import Tunnel

LINK = LinkFacts("eth0", 1500, True, "eth", "", xdp_native=True, features={"gro": True})
GOOD = Facts(
    kernel="6.18.1-arch1",
    missing_capabilities=(),
    bpf_refused="",
    has_btf=True,
    reads_kernel=True,
    bpffs="/sys/fs/bpf",
    missing_packages=(),
    link=LINK,
    sysctls={"ipv4/conf/all/rp_filter": 2},
    ruleset=[],
    clock_s=1_800_000_000,
)
SERVER = [parse_filter("local=192.0.2.1:51820")]
TUNNEL = TunnelFacts(mtu_bytes=1408, tunnel=Tunnel(51820, ((IPv4Address("192.0.2.9"), 1),)))
PEER = [parse_filter("remote=192.0.2.9:51820,handshake=0:0")]


def rule(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"table": "filter", "chain": "in", "expr": list(parts)}}


def udp_port(right: object) -> dict[str, Any]:
    left = {"payload": {"protocol": "udp", "field": "dport"}}
    return {"match": {"op": "==", "left": left, "right": right}}


DROPS_ALL = {"chain": {"table": "filter", "name": "in", "hook": "input", "policy": "drop"}}
DROP, ACCEPT = {"drop": None}, {"accept": None}


def lines_of(facts: Facts, filters: Any = SERVER) -> list[Line]:
    return examine("eth0", facts, filters)


def test_a_machine_that_lacks_nothing_gets_ok_only() -> None:
    lines = lines_of(GOOD)
    assert {line.grade for line in lines} == {OK}
    assert is_good(lines)
    expected = (
        "privileges kernel BTF bpffs interface TC XDP offloads MTU rp_filter firewall clock",
    )
    assert [line.check for line in lines] == expected[0].split()


@pytest.mark.parametrize(
    ("facts", "check", "grade", "words"),
    [
        (replace(GOOD, missing_capabilities=("CAP_BPF",)), "privileges", FAIL, "CAP_BPF missing"),
        (replace(GOOD, bpf_refused="not permitted"), "kernel", FAIL, "refused (not permitted)"),
        (replace(GOOD, kernel="5.4.0-150-generic"), "kernel", WARN, "5.4.0-150-generic is older"),
        (replace(GOOD, has_btf=False), "BTF", WARN, "take the hop"),
        (replace(GOOD, reads_kernel=False), "BTF", WARN, "CAP_PERFMON"),
        (replace(GOOD, bpffs=""), "bpffs", WARN, "mount -t bpf"),
        (replace(GOOD, missing_packages=("python3-bpfcc",)), "packages", FAIL, "apt install"),
        (replace(GOOD, link=None), "interface", FAIL, "there is no interface eth0"),
        (replace(GOOD, clock_s=1000), "clock", WARN, "never set"),
        (replace(GOOD, ruleset=None), "firewall", WARN, "cannot be read"),
        (replace(GOOD, sysctls={"ipv4/conf/eth0/rp_filter": 1}), "rp_filter", WARN, "strict"),
        (replace(GOOD, names={"vpn.example": "no such name"}), "names", FAIL, "no such name"),
        (replace(GOOD, names={"vpn.example": ""}), "names", OK, "vpn.example resolves"),
        (replace(GOOD, answers={"192.0.2.9:1": "answered"}), "peer", OK, "answers on TCP"),
        (replace(GOOD, answers={"192.0.2.9:1": "refused"}), "peer", FAIL, "RST"),
        (replace(GOOD, answers={"192.0.2.9:1": "silent"}), "peer", WARN, "does not answer"),
    ],
)
def test_each_trouble_of_the_machine_is_told(
    facts: Facts, check: str, grade: str, words: str
) -> None:
    lines = [line for line in lines_of(facts) if line.check == check and words in line.words]
    assert [line.grade for line in lines] == [grade]
    assert is_good(lines_of(facts)) == (grade != FAIL)


def test_the_guard_of_strict_filters_needs_the_qdisc_on_any_kernel() -> None:
    facts = replace(GOOD, link=replace(LINK, has_ingress_qdisc=True))
    strict = parse_filter("local=192.0.2.1:5000,strict=true")
    grades = [line.grade for line in lines_of(facts, [strict]) if line.check == "TC"]
    assert grades == [FAIL]


@pytest.mark.parametrize(
    ("link", "check", "grade", "words"),
    [
        (replace(LINK, is_up=False), "interface", FAIL, "ip link set eth0 up"),
        (replace(LINK, link_type=""), "interface", FAIL, "--link-type"),
        (replace(LINK, is_running=True), "interface", OK, "mimicd runs on it already"),
        (replace(LINK, has_ingress_qdisc=True), "TC", OK, "links"),
        (replace(LINK, has_tcx=False), "TC", OK, "filters"),
        (replace(LINK, has_tcx=False, has_ingress_qdisc=True), "TC", FAIL, "ingress qdisc"),
        (replace(LINK, kind="veth"), "XDP", OK, "TC receives"),
        (replace(LINK, link_type="none"), "XDP", OK, "TC receives"),
        (replace(LINK, xdp_owner="the XDP program x (id 7)"), "XDP", WARN, "x (id 7) is attached"),
        (replace(LINK, xdp_native=False), "XDP", OK, "the driver has none"),
        (replace(LINK, xdp_native=None), "XDP", OK, "if the driver has it"),
        (replace(LINK, features={"lro": True}), "offloads", WARN, "ethtool -K eth0 lro off"),
        (replace(LINK, is_bridged=True), "bridge", OK, "does not look"),
        (replace(LINK, is_loopback=True), "loopback", WARN, "net.ipv4.conf.lo.accept_local=1"),
    ],
)
def test_each_trouble_of_the_link_is_told(
    link: LinkFacts, check: str, grade: str, words: str
) -> None:
    lines = lines_of(replace(GOOD, link=link))
    assert [line.grade for line in lines if line.check == check and words in line.words] == [grade]


def test_a_link_type_that_is_not_that_of_the_link_is_warned_of() -> None:
    for kind, wanted, words in (
        ("eth", "none", "begin with an Ethernet header"),
        ("none", "eth", "have no link header"),
    ):
        facts = replace(GOOD, link=replace(LINK, link_type=kind))
        for given in ("auto", kind):
            lines = examine("eth0", facts, SERVER, InterfaceConfig(link_type=given))
            assert not [line for line in lines if line.check == "link type"]
        lines = examine("eth0", facts, SERVER, InterfaceConfig(link_type=wanted))
        (line,) = (line for line in lines if line.check == "link type")
        assert line.grade == WARN
        assert words in line.words


@pytest.mark.parametrize(
    ("tunnel", "config", "grades", "words"),
    [
        (TunnelFacts(missing=True), InterfaceConfig(), [WARN], "no interface wg0 yet"),
        (TunnelFacts(refused="it is no one"), InterfaceConfig(), [FAIL], "wg0 cannot be asked: it"),
        (TunnelFacts(mtu_bytes=1408), InterfaceConfig(), [WARN, OK], "neither port nor endpoints"),
        (TUNNEL, InterfaceConfig(), [OK, OK], "port 51820 and knows where 1 peer may be found"),
        (TUNNEL, InterfaceConfig(), [OK, OK], "1408, up to 1408 fit"),
        (
            replace(TUNNEL, mtu_bytes=1420),
            InterfaceConfig(),
            [OK, WARN],
            "should be 1408: `ip link set wg0 mtu 1408`, or --set-mtu",
        ),
        (
            replace(TUNNEL, mtu_bytes=1420),
            InterfaceConfig(set_mtu=True),
            [OK, OK],
            "will be 1408, it is 1420",
        ),
        (
            TUNNEL,
            InterfaceConfig(flow=FlowSettings(padding=PADDING_RANDOM)),
            [OK, WARN],
            "should be 1398",
        ),
    ],
)
def test_a_wireguard_interface_is_looked_at(
    tunnel: TunnelFacts, config: InterfaceConfig, grades: list[str], words: str
) -> None:
    found = examine("eth0", replace(GOOD, tunnels={"wg0": tunnel}), [], config)
    lines = [line for line in found if line.check == "wireguard"]
    assert [line.grade for line in lines] == grades
    assert words in " ".join(line.words for line in lines)


def test_a_bridge_that_netfilter_looks_into_is_warned_of() -> None:
    sysctls = {"bridge/bridge-nf-call-iptables": 1}
    lines = lines_of(replace(GOOD, link=replace(LINK, is_bridged=True), sysctls=sysctls))
    assert [line.grade for line in lines if line.check == "bridge"] == [WARN]


@pytest.mark.parametrize(
    ("ruleset", "grade", "words"),
    [
        ([rule(udp_port(51820), DROP)], FAIL, "drops UDP port 51820"),
        ([rule(udp_port({"set": [1, {"range": [51800, 51900]}]}), DROP)], FAIL, "51820"),
        ([rule(udp_port(53), DROP)], OK, "nothing was found"),
        ([DROPS_ALL], WARN, "udp dport 51820 accept"),
        ([DROPS_ALL, rule(udp_port(53), ACCEPT)], WARN, "no rule accepts"),
        ([DROPS_ALL, rule(udp_port(51820), ACCEPT)], OK, "nothing was found"),
        ([rule({"counter": {"packets": 1}}, DROP)], OK, "nothing was found"),
        ([rule({"match": {"op": "==", "left": "x", "right": {"@set": 1}}})], OK, "nothing"),
    ],
)
def test_rules_that_drop_the_port_of_a_server_are_found(
    ruleset: list[dict[str, Any]], grade: str, words: str
) -> None:
    lines = lines_of(replace(GOOD, ruleset=ruleset))
    found = [line for line in lines if line.check == "firewall"]
    assert [line.grade for line in found] == [grade]
    assert words in found[0].words


OUTPUT = {"table": "filter", "name": "out", "hook": "output", "policy": "drop"}
ESTABLISHED = {
    "match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}
}


def out(entry: dict[str, Any]) -> dict[str, Any]:
    """The same rule in the chain for what the host sends."""
    return {"rule": {**entry["rule"], "chain": "out"}}


@pytest.mark.parametrize(
    ("ruleset", "grade", "words"),
    [
        ([{"chain": OUTPUT}], WARN, "filter out drops what no rule accepts"),
        ([{"chain": OUTPUT}, out(rule(udp_port(51820), ACCEPT))], OK, "nothing was found"),
        ([{"chain": OUTPUT}, out(rule(udp_port(51820), DROP))], FAIL, "the host sends it first"),
        ([DROPS_ALL], WARN, "ct state established,related accept"),
        ([DROPS_ALL, rule(ESTABLISHED, ACCEPT)], OK, "nothing was found"),
        ([DROPS_ALL, rule(udp_port(51820), DROP), rule(ESTABLISHED, ACCEPT)], OK, "nothing was"),
    ],
)
def test_rules_that_drop_what_a_client_sends_or_gets_are_found(
    ruleset: list[dict[str, Any]], grade: str, words: str
) -> None:
    lines = lines_of(replace(GOOD, ruleset=ruleset), PEER)
    found = [line for line in lines if line.check == "firewall"]
    assert found[0].grade == grade
    assert words in found[0].words


def test_a_side_that_only_waits_for_the_peer_is_warned_of() -> None:
    lines = [line for line in lines_of(GOOD, PEER) if line.check == "handshake"]
    assert [line.grade for line in lines] == [WARN]


@pytest.mark.parametrize(
    ("mtu_bytes", "text", "payload"),
    [
        (1500, "local=192.0.2.1:1", 1460),
        (1500, "local=[2001:db8::1]:1", 1440),
        (1500, "local=192.0.2.1:1,padding=16", 1444),
        (1500, "local=192.0.2.1:1,padding=random", 1450),
        (30, "local=192.0.2.1:1", 0),
    ],
)
def test_the_largest_payload_leaves_room_for_all_headers(
    mtu_bytes: int, text: str, payload: int
) -> None:
    filters = [parse_filter(text)]
    assert largest_payload(mtu_bytes, filters) == payload
    (line,) = (
        one
        for one in lines_of(replace(GOOD, link=replace(LINK, mtu_bytes=mtu_bytes)), filters)
        if one.check == "MTU"
    )
    assert (
        f"datagrams up to {payload} bytes, for WireGuard MTU = {max(0, payload - 32)}" in line.words
    )


def test_a_link_too_narrow_for_ipv6_is_warned_of() -> None:
    narrow = replace(GOOD, link=replace(LINK, mtu_bytes=1290))
    lines = lines_of(narrow, [parse_filter("local=[2001:db8::1]:1")])
    assert [line.grade for line in lines if line.check == "MTU"] == [WARN]
