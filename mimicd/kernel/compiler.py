# SPDX-License-Identifier: GPL-2.0-only
"""Compiles and loads the BPF programs in a child process, which hands over their descriptors.

LLVM costs 100 MB that a process never gives back; so it lives only as long as it compiles. The
child answers with one JSON message and the descriptors beside it (SCM_RIGHTS).

  parent  --JSON {"defines": {...}, "link_bytes": n}-->  child
  parent  <--{"fds": [names]} + descriptors, or {"error": sentence, "hint": ..., "log": ...}--
"""

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mimicd.core.errors import AttachError, MimicError, MissingDependencyError
from mimicd.kernel import bpf, btf
from mimicd.kernel.headers import make_header_tree
from mimicd.paths import bpf_directory

_SOURCES = {
    "xdp": ("maps.c", "egress.c", "turn.c", "xdp.c", "ingress.c"),
    "tc": ("maps.c", "egress.c", "turn.c", "tc.c", "ingress.c"),
}
"""The sources for receiving on XDP, and for receiving on TC ingress, in their order."""

EGRESS, INGRESS, REPLY = "mimic_egress", "mimic_ingress", "mimic_reply"
MAPS = ("config", "rules", "filters", "conns", "half_opens", "counters", "ring")

_TIMEOUT_S = 60
_MESSAGE_BYTES = 1 << 20
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def compile_programs(link_bytes: int, receive_on: str = "xdp") -> dict[str, int]:
    """Descriptors of all programs and maps by name; they are the caller's to close.

    `link_bytes`: length of the interface's link header, 14 or 0. `receive_on`: "xdp" or "tc".
    Blocks for about a second.
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
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), str(link_bytes), receive_on],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": _python_path()},
        )
        theirs.close()
        ours.settimeout(_TIMEOUT_S)
        answer: dict[str, object] = {}
        fds: list[int] = []
        try:
            with contextlib.suppress(TimeoutError):
                answer, fds = _receive(ours)
        finally:
            if not answer:
                child.kill()
            _, errors = child.communicate()
    if "fds" in answer:
        names = answer["fds"]
        assert isinstance(names, list)
        return dict(zip(names, fds, strict=True))
    _close_all(fds)
    _raise(answer, errors.decode(errors="replace"))
    raise AssertionError("unreachable")


def _python_path() -> str:
    """The child finds this package wherever the parent found it."""
    inherited = os.environ.get("PYTHONPATH", "")
    return f"{_PACKAGE_ROOT}{os.pathsep}{inherited}" if inherited else str(_PACKAGE_ROOT)


def _receive(channel: socket.socket) -> tuple[dict[str, object], list[int]]:
    fd_bytes = array.array("i").itemsize
    message, ancillary, _, _ = channel.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(32 * fd_bytes))
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fd_bytes])
    for fd in fds:
        os.set_inheritable(fd, False)
    return (json.loads(message) if message else {}), list(fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _raise(answer: Mapping[str, object], errors: str) -> None:
    if answer.get("kind") == "missing":
        raise MissingDependencyError(str(answer["error"]), str(answer["hint"]))
    if answer:
        raise AttachError(str(answer["error"]), str(answer["hint"]))
    lines = errors.strip().splitlines()
    raise AttachError(
        f"the BPF compiler ended without an answer: {lines[-1] if lines else 'no output'}",
        "run mimicd with -vv for its whole output, and report it",
    )


def joined_source(receive_on: str = "xdp") -> str:
    """The .c files as one translation unit that keeps their names in messages."""
    folder = bpf_directory()
    return "".join(
        f'#line 1 "{folder / name}"\n{(folder / name).read_text()}' for name in _SOURCES[receive_on]
    )


def compiler_flags(
    link_bytes: int, defines: Mapping[str, int], receive_on: str = "xdp"
) -> list[str]:
    """What the sources need to know of the interface and of the kernel."""
    if receive_on == "tc":
        defines = {**defines, "RECEIVE_ON_TC": 1}
    all_defines = {**defines, "L2_LEN": link_bytes, "PAGE_SIZE": 4096}
    flags = [f"-D{name}={value}" for name, value in all_defines.items()]
    return [*flags, f"-I{bpf_directory()}", "-Wno-unused-function"]


def checksum_defines() -> dict[str, int]:
    """Empty where the kernel does not tell; then every checksum is computed whole."""
    if os.environ.get("MIMICD_NO_BTF"):
        return {}
    try:
        return btf.skb_defines(btf.VMLINUX.read_bytes())
    except (OSError, ValueError, KeyError):
        return {}


def _build(link_bytes: int, receive_on: str) -> tuple[dict[str, object], list[int]]:
    """In the child: the answer and the descriptors."""
    try:
        import bcc
    except ImportError:
        raise MissingDependencyError(
            "BCC for Python is not installed", "install the package python3-bpfcc"
        ) from None
    with tempfile.TemporaryDirectory(prefix="mimicd-headers-") as tree:
        make_header_tree(Path(tree))
        os.environ["BCC_KERNEL_SOURCE"] = tree
        # BCC raises plain Exception for everything, and says why on stderr.
        try:
            module = bcc.BPF(
                text=joined_source(receive_on),
                cflags=compiler_flags(link_bytes, checksum_defines(), receive_on),
            )
        except Exception as error:
            raise AttachError(
                "the BPF programs cannot be compiled, or their maps not made, on this kernel",
                _reason(error),
            ) from error
        try:
            programs = {
                EGRESS: module.load_func(EGRESS, bcc.BPF.SCHED_CLS).fd,
            }
            if receive_on == "xdp":
                programs[REPLY] = module.load_func(REPLY, bcc.BPF.SCHED_CLS).fd
            kind = bcc.BPF.XDP if receive_on == "xdp" else bcc.BPF.SCHED_CLS
            programs[INGRESS] = module.load_func(INGRESS, kind).fd
        except Exception as error:
            raise AttachError("the kernel refuses the BPF programs", _reason(error)) from error
    fds = {**programs, **{name: module[name].map_fd for name in MAPS}}
    return {"fds": list(fds)}, list(fds.values())


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "permitted" in text or "denied" in text:
        return f"{text}; mimicd needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"
    return text


def main() -> None:
    """The child: argv holds the channel's descriptor, then what compile_programs was given."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        answer, fds = _build(int(sys.argv[2]), sys.argv[3])
    except MimicError as error:
        kind = "missing" if isinstance(error, MissingDependencyError) else "attach"
        answer, fds = {"kind": kind, "error": str(error), "hint": error.hint}, []
    socket.send_fds(channel, [json.dumps(answer).encode()], fds)


if __name__ == "__main__":
    main()
