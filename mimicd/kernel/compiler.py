# SPDX-License-Identifier: GPL-2.0-only
"""Compiles the BPF programs in a child process, keeps what it made, and loads it.

LLVM costs 100 MB that a process never gives back, and a second of a fast machine's time; so it
lives only as long as it compiles, and compiles only what it has not compiled before.
"""

import functools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mimicd.core.errors import AttachError, MissingDependencyError
from mimicd.kernel import bpf, btf
from mimicd.kernel.headers import make_header_tree
from mimicd.kernel.object_cache import cache_key, read_object, write_object
from mimicd.kernel.program_object import (
    ProgramObject,
    decode_object,
    merged,
    named_maps,
    with_kernel_calls,
)
from mimicd.paths import bpf_directory

_SOURCES = {
    "egress": ("maps.c", "skb.c", "rewrite.c", "datagram.c", "too_big.c", "egress.c"),
    "xdp": ("maps.c", "skb.c", "turn.c", "xdp.c", "path.c", "restore.c", "ingress.c"),
    "tc": ("maps.c", "skb.c", "turn.c", "tc.c", "path.c", "restore.c", "ingress.c"),
    "guard": ("maps.c", "guard.c"),
}
"""The sources for sending, for receiving on XDP or on TC ingress, and for the guard."""

_PARTS = {"xdp": ("egress", "xdp"), "tc": ("egress", "tc"), "guard": ("guard",)}
"""What is compiled, side by side, for each place to receive."""

EGRESS, INGRESS, REPLY = "mimic_egress", "mimic_ingress", "mimic_reply"
GUARD = "mimic_guard"
MAPS = ("config", "rules", "ports", "filters", "conns", "half_opens", "counters", "ring", "traces")

# per-CPU buffers, which only the programs touch
_BUFFERS = ("hold_buffers", "send_buffers", "receive_buffers")
_LOCKED = {"conns"}

# the number of the function that shows a program the kernel's own struct sk_buff
SKB_CAST = "SKB_CAST"

_TIMEOUT_S = 60
# bpf_skb_adjust_room() drops a checksum request as soon as its place is gone
_ADJUST_ROOM_FIXED = (6, 2)
_SKB_SPAN_MAX = 256
_EXIT_MISSING = 3
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def compile_programs(
    link_bytes: int, receive_on: str = "xdp", with_frags: bool = False
) -> dict[str, int]:
    """Descriptors of all programs and maps by name; they are the caller's to close.

    `link_bytes`: length of the interface's link header, 14 or 0. `receive_on`: "xdp" or "tc",
    or "guard" for the guard alone. `with_frags`: see bpf.load_program.
    Blocks for one to two seconds the first time, and 50 ms when it was compiled before.
    Raises MissingDependencyError or AttachError.
    """
    try:
        bpf.probe()
    except OSError as error:
        raise AttachError(
            f"the kernel refuses bpf(2): {error.strerror}",
            "mimicd needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root, and a container or"
            " service that lets it use bpf(2)",
        ) from error
    defines, headers = kernel_defines(), _headers()
    keys = {
        part: cache_key(joined_source(part), *headers, *compiler_flags(link_bytes, defines, part))
        for part in _PARTS[receive_on]
    }
    kept = {part: read_object(key) for part, key in keys.items()}
    try:
        return merged(decode_object(raw or b"") for raw in kept.values()).load(with_frags)
    except (AttachError, ValueError, KeyError, TypeError):
        pass  # not there, of another kernel or version, or damaged: compile it anew
    with ThreadPoolExecutor(len(keys)) as side_by_side:
        made = list(side_by_side.map(lambda part: _compile(link_bytes, part, defines), keys))
    fds = merged(decode_object(raw) for raw in made).load(with_frags)
    for key, raw in zip(keys.values(), made, strict=True):
        write_object(key, raw)
    return fds


def _headers() -> list[str]:
    return [path.read_text() for path in sorted(bpf_directory().glob("*.h"))]


