# SPDX-License-Identifier: GPL-2.0-only
"""Names of interfaces in object paths, and addresses of buses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.bus import names


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_becomes_an_element_of_a_path_and_comes_back(name: str) -> None:
    element = names.escape_element(name)
    assert re.fullmatch(r"[A-Za-z0-9_]+", element)
    assert names.unescape_element(element) == name
    assert names.interface_of_path(names.interface_path(name)) == name


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5))
def test_two_names_never_share_a_path(one: str, other: str) -> None:
    assert (names.interface_path(one) == names.interface_path(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "element"),
    [("eth0", "eth0"), ("wg-0", "wg_2d0"), ("0x", "_30x"), ("", "_"), ("a_b", "a_5fb")],
)
def test_names_are_escaped_as_systemd_does(name: str, element: str) -> None:
    assert names.escape_element(name) == element


@pytest.mark.parametrize(
    "path",
    [
        "/",
        names.ROOT_PATH,
        names.INTERFACES_PATH,
        names.INTERFACES_PATH + "/",
        names.INTERFACES_PATH + "/a_",
        names.INTERFACES_PATH + "/a_zz",
        names.INTERFACES_PATH + "/_65th0",
        names.INTERFACES_PATH + "/eth0/x",
    ],
)
def test_a_path_that_no_name_makes_has_no_interface(path: str) -> None:
    assert names.interface_of_path(path) is None


def test_the_bus_is_the_one_given_then_the_environments_then_the_system_bus() -> None:
    environ = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/b"}
    assert names.bus_address("unix:path=/a", environ) == "unix:path=/a"
    assert names.bus_address(None, environ) == "unix:path=/b"
    assert names.bus_address(None, {}) == "unix:path=/run/dbus/system_bus_socket"


@pytest.mark.parametrize(
    ("address", "system"),
    [
        ("unix:path=/run/dbus/system_bus_socket", True),
        ("unix:path=/var/run/dbus/system_bus_socket,guid=12", True),
        ("unix:guid=12,path=/run/dbus/system_bus_socket", True),
        ("unix:path=/tmp/x;unix:path=/run/dbus/system_bus_socket", True),
        ("unix:path=/tmp/bus", False),
        ("unix:abstract=/run/dbus/system_bus_socket", False),
        ("tcp:host=127.0.0.1,port=1", False),
        ("", False),
    ],
)
def test_the_system_bus_is_told_from_private_ones(address: str, system: bool) -> None:
    assert names.is_system_bus(address) is system
