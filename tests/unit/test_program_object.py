# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.program_object: what is changed in instructions before they are loaded."""

import struct

from mimicd.kernel.program_object import named_maps, with_kernel_calls

CALL, LOAD, EXIT = 0x85, 0x18, 0x95


def instruction(opcode: int, source: int = 0, value: int = 0, target: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | target, 0, value)


def test_calls_of_the_named_numbers_become_calls_of_kernel_functions() -> None:
    before = (
        instruction(CALL, value=9)  # a helper
        + instruction(CALL, value=63_537)
        + instruction(CALL, source=1, value=63_537)  # a subprogram, so far away
        + instruction(0xB7, value=63_537)  # r0 = 63537
        + instruction(EXIT)
    )
    after = with_kernel_calls(before, {63_537})
    assert after[8:16] == instruction(CALL, source=2, value=63_537)
    assert after[:8] + after[16:] == before[:8] + before[16:]
    assert with_kernel_calls(before, set()) == before


def test_descriptors_of_maps_are_replaced_by_names() -> None:
    code = instruction(LOAD, source=1, value=7) + instruction(0) + instruction(EXIT)
    program = named_maps(code, {7: "conns"})
    assert program.maps == {0: "conns"}
    assert program.instructions == instruction(LOAD, source=1) + instruction(0) + instruction(EXIT)