def _compile(link_bytes: int, part: str, defines: Mapping[str, int]) -> bytes:
    """What the child answers: an encoded ProgramObject."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(link_bytes), part, json.dumps(defines)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            cwd="/",
            env={**os.environ, "PYTHONPATH": _python_path()},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AttachError(
            f"the BPF compiler did not end within {_TIMEOUT_S} s", "is this machine overloaded?"
        ) from None
    errors = done.stderr.decode(errors="replace")
    if done.returncode == 0 and done.stdout:
        return done.stdout
    if done.returncode == _EXIT_MISSING:
        raise MissingDependencyError(
            "BCC for Python is not installed", "install the package python3-bpfcc"
        )
    lines = [line for line in errors.strip().splitlines() if "error" in line.lower()]
    raise AttachError(
        f"the BPF programs cannot be compiled: {lines[0] if lines else 'no reason is given'}",
        "the packages python3-bpfcc and linux-libc-dev may be damaged or too old",
    )


def _python_path() -> str:
    """The child finds this package wherever the parent found it."""
    inherited = os.environ.get("PYTHONPATH", "")
    return f"{_PACKAGE_ROOT}{os.pathsep}{inherited}" if inherited else str(_PACKAGE_ROOT)


def joined_source(part: str = "xdp") -> str:
    """The .c files of a part as one translation unit that keeps their names in messages."""
    folder = bpf_directory()
    return "".join(
        f'#line 1 "{folder / name}"\n{(folder / name).read_text()}' for name in _SOURCES[part]
    )


def compiler_flags(link_bytes: int, defines: Mapping[str, int], part: str = "xdp") -> list[str]:
    """What the sources need to know of the interface and of the kernel."""
    if part == "tc":
        defines = {**defines, "RECEIVE_ON_TC": 1}
    all_defines = {**defines, "L2_LEN": link_bytes, "PAGE_SIZE": 4096}
    flags = [f"-D{name}={value}" for name, value in all_defines.items()]
    # like the kernel's own C, the programs read headers as words
    # debug information, which nobody reads here, takes a fifth of the compiler's time
    return [
        *(*flags, f"-I{bpf_directory()}", "-fno-strict-aliasing", "-g0"),
        *("-Wno-unused-function", "-Werror=implicit-function-declaration"),
    ]


def kernel_defines() -> dict[str, int]:
    """What the programs are to know of this kernel.

    Variables of the environment make it older than it is, for tests: MIMICD_NO_BTF,
    MIMICD_NO_CAST, MIMICD_OLD_ADJUST_ROOM.
    """
    defines = checksum_defines()
    old = _release() < _ADJUST_ROOM_FIXED or bool(os.environ.get("MIMICD_OLD_ADJUST_ROOM"))
    return {**defines, "SHRINK_TWICE": 1} if old else defines


def _release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def checksum_defines() -> dict[str, int]:
    """Empty where the kernel does not tell, or forbids to ask; then every checksum is computed
    whole."""
    if os.environ.get("MIMICD_NO_BTF"):
        return {}
    places, cast = _kernel_types()
    if not places:
        return {}
    can_cast = cast and not os.environ.get("MIMICD_NO_CAST")
    if can_cast and bpf.casts_skb(cast, places["SKB_IP_SUMMED_AT"]):
        return {**places, SKB_CAST: cast}
    # one read of the kernel's memory serves all of them, as far as they lie close together
    offsets = [at for name, at in places.items() if name.endswith("_AT")]
    span = max(offsets) + 8 - min(offsets)
    if span > _SKB_SPAN_MAX or not bpf.reads_kernel():
        return {}
    return {**places, "SKB_AT": min(offsets), "SKB_BYTES": span}


@functools.cache
def _kernel_types() -> tuple[Mapping[str, int], int]:
    """Where struct sk_buff keeps its checksum state, and the number of what shows it to a program;
    nothing and 0 where the kernel does not tell."""
    # Once: it walks all types of the kernel.
    try:
        with btf.read_blob(btf.VMLINUX) as blob:
            kernel = btf.Btf(blob)
            places = btf.skb_defines(kernel)
            try:
                return places, kernel.function("bpf_cast_to_kern_ctx")
            except KeyError:
                return places, 0
    except (OSError, ValueError, KeyError):
        return {}, 0


def _build(link_bytes: int, part: str, defines: Mapping[str, int]) -> ProgramObject:
    """In the child: compile. Raises ImportError, MissingDependencyError, or what BCC raises."""
    import bcc
    from bcc.libbcc import lib

    with tempfile.TemporaryDirectory(prefix="mimicd-headers-") as tree:
        make_header_tree(Path(tree))
        os.environ["BCC_KERNEL_SOURCE"] = tree
        module = bcc.BPF(
            text=joined_source(part),
            cflags=compiler_flags(link_bytes, defines, part),
        )
    names, maps = {}, {}
    for name in (*MAPS, *_BUFFERS):
        # module[name] would describe the value's type in Python, which fails for large ones
        fd = lib.bpf_table_fd(module.module, name.encode())
        names[fd] = name
        _, maps[name] = bpf.map_spec(fd, locked=name in _LOCKED)
    kinds = {
        "egress": {EGRESS: bcc.BPF.SCHED_CLS},
        "xdp": {INGRESS: bcc.BPF.XDP, REPLY: bcc.BPF.SCHED_CLS},
        "tc": {INGRESS: bcc.BPF.SCHED_CLS},
        "guard": {GUARD: bcc.BPF.SCHED_CLS},
    }[part]
    kernel_functions = {defines[SKB_CAST]} if SKB_CAST in defines else set()
    programs = {
        name: replace(
            named_maps(with_kernel_calls(module.dump_func(name), kernel_functions), names),
            kind=kind,
        )
        for name, kind in kinds.items()
    }
    used = {map_name for program in programs.values() for map_name in program.maps.values()}
    # the guard makes do with few; user space uses all of the others
    return ProgramObject(
        programs, {key: spec for key, spec in maps.items() if key in used or part != "guard"}
    )


def main() -> int:
    """The child: what _compile gave it on the command line; the object goes to stdout."""
    try:
        built = _build(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    except ImportError:
        return _EXIT_MISSING
    except MissingDependencyError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.buffer.write(built.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
