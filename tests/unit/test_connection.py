# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.connection: snapshots as they go over the bus."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.connection import Connection, InterfaceView, Role, State

EXAMPLE = Connection(
    local="192.0.2.1:51820",
    remote="203.0.113.5:51820",
    state=State.SYN_SENT,
    role=Role.INITIATOR,
    seq=4294967295,
    ack=0,
    window=54525952,
    peer_window=65535,
    peer_mss=1460,
    filter="remote=203.0.113.5:51820",
    age_s=12.5,
    idle_s=1.25,
    cooldown_s=0.0,
    tx_packets=3,
    tx_bytes=300,
    rx_packets=2,
    rx_bytes=200,
    held=1,
    drops={"cooldown": 7},
    note="waiting for the peer's answer",
    interface="eth0",
)

PLAIN = {
    "local": "192.0.2.1:51820",
    "remote": "203.0.113.5:51820",
    "state": "syn-sent",
    "role": "initiator",
    "seq": 4294967295,
    "ack": 0,
    "window": 54525952,
    "peer-window": 65535,
    "peer-mss": 1460,
    "filter": "remote=203.0.113.5:51820",
    "age": 12.5,
    "idle": 1.25,
    "cooldown": 0.0,
    "tx-packets": 3,
    "tx-bytes": 300,
    "rx-packets": 2,
    "rx-bytes": 200,
    "held": 1,
    "drops": {"cooldown": 7},
    "note": "waiting for the peer's answer",
    "interface": "eth0",
}

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "int": st.integers(0, 2**64 - 1),
    "float": st.floats(allow_nan=False),
    "State": st.sampled_from(State),
    "Role": st.sampled_from(Role),
    "dict[str, int]": st.dictionaries(st.text(), st.integers(1, 2**64 - 1)),
}
connections = st.builds(
    Connection, **{f.name: FIELDS[str(f.type)] for f in dataclasses.fields(Connection)}
)


def test_states_have_their_numbers_and_words() -> None:
    assert [(state.value, state.words) for state in State] == [
        (0, "idle"),
        (1, "syn-sent"),
        (2, "syn-received"),
        (3, "established"),
    ]


def test_roles_have_their_numbers_and_words() -> None:
    assert [(role.value, role.words) for role in Role] == [
        (0, "none"),
        (1, "initiator"),
        (2, "responder"),
    ]


def test_a_connection_has_the_published_keys_and_values() -> None:
    assert EXAMPLE.as_plain() == PLAIN
    assert list(EXAMPLE.as_plain()) == list(PLAIN)


def test_plain_values_are_of_plain_types() -> None:
    kinds = {type(value) for value in EXAMPLE.as_plain().values()}
    assert kinds == {str, int, float, dict}


def test_plain_drops_are_a_copy() -> None:
    drops = EXAMPLE.as_plain()["drops"]
    assert isinstance(drops, dict)
    drops["more"] = 1
    assert EXAMPLE.drops == {"cooldown": 7}


@given(connections)
def test_a_connection_comes_back_from_its_plain_form(connection: Connection) -> None:
    assert Connection.from_plain(connection.as_plain()) == connection


def test_keys_of_a_newer_peer_are_skipped() -> None:
    assert Connection.from_plain({**PLAIN, "round-trip-time": 0.1}) == EXAMPLE


@pytest.mark.parametrize("change", [{"state": "listening"}, {"role": "bystander"}])
def test_an_unknown_state_or_role_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(KeyError, match=next(iter(change.values()))):
        Connection.from_plain({**PLAIN, **change})


def test_a_missing_key_is_refused() -> None:
    plain = {key: value for key, value in PLAIN.items() if key != "peer-mss"}
    with pytest.raises(KeyError, match="peer-mss"):
        Connection.from_plain(plain)


def test_snapshots_cannot_be_changed() -> None:
    view = InterfaceView("eth0", 2, "eth", "native", "running", (), {}, {}, 1460, 0.0)
    for snapshot, field in ((EXAMPLE, "held"), (view, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(snapshot, field, None)
