# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.btf: members of kernel structs, from a blob made by hand and from the kernel's."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mimicd.kernel.btf import VMLINUX, Btf, Member, read_blob, skb_defines

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)


@dataclass
class Blob:
    """Types as of Documentation/bpf/btf.rst, little-endian; each is given its number, from 1."""

    types: bytes = b""
    strings: bytes = b"\0"
    count: int = 0
    names: dict[str, int] = field(default_factory=dict)

    def name(self, text: str) -> int:
        if not text:
            return 0
        if text not in self.names:
            self.names[text] = len(self.strings)
            self.strings += text.encode() + b"\0"
        return self.names[text]

    def add(
        self, name: str, kind: int, size: int, vlen: int = 0, tail: bytes = b"", flag: int = 0
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack("<III", self.name(name), info, size) + tail
        self.count += 1
        return self.count

    def number(self, name: str, size: int = 4) -> int:
        return self.add(name, INT, size, tail=struct.pack("<I", size * 8))

    def struct(
        self, name: str, *members: tuple[str, int, int], kind: int = STRUCT, flag: int = 0
    ) -> int:
        """Members: name, type, offset in bits (with `flag`: and the width in the high byte)."""
        tail = b"".join(
            struct.pack("<III", self.name(member), type_, offset)
            for member, type_, offset in members
        )
        return self.add(name, kind, 0, len(members), tail, flag)

    def build(self, header_bytes: int = 24) -> bytes:
        header = struct.pack(
            "<HBBIIIII",
            0xEB9F,
            1,
            0,
            header_bytes,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return header.ljust(header_bytes, b"\xaa") + self.types + self.strings


def every_other_kind(blob: Blob, word: int) -> None:
    """One type of each kind that is longer than its head, and of some that are not."""
    blob.add("", PTR, word)
    blob.add("", ARRAY, 0, tail=struct.pack("<III", word, word, 4))
    blob.add("colour", ENUM, 4, 3, struct.pack("<6I", 0, 0, 0, 1, 0, 2))
    blob.add("later", FWD, 0)
    blob.add("number_t", TYPEDEF, word)
    proto = blob.add("", FUNC_PROTO, word, 2, struct.pack("<4I", 0, word, 0, word))
    blob.add("call", FUNC, proto)
    blob.add("value", VAR, word, tail=struct.pack("<I", 1))
    blob.add(".data", DATASEC, 8, 2, bytes(24))
    blob.add("real", FLOAT, 8)
    blob.add("tag", DECL_TAG, word, tail=struct.pack("<I", 0))
    blob.add("user", TYPE_TAG, word)
    blob.add("huge", ENUM64, 8, 1, bytes(12))


def test_members_are_found_behind_types_of_every_kind() -> None:
    blob = Blob()
    word = blob.number("int")
    every_other_kind(blob, word)
    blob.struct("point", ("x", word, 0), ("y", word, 32))
    assert Btf(blob.build()).members("point") == {"x": Member(0, 0), "y": Member(32, 0)}


def test_members_of_anonymous_parts_count_from_the_whole() -> None:
    blob = Blob()
    word = blob.number("int")
    inner = blob.struct("", ("first", word, 0), ("second", word, 32))
    either = blob.struct("", ("", inner, 0), ("whole", word, 0), kind=UNION)
    named = blob.struct("named", ("hidden", word, 0))
    blob.struct("outer", ("head", word, 0), ("", either, 64), ("part", named, 128))
    assert Btf(blob.build()).members("outer") == {
        "head": Member(0, 0),
        "first": Member(64, 0),
        "second": Member(96, 0),
        "whole": Member(64, 0),
        "part": Member(128, 0),
    }


def test_bit_fields_have_a_width() -> None:
    blob = Blob()
    byte = blob.number("unsigned char", 1)
    flags = blob.struct("", ("low", byte, 2 << 24), ("high", byte, 5 << 24 | 2), flag=1)
    blob.struct("bits", ("before", byte, 0), ("", flags, 24), ("bit", byte, 1 << 24 | 39), flag=1)
    assert Btf(blob.build()).members("bits") == {
        "before": Member(0, 0),
        "low": Member(24, 2),
        "high": Member(26, 5),
        "bit": Member(39, 1),
    }


def test_a_longer_header_is_skipped() -> None:
    blob = Blob()
    word = blob.number("int")
    blob.struct("one", ("x", word, 8))
    assert Btf(blob.build(header_bytes=40)).members("one") == {"x": Member(8, 0)}


def test_a_name_is_not_found_in_part_of_another_nor_in_another_kind() -> None:
    blob = Blob()
    word = blob.number("sk_buff_head")
    blob.add("sk_buff", TYPEDEF, word)
    blob.struct("sk_buff", kind=STRUCT)  # declared, not defined
    blob.struct("sk_buff", ("x", word, 0), kind=UNION)
    blob.struct("old_sk_buff", ("y", word, 0))
    with pytest.raises(KeyError, match="sk_buff"):
        Btf(blob.build()).members("sk_buff")
    blob.struct("sk_buff", ("z", word, 0))
    assert Btf(blob.build()).members("sk_buff") == {"z": Member(0, 0)}


def test_a_name_that_no_type_has_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="sk_buff"):
        Btf(Blob().build()).members("sk_buff")


@pytest.mark.parametrize(
    "blob", [b"", b"\x9f", b"\x9f\xeb\1\0", bytes(64), b"\xeb\x9f" + bytes(62)]
)
def test_what_is_no_blob_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="BTF"):
        Btf(blob)


