"""The forecast as Markdown."""

from __future__ import annotations

from typing import Any

from repro.markdown import table_lines

PARTS = {
    "training": "steps",
    "host": "waiting for the host",
    "evaluation": "evaluations",
    "checkpoints": "checkpoints",
    "run": "runs besides",
    "start": "starts",
}


def cost_table(content: dict[str, Any]) -> str:
    """Stages and models, hours by part, disk, energy, what it was, if it is there, and what was
    assumed.
    """
    calibration = content["calibration"]
    unit = "GPU" if calibration is None or calibration["gpu"] else "core"
    header = ("", "runs", "pairs", "evaluations", "EFLOP", f"{unit}-hours", "clock")
    return "\n".join(
        [
            f"Profile `{content['profile']}` on {content['gpus']} x {content['device']} at"
            f" {content['utilisation']:.0%} of its rate in matrix products at the profile's"
            " precision; clock: all devices at work.",
            "",
            *table_lines(header, _rows(content)),
            "",
            *_parts(content, unit),
            *_peaks(content),
            *_measured(content, unit),
            *_disk_and_energy(content),
            *_assumed(content),
        ]
    )


def _rows(content: dict[str, Any]) -> list[list[str]]:
    rows = []
    for stage in ("pretrain", "clean"):
        rows.append(
            [
                f"**{stage}**",
                f"{content['runs'][stage]}",
                f"{content['samples'][stage]:,}",
                f"{content['evaluations'][stage]:,}",
                f"{content[f'{stage}_eflop']:.3g}",
                f"{content['gpu_hours_by_stage'][stage]:,.3g}",
                clock(content["wall_hours"][stage]),
            ]
        )
        rows += [_model(row) for row in content["models"] if row["stage"] == stage]
    return rows


def _model(row: dict[str, Any]) -> list[str]:
    return [
        row["cell"],
        f"{row['runs']}",
        f"{row['samples']:,}",
        f"{row['evaluations']:,}",
        f"{row['train_eflop'] + row['evaluate_eflop']:.3g}",
        f"{row['gpu_hours']:,.3g}",
        "",
    ]


def _parts(content: dict[str, Any], unit: str) -> list[str]:
    lines = []
    for stage, hours in content["gpu_hours_by_part"].items():
        parts = ", ".join(f"{text} {hours[name]:,.3g}" for name, text in PARTS.items())
        lines.append(f"- {unit}-hours of {stage}: {parts}")
    return lines


def _peaks(content: dict[str, Any]) -> list[str]:
    if content["calibration"] is not None:
        return []
    hours = content["gpu_hours_at_highest_peak"].items()
    shares = ", ".join(f"{value:,.0f} at {float(share):.0%}" for share, value in hours)
    return [f"- GPU-hours at shares of the device's highest peak: {shares}"]


def _measured(content: dict[str, Any], unit: str) -> list[str]:
    return [
        f"- {stage} as it was: {row['hours']:.3g} {unit}-hours;"
        f" forecast for the same runs over measured: {row['ratio']:.2f}"
        for stage, row in content["measured"].items()
    ]


def _disk_and_energy(content: dict[str, Any]) -> list[str]:
    sizes = content["disk_bytes_by_folder"].items()
    folders = ", ".join(f"`{name}` {value / 1e9:.3g}" for name, value in sizes if value)
    return [
        f"- disk: {content['disk_bytes'] / 1e9:,.3g} GB ({folders})",
        f"- energy: {content['kwh']:,.3g} kWh, {content['kg_co2e']:,.3g} kg CO2e",
    ]


def _assumed(content: dict[str, Any]) -> list[str]:
    lines = ["- assumed:"]
    for name, entry in content["assumptions"].items():
        lines.append(f"  - `{name}: {_value(entry['value'])}`: {entry['source']}")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    return f"{value}"


def clock(hours: float) -> str:
    """Hours as days, hours, minutes or seconds."""
    for unit, size in (("d", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.1f} {unit}"
    return f"{hours * 3600:.0f} s"
