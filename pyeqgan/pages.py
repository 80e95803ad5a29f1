"""HTML pages with everything in them: they can be sent to someone as they are."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from pyeqgan.errors import UserError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; } table.wide { width: 100%; }
th, td { padding: .4em .8em; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #222; } tbody td, tbody th { border-bottom: 1px solid #ddd; }
tbody th { font-weight: normal; } .generator th { font-weight: bold; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } small { color: #666; }
.generator { background: #fbf1f5; } .verdict { font-size: 1.1em; border-left: 4px solid #b5446e; padding-left: 1em; }
input[type=range] { width: min(100%, 40em); accent-color: #b5446e; } figure { margin: 0; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: 1em; overflow-wrap: anywhere; }
nav a { margin-right: 1.2em; color: #b5446e; } .scroll { overflow-x: auto; }
"""


def document(title: str, body: str) -> str:
    """A page that fetches nothing."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>
<style>{STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def image(png: bytes, text: str) -> str:
    """A picture, and what is in it for those who cannot see it."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def figure(caption: str, png: bytes) -> str:
    """A picture under a heading."""
    return f"<h2>{escape(caption)}</h2>\n{image(png, caption)}\n"


def read_picture(path: Path) -> bytes:
    """A file's bytes; UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in rows, the first cell of each its heading; the others are numbers."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr><th>{escape(first)}</th>"
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in others)
        # A line an entry keeps the page's source readable.
        + "</tr>\n"
        for first, *others in rows
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>{lines}</tbody></table></div>\n'


def settings(values: Mapping[str, object]) -> str:
    """Names and values, one a row."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>\n" for name, value in values.items())
    return f"<table><tbody>{rows}</tbody></table>\n"
