# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.abi: bytes as the BPF programs write and read them, and names as in bpf/abi.h."""

import enum
import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core import abi
from mimicd.core.abi import Config, ConnFlag, Event, EventType, Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import PADDING_RANDOM, FlowSettings, Handshake, Keepalive, Origin
from mimicd.paths import bpf_directory

HEADER = (bpf_directory() / "abi.h").read_text()
PLAIN = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
KEY = abi.encode_flow(IPv4Address("192.0.2.1"), 51820, IPv6Address("2001:db8::1"), 53)

addresses = st.ip_addresses().filter(
    lambda address: address.version == 4 or address.ipv4_mapped is None
)
ports = st.integers(0, 65535)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def constant(name: str) -> int:
    found = re.search(rf"#define {name} (\d+)\b", PLAIN)
    assert found, f"bpf/abi.h defines no {name}"
    return int(found[1])


def enumerators(name: str) -> dict[str, int]:
    """Of `enum name`, with their values."""
    found = re.search(rf"enum {name} {{(.*?)}}", PLAIN, re.DOTALL)
    assert found, f"bpf/abi.h has no enum {name}"
    values: dict[str, int] = {}
    following = 0
    for part in filter(None, map(str.strip, found[1].split(","))):
        word, _, value = part.partition("=")
        following = int(value) if value else following
        values[word.strip()] = following
        following += 1
    return values


def kebab(names: list[str], prefix: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix).lower().replace("_", "-") for name in names)


# Names and numbers, against the header.


def test_constants_are_those_of_the_header() -> None:
    assert constant("ABI_VERSION") == abi.VERSION
    assert constant("MAX_CONNECTIONS") == abi.MAX_CONNECTIONS
    assert constant("MAX_RULES") == abi.MAX_RULES
    assert constant("MAX_FILTERS") == abi.MAX_FILTERS
    assert constant("HELD_MAX") == abi.HELD_MAX
    assert constant("FILTER_PREFIX_BITS") == 160


def test_counters_are_in_the_order_of_the_header() -> None:
    *names, last = enumerators("counter")
    assert last == "COUNTERS"
    assert kebab(names, "COUNT_") == abi.COUNTERS
    assert len(set(abi.COUNTERS)) == len(abi.COUNTERS)


def test_drops_of_a_connection_are_in_the_order_of_the_header() -> None:
    *names, last = enumerators("conn_drop")
    assert last == "CONN_DROPS"
    words = kebab(names, "CONN_DROP_")
    assert [ours.split("-")[0] for ours in abi.CONN_DROPS] == [word.split("-")[0] for word in words]


@pytest.mark.parametrize(
    ("name", "prefix", "ours"),
    [
        ("state", "", State),
        ("reason", "REASON_", Reason),
        ("conn_flag", "", ConnFlag),
        ("event_type", "EVENT_", EventType),
        ("operation", "COMMAND_", Operation),
    ],
)
def test_numbers_are_those_of_the_header(
    name: str, prefix: str, ours: type[enum.IntEnum] | type[enum.IntFlag]
) -> None:
    theirs = {word.removeprefix(prefix): value for word, value in enumerators(name).items()}
    assert theirs == {member.name: member.value for member in ours}


def test_roles_and_origins_are_those_of_the_header() -> None:
    assert list(enumerators("role").values()) == [role.value for role in Role]
    assert enumerators("origin") == {"ORIGIN_LOCAL": 1, "ORIGIN_REMOTE": 2}
    for origin, number in ((Origin.LOCAL, 1), (Origin.REMOTE, 2)):
        assert abi.encode_filter_key(origin, 1, ip_address("::1"), 128)[4] == number


# Flow keys.


def test_a_flow_key_has_these_bytes() -> None:
    assert (
        bytes.fromhex("00000000000000000000ffffc000020120010db8000000000000000000000001ca6c0035")
        == KEY
    )
    assert abi.flow_texts(KEY) == ("192.0.2.1:51820", "[2001:db8::1]:53")


@given(addresses, ports, addresses, ports)
def test_a_flow_key_shows_its_ends(
    local: IPv4Address | IPv6Address,
    local_port: int,
    remote: IPv4Address | IPv6Address,
    remote_port: int,
) -> None:
    key = abi.encode_flow(local, local_port, remote, remote_port)
    assert len(key) == abi.FLOW_KEY.size == 36
    assert abi.flow_is_ipv4(key) == (local.version == 4)

    def text(address: IPv4Address | IPv6Address, port: int) -> str:
        return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"

    assert abi.flow_texts(key) == (text(local, local_port), text(remote, remote_port))


@given(addresses)
def test_an_address_comes_back(address: IPv4Address | IPv6Address) -> None:
    raw = abi.encode_address(address)
    assert len(raw) == 16
    assert abi.decode_address(raw) == address


# What user space writes.


