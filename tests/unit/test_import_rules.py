# SPDX-License-Identifier: GPL-2.0-only
"""Who may import whom: a pure core, edges that do not know one another, one home a library.

Read from the source by ast, so that nothing is imported and an import inside a function counts.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("mimicd", "mimicctl", "kaminari")
PACKAGES = (*PRODUCT, "bench")
PROJECT = (*PACKAGES, "tests")


@dataclass(frozen=True)
class Rule:
    """What the modules of an area may import beside the standard library."""

    area: str
    """A module or package; of several that hold, the longest counts."""
    project: tuple[str, ...]
    """Modules of this project, each with what is below it."""
    libraries: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    """Modules, of the project or the standard library, that are refused all the same."""


# Time, randomness and everything that comes from outside are arguments of the core.
IMPURE = (
    *("asyncio", "os", "random", "secrets", "select", "selectors", "signal", "socket"),
    *("subprocess", "threading", "time"),
)

RULES = (
    Rule("mimicd.__init__", project=()),
    Rule("mimicd.core", project=("mimicd.core",), forbidden=IMPURE),
    Rule(
        "mimicd.kernel",
        project=("mimicd.kernel", "mimicd.core", "mimicd.paths"),
        libraries=("bcc", "pyroute2"),
    ),
    Rule(
        "mimicd.bus",
        project=("mimicd.bus", "mimicd.core", "mimicd.supervisor", "mimicd.__version__"),
        libraries=("dbus_next",),
    ),
    # The client imports the names, and with them this folder's __init__: neither needs a bus.
    Rule("mimicd.bus.__init__", project=()),
    Rule("mimicd.bus.names", project=("mimicd.core",)),
    Rule("mimicd.varlink", project=("mimicd.varlink", "mimicd.core", "mimicd.claims")),
    Rule("mimicd.varlink.__init__", project=()),
    Rule("mimicd.varlink.names", project=("mimicd.varlink",)),
    Rule("mimicd.varlink.wire", project=("mimicd.varlink",)),
    # What is between the edges: knows the kernel, is known to the bus.
    Rule("mimicd", project=("mimicd",), forbidden=("mimicd.bus",)),
    # The wiring.
    Rule("mimicd.__main__", project=("mimicd",), libraries=("uvloop",)),
    Rule(
        "mimicctl",
        project=(
            *("mimicctl", "mimicd.core", "mimicd.bus.names", "mimicd.__version__"),
            *("mimicd.varlink.names", "mimicd.varlink.values", "mimicd.varlink.wire"),
        ),
        libraries=("dbus_next",),
    ),
    Rule(
        "kaminari",
        project=("kaminari",),
        libraries=("certifi", "cryptography", "h11", "numpy", "uvloop"),
    ),
    # Measures from outside, in the networks of the tests; of the product it knows bpf(2) alone.
    Rule("bench", project=("bench", "tests.rig", "mimicd.kernel.bpf")),
)


def is_below(module: str, parent: str) -> bool:
    return module == parent or module.startswith(parent + ".")


def rule_for(module: str) -> Rule:
    return max((r for r in RULES if is_below(module, r.area)), key=lambda rule: len(rule.area))


def imported(module: str, source: str) -> Iterator[str]:
    """What `module` imports, in full: "from a.b import c" is a.b.c, be c a module or a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """The imports of `module` that its rule refuses; a package's own file is "package.__init__"."""
    rule = rule_for(module)
    refused = []
    for target in imported(module, source):
        top = target.partition(".")[0]
        if top in PROJECT:
            allowed = any(is_below(target, one) for one in rule.project)
        else:
            allowed = top in sys.stdlib_module_names or top in rule.libraries
        if not allowed or any(is_below(target, one) for one in rule.forbidden):
            refused.append(target)
    return refused


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_keeps_to_the_rule_of_its_area(package: str) -> None:
    paths = modules(package)
    assert paths, f"{package}/ holds no module"
    refused = {
        str(path.relative_to(ROOT)): found
        for path in paths
        if (found := violations(module_name(path), path.read_text()))
    }
    assert not refused


def test_the_client_speaks_dbus_in_one_module() -> None:
    speakers = [
        path.name
        for path in modules("mimicctl")
        if any(is_below(target, "dbus_next") for target in imported("", path.read_text()))
    ]
    assert len(speakers) <= 1


# Hears that interfaces change, which anyone may, and sends nothing.
LISTENER = "mimicctl.link_wait"


def test_raw_packets_are_sent_and_received_in_the_kernel_folder_alone() -> None:
    raw = ("AF_PACKET", "AF_NETLINK", "SOCK_RAW")
    outside = [
        str(path.relative_to(ROOT))
        for package in PRODUCT
        for path in modules(package)
        if not is_below(module_name(path), "mimicd.kernel") and module_name(path) != LISTENER
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in raw
    ]
    assert not outside


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        ("mimicd.core.model", "import dbus_next", ["dbus_next"]),
        ("mimicd.core.model", "import time", ["time"]),
        ("mimicd.core.model", "from mimicd.kernel import loader", ["mimicd.kernel.loader"]),
        ("mimicd.core.model", "from ..kernel import loader", ["mimicd.kernel.loader"]),
        ("mimicd.core.model", "from .errors import MimicError\nimport struct", []),
        (
            "mimicd.kernel.loader",
            "def f():\n    from mimicd.bus import names",
            ["mimicd.bus.names"],
        ),
        ("mimicd.kernel.loader", "from bcc import BPF", []),
        ("mimicd.supervisor", "import pyroute2.netlink", ["pyroute2.netlink"]),
        ("mimicd.supervisor", "import mimicd.bus.service", ["mimicd.bus.service"]),
        ("mimicd.bus.service", "import mimicd.instance", ["mimicd.instance"]),
        ("mimicd.bus.names", "import dbus_next", ["dbus_next"]),
        ("mimicd.bus.__init__", "from mimicd.bus import names", ["mimicd.bus.names"]),
        ("mimicctl.show", "from mimicd.bus.service import Manager", ["mimicd.bus.service.Manager"]),
        ("mimicctl.show", "from mimicd.bus import names\nfrom mimicd import __version__", []),
        ("mimicctl.show", "import mimicd.supervisor, bcc", ["mimicd.supervisor", "bcc"]),
        ("kaminari.relay", "import mimicd", ["mimicd"]),
        ("mimicd.instance", "import kaminari.options", ["kaminari.options"]),
        ("mimicd.instance", "import bench.arms", ["bench.arms"]),
        ("bench.session", "from tests.rig.daemon import Program", []),
        ("bench.session", "from tests.netns import disguise", ["tests.netns.disguise"]),
    ],
)
def test_the_rules_are_read_as_meant(module: str, source: str, refused: list[str]) -> None:
    assert violations(module, source) == refused
