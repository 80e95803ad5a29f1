"""The samples of a run through time: a slider over its grids."""

from __future__ import annotations

from html import escape
from pathlib import Path

from PIL import Image

from pyeqgan.errors import UserError
from pyeqgan.pages import image
from pyeqgan.report.pictures import enlarged
from pyeqgan.training.pictures import png

MOST = 10

SCRIPT = """
const slider = document.getElementById("step"), grids = document.querySelectorAll("figure.step");
const show = () => grids.forEach((grid, index) => { grid.hidden = index != slider.value; });
slider.addEventListener("input", show); slider.hidden = false; show();
"""


def through_time(samples: Path) -> str:
    """A section with up to ten of the grids in a folder, first and last among them; all where no script runs."""
    files = sorted(samples.glob("step_*.png"))
    if not files:
        return "<h2>Samples through time</h2>\n<p>There is no picture yet.</p>"
    last = len(files) - 1
    shown = [files[round(i * last / max(min(MOST, len(files)) - 1, 1))] for i in range(min(MOST, len(files)))]
    grids = "\n".join(
        f'<figure class="step">{image(_read(path), "references and samples")}'
        f"<figcaption>{escape(_caption(path))}</figcaption></figure>"
        for path in shown
    )
    slider = (
        f'<input type="range" id="step" min="0" max="{len(shown) - 1}" value="{len(shown) - 1}" hidden '
        'aria-label="step of the training">'
    )
    return f"<h2>Samples through time</h2>\n{slider}\n{grids}\n<script>{SCRIPT}</script>"


def _caption(path: Path) -> str:
    step = int(path.stem.removeprefix("step_"))
    return f"step {step}: each row the references of one class, unseen if there is such a class | images made of them"


def _read(path: Path) -> bytes:
    try:
        with Image.open(path) as picture:
            return png(enlarged(picture))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
