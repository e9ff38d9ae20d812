# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.bpf: maps and programs by their descriptors."""

import struct

import pytest

from mimicd.core import abi
from mimicd.kernel import dataplane
from tests.bpf.plane import Plane


def test_a_value_is_written_read_and_deleted(plane: Plane) -> None:
    for name in ("conns", "filters"):
        key_bytes, value_bytes = dataplane._KEY_AND_VALUE_BYTES[name]
        # of the trie: a prefix of 160 bits; of the table: any key
        key = struct.pack("=I", 160) + b"k" * (key_bytes - 4)
        value = bytes(4) + bytes(range(value_bytes - 4))
        one = plane.maps[name]
        assert one.lookup(key) is None
        assert not one.delete(key)
        one.update(key, value)
        assert one.lookup(key) == value
        assert one.all_keys() == [key]
        assert one.delete(key)
        assert one.lookup(key) is None
        assert one.all_keys() == []


def test_all_entries_of_a_table_are_found_however_many(plane: Plane) -> None:
    conns = plane.maps["conns"]
    assert list(conns.items()) == []
    written = {}
    for number in range(3000):
        key = struct.pack("=I", number).ljust(abi.FLOW_KEY.size, b"\0")
        written[key] = struct.pack("=4xI", number).ljust(abi.CONN_BYTES, b"\0")
        conns.update(key, written[key])
    found = list(conns.items())
    assert len(found) == len(written)
    assert dict(found) == written


def test_an_index_beyond_the_end_is_an_error_that_names_the_call(plane: Plane) -> None:
    with pytest.raises(OSError, match=r"Argument list too long.*MAP_UPDATE_ELEM"):
        plane.maps["rules"].update(struct.pack("=I", abi.MAX_RULES), bytes(16))


def test_a_frame_too_short_for_a_run_is_an_error_that_names_the_call(plane: Plane) -> None:
    with pytest.raises(OSError, match=r"Invalid argument.*PROG_TEST_RUN"):
        plane.egress(b"short")
