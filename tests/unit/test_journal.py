# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.journal: records as journald takes them."""

import array
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicd import logs
from mimicd.journal import JournalHandler, encode_field, priority


class Journald:
    """Receives records; the socket is a datagram one, as journald's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def fields(self) -> dict[str, str]:
        """Those of the next record."""
        raw, rights, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        if rights:
            fd = array.array("i", rights[0][2])[0]
            with open(fd, "rb") as file:
                file.seek(0)
                raw = file.read()
        found = {}
        while raw:
            name, at, rest = raw.partition(b"\n")[0], raw.index(b"\n") + 1, b""
            if b"=" in name:
                name, _, value = name.partition(b"=")
                rest = raw[at:]
            else:
                length = int.from_bytes(raw[at : at + 8], "little")
                value, rest = raw[at + 8 : at + 8 + length], raw[at + 8 + length + 1 :]
            found[name.decode()] = value.decode()
            raw = rest
        return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    receiver = Journald(tmp_path / "socket")
    yield receiver
    receiver.socket.close()


@pytest.fixture
def handler(journald: Journald) -> Iterator[JournalHandler]:
    sender = JournalHandler("mimicd", journald.path)
    yield sender
    sender.close()


def record(text: str, level: int = logging.INFO, **attributes: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"msg": text, "levelno": level, "name": "mimicd", "pathname": "x.py", **attributes}
    )


def test_fields_of_one_line_and_of_several() -> None:
    assert encode_field("A", "b=c") == b"A=b=c\n"
    assert encode_field("A", "b\nc") == b"A\n\x03\0\0\0\0\0\0\0b\nc\n"


def test_a_record_has_what_journald_sorts_by(journald: Journald, handler: JournalHandler) -> None:
    handler.emit(record("a => b :: established", interface="eth0", connection="a => b"))
    fields = journald.fields()
    assert fields["MESSAGE"] == "eth0: a => b :: established"
    assert (fields["INTERFACE"], fields["CONNECTION"]) == ("eth0", "a => b")
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"]) == ("6", "mimicd")
    assert (fields["SYSLOG_PID"], fields["CODE_FILE"]) == (str(os.getpid()), "x.py")


def test_a_record_about_no_interface_has_no_such_field(
    journald: Journald, handler: JournalHandler
) -> None:
    handler.emit(record("serving", interface="", connection=""))
    fields = journald.fields()
    assert fields["MESSAGE"] == "serving"
    assert not {"INTERFACE", "CONNECTION"} & fields.keys()


def test_a_text_cannot_forge_fields(journald: Journald, handler: JournalHandler) -> None:
    handler.emit(record("one\nPRIORITY=0\nINTERFACE=eth1", interface="eth0\nMESSAGE=x"))
    fields = journald.fields()
    assert fields["PRIORITY"] == "6"
    assert fields["INTERFACE"] == "eth0\nMESSAGE=x"
    assert fields["MESSAGE"].endswith("one\nPRIORITY=0\nINTERFACE=eth1")


def test_what_fits_no_datagram_comes_whole(journald: Journald, handler: JournalHandler) -> None:
    text = "x" * (4 << 20)
    handler.emit(record(text))
    assert journald.fields()["MESSAGE"] == text


def test_the_priorities_are_those_of_syslog() -> None:
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 5)
    assert [priority(level) for level in levels] == [2, 3, 4, 6, 7, 7]


def test_a_journal_that_has_gone_away_harms_nobody(
    journald: Journald, handler: JournalHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    journald.socket.close()
    handler.emit(record("one"))
    assert capsys.readouterr().err == ""


def test_without_the_socket_lines_go_to_stderr_with_their_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicd.journal.SOCKET", tmp_path / "nowhere")
    with (tmp_path / "stream").open("w") as stream:
        about = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        handler = logs._handler_for(stream, environ)
        assert isinstance(handler, logging.StreamHandler)
        assert handler.format(record("one", interface="eth0")) == "<6>eth0: one"
