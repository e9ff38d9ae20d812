# SPDX-License-Identifier: GPL-2.0-only
"""Plain data as text for people."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicctl import table

NOW_S = 1_800_000_000.0


def connection(**changes: Any) -> dict[str, Any]:
    return {
        "local": "192.0.2.1:51820",
        "remote": "[2001:db8::5]:51820",
        "state": "established",
        "role": "initiator",
        "filter": "remote=[2001:db8::5]:51820",
        "interface": "eth0",
        "note": "",
        "seq": 4294967295,
        "ack": 7,
        "window": 54525952,
        "peer-window": 65535,
        "peer-mss": 1440,
        "held": 0,
        "age": 3725.5,
        "idle": 0.2,
        "cooldown": 0.0,
        "tx-packets": 3,
        "tx-bytes": 4_500,
        "rx-packets": 2,
        "rx-bytes": 100,
        "drops": {"cooldown": 3, "too-big": 4},
        **changes,
    }


VIEW: dict[str, Any] = {
    "name": "eth0",
    "ifindex": 2,
    "link-type": "eth",
    "xdp-mode": "native",
    "state": "running",
    "filters": ["remote=203.0.113.5:51820", "local=192.0.2.1:6000"],
    "settings": {"handshake": "2:3", "keepalive": "180:10:3:600", "padding": "random"},
    "counters": {"sent": 5, "no-memory": 0, "cooldown": 2},
    "max-payload": 1460,
    "started-at": NOW_S - 3725,
}


def test_the_facts_of_an_interface() -> None:
    assert table.interface_facts(VIEW, "0.1.0", 1234, NOW_S) == (
        "eth0: running\n"
        "  process        PID 1234, mimicd 0.1.0\n"
        "  uptime         1h 02m\n"
        "  link type      eth\n"
        "  XDP mode       native\n"
        "  max payload    1460 bytes of UDP, for WireGuard MTU = 1428\n"
        "  filters        remote=203.0.113.5:51820\n"
        "                 local=192.0.2.1:6000\n"
        "  handshake      2:3\n"
        "  keepalive      180:10:3:600\n"
        "  padding        random\n"
        "  counters       cooldown 2\n"
        "                 sent 5\n"
    )


def test_the_table_of_connections() -> None:
    shown = table.connection_list([connection(), connection(local="[2001:db8::1]:1", drops={})])
    assert shown == (
        "LOCAL            REMOTE               STATE        ROLE              SEQ  ACK   MSS"
        "     AGE  IDLE     SENT  RECEIVED  DROPPED  FILTER\n"
        "192.0.2.1:51820  [2001:db8::5]:51820  established  initiator  4294967295    7  1440"
        "  1h 02m    0s  4.4 KiB     100 B        7  remote=[2001:db8::5]:51820\n"
        "[2001:db8::1]:1  [2001:db8::5]:51820  established  initiator  4294967295    7  1440"
        "  1h 02m    0s  4.4 KiB     100 B        0  remote=[2001:db8::5]:51820\n"
    )


LONG = {
    "local": "[2001:db8:1111:2222:3333:4444:5555:6666]:51820",
    "remote": "[2001:db8:1111:2222:3333:4444:5555:7777]:51820",
    "filter": "remote=[2001:db8:1111:2222:3333:4444:5555:7777]:51820 (wireguard wg0)",
    "state": "idle",
}


def test_connections_have_some_lines_each_where_the_table_is_too_wide() -> None:
    both = [connection(), connection(**LONG)]
    assert table.connection_list(both, 80) == (
        "established  192.0.2.1:51820 -> [2001:db8::5]:51820\n"
        "             initiator, age 1h 02m, idle 0s, peer MSS 1440\n"
        "             sent 4.4 KiB, received 100 B, dropped 7 (cooldown 3, too-big 4)\n"
        "             seq 4294967295, ack 7, filter remote=[2001:db8::5]:51820\n"
        "idle         [2001:db8:1111:2222:3333:4444:5555:6666]:51820 ->\n"
        "             [2001:db8:1111:2222:3333:4444:5555:7777]:51820\n"
        "             initiator, age 1h 02m, idle 0s, peer MSS 1440\n"
        "             sent 4.4 KiB, received 100 B, dropped 7 (cooldown 3, too-big 4)\n"
        "             seq 4294967295, ack 7, filter\n"
        "             remote=[2001:db8:1111:2222:3333:4444:5555:7777]:51820 (wireguard\n"
        "             wg0)\n"
    )
    in_a_row = table.connection_list([connection()])
    length = max(map(len, in_a_row.splitlines()))
    assert table.connection_list([connection()], length) == in_a_row
    assert table.connection_list([connection()], length - 1) != in_a_row


@given(st.integers(20, 200), st.lists(st.sampled_from([{}, LONG]), min_size=1, max_size=4))
def test_whatever_the_width_everything_is_told(columns: int, changes: list[dict[str, Any]]) -> None:
    shown = table.connection_list([connection(**one) for one in changes], columns)
    words = " ".join(shown.split())
    for one in (connection(**changed) for changed in changes):
        cells = [one["local"], one["remote"], one["state"], one["filter"], str(one["seq"])]
        for cell in (*cells, "initiator", "1h 02m", "4.4 KiB", "100 B", "1440"):
            assert cell in words


@given(st.integers(80, 250), st.lists(st.sampled_from([{}, LONG]), min_size=1, max_size=4))
def test_no_line_is_longer_than_the_terminal(columns: int, changes: list[dict[str, Any]]) -> None:
    note = "one-way: 65 datagrams were sent and none came back; check padding at both ends"
    connections = [connection(**one, note=note) for one in changes]
    shown = table.connection_list(connections, columns)
    shown += "".join(f"{note}\n" for note in table.notes(connections, columns))
    assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize("columns", [None, 80])
def test_colour_does_not_move_anything(columns: int | None) -> None:
    connections = [connection(), connection(state="idle")]
    coloured = table.connection_list(connections, columns, colour=True)
    assert "\x1b[32mestablished" in coloured
    assert "\x1b[2midle       " in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == table.connection_list(connections, columns)


def test_the_states_are_counted() -> None:
    states = ("idle", "established", "syn-sent", "established")
    many = [connection(state=state) for state in states]
    assert table.connection_summary("eth0", many) == (
        "eth0: 4 connections: 2 established, 1 idle, 1 syn-sent\n"
    )
    assert table.connection_summary("eth0", many[:1]) == "eth0: 1 connection: 1 idle\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "."),
        ({"counters": {}}, ": no packet has matched a filter yet;"),
        ({"counters": {"tx-data": 0}}, ": no packet has matched a filter yet;"),
        ({"counters": {"drop-passive": 3}}, ": 3 datagrams dropped because the filter is passive"),
        ({"counters": {}, "filters": []}, "."),
        ({"counters": {}, "ifindex": 0, "state": "waiting"}, "."),
    ],
)
def test_why_there_is_no_connection_is_told_as_far_as_it_is_known(
    changes: dict[str, Any], words: str
) -> None:
    shown = table.no_connection({**VIEW, **changes})
    assert shown.startswith(f"eth0 has no connections{words}")
    assert shown.count("\n") == 1


def test_the_table_of_interfaces() -> None:
    assert table.interface_table([VIEW], NOW_S) == (
        "INTERFACE  STATE    LINK  XDP     FILTERS  UPTIME\n"
        "eth0       running  eth   native        2  1h 02m\n"
    )


def test_only_connections_that_do_not_work_get_a_sentence() -> None:
    silent = connection(note="no answer to the SYN: the peer or a firewall drops it")
    assert table.notes([connection(), silent]) == [
        "192.0.2.1:51820 -> [2001:db8::5]:51820:"
        " no answer to the SYN: the peer or a firewall drops it"
    ]
    assert table.notes([connection(), silent], 80) == [
        "192.0.2.1:51820 -> [2001:db8::5]:51820: no answer to the SYN: the peer or a\n"
        "  firewall drops it"
    ]


@pytest.mark.parametrize(
    ("level", "line"),
    [(0, "error eth0: hi"), (1, "warn  eth0: hi"), (4, "trace eth0: hi"), (99, "trace eth0: hi")],
)
def test_a_log_line_has_level_and_interface(level: int, line: str) -> None:
    assert table.log_line("eth0", level, "hi") == line


def test_a_log_line_of_the_whole_daemon_has_no_interface() -> None:
    assert table.log_line("", 2, "ready") == "info  ready"
    assert table.log_line("", 0, "bad", colour=True) == "\x1b[31merror\x1b[0m bad"


@given(st.text())
def test_nothing_from_the_daemon_can_steer_the_terminal(text: str) -> None:
    view = {**VIEW, "name": text, "filters": [text], "state": text}
    hostile = connection(local=text, state=text, note=text)
    shown = [
        table.interface_facts(view, "1", 2, NOW_S),
        table.interface_table([view], NOW_S),
        table.connection_list([hostile]),
        table.connection_list([hostile], 80),
        table.connection_summary(text, [hostile]),
        table.no_connection({**view, "counters": {}}),
        "".join(table.notes([hostile])),
        "".join(table.notes([hostile], 80)),
        table.log_line(text, 2, text),
    ]
    for one in shown:
        assert one.replace("\n", "").isprintable()
    assert shown[-1].count("\n") == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86399, "23h 59m"),
        (86400, "1d 00h"),
        (1e9, "11574d 01h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (200_000_000, "190.7 MiB"),
        (2**63, "8388608.0 TiB"),
    ],
)
def test_sizes(count_bytes: int, text: str) -> None:
    assert table.size(count_bytes) == text
