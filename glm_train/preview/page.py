"""The preview as one HTML page that needs nothing else."""

from __future__ import annotations

import html

from glm_train.preview.report import CONTEXT, STOP, TRAINED, Preview
from glm_train.preview.terminal import report_lines

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8; padding: .8rem; border-radius: 6px }
.context { color: #777 } .trained { background: #cdeccf } .stop { background: #e3c8f4; font-weight: 600 }
.fault { color: #b00020 }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e4e4e4 } pre { background: #202329 } .context { color: #9a9a9a }
  .trained { background: #1d4a26 } .stop { background: #4d2a66 } .fault { color: #ff8a80 } }
"""


def page(preview: Preview, limit: int, *, title: str) -> str:
    """`limit` examples of each split, the broken rules, and the report."""
    legend = "".join(f"<span class={kind}>{kind}</span> " for kind in (CONTEXT, TRAINED, STOP))
    examples = "".join(
        f"<h3>{example.split} {example.index}: {html.escape(example.file)}:{example.line}</h3><pre>"
        + "".join(f"<span class={kind}>{html.escape(text)}</span>" for kind, text in preview.parts(example))
        + "</pre>"
        for example in preview.examples(limit)
    )
    report = report_lines(preview.report)
    return document(title, preview.report.faults, report, f"<p>{legend}</p>{examples}")


def document(title: str, faults: list[str], report: list[str], examples: str) -> str:
    """The whole page; `examples` are HTML, the other parts text."""
    shown, text = html.escape(title), html.escape("\n".join(report))
    broken = "".join(f"<p class=fault>{html.escape(fault)}</p>" for fault in faults)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{shown}</title><style>{_STYLE}</style>"
        f"<h1>What {shown} would train</h1>{broken}<pre>{text}</pre>{examples}</html>\n"
    )
