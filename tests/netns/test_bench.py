# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks run: figures have values, and nothing stays behind. No time is judged."""

import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.rig.namespace import names_of, wait_until

ROOT = Path(__file__).resolve().parents[2]
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
WITHIN_S = 300.0
FIGURES = "flood,rtt,bpf,memory,cold,burst"
EVERY = (
    *("flood.64.pps", "flood.64.way_us", "flood.64.ours_us"),
    *("rtt.p50_us", "cold.first_ms", "burst.last_ms"),
)


def bench(*options: str) -> subprocess.Popen[str]:
    words = ["--quick", "--passes", "1", "--seconds", "0.1", "--times", "1", "--sizes", "64"]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *words, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_short_run_measures_every_arm_and_writes_table_json_and_plots(tmp_path: Path) -> None:
    counting = STATS.read_text()
    server, client = (
        str(Path(sys.executable).parent / name) for name in ("kaminaris", "kaminaric")
    )
    process = bench(
        *("--figures", FIGURES, "--output", str(tmp_path)),
        *("--relay", "tunnel", f"{server} {{uaddress}}:{{port}} {{uloopback}}:{{aport}} uot"),
        f"{client} {{uloopback}}:{{lport}} {{upeer}}:{{port}} uot",
    )
    said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, said
    (scenario,) = json.loads((tmp_path / "results.json").read_text())["scenarios"]
    assert scenario["troubles"] == []
    plain, ours, tunnel = (scenario["medians"][arm] for arm in ("plain", "mimicd", "tunnel"))
    for metric in EVERY:
        assert all(arm[metric] > 0 for arm in (plain, ours, tunnel)), said
    # What others use is taken off: on a busy machine nothing may be left.
    assert min(arm["flood.64.cpu_us"] for arm in (plain, ours, tunnel)) >= 0
    assert plain["bpf.64.reference_ns"] > 0
    egress_ns, ingress_ns = (
        ours[f"bpf.64.{hook}_ns"] for hook in ("sender-egress", "receiver-ingress")
    )
    assert 0 < max(egress_ns, ingress_ns) < ours["bpf.64.packet_ns"]
    assert ours["memory.mb"] > 1
    judged = {target["metric"] for target in scenario["targets"]}
    assert {"flood.64.pps", "rtt.p50_us", "cold.first_ms"} <= judged
    assert "flood, 64 bytes" in (tmp_path / "table.txt").read_text()
    pictures = list(tmp_path.glob("*.svg"))
    assert any("flood" in picture.name for picture in pictures)
    for picture in pictures:
        ElementTree.parse(picture)
    assert STATS.read_text() == counting
    assert names_of(process.pid) == []


def test_interrupted_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    counting = STATS.read_text()
    with bench("--figures", "bpf", "--passes", "1000", "--output", str(tmp_path)) as process:
        try:
            # Two networks, each with the folder of a program that runs in it.
            wait_until(lambda: len(names_of(process.pid)) >= 4, WITHIN_S, "the benchmark runs")
        finally:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert names_of(process.pid) == []
    assert STATS.read_text() == counting
