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
/* BCC's own copy; the system's <uapi/linux/bpf.h> may be older, and stays out */
#include <bcc/bpf.h>
#ifndef __LINUX_BPF_H__
#define __LINUX_BPF_H__
#endif
#endif
"""

_VERSION = """\
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
"""

_WRITTEN = {
    "linux/kconfig.h": _KCONFIG,
    "linux/version.h": _VERSION,
    "linux/bpf.h": "#include <bcc/bpf.h>\n",
    "linux/log2.h": "",
    "asm/page.h": "",
}


def make_header_tree(root: Path, system: Path = Path("/usr/include")) -> None:
    """Write the tree below `root`; `system` holds linux/ and asm-generic/.

    BCC searches include/ before include/uapi/, so what stands in the first hides the second.
    """
    if not (system / "linux" / "ip.h").exists():
        raise MissingDependencyError(
            f"the BPF programs cannot be compiled: {system}/linux/ip.h is missing",
            "install the package linux-libc-dev",
        )
    include = root / "include"
    for name, text in _WRITTEN.items():
        path = include / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    uapi = include / "uapi"
    uapi.mkdir()
    (uapi / "linux").symlink_to(system / "linux")
    (uapi / "asm-generic").symlink_to(system / "asm-generic")
    (uapi / "asm").symlink_to(_asm_headers(system))


def _asm_headers(system: Path) -> Path:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    path = system / multiarch / "asm"
    return path if path.exists() else system / "asm"