def test_a_blob_that_is_cut_is_refused() -> None:
    blob = Blob()
    word = blob.number("int")
    blob.struct("one", ("x", word, 8))
    whole = blob.build()
    for size in range(len(whole)):
        with pytest.raises((ValueError, KeyError)):
            Btf(whole[:size]).members("one")


def test_a_blob_is_read_from_a_file_and_given_back(tmp_path: Path) -> None:
    blob = Blob()
    word = blob.number("int")
    blob.struct("one", ("x", word, 8))
    path = tmp_path / "vmlinux"
    path.write_bytes(blob.build())
    with read_blob(path) as read:
        assert Btf(read).members("one") == {"x": Member(8, 0)}
    assert read.closed


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_file_without_types_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises((OSError, ValueError)):
        read_blob(tmp_path / name)


def skb(**changes: int) -> Blob:
    """The members that egress reads, each at a place of its own, in bits."""
    places = {
        "head": 1600,
        "data": 1664,
        "csum_start": 1280,
        "csum_offset": 1296,
        "ip_summed": 1029,
        **changes,
    }
    blob = Blob()
    word = blob.number("int")
    members = [(name, word, at) for name, at in places.items() if name != "ip_summed"]
    bits = blob.struct("", ("ip_summed", word, 2 << 24), flag=1)
    blob.struct("sk_buff", *members, ("", bits, places["ip_summed"]), flag=1)
    return blob


def test_egress_is_told_where_the_checksum_state_lies() -> None:
    assert skb_defines(Btf(skb().build())) == {
        "SKB_IP_SUMMED_AT": 128,
        "SKB_IP_SUMMED_SHIFT": 5,
        "SKB_CSUM_START_AT": 160,
        "SKB_CSUM_OFFSET_AT": 162,
        "SKB_HEAD_AT": 200,
        "SKB_DATA_AT": 208,
    }


def test_a_kernel_without_one_of_them_is_a_key_error() -> None:
    blob = Blob()
    word = blob.number("int")
    blob.struct("sk_buff", ("head", word, 0))
    with pytest.raises(KeyError, match="ip_summed"):
        skb_defines(Btf(blob.build()))


def test_a_function_has_a_number_and_what_only_looks_like_it_has_none() -> None:
    blob = Blob()
    word = blob.number("int")
    # a member whose name and type are the bytes that begin the function's record
    lookalike = blob.struct("holder", ("call", FUNC << 24, 0))
    proto = blob.add("", FUNC_PROTO, word)
    called = blob.add("call", FUNC, proto)
    assert (lookalike, called) == (2, 4)
    assert Btf(blob.build()).function("call") == called
    with pytest.raises(KeyError):
        Btf(blob.build()).function("holder")
    with pytest.raises(KeyError):
        Btf(blob.build()).function("nobody")


def test_the_running_kernel_tells() -> None:
    try:
        raw = VMLINUX.read_bytes()
    except OSError as error:
        pytest.skip(f"this kernel shows no BTF: {error}")
    defines = skb_defines(Btf(raw))
    assert 0 <= defines.pop("SKB_IP_SUMMED_SHIFT") <= 6
    assert all(0 < place < 512 for place in defines.values())
    assert defines["SKB_CSUM_OFFSET_AT"] == defines["SKB_CSUM_START_AT"] + 2
    assert defines["SKB_DATA_AT"] == defines["SKB_HEAD_AT"] + 8
    members = Btf(raw).members("sk_buff")
    assert members["ip_summed"].size_bits == 2
    assert members["len"].offset_bits % 32 == 0