def test_filters_have_these_bytes() -> None:
    one = abi.encode_filter_key(Origin.LOCAL, 0x0201, ip_address("198.51.100.7"), 32)
    assert one == struct.pack("=IBBH", 160, 1, 4, 0x0201) + bytes.fromhex(
        "00000000000000000000ffffc6336407"
    )
    network = abi.encode_filter_key(Origin.LOCAL, 1, ip_address("198.51.100.0"), 24)
    assert network == struct.pack("=IBBH", 152, 1, 4, 1) + bytes.fromhex(
        "00000000000000000000ffffc6336400"
    )
    wide = abi.encode_filter_key(Origin.REMOTE, 0xFFFF, ip_address("2001:db8::"), 32)
    assert wide == struct.pack("=IBBH", 64, 2, 6, 0xFFFF) + bytes.fromhex(
        "20010db8000000000000000000000000"
    )
    assert abi.encode_filter_value(7, 9) == struct.pack("=II", 7, 9)


def test_a_rule_has_these_bytes() -> None:
    settings = FlowSettings(Handshake(2, 3), Keepalive(180, 10, 4, 600), 16, True)
    expected = struct.pack("=6H", 2, 3, 180, 10, 4, 600) + bytes([16, 1, 0, 0])
    assert abi.encode_rule(settings) == expected
    assert abi.encode_rule(FlowSettings(padding=PADDING_RANDOM))[12:] == bytes([255, 0, 0, 0])
    most = FlowSettings(Handshake(32767, 32767), Keepalive(32767, 32767, 32767, 32767))
    assert abi.encode_rule(most)[:12] == struct.pack("=6H", *[32767] * 6)


@given(st.builds(Config, *[u32] * 7, st.tuples(u64, u64)))
def test_a_config_comes_back(config: Config) -> None:
    raw = config.encode()
    assert len(raw) == 72
    assert abi.decode_config(raw) == config


def test_a_command_has_these_bytes() -> None:
    assert abi.encode_command(Operation.RESET, 0xFFFFFFFF, 8) == struct.pack(
        "=III", 4, 2**32 - 1, 8
    )
    assert len(abi.encode_command(Operation.SYN, 0)) == 12


# What it reads.


def conn_bytes(**given: int) -> bytes:
    """A connection by these members; all else is zero."""
    places = {"state": 8, "role": 9, "cooldown_step": 11, "last_reset": 14}
    raw = bytearray(abi.CONN_BYTES)
    for name, value in given.items():
        raw[places[name]] = value
    return bytes(raw)


def test_a_new_entry_is_all_zeros() -> None:
    entry = abi.decode_conn(bytes(abi.CONN_BYTES))
    assert (entry.state, entry.role, entry.last_reset) == (State.IDLE, Role.NONE, Reason.NONE)
    assert entry.link_header == b""
    assert entry.drops == (0,) * len(abi.CONN_DROPS)
    assert (entry.cooldown_ns, entry.cooldown_until_ns, entry.held_now) == (0, 0, 0)


def test_cooldown_doubles_from_5_to_40_seconds() -> None:
    steps = [abi.decode_conn(conn_bytes(cooldown_step=step)).cooldown_ns for step in range(5)]
    assert steps == [0, 5_000_000_000, 10_000_000_000, 20_000_000_000, 40_000_000_000]


@pytest.mark.parametrize("wrong", [{"state": 4}, {"role": 3}, {"last_reset": len(abi.Reason)}])
def test_an_entry_of_another_version_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        abi.decode_conn(conn_bytes(**wrong))


def event_bytes(kind: int, frame_len: int, frame: bytes = b"", flags: int = 0) -> bytes:
    head = struct.pack("=IIQ", kind, frame_len, 5) + KEY + struct.pack("=4I", 6, 0, 0, 0)
    return head + bytes([1, 1, 1, flags, 0, 0, 0, 0]) + struct.pack("=I", 34) + frame


def test_an_event_is_read_with_its_frame() -> None:
    assert abi.EVENT_BYTES == 80
    raw = event_bytes(1, 5, b"frame and what pads it", flags=2)
    assert abi.decode_event(raw) == Event(
        EventType.HELD,
        5,
        KEY,
        6,
        State.SYN_SENT,
        Role.INITIATOR,
        Reason.OPENED,
        True,
        34,
        b"frame",
    )
    assert not abi.decode_event(event_bytes(2, 0, flags=1)).partial


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid EventType"):
        abi.decode_event(event_bytes(9, 0))
    with pytest.raises(struct.error):
        abi.decode_event(event_bytes(1, 0)[:79])


@given(st.binary(max_size=200))
def test_nothing_else_comes_of_bytes_that_are_no_event(raw: bytes) -> None:
    try:
        event = abi.decode_event(raw)
    except (ValueError, struct.error):
        return
    assert len(event.frame) <= len(raw) - abi.EVENT_BYTES
