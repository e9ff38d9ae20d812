# SPDX-License-Identifier: GPL-2.0-only
"""A header tree for BCC, made of the system's UAPI headers.

BCC looks for the headers of the running kernel. Our programs need none of them: every
struct they read is UAPI. So BCC_KERNEL_SOURCE points at a tree of links to the headers of
linux-libc-dev, with a handful of small files in place of what only the kernel has.
"""

import sysconfig
from pathlib import Path

from mimicd.core.errors import MissingDependencyError

_KCONFIG = """\
#ifndef MIMICD_KCONFIG_H
#define MIMICD_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#include <asm/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
enum { false = 0, true = 1 };
#endif
"""

_VERSION = """\
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
"""

# BCC brings its own copy of the UAPI bpf.h, newer than an older distribution's.
_BPF = "#include <bcc/bpf.h>\n"


def make_header_tree(root: Path, system: Path = Path("/usr/include")) -> None:
    """Write the tree below `root`; `system` holds linux/ and asm-generic/."""
    if not (system / "linux" / "ip.h").exists():
        raise MissingDependencyError(
            f"the BPF programs cannot be compiled: {system}/linux/ip.h is missing",
            "install the package linux-libc-dev",
        )
    include = root / "include"
    uapi = include / "uapi" / "linux"
    for folder in (include / "linux", uapi, include / "asm", include / "generated/uapi/linux"):
        folder.mkdir(parents=True)
    (include / "asm-generic").symlink_to(system / "asm-generic")
    written = {
        include / "linux/kconfig.h": _KCONFIG,
        include / "linux/version.h": _VERSION,
        include / "linux/bpf.h": _BPF,
        uapi / "bpf.h": _BPF,
        include / "linux/log2.h": "",
        include / "asm/page.h": "",
    }
    for path, text in written.items():
        path.write_text(text)
    _link_all(system / "linux", include / "linux")
    _link_all(system / "linux", uapi)
    _link_all(_asm_headers(system), include / "asm")


def _asm_headers(system: Path) -> Path:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    path = system / multiarch / "asm"
    return path if path.exists() else system / "asm"


def _link_all(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        link = target / entry.name
        if not link.exists():
            link.symlink_to(entry)
