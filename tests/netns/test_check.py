# SPDX-License-Identifier: GPL-2.0-only
"""`check` looks at a real interface, with and without a daemon, and changes nothing."""

import json

import pytest

from tests.netns.scripted import fresh_port
from tests.rig.attachments import attachments
from tests.rig.daemon import Daemon, command_path
from tests.rig.foreign import foreign_xdp
from tests.rig.network import Host, Network
from tests.rig.wireguard import wireguard

PORT = 51820


def check_bare(host: Host, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code of `mimicd check`, and (grade, words) by check."""
    done = host.namespace.run(command_path("mimicd"), "check", *arguments, check=False)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert rows, done.stderr
    return done.returncode, {check: (grade, words) for grade, check, words in rows}


def test_a_good_interface_passes_without_a_daemon_and_is_left_alone(
    direct_network: Network,
) -> None:
    host = direct_network.a
    before = attachments(host)
    code, lines = check_bare(host, "-f", f"local={host.address()}:{PORT}", "eth0")
    assert code == 0
    assert {"privileges", "kernel", "BTF", "interface", "offloads", "MTU", "firewall"} <= set(lines)
    assert "datagrams up to 1460 bytes, for WireGuard MTU = 1428" in lines["MTU"][1]
    assert attachments(host) == before


def test_what_would_keep_it_from_working_is_found(
    direct_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = direct_network.a
    monkeypatch.setenv("MIMICD_NO_TCX", "1")
    rules = f"chain in {{ type filter hook input priority 0; udp dport {PORT} drop; }}"
    host.namespace.run("nft", "-f", "-", stdin=f"table inet mine {{\n{rules}\n}}\n")
    host.namespace.sysctl({"ipv4/conf/eth0/rp_filter": 1})
    host.namespace.run("tc", "qdisc", "add", "dev", "eth0", "ingress")
    with foreign_xdp(host):
        arguments = ("-f", f"local={host.address()}:{PORT}", "-f", "remote=no.invalid:1", "eth0")
        code, lines = check_bare(host, *arguments)
    assert code == 1
    assert lines["firewall"][0] == "fail"
    assert lines["rp_filter"][0] == "warn"
    assert lines["TC"][0] == "fail"
    assert lines["names"][0] == "fail"
    code, lines = check_bare(host, "eth7")
    assert (code, lines["interface"][0]) == (1, "fail")


def test_wireguard_interfaces_are_looked_at(direct_network: Network) -> None:
    host = direct_network.a
    code, lines = check_bare(host, "--wireguard", "wg-none", "eth0")
    assert (code, lines["wireguard"][0]) == (0, "warn")
    code, lines = check_bare(host, "--wireguard", "lo", "eth0")
    assert (code, lines["wireguard"][0]) == (1, "fail")
    with wireguard(host, "10.9.0.1", PORT) as tunnel, Daemon(host) as daemon:
        code, lines = check_bare(host, "--wireguard", tunnel.name, "eth0")
        assert (code, lines["wireguard"][0]) == (0, "warn")
        assert f"`ip link set {tunnel.name} mtu 1408`" in lines["wireguard"][1]
        answer = daemon.ctl("check", "--wireguard", tunnel.name, "--set-mtu", "eth0")
        assert answer.exit_code == 0
        assert f"{tunnel.name} listens on port {PORT} and knows where 0 peers" in answer.stdout
        assert f"the MTU of {tunnel.name} will be 1408, it is 1420" in answer.stdout
        assert tunnel.mtu_bytes() == 1420


def test_the_daemon_answers_the_same_and_asks_peers_when_told(direct_network: Network) -> None:
    net, port = direct_network, fresh_port()
    ends = [f"remote={net.b.address()}:{one}" for one in (port, port + 1)]
    arguments = ["check", "--json", *(word for end in ends for word in ("-f", end))]
    with Daemon(net.a) as daemon:
        before = attachments(net.a)
        answer = daemon.ctl(*arguments, "eth0")
        assert answer.exit_code == 0
        lines = json.loads(answer.stdout)
        assert {"privileges", "interface", "MTU"} <= {line["check"] for line in lines}
        assert not [line for line in lines if line["check"] == "peer"]
        # a listener stands for mimicd at the peer: both complete a handshake
        with net.b.namespace.socket(kind=1) as listener:
            listener.bind((net.b.address(), port))
            listener.listen()
            answer = daemon.ctl(*arguments, "--probe", "eth0")
        assert attachments(net.a) == before
    assert answer.exit_code == 1
    peers = [line["result"] for line in json.loads(answer.stdout) if line["check"] == "peer"]
    assert peers == ["ok", "fail"]
    assert "1 of" in answer.stderr


def test_mimic_answers_a_probe(direct_network: Network) -> None:
    net = direct_network
    # a veth would hand over the SYN with its checksum unfinished
    net.a.set_offload(tx=False)
    with Daemon(net.b) as daemon:
        end = f"{net.b.address()}:{PORT}"
        daemon.ctl("run", "--detach", "-f", f"local={end}", "eth0", check=True)
        code, lines = check_bare(net.a, "--probe", "-f", f"remote={end}", "eth0")
    assert (code, lines["peer"][0]) == (0, "ok")
