# SPDX-License-Identifier: GPL-2.0-only
"""What BCC makes of the structs: run as a program, it prints offset and size of every member.

In a process of its own, since LLVM never gives its memory back.
"""

import ctypes
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mimicd.kernel import compiler
from mimicd.kernel.headers import make_header_tree

# Structs that are no map's key or value get a map here.
_MORE_MAPS = """
BPF_ARRAY(layout_event, struct event, 1);
BPF_ARRAY(layout_command, struct command, 1);
"""
_PLACES = {
    "flow_key": ("conns", "Key"),
    "conn": ("conns", "Leaf"),
    "port_classes": ("ports", "Leaf"),
    "filter_key": ("filters", "Key"),
    "filter_value": ("filters", "Leaf"),
    "rule": ("rules", "Leaf"),
    "config": ("config", "Leaf"),
    "half_open": ("half_opens", "Leaf"),
    "event": ("layout_event", "Leaf"),
    "command": ("layout_command", "Leaf"),
}


def _members(struct: Any) -> dict[str, tuple[int, int]]:
    places = ((name, getattr(struct, name)) for name, *_ in struct._fields_)
    return {name: (place.offset, place.size) for name, place in places}


def main() -> None:
    import bcc

    with tempfile.TemporaryDirectory() as tree:
        make_header_tree(Path(tree))
        os.environ["BCC_KERNEL_SOURCE"] = tree
        flags = compiler.compiler_flags(14, {})
        module = bcc.BPF(text=compiler.joined_source() + _MORE_MAPS, cflags=flags)
    view = {}
    for name, (map_name, side) in _PLACES.items():
        struct = getattr(module[map_name], side)
        view[name] = {"size": ctypes.sizeof(struct), "members": _members(struct)}
    view["limits"] = {name: module[name].max_entries for name in compiler.MAPS}
    print(json.dumps(view))


if __name__ == "__main__":
    main()
