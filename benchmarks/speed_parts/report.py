"""Turns the measurements of `speed.py` into rows, targets and a table. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

YARDSTICK = "vit-l"  # the other rows are compared with this row

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One of the speed targets; `met` is None without measurements."""

    what: str
    met: bool | None
    found: str


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99; empty without values."""
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95, 99)} if values else {}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest; empty without values."""
    if not values:
        return {}
    return {
        "median": round(float(np.median(values)), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def summarise(turns: Sequence[Mapping[str, Any]], starts_s: Sequence[float]) -> Row:
    """The results of one contender, from its turns (of `speed_parts.worker.turn`) and its starts."""
    loop_ms = [ms for turn in turns for ms in turn["loop_ms"]]
    gap_ms = [ms for turn in turns for ms in turn["gap_ms"]]
    energy_j = [turn["energy_j"] for turn in turns if turn["energy_j"] is not None]
    return {
        "frames": len(loop_ms),
        "latency_ms": percentiles(loop_ms),
        "round_p50_ms": [round(float(np.median(turn["loop_ms"])), 3) for turn in turns],
        "frames_after_gap": len(gap_ms),
        "after_gap_ms": percentiles(gap_ms),
        "per_second": round(1000 * len(loop_ms) / sum(loop_ms), 3),
        "cpu_ms": spread([turn["cpu_ms"] for turn in turns]),
        "energy_j": spread(energy_j) or None,
        "rss_mb": turns[-1]["rss_mb"],
        "peak_rss_mb": turns[-1]["peak_rss_mb"],
        "first_verdict_s": spread(starts_s),
    }


def compare(rows: Sequence[Row]) -> None:
    """Adds comparisons with other rows at the same number of threads; rows without results stay unchanged.

    `times_vit_l`: speed relative to the yardstick, from the medians of each round.
    `share_of_sgemm`: FLOP per second relative to a matrix product in the same rounds.
    """
    measured = {(row["name"], row["threads"]): row for row in rows if row["error"] is None}
    for (_, threads), row in measured.items():
        if yardstick := measured.get((YARDSTICK, threads)):
            pairs = zip(yardstick["round_p50_ms"], row["round_p50_ms"], strict=True)
            row["times_vit_l"] = spread([theirs / own for theirs, own in pairs])
        sgemm = measured.get(("sgemm", threads))
        if sgemm and row["gflop"]:
            rates = [one["gflop"] / one["latency_ms"]["p50"] for one in (row, sgemm)]  # TFLOP/s
            row["share_of_sgemm"] = round(rates[0] / rates[1], 3)


def check_targets(rows: Sequence[Row]) -> list[Target]:
    """Checks the targets for speed and memory at the largest measured number of threads."""
    threads = max((row["threads"] for row in rows), default=0)
    measured = {row["name"]: row for row in rows if row["error"] is None and row["threads"] == threads}
    tiny, small, padim = (measured.get(name) for name in ("zsad-tiny", "zsad-small", "padim-r18"))
    targets = [
        _at_least_times("zsad-tiny", 250, measured),
        _at_least_times("zsad-small", 50, measured),
        _target(
            "zsad-tiny faster than Anomalib's PaDiM r18",
            (tiny["latency_ms"]["p50"], padim["latency_ms"]["p50"]) if tiny and padim else None,
            lambda pair: pair[0] < pair[1],
            lambda pair: f"{pair[0]:.1f} ms against {pair[1]:.1f} ms",
        ),
        _target(
            "zsad-small within 4 times zsad-tiny's cost",
            small["latency_ms"]["p50"] / tiny["latency_ms"]["p50"] if small and tiny else None,
            lambda times: times <= 4,
            lambda times: f"{times:.2f} times",
        ),
    ]
    for name, row in measured.items():
        if agent := row.get("agent"):
            rss_mb, first_s = agent["rss_mb"], agent["first_verdict_s"]["median"]
            targets += [
                _target(f"{name}: agent under 250 MB", rss_mb, lambda mb: mb < 250, lambda mb: f"{mb:.0f} MB"),
                _target(f"{name}: first verdict within 1.5 s", first_s, lambda s: s <= 1.5, lambda s: f"{s:.2f} s"),
            ]
    return targets


def _at_least_times(name: str, times: float, measured: Mapping[str, Row]) -> Target:
    found = measured.get(name, {}).get("times_vit_l")
    return _target(
        f"{name} at least {times:.0f} times as fast as AVA-DINO ViT-L",
        found,
        lambda ratio: ratio["median"] >= times,
        lambda ratio: f"{ratio['median']:.0f} times ({ratio['min']:.0f}-{ratio['max']:.0f})",
    )


def _target(what: str, found: Any, judge: Any, tell: Any) -> Target:
    if found is None:
        return Target(what=what, met=None, found="not measured")
    return Target(what=what, met=bool(judge(found)), found=tell(found))


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as text: machine, one table per number of threads, targets, and contenders that did not run."""
    machine, rows = report["machine"], report["rows"]
    lines = [
        f"{machine['cpu']}, {machine['cpu_count']} CPUs, {', '.join(machine['isa'])}"
        + (f", limited to {machine['isa_limit']}" if machine["isa_limit"] else "")
        + f"; OpenVINO {machine['openvino']}; {machine['date']}; load before: {machine['load_before']:.2f}",
        f"{report['rounds']} rounds, each contender {report['turn_s']:g} s in a tight loop and {report['gaps']} frames "
        "after gaps of 1 s; a frame of 1280 x 720 to score and map",
    ]
    for threads in sorted({row["threads"] for row in rows}):
        lines += [
            "",
            f"| {threads} thread{'s' if threads > 1 else ''} | p50 (rounds) / p95 / p99, ms | after 1 s, p50 / p95 "
            "/ p99 | frames/s | CPU ms | x ViT-L (rounds) | GFLOP | of sgemm | J | first verdict, s | RSS, MB |",
            "|---" + "|---:" * 10 + "|",
        ]
        lines += [_table_row(row) for row in rows if row["threads"] == threads and row["error"] is None]
    failed = [row for row in rows if row["error"] is not None]
    lines += ["", *(f"- {row['name']}, {row['threads']} threads: did not run: {row['error']}" for row in failed)]
    for target in check_targets(rows):
        word = {True: "met", False: "NOT met", None: "unknown"}[target.met]
        lines.append(f"- {word}: {target.what}: {target.found}")
    return "\n".join(lines)


def _table_row(row: Row) -> str:
    latency, gap, rounds = row["latency_ms"], row["after_gap_ms"], row["round_p50_ms"]
    agent, first = row.get("agent"), row["first_verdict_s"]
    times, share, energy = row.get("times_vit_l"), row.get("share_of_sgemm"), row["energy_j"]
    cells = [
        row["name"],
        f"{latency['p50']:.1f} ({min(rounds):.1f}-{max(rounds):.1f}) / {latency['p95']:.1f} / {latency['p99']:.1f}",
        f"{gap['p50']:.1f} / {gap['p95']:.1f} / {gap['p99']:.1f}" if gap else "-",
        f"{row['per_second']:.2f}",
        f"{row['cpu_ms']['median']:.1f}",
        f"{times['median']:.1f} ({times['min']:.1f}-{times['max']:.1f})" if times else "-",
        f"{row['gflop']:.1f}" if row["gflop"] else "not known",
        f"{share:.0%}" if share else "-",
        f"{energy['median']:.2f}" if energy else "not measured",
        f"{first['median']:.2f} ({first['min']:.2f}-{first['max']:.2f})",
        f"{row['rss_mb']:.0f}",
    ]
    if agent:
        cells[-2] += f"; agent {agent['first_verdict_s']['median']:.2f}"
        cells[-1] += f"; agent {agent['rss_mb']:.0f}"
    return f"| {' | '.join(cells)} |"
