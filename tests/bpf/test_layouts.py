# SPDX-License-Identifier: GPL-2.0-only
"""The structs as BCC's compiler lays them out against those of mimicd.core.abi."""

import hashlib
import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TypedDict

import pytest

from mimicd.core import abi
from mimicd.core.abi import ConnFlag, EventType, Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import FlowSettings, Handshake, Keepalive, Origin
from mimicd.kernel import compiler, dataplane

ROOT = Path(__file__).resolve().parents[2]


class Layout(TypedDict):
    """As the child prints it; a member is its offset and its size."""

    size: int
    members: dict[str, tuple[int, int]]


class View(TypedDict):
    flow_key: Layout
    conn: Layout
    port_classes: Layout
    filter_key: Layout
    filter_value: Layout
    rule: Layout
    config: Layout
    half_open: Layout
    event: Layout
    command: Layout
    limits: dict[str, int]


@pytest.fixture(scope="module")
def view() -> View:
    child = subprocess.run(
        [sys.executable, "-m", "tests.bpf.ctypes_view"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    found: View = json.loads(child.stdout)
    return found


def assemble(layout: Layout, values: dict[str, int | bytes]) -> bytes:
    """The struct with these members; the others are zero."""
    raw = bytearray(layout["size"])
    for name, value in values.items():
        at, size = layout["members"][name]
        raw[at : at + size] = (
            value.to_bytes(size, sys.byteorder)
            if isinstance(value, int)
            else value.ljust(size, b"\0")
        )
    return bytes(raw)


def test_the_sizes_are_those_the_maps_are_read_with(view: View) -> None:
    sizes = dataplane._KEY_AND_VALUE_BYTES
    assert sizes["conns"] == (view["flow_key"]["size"], view["conn"]["size"])
    assert sizes["filters"] == (view["filter_key"]["size"], view["filter_value"]["size"])
    assert sizes["ports"][1] == view["port_classes"]["size"] == abi.PORT_CLASSES_BYTES
    assert sizes["rules"][1] == view["rule"]["size"]
    assert sizes["config"][1] == view["config"]["size"]
    assert abi.FLOW_KEY.size == view["flow_key"]["size"]
    assert view["conn"]["size"] == abi.CONN_BYTES
    assert view["event"]["size"] == abi.EVENT_BYTES
    assert len(abi.encode_command(Operation.SYN, 1)) == view["command"]["size"]


def test_the_maps_hold_what_user_space_counts_on(view: View) -> None:
    assert set(view["limits"]) == set(compiler.MAPS)
    assert view["limits"]["conns"] == abi.MAX_CONNECTIONS
    assert view["limits"]["rules"] == abi.MAX_RULES
    assert view["limits"]["counters"] == len(abi.COUNTERS)
    assert view["limits"]["ring"] == dataplane.RING_BYTES
    assert view["limits"]["filters"] == abi.MAX_FILTERS


def test_another_layout_has_another_number(view: View) -> None:
    """A later daemon adopts by the number alone: who changes a layout raises it, and this."""
    told = json.dumps(view, sort_keys=True).encode()
    assert (abi.VERSION, hashlib.sha256(told).hexdigest()[:16]) == (5, "11753b234465c36a")


def test_every_member_of_a_connection_is_read_from_its_place(view: View) -> None:
    narrow: dict[str, int | bytes] = {
        "state": State.ESTABLISHED,
        "role": Role.RESPONDER,
        "last_reset": Reason.STALE,
        "flags": ConnFlag.CROSSED | ConnFlag.DRAINING,
        "peer_wscale": 13,
        "cooldown_step": 3,
        "l2": bytes(range(100, 124)),
        "l2_len": 22,
        "drops": b"".join(n.to_bytes(4, sys.byteorder) for n in range(61, 67)),
    }
    skipped = {"lock", "reserved"}
    members = view["conn"]["members"]
    values: dict[str, int | bytes] = {
        name: (number + 1) * 0x0101 for number, name in enumerate(members) if name not in skipped
    }
    values |= narrow
    entry = abi.decode_conn(assemble(view["conn"], values))
    shown = {name: getattr(entry, name) for name in values if name not in ("l2", "l2_len")}
    expected = {name: value for name, value in values.items() if name not in ("l2", "l2_len")}
    assert shown == expected | {"drops": tuple(range(61, 67))}
    assert entry.link_header == bytes(range(100, 122))


def test_every_member_of_an_event_is_read_from_its_place(view: View) -> None:
    key = bytes(range(36))
    raw = assemble(
        view["event"],
        {
            "type": EventType.HELD,
            "frame_len": 5,
            "at_ns": 0x0123456789ABCDEF,
            "key": key,
            "generation": 0xFEDCBA98,
            "state": State.SYN_SENT,
            "role": Role.INITIATOR,
            "reason": Reason.OPENED,
            "flags": 2,
            "transport_at": 54,
        },
    )
    # records are padded: what follows the frame is none of it
    event = abi.decode_event(raw + b"frame..")
    assert event == abi.Event(
        EventType.HELD,
        0x0123456789ABCDEF,
        key,
        0xFEDCBA98,
        State.SYN_SENT,
        Role.INITIATOR,
        Reason.OPENED,
        True,
        54,
        b"frame",
    )


def test_the_config_is_written_to_its_places(view: View) -> None:
    config = abi.Config(3, 4, 1500, 1, 0x11, 0x22, 0x33, (2**64 - 5, 7))
    expected = assemble(
        view["config"],
        {
            "ifindex": 3,
            "hop_ifindex": 4,
            "mtu": 1500,
            "flags": 1,
            "resend_mark": 0x11,
            "command_mark": 0x22,
            "deliver_mark": 0x33,
            "cookie_key": (2**64 - 5).to_bytes(8, sys.byteorder) + (7).to_bytes(8, sys.byteorder),
        },
    )
    assert config.encode() == expected
    assert abi.decode_config(expected) == config


def test_a_rule_is_written_to_its_places(view: View) -> None:
    settings = FlowSettings(Handshake(1, 2), Keepalive(3, 4, 5, 6), 7, True)
    values: dict[str, int | bytes] = {
        "handshake_interval_s": 1,
        "handshake_retry": 2,
        "keepalive_time_s": 3,
        "keepalive_interval_s": 4,
        "keepalive_retry": 5,
        "keepalive_stale_s": 6,
        "padding": 7,
        "flags": 1,
    }
    assert abi.encode_rule(settings) == assemble(view["rule"], values)


def test_a_filter_is_written_to_its_places(view: View) -> None:
    address = ip_address("2001:db8::")
    assert abi.encode_filter_key(Origin.REMOTE, 0x1234, address, 32) == assemble(
        view["filter_key"],
        {
            "prefix_bits": 64,
            "origin": 2,
            "family": 6,
            "port_class": 0x1234,
            "address": address.packed,
        },
    )
    assert abi.encode_filter_value(9, 8) == assemble(view["filter_value"], {"rule": 9, "rank": 8})


def test_the_classes_of_ports_are_written_to_their_places(view: View) -> None:
    local, remote = [0] * 65536, [0] * 65536
    local[0x1234], remote[0x4321] = 7, 8
    members = view["port_classes"]["members"]
    raw = abi.encode_port_classes(local, remote)
    assert len(raw) == view["port_classes"]["size"]
    for name, port, number in (("local", 0x1234, 7), ("remote", 0x4321, 8)):
        at = members[name][0] + 2 * port
        assert raw[at : at + 2] == number.to_bytes(2, sys.byteorder)
    assert tuple(map(list, abi.decode_port_classes(raw))) == (local, remote)


def test_a_command_and_a_flow_key_are_written_to_their_places(view: View) -> None:
    values: dict[str, int | bytes] = {"operation": 4, "generation": 0xFFFFFFFF, "argument": 9}
    assert abi.encode_command(Operation.RESET, 0xFFFFFFFF, 9) == assemble(view["command"], values)
    ends = (ip_address("192.0.2.1"), 0x0102, ip_address("2001:db8::1"), 0x0304)
    assert abi.encode_flow(*ends) == assemble(
        view["flow_key"],
        {
            "local": bytes(10) + b"\xff\xff" + ends[0].packed,
            "remote": ends[2].packed,
            "local_port": b"\x01\x02",
            "remote_port": b"\x03\x04",
        },
    )
