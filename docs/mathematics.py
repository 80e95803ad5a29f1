"""Equations without a browser's help: fences of TeX, which GitHub shows too, become SVG when the site is built."""

from __future__ import annotations

import html
import io
import re
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

SIZE, DPI = 14, 96
FONT = FontProperties(size=SIZE, math_fontfamily="stix")


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **_: Any) -> str:
    """A fence of equations, one a line; the signature is that of pymdownx.superfences."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return f'<div class="equations">{"".join(map(svg, lines))}</div>'


def svg(tex: str) -> str:
    """An equation as inline SVG in the colour of the text around it; read aloud, it is its TeX.

    Raises:
        ValueError: matplotlib's mathtext does not know something in it.
    """
    width, height, depth, *_ = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=FONT)
    figure = Figure(figsize=((width + 2) / 72, (height + depth + 2) / 72), dpi=DPI)
    figure.text(1 / (width + 2), (depth + 1) / (height + depth + 2), f"${tex}$", fontproperties=FONT)
    data = io.BytesIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = data.getvalue().decode()
    picture = picture[picture.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(tex)}"', 1)
    picture = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", picture, flags=re.DOTALL)
    # Shapes of letters are shared by name within a page: names of two equations must differ.
    own = f"m{abs(hash(tex)):x}"
    picture = re.sub(r'(id="|href="#|url\(#)', rf"\1{own}-", picture)
    return picture.replace("<svg", '<svg fill="currentColor"', 1)
