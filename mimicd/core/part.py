# SPDX-License-Identifier: GPL-2.0-only
"""A part of a list of connections that is too long for one message.

Into which part a connection falls depends on its flow key alone, so parts that are asked for one
after the other make up the whole, whatever comes and goes between them.
"""

import zlib
from dataclasses import dataclass

CONNECTIONS = 8192
"""In one part, about. That is some 5 MB of JSON; a message on the system bus may have 32 MiB."""


@dataclass(frozen=True, slots=True)
class Part:
    """Number `number`, from 0, of `parts`."""

    number: int = 0
    parts: int = 1

    def has(self, key: bytes) -> bool:
        """Whether the connection of this flow key is in it."""
        return self.parts == 1 or zlib.crc32(key) % self.parts == self.number


WHOLE = Part()


def parts_for(connections: int) -> int:
    """Into how many parts a list of so many falls."""
    return max(1, -(-connections // CONNECTIONS))
