# SPDX-License-Identifier: GPL-2.0-only
"""Configuration files as people have them for mimic(1), each run as it is."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from mimicd.core.config_text import parse_config_text
from mimicd.core.settings import build_config, show_filter, shown_texts
from tests.netns.test_changes import make_pair, views
from tests.rig.daemon import Daemon, command_path
from tests.rig.dns import name_server
from tests.rig.network import Network
from tests.unit.test_existing_files import FILES

NAME, ADDRESS = "vpn.example.net", "203.0.113.9"


def test_a_folder_of_files_runs_as_it_is(direct_network: Network, tmp_path: Path) -> None:
    host = direct_network.a
    for name in FILES:
        if name != host.interface:
            make_pair(host, name)
    with name_server(host.namespace) as (names, mounts):
        names.set(NAME, [ADDRESS])
        with Daemon(host, program=mounts.command(command_path("mimicd"))) as daemon:
            for name, text in FILES.items():
                file = tmp_path / f"{name}.conf"
                file.write_bytes(text.encode())
                daemon.ctl("run", "--detach", "-F", str(file), name, check=True)
            found = views(daemon)
            assert "Traceback" not in daemon.log
    assert found.keys() == FILES.keys()
    for name, view in found.items():
        assert view["state"] == "running"
        config = build_config(parse_config_text(FILES[name], name))
        filters = [
            replace(one, address=ip_address(ADDRESS)) if one.address is None else one
            for one in config.filters
        ]
        assert view["filters"] == [show_filter(one, config.flow) for one in filters]
        assert view["settings"] == shown_texts(config)
        assert config.link_type in ("auto", view["link-type"])
        # packets without link header are received on TC
        if view["link-type"] == "eth":
            assert config.xdp_mode in ("auto", view["xdp-mode"])
