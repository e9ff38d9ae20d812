# SPDX-License-Identifier: GPL-2.0-only
"""A folder of configuration files as people have it for mimic(1) works unchanged.

The files are written as different people write: with and without spaces, tabs, comments, line
ends of Windows, no line end at all, settings repeated, host names.
"""

from pathlib import Path

import pytest

import mimicd.bus  # noqa: F401  (keeps dbus-next from loading GLib)
from mimicctl.arguments import Request
from mimicctl.commands import Commands
from mimicctl.output import Output
from mimicctl.stopping import StopSignals
from mimicd.command_line import parse_command_line
from mimicd.core.config_text import parse_config_text
from mimicd.core.model import PADDING_RANDOM, Handshake, Keepalive
from mimicd.core.settings import build_config, merge_texts, notes_on

FILES = {
    # a server with WireGuard, as short as can be
    "eth0": "filter=local=203.0.113.5:51820\n",
    # both families, a comment in front of everything
    "ens3": """\
# WireGuard and Hysteria on the same machine
#
log.verbosity = trace

filter = local=192.0.2.1:1234
filter = remote=[2001:db8::cafe]:5678
""",
    # everything global, no spaces, the log by number
    "enp1s0": """\
log.verbosity=3
link_type=eth
xdp_mode=skb
use_libxdp=0
handshake=5:0
keepalive=15:::
padding=random
max_window=1
filter=remote=198.51.100.9:443
""",
    # settings of filters, numbers left out
    "wlan0": """\
keepalive = 60:::
filter = local=[fd42::1]:20001,keepalive=60:1:3:1000
filter = remote=169.254.42.1:11451,handshake=3:3,keepalive=:1::
filter = local=192.0.2.1:4242,padding=8,max_window=true
filter = remote=198.51.100.2:53,handshake=0:
""",
    # edited on Windows, the last line without an end
    "eno1": "# office\r\n\r\nfilter = remote=203.0.113.7:51820\r\nlog.verbosity = debug",
    # tabs, spaces behind values, indented lines
    "br-lan": "filter\t=\tremote=203.0.113.8:51820   \n  max_window = false \n\t\n",
    # a point-to-point link; a name
    "ppp0": "link_type = none\nfilter = remote=vpn.example.net:51820\nxdp_mode = native\n",
    # a key again: the last one counts
    "eth1": "handshake = 5:\nhandshake = :1\nfilter = local=0.0.0.0:51820\nuse_libxdp = true\n",
    # every level there is, by what mimic clamps to
    "eth2": "log.verbosity = 9\nfilter = local=[::]:51820\nfilter = local=[192.0.2.77]:51820\n",
}


def config_of(name: str) -> object:
    return build_config(merge_texts(parse_config_text(FILES[name], name), {}))


@pytest.mark.parametrize("name", FILES)
def test_both_programs_take_the_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.conf"
    file.write_bytes(FILES[name].encode())
    invocation = parse_command_line(["run", "-F", str(file), name])
    assert build_config(invocation.options) == config_of(name)
    assert len(invocation.notes) == {"eth1": 2}.get(name, 0)


def test_the_whole_folder_is_checked_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name, text in FILES.items():
        (tmp_path / f"{name}.conf").write_bytes(text.encode())
    commands = Commands(Request("check"), Output(), StopSignals(), tmp_path)
    with pytest.raises(StopIteration):
        commands.perform().send(None)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(FILES)
    assert all(": the settings are good, " in line for line in shown)


def test_the_settings_are_what_the_files_say() -> None:
    enp1s0 = build_config(parse_config_text(FILES["enp1s0"], ""))
    assert (enp1s0.verbosity, enp1s0.link_type, enp1s0.xdp_mode) == (3, "eth", "skb")
    flow = enp1s0.flow
    assert (flow.handshake, flow.keepalive) == (Handshake(5, 0), Keepalive(15, 10, 3, 600))
    assert (flow.padding, flow.max_window) == (PADDING_RANDOM, True)
    assert [one.settings for one in enp1s0.filters] == [flow]

    wlan0 = build_config(parse_config_text(FILES["wlan0"], ""))
    settings = [one.settings for one in wlan0.filters]
    assert settings[0].keepalive == Keepalive(60, 1, 3, 1000)
    assert settings[1].handshake == Handshake(3, 3)
    assert settings[1].keepalive == Keepalive(60, 1, 3, 600)
    assert (settings[2].padding, settings[2].max_window) == (8, True)
    assert settings[3].handshake.is_passive

    eth1 = parse_config_text(FILES["eth1"], "eth1.conf")
    assert build_config(eth1).flow.handshake == Handshake(5, 1)
    assert [note.split(": ")[0] for note in notes_on(eth1)] == ["eth1.conf:4:14", "eth1.conf:2:13"]
    assert build_config(parse_config_text(FILES["eth2"], "")).verbosity == 4
    assert build_config(parse_config_text(FILES["ppp0"], "")).filters[0].host == "vpn.example.net"
