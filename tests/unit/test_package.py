# SPDX-License-Identifier: GPL-2.0-only
"""What is installed and packed, as far as it shows without a machine that runs it.

That machine is what tests/system is for: python3 -m tests.system.
"""

import email
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mimicd import __version__

ROOT = Path(__file__).resolve().parents[2]
UNITS = {path.name for path in (ROOT / "systemd").glob("*.service")}
BUS_NAME = "dbus-org.mimicd1.service"
EXPOSURE_MAX = 3.0


def run(*argv: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        argv,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` puts into a folder, for /usr."""
    folder = tmp_path_factory.mktemp("installed")
    run("make", "install", f"DESTDIR={folder}", "prefix=/usr")
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make deb` writes, unpacked."""
    run("make", "deb")
    (built,) = (ROOT / "dist").glob("mimicd_*.deb")
    folder = tmp_path_factory.mktemp("package")
    run("dpkg-deb", "--raw-extract", str(built), str(folder))
    return folder


def files(folder: Path) -> set[str]:
    """Of it, less the programs' own modules."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith("usr/share/mimicd/")}


def shared(units: str) -> set[str]:
    """What an installation has in /usr and a package has too, apart from documentation."""
    return {
        "usr/bin/kaminaric",
        "usr/bin/kaminaris",
        "usr/bin/mimicctl",
        "usr/sbin/mimicd",
        "usr/share/dbus-1/interfaces/org.mimicd1.Interface.xml",
        "usr/share/dbus-1/interfaces/org.mimicd1.Manager.xml",
        "usr/share/dbus-1/system-services/org.mimicd1.service",
        "usr/share/dbus-1/system.d/org.mimicd1.conf",
        "usr/share/polkit-1/actions/org.mimicd1.policy",
        *(f"{units}/{name}" for name in (*UNITS, BUS_NAME)),
    }


def test_everything_is_installed_where_it_is_looked_for(installed: Path) -> None:
    found = files(installed)
    assert shared("usr/lib/systemd/system") <= found
    assert {name.split("/")[0] for name in found} == {"usr"}
    link = installed / "usr/lib/systemd/system" / BUS_NAME
    assert link.readlink() == Path("mimicd.service")


def test_every_module_is_installed(installed: Path) -> None:
    packages = ("mimicd", "mimicctl", "kaminari")
    modules = {str(p.relative_to(ROOT)) for one in packages for p in (ROOT / one).rglob("*.py")}
    folder = installed / "usr/share/mimicd"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.py")} == modules
    sources = {path.name for path in (ROOT / "bpf").glob("*.[ch]")}
    assert {path.name for path in (folder / "mimicd/_bpf").iterdir()} == sources


def test_commands_run_debians_python_and_nothing_of_the_users(installed: Path) -> None:
    for name in ("bin/mimicctl", "sbin/mimicd", "bin/kaminaric", "bin/kaminaris"):
        command = installed / "usr" / name
        assert command.read_text().startswith("#!/usr/bin/python3 -sP\n")
        assert command.stat().st_mode & 0o777 == 0o755


def test_what_is_installed_can_be_removed_to_the_last_file(tmp_path: Path) -> None:
    where = (f"DESTDIR={tmp_path}", "prefix=/usr/local")
    run("make", "install", *where, "compile=no")
    assert files(tmp_path)
    run("make", "uninstall", *where)
    left = [path for path in tmp_path.rglob("*") if not path.is_dir() or "mimic" in path.name]
    assert left == []


def test_another_prefix_reaches_the_units(tmp_path: Path) -> None:
    run("make", "install", f"DESTDIR={tmp_path}", "prefix=/opt/x", "compile=no")
    units = tmp_path / "opt/x/lib/systemd/system"
    commands = [
        line.split("=", 1)[1].lstrip("-").split()[0]
        for unit in UNITS
        for line in (units / unit).read_text().splitlines()
        if line.startswith("Exec") and "mimic" in line.split()[0]
    ]
    assert commands
    assert {path.split("/")[1] for path in commands} == {"opt"}


def test_systemd_finds_no_fault_with_the_units(installed: Path, tmp_path: Path) -> None:
    for name in UNITS:
        text = (installed / "usr/lib/systemd/system" / name).read_text()
        # the commands are not where the unit says, but in the folder
        text = re.sub(r"/usr/(s?bin/mimic)", rf"{installed}/usr/\1", text)
        (tmp_path / name).write_text(text)
    units = [name.replace("@", "@eth0") for name in UNITS]
    path = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    assert run("systemd-analyze", "verify", "--man=no", *units, env=path) == ""


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_units_are_exposed_as_little_as_they_can_be(installed: Path, unit: str) -> None:
    words = run(
        *("systemd-analyze", "security", "--no-pager", "--offline=yes", f"--root={installed}"),
        unit.replace("@", "@eth0"),
    )
    summary = words.strip().splitlines()[-1]
    assert float(summary.split(": ", 1)[1].split()[0]) <= EXPOSURE_MAX, summary


def test_the_daemon_gets_four_capabilities() -> None:
    unit = (ROOT / "systemd/mimicd.service").read_text()
    (line,) = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", unit)
    assert line.split() == ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"]


def test_the_package_holds_what_an_installation_puts_there(package: Path) -> None:
    found = files(package)
    assert shared("lib/systemd/system") <= found
    pages = {path.name.removesuffix(".in") for path in (ROOT / "man").glob("*.in")}
    assert {Path(name).name for name in found if "/man/" in name} == {f"{p}.gz" for p in pages}
    assert not list(package.rglob("*.pyc"))
    assert (package / "etc/mimic").is_dir()


def test_the_package_says_what_it_needs(package: Path) -> None:
    control = email.message_from_string((package / "DEBIAN/control").read_text())
    assert (control["Package"], control["Version"]) == ("mimicd", __version__)
    assert control["Architecture"] == "all"
    needed = set(re.findall(r"python3-[a-z0-9-]+", control["Depends"]))
    # what the daemon and its client import, and no more
    assert needed == {f"python3-{name}" for name in ("bpfcc", "dbus-next", "pyroute2", "uvloop")}
    setup = (ROOT / "setup.sh").read_text()
    (program,) = re.findall(r'(?m)^program="((?:.|\n)*?)"', setup)
    recommended = re.findall(r"[a-z0-9-]+", f"{control['Recommends']} {control['Suggests']}")
    assert set(shlex.split(program)) - {"python3", "dbus"} <= needed | {
        "linux-libc-dev",
        *recommended,
    }


def test_maintainer_scripts_are_shell_without_faults(package: Path) -> None:
    scripts = [package / "DEBIAN" / name for name in ("postinst", "prerm", "postrm")]
    for script in scripts:
        run("sh", "-n", str(script))
        assert "set -e" in script.read_text()
