# SPDX-License-Identifier: GPL-2.0-only
"""TLS with OpenSSL's own tools at the other end, and every kind of certificate."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.kaminari.bulk import BLOCK
from tests.kaminari.certificates import (
    make_authority,
    make_certificate,
    make_ocsp_response,
)
from tests.kaminari.peers import EchoService, assert_echoes, wait_for_port
from tests.kaminari.rig import (
    TLS_CLIENT,
    TLS_SERVER,
    WS,
    Process,
    Rig,
    command,
    free_port,
    wait_for,
)

NAME = "tunnel.example"


def start_server(rig: Rig, options: str, log: str = "info") -> tuple[int, Process]:
    """kaminaris in front of an echo service; its port and process."""
    echo, port = EchoService(rig), free_port()
    return port, rig.server(f"127.0.0.1:{port}", f"127.0.0.1:{echo.port}", options, log)


def start_client(rig: Rig, port: int, options: str, log: str = "info") -> tuple[int, Process]:
    entry = free_port()
    return entry, rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{port}", options, log)


def s_client(port: int, *arguments: str, expect: bytes = b"hello\n") -> str:
    """What openssl s_client prints; it says hello, waits for `expect`, and ends.

    The echo comes behind the session tickets, which would be missed otherwise.
    """
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"hello\n")
            process.stdin.flush()
        printed = b""
        while expect not in printed and (piece := os.read(process.stdout.fileno(), 65536)):
            printed += piece
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return (printed + process.stdout.read()).decode("latin-1")


def peer_certificate(port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 30) as sock,
        context.wrap_socket(sock, server_hostname=NAME) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
@pytest.mark.parametrize("der", [False, True], ids=["PEM", "DER"])
@pytest.mark.parametrize(
    ("kind", "key_format"),
    [
        ("RSA", "PKCS8"),
        ("RSA", "TraditionalOpenSSL"),
        ("ECDSA", "PKCS8"),
        ("ECDSA", "TraditionalOpenSSL"),
        ("Ed25519", "PKCS8"),
    ],
)
def test_every_kind_of_key_in_both_encodings_is_served_and_verified(
    rig: Rig, tmp_path: Path, kind: str, key_format: str, der: bool, native: str
) -> None:
    authority = make_authority()
    roots, _ = authority.write(tmp_path, "roots")
    issued = make_certificate(authority, NAME, kind)
    certificate, key = issued.write(tmp_path, "server", der, key_format)
    port, _ = start_server(rig, f"tls;cert={certificate};key={key}{native}")
    entry, _ = start_client(rig, port, f"tls;sni={NAME};ca={roots}{native}")
    assert_echoes(rig.connect(entry), BLOCK[:50000])


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
@pytest.mark.parametrize(
    ("name", "days", "trusted", "words"),
    [
        (NAME, 30, False, "unable to get local issuer certificate"),
        (NAME, -1, True, "certificate has expired"),
        ("other.example", 30, True, "ostname mismatch"),
    ],
    ids=["untrusted", "expired", "for another name"],
)
def test_a_certificate_that_is_not_right_is_refused_in_words(
    rig: Rig, tmp_path: Path, name: str, days: int, trusted: bool, words: str, native: str
) -> None:
    authority = make_authority()
    roots, _ = (authority if trusted else make_authority("stranger.example")).write(
        tmp_path, "roots"
    )
    certificate, key = make_certificate(authority, name, days=days).write(tmp_path, "server")
    port, server = start_server(rig, f"tls;cert={certificate};key={key}")
    entry, client = start_client(rig, port, f"tls;sni={NAME};ca={roots}{native}")
    with pytest.raises(ConnectionResetError):
        rig.connect(entry).recv(100)
    assert words in client.wait_for_line("the server's certificate is refused")
    assert "alert" in server.wait_for_line("TLS failed")
    assert client.popen.poll() is None
    entry, _ = start_client(rig, port, f"tls;sni={NAME};insecure{native}")
    assert_echoes(rig.connect(entry), b"but whoever insists gets through")


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
def test_a_self_signed_certificate_names_the_server_in_its_subject_and_alternatives(
    rig: Rig, native: str
) -> None:
    port, _ = start_server(rig, f"tls;servername={NAME}{native}")
    text = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-ext", "subjectAltName"],
        input=peer_certificate(port),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert f"CN = {NAME}" in text
    assert f"DNS:{NAME}" in text


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
def test_both_versions_are_spoken_and_older_ones_are_not(rig: Rig, native: str) -> None:
    port, _ = start_server(rig, TLS_SERVER + native)
    assert "TLSv1.3, Cipher is" in s_client(port, "-tls1_3")
    assert "TLSv1.2, Cipher is" in s_client(port, "-tls1_2")
    assert "Cipher is (NONE)" in s_client(port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
def test_alpn_is_agreed_on_and_absence_of_a_common_protocol_is_no_failure(
    rig: Rig, native: str
) -> None:
    port, _ = start_server(rig, f"{TLS_SERVER};alpn=h2,http/1.1{native}")
    assert "ALPN protocol: h2" in s_client(port, "-alpn", "http/1.1,h2")
    assert "ALPN protocol: http/1.1" in s_client(port, "-alpn", "http/1.1")
    assert "No ALPN negotiated" in s_client(port, "-alpn", "other")
    entry, client = start_client(rig, port, f"{TLS_CLIENT};alpn=http/1.1{native}", log="debug")
    assert_echoes(rig.connect(entry), b"x")
    assert "alpn http/1.1" in client.wait_for_line(": open")


def test_the_stapled_response_reaches_whoever_asks_and_nobody_else(
    rig: Rig, tmp_path: Path
) -> None:
    authority = make_authority()
    issued = make_certificate(authority, NAME)
    certificate, key = issued.write(tmp_path, "server")
    response = tmp_path / "response.der"
    response.write_bytes(make_ocsp_response(authority, issued))
    files = f"tls;cert={certificate};key={key}"
    stapling, _ = start_server(rig, f"{files};ocsp={response}")
    for version in ("-tls1_2", "-tls1_3"):
        text = s_client(stapling, "-status", version)
        assert "OCSP Response Status: successful" in text
        assert "Cert Status: good" in text
        assert "OCSP response" not in s_client(stapling, version)
    plain, _ = start_server(rig, files)
    assert "OCSP response: no response sent" in s_client(plain, "-status")


def test_openssl_s_server_sees_our_early_data(rig: Rig, tmp_path: Path) -> None:
    certificate, key = make_certificate(make_authority(), NAME).write(tmp_path, "server")
    port = free_port()
    # s_server ends with its standard input, so that has to stay open.
    s_server = rig.start(
        [
            "sh",
            "-c",
            'tail -f /dev/null | openssl s_server "$@"',
            "s_server",
            "-accept",
            f"127.0.0.1:{port}",
            "-cert",
            str(certificate),
            "-key",
            str(key),
            "-early_data",
            "-tls1_3",
        ]
    )
    wait_for_port(s_server, port)
    entry, client = start_client(rig, port, f"{TLS_CLIENT};0rtt", log="debug")
    for number in range(1, 4):
        sock = rig.connect(entry)
        sock.sendall(b"early bird\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
        client.wait_for_line("closed (", number)
    assert "with early data" in client.wait_for_line(": open", 2)
    assert "with early data" in client.wait_for_line(": open", 3)
    s_server.wait_for_line("End of early data", 2)
    wait_for(lambda: s_server.log.count("early bird") == 3, "third line at s_server")


def test_our_server_takes_the_early_data_of_openssl_s_client(rig: Rig, tmp_path: Path) -> None:
    port, server = start_server(rig, f"{TLS_SERVER};0rtt", log="debug")
    session, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(b"early bird")
    assert "New, TLSv1.3" in s_client(port, "-sess_out", str(session))
    text = s_client(port, "-sess_in", str(session), "-early_data", str(early))
    assert "Early data was accepted" in text
    assert "early bird" in text
    assert "with early data" in server.wait_for_line(": open", 2)
    again = s_client(port, "-sess_in", str(session), "-early_data", str(early))
    assert "Early data was rejected" in again  # the same ticket twice would be a replay
    assert "early bird" not in again


def test_early_data_that_is_refused_is_sent_again(rig: Rig) -> None:
    """The server forgets its sessions in a restart; nobody notices but the debug log."""
    port, server = start_server(rig, f"{TLS_SERVER};0rtt")
    echo_port = server.argv[-2].rpartition(":")[2]
    for options in ("", f"{WS};"):
        if options:
            server.stop()
            server = rig.server(
                f"127.0.0.1:{port}", f"127.0.0.1:{echo_port}", f"{WS};{TLS_SERVER};0rtt"
            )
        entry, client = start_client(rig, port, f"{options}{TLS_CLIENT};0rtt", log="debug")
        assert_echoes(rig.connect(entry), b"first")
        client.wait_for_line("closed (", 1)
        server.stop()
        server = rig.server(
            f"127.0.0.1:{port}", f"127.0.0.1:{echo_port}", f"{options}{TLS_SERVER};0rtt"
        )
        assert_echoes(rig.connect(entry), b"second, into the void")
        assert "early" not in client.wait_for_line(": open", 2)
        client.wait_for_line("closed (", 2)
        assert_echoes(rig.connect(entry), b"third")
        assert "with early data" in client.wait_for_line(": open", 3)


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_sessions_are_resumed(rig: Rig, tmp_path: Path, version: str) -> None:
    port, server = start_server(rig, TLS_SERVER, log="debug")
    session = tmp_path / "session"
    s_client(port, f"-{version}", "-sess_out", str(session))
    assert "Reused, TLSv1" in s_client(port, f"-{version}", "-sess_in", str(session))
    server.wait_for_line(": open", 2)
    entry, client = start_client(rig, port, TLS_CLIENT, log="debug")
    for number in range(1, 4):
        assert_echoes(rig.connect(entry), b"x")
        client.wait_for_line("closed (", number)
    assert "resumed" not in client.wait_for_line(": open", 1)
    assert "resumed" in client.wait_for_line(": open", 2)
    assert "resumed" in client.wait_for_line(": open", 3)


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
def test_a_hangup_signal_brings_a_new_certificate_and_open_connections_go_on(
    rig: Rig, tmp_path: Path, native: str
) -> None:
    authority = make_authority()
    old, new = make_certificate(authority, NAME), make_certificate(authority, NAME)
    certificate, key = old.write(tmp_path, "server")
    port, server = start_server(rig, f"tls;cert={certificate};key={key}{native}")
    entry, _ = start_client(rig, port, TLS_CLIENT)
    sock = rig.connect(entry)
    sock.sendall(b"before")
    assert sock.recv(100) == b"before"
    before = peer_certificate(port)
    key.write_text("nonsense")
    server.popen.send_signal(signal.SIGHUP)
    assert str(key) in server.wait_for_line("nothing reloaded")
    assert peer_certificate(port) == before
    new.write(tmp_path, "server")
    server.popen.send_signal(signal.SIGHUP)
    server.wait_for_line("reloaded; ")
    assert peer_certificate(port) != before
    sock.sendall(b"after")
    assert sock.recv(100) == b"after"


@pytest.mark.parametrize("native", ["", ";0rtt"], ids=["ssl", "libssl"])
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("key of another", "do not fit together"),
        ("garbage certificate", "neither a PEM nor a DER certificate"),
        ("garbage PEM", "cannot be used"),
        ("garbage key", "neither a PEM nor a DER private key"),
        ("no certificate", "cannot be read: no such file or directory"),
        ("no ocsp", "cannot be read: no such file or directory"),
    ],
)
def test_files_that_do_not_work_end_the_start_with_one_line(
    rig: Rig, tmp_path: Path, break_it: str, words: str, native: str
) -> None:
    authority = make_authority()
    certificate, key = make_certificate(authority, NAME).write(tmp_path, "server")
    options = f"tls;cert={certificate};key={key}{native}"
    if break_it == "key of another":
        make_certificate(authority, NAME).write(tmp_path, "other")
        options = options.replace("server.key", "other.key")
    elif break_it == "garbage certificate":
        certificate.write_bytes(b"nonsense")
    elif break_it == "garbage PEM":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif break_it == "garbage key":
        key.write_bytes(b"nonsense nonsense nonsense")
    elif break_it == "no certificate":
        certificate.unlink()
    else:
        options += f";ocsp={tmp_path}/missing"
    process = rig.start(command("server", f"127.0.0.1:{free_port()}", "127.0.0.1:1", options))
    assert process.wait() == 2
    assert len(process.lines) == 1, process.log
    assert words in process.log
