"""Figures: what was measured, in which unit, how often, and beside what."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what, for example ``issuance.batch``.
        unit: for example ``certificates/s``.
        runs: how many runs median, minimum and maximum are of.
        peer: what it stands beside, measured in the same session, by name; None for nothing.
    """

    name: str
    unit: str
    median: float
    minimum: float
    maximum: float
    runs: int
    peer: dict[str, float] | None = None


def figure(
    name: str, unit: str, values: Sequence[float], *, peer: dict[str, float] | None = None
) -> Figure:
    """Sum up the values of several runs."""
    return Figure(
        name=name,
        unit=unit,
        median=statistics.median(values),
        minimum=min(values),
        maximum=max(values),
        runs=len(values),
        peer=peer,
    )


def to_document(figures: Sequence[Figure]) -> dict[str, Any]:
    """Render figures for JSON, with the machine that they are of."""
    return {
        "machine": {
            "processor": _processor(),
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
        },
        "figures": [asdict(item) for item in figures],
    }


def write_json(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures to a file."""
    path.write_text(json.dumps(to_document(figures), indent=2) + "\n")


def to_text(figures: Sequence[Figure]) -> str:
    """Render figures as lines for people."""
    lines = []
    for item in figures:
        peers = "".join(f"   {name} {_number(value)}" for name, value in (item.peer or {}).items())
        lines.append(
            f"{item.name:<32} {_number(item.minimum)} / {_number(item.median)} / "
            f"{_number(item.maximum)} {item.unit} (n={item.runs}){peers}"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
