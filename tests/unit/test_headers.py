# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.headers: a header tree for the compiler, of the system's headers."""

import re
import sysconfig
from pathlib import Path

import pytest

from mimicd.core.errors import MissingDependencyError
from mimicd.kernel.headers import make_header_tree
from mimicd.paths import bpf_directory


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """What linux-libc-dev installs, as far as it matters here."""
    root = tmp_path / "usr"
    for name in ("linux/ip.h", "linux/bpf.h", "linux/version.h", "asm-generic/types.h"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the system's {name}\n")
    return root


def add_asm(system: Path, folder: str) -> None:
    (system / folder / "asm").mkdir(parents=True)
    (system / folder / "asm/types.h").write_text(f"of {folder or 'no architecture'}\n")


def found(tree: Path, header: str) -> str:
    """The header as the compiler finds it: include/ comes before include/uapi/."""
    for folder in ("include", "include/uapi"):
        if (path := tree / folder / header).exists():
            return path.read_text()
    raise AssertionError(f"{header} is not in the tree")


def test_the_systems_headers_are_found(system: Path, tmp_path: Path) -> None:
    add_asm(system, sysconfig.get_config_var("MULTIARCH") or "")
    tree = tmp_path / "tree"
    make_header_tree(tree, system)
    assert found(tree, "linux/ip.h") == "the system's linux/ip.h\n"
    assert found(tree, "asm-generic/types.h") == "the system's asm-generic/types.h\n"
    assert (tree / "include/uapi/linux/ip.h").exists()


@pytest.mark.parametrize("multiarch", ["x86_64-linux-gnu", "riscv64-linux-gnu", "", None])
def test_headers_of_the_architecture_are_found(
    system: Path, tmp_path: Path, multiarch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_asm(system, "")
    if multiarch:
        add_asm(system, multiarch)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: multiarch)
    tree = tmp_path / "tree"
    make_header_tree(tree, system)
    assert found(tree, "asm/types.h") == f"of {multiarch or 'no architecture'}\n"


def test_what_only_a_kernel_has_is_written(system: Path, tmp_path: Path) -> None:
    add_asm(system, "")
    tree = tmp_path / "tree"
    make_header_tree(tree, system)
    assert "typedef __u64 u64;" in found(tree, "linux/kconfig.h")
    assert "LINUX_VERSION_CODE" in found(tree, "linux/version.h")
    # BCC's own copy in place of the system's, which may be older
    assert found(tree, "linux/bpf.h") == "#include <bcc/bpf.h>\n"
    assert (system / "linux/bpf.h").read_text() == "the system's linux/bpf.h\n"


def test_without_the_systems_headers_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"linux/ip\.h is missing") as caught:
        make_header_tree(tmp_path / "tree", tmp_path / "usr")
    assert "linux-libc-dev" in caught.value.hint
    assert not (tmp_path / "tree").exists()


def test_every_header_that_the_programs_include_is_in_the_tree(tmp_path: Path) -> None:
    """With the headers of this system, whatever BCC makes of them."""
    make_header_tree(tmp_path)
    included = {
        header
        for path in bpf_directory().glob("*.[ch]")
        for header in re.findall(r"#include <(.*?)>", path.read_text())
    }
    assert included
    missing = [name for name in included if not (tmp_path / "include" / name).exists()]
    assert not missing
