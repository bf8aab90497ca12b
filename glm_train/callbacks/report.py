"""`report.html`: the curves of a run on one page that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path

from glm_train.callbacks.csv_logger import FIRST_COLUMNS, read_metrics
from glm_train.checkpoint.disk import disk_errors

_WIDTH, _HEIGHT, _MARGIN = 640, 220, 48
_CHARTS = (
    ("Loss", ("train/loss", "val/loss")),
    ("Token accuracy", ("val/token_accuracy",)),
    ("Tokens per second", ("train/tokens_per_second",)),
    ("Learning rate", ("train/lr",)),
    ("Gradient norm", ("train/grad_norm",)),
)
Series = list[tuple[int, float]]
_COLOURS = ("#3566c0", "#d1662c")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 720px; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
svg { width: 100%; height: auto } text { font-size: 11px; fill: #666 } table { border-collapse: collapse }
td { padding: .1rem 1.2rem .1rem 0 } td + td { font-variant-numeric: tabular-nums }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e4e4e4 } text { fill: #9a9a9a } }
"""


def write_report(path: Path, metrics_csv: Path, title: str) -> dict[str, Series]:
    """Write the page from the run's metrics.csv; return its curves, each scalar's (step, value) points."""
    curves = _read(metrics_csv)
    last = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{points[-1][1]:.6g}</td></tr>"
        for name, points in curves.items()
    )
    charts = "".join(
        f"<h2>{heading}</h2>{_chart({n: curves[n] for n in names if n in curves})}"
        for heading, names in _CHARTS
        if any(name in curves for name in names)
    )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{charts}"
        f"<h2>Last values</h2><table>{last}</table></html>\n"
    )
    with disk_errors(path.parent, len(page.encode()), path.name):
        path.write_text(page, encoding="utf-8")
    return curves


def _read(metrics_csv: Path) -> dict[str, Series]:
    """Each scalar's (step, value) points."""
    curves: dict[str, Series] = {}
    for row in read_metrics(metrics_csv)[1]:
        for name, value in row.items():
            if value and name not in FIRST_COLUMNS:
                curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves


def _chart(curves: dict[str, Series]) -> str:
    """An SVG line chart of a few curves on one scale, with the extremes on the axes."""
    points = [point for series in curves.values() for point in series]
    first, last = min(s for s, _ in points), max(s for s, _ in points)
    low, high = min(v for _, v in points), max(v for _, v in points)

    def place(step: int, value: float) -> str:
        x = _MARGIN + (step - first) / max(last - first, 1) * (_WIDTH - _MARGIN - 8)
        y = _HEIGHT - 20 - (value - low) / ((high - low) or 1) * (_HEIGHT - 40)
        return f"{x:.1f},{y:.1f}"

    lines, legend = [], []
    for index, (name, series) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        dots = " ".join(place(step, value) for step, value in series)
        if len(series) == 1:
            x, y = dots.split(",")
            lines.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{dots}"/>')
        legend.append(
            f'<text x="{_MARGIN + 110 * index}" y="12" style="fill:{colour}">{html.escape(name)}</text>'
        )
    axes = (
        f'<text x="0" y="24">{high:.4g}</text><text x="0" y="{_HEIGHT - 18}">{low:.4g}</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 4}">step {first:,}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{last:,}</text>'
    )
    label = html.escape(", ".join(curves))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label} by step">'
        f"{''.join(lines + legend)}{axes}</svg>"
    )
