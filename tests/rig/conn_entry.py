# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the map conns as the programs would have written them; the product only reads them."""

import dataclasses

from mimicd.core import abi
from mimicd.core.abi import ConnEntry


def encode_conn(entry: ConnEntry) -> bytes:
    """struct conn, unlocked: the inverse of abi.decode_conn()."""
    values: list[object] = []
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if field.name == "drops":
            values += value
        elif field.name == "last_reset":
            values += [value, len(entry.link_header)]
        else:
            values.append(value)
    return abi._CONN.pack(*values)
