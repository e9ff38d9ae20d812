# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of sender over every kind of link: sender x link x family x XDP mode x offloads.

The short form has every sender, link and family, with XDP modes and offloads by turns; `make
matrix` runs all of them.
"""

from collections.abc import Iterator
from itertools import cycle, product

import pytest

from tests.matrix.cells import OFFLOADS, SENDER_NAMES, VXLAN, Cell, Scene, scene_of
from tests.matrix.links import KINDS

FAMILIES = (4, 6)
# docs/links.md: an unfinished packet of a tunnel below two tags is dropped, and counted
IMPOSSIBLE = {("two tags", VXLAN)}
LEAST_CELLS = 96


def short_cells(kind: str) -> list[Cell]:
    """Each sender and family once; the link's own mode by its place among the links."""
    modes = KINDS[kind].xdp_modes
    mode = modes[list(KINDS).index(kind) % len(modes)]
    # an odd number of steps, so that a sender meets other offloads with the other family
    offloads = cycle(OFFLOADS)
    for _ in range(list(KINDS).index(kind)):
        next(offloads)
    return [
        Cell(kind, mode, next(offloads), sender, family)
        for family, sender in product(FAMILIES, SENDER_NAMES)
        if (kind, sender) not in IMPOSSIBLE
    ]


def all_cells(kind: str) -> list[Cell]:
    return [
        Cell(kind, mode, offload, sender, family)
        for mode, offload, sender, family in product(
            KINDS[kind].xdp_modes, OFFLOADS, SENDER_NAMES, FAMILIES
        )
        if (kind, sender) not in IMPOSSIBLE
    ]


def failures(kind: str, cells: list[Cell]) -> Iterator[str]:
    with scene_of(KINDS[kind]) as scene:
        invalid = scene.net.router.firewall.invalid()
        for mode in dict.fromkeys(cell.mode for cell in cells):
            with scene.data_path(mode):
                yield from _failures([cell for cell in cells if cell.mode == mode], scene)
        if (now := scene.net.router.firewall.invalid()) != invalid:
            yield f"{kind}: the firewall called {now - invalid} packets invalid"


def _failures(cells: list[Cell], scene: Scene) -> Iterator[str]:
    for offload in OFFLOADS:
        mine = [cell for cell in cells if cell.offload == offload]
        if mine:
            scene.set_offload(offload)
        for cell in mine:
            for fault in scene.run(cell):
                yield f"{cell}: {fault}"


def test_the_short_form_has_every_sender_link_mode_and_mix_of_offloads() -> None:
    cells = [cell for kind in KINDS for cell in short_cells(kind)]
    assert len(cells) >= LEAST_CELLS
    assert len(set(cells)) == len(cells)
    assert {cell.offload for cell in cells} == set(OFFLOADS)
    assert {cell.mode for cell in cells} == {"native", "skb", "none", "auto"}
    assert {(cell.kind, cell.sender, cell.family) for cell in cells} == {
        (kind, sender, family)
        for kind, sender, family in product(KINDS, SENDER_NAMES, FAMILIES)
        if (kind, sender) not in IMPOSSIBLE
    }


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_every_sender_arrives_whole_and_in_order_over(kind: str) -> None:
    assert list(failures(kind, short_cells(kind))) == []


@pytest.mark.root
@pytest.mark.parametrize("lacking", ["MIMICD_NO_BTF", "MIMICD_NO_CAST", "MIMICD_OLD_ADJUST_ROOM"])
def test_every_sender_arrives_with_kernels_that_lack(lacking: str) -> None:
    cells = [
        Cell("veth", "none", "all on", sender, family)
        for sender, family in product(SENDER_NAMES, FAMILIES)
    ]
    with scene_of(KINDS["veth"]) as scene, scene.data_path("none", lacking):
        scene.set_offload("all on")
        assert [f"{cell}: {fault}" for cell in cells for fault in scene.run(cell)] == []


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_and_mix_of_offloads_over(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    cells = all_cells(kind)
    failed = list(failures(kind, cells))
    with capsys.disabled():
        print(f"\n{kind}: {len(cells)} cells, {len(failed)} faults")
    assert failed == []
