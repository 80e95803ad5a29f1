"""The model card: what a published model is, what it was trained on, how good it is and how it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

USAGE = """```python
import torch
from pyeqgan.models import {architecture}

model = {architecture}.from_pretrained("FOLDER")  # or "owner/name" on the Hugging Face Hub
{call}
```"""


@dataclass(frozen=True)
class _About:
    """What the card says of a model, with its configuration: the summary is filled with it, the example made of it."""

    tags: tuple[str, ...]
    summary: str
    call: Callable[[Mapping[str, Any]], str]


def _fuse(config: Mapping[str, Any]) -> str:
    size = f"{config['image_size']}, {config['image_size']}"
    return (
        f"references = torch.zeros({config['shots']}, 3, {size})  # yours, in [-1, 1]: any number, of one class\n"
        f"images = model.generate(references, count=16, seed=0)  # (16, 3, {size}) in [-1, 1]"
    )


def _paint(config: Mapping[str, Any]) -> str:
    size = f"{config['image_height']}, {config['image_width']}"
    lines = [
        f"labels = torch.zeros(1, {size}, dtype=torch.int64)  "
        f"# yours, any number: 0 to {config['num_classes'] - 1}, -1: no class"
    ]
    if config["instance_edges"]:
        lines.append(f"borders = torch.zeros(1, 1, {size})  # yours: 1 at borders between instances")
    arguments = "labels, borders" if config["instance_edges"] else "labels"
    lines.append(f"images = model.generate({arguments}).final  # (1, 3, {size}) in [-1, 1]")
    return "\n".join(lines)


ABOUT = {
    "EqGAN": _About(
        ("image-generation", "few-shot", "gan", "eqgan"),
        "Few-shot image generation by feature equalization fusion (EqGAN, arXiv 2307.14638): new images of a class\n"
        "from {shots} of its images, {image_size}² pixels.",
        _fuse,
    ),
    "ECGAN": _About(
        ("image-generation", "semantic-image-synthesis", "gan", "ecgan"),
        "Semantic image synthesis guided by edges, with contrastive learning (ECGAN, arXiv 2307.12084): an image of\n"
        "{image_height}×{image_width} pixels from a layout of {num_classes} classes.",
        _paint,
    ),
}


def model_card(
    architecture: str,
    config: Mapping[str, Any],
    *,
    usage: str | None = None,
    run: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """A card in the form of the Hugging Face Hub: metadata as YAML, then Markdown.

    Args:
        architecture: name of the model's class.
        config: its fields.
        usage: Markdown; by default how the architecture is loaded from a folder.
        run: "step" and what its checkpoints tell about the training run; None: not known.
        evaluation: "note" and "scores" of an evaluation's ``metrics.json``; None: there was none.
        license: the hub's name of one, such as "apache-2.0". Nobody but the owner can choose it: without one the card
            says that none is stated.
    """
    about = next(about for name, about in ABOUT.items() if architecture.startswith(name))
    metadata = ["library_name: pyeqgan", "pipeline_tag: image-to-image", f"tags: [{', '.join(about.tags)}]"]
    if license:
        metadata.append(f"license: {json.dumps(license)}")
    sections = [
        "\n".join(["---", *metadata, "---"]),
        f"# {architecture}\n\n" + about.summary.format_map(config),
        "## Use\n\n" + (usage or USAGE.format(architecture=architecture, call=about.call(config))),
        "## Architecture\n\n" + _table("field", config),
        "## Training\n\n" + (_training(run) if run else "Not known."),
        "## Evaluation\n\n" + (_evaluation(evaluation) if evaluation else "None."),
        "## License\n\n" + (license or "Not stated: the weights' owner has not chosen one."),
    ]
    return "\n\n".join(sections) + "\n"


def _training(run: Mapping[str, Any]) -> str:
    names = ", ".join(map(_code, run["classes"]))
    # Where somebody keeps the data is nobody else's business.
    places = {name: PurePath(place).name for name in ("data", "weights") if (place := run["options"].get(name))}
    options = {**run["options"], **places}
    if "coding" in run:
        told = (
            f"{run['step']} steps on {run['images'][0]} layouts of {len(run['classes'])} classes, in the order of "
            f"their labels from 0: {names}. In the files of these layouts {run['coding']['first']} is the first class, "
            f"and {run['coding']['ignored']} is none."
        )
    else:
        told = f"{run['step']} steps on {len(run['classes'])} classes: {names}. All other classes are unseen."
    return told + "\n\n" + _table("option", options)


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    """A row for each generator and a column for each metric, with its 95 % interval."""
    scores = evaluation["scores"]
    metrics = list(dict.fromkeys(m for of in scores.values() for m, estimate in of["estimates"].items() if estimate))
    rows = [
        [generator, *(_estimate(of["estimates"].get(metric)) for metric in metrics)] for generator, of in scores.items()
    ]
    lines = [["", *metrics], ["---"] * (1 + len(metrics)), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{evaluation['note']}\n\n{table}"


def _estimate(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["interval"] is None:
        return f"{estimate['value']:.4g}"
    low, high = estimate["interval"]
    return f"{estimate['value']:.4g} ({low:.4g} to {high:.4g})"


def _table(title: str, fields: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_code(value)} |" for name, value in fields.items()]
    return "\n".join([f"| {title} | value |", "|---|---|", *rows])


def _code(value: Any) -> str:
    """As code, in which a bar does not end the cell of a table and nothing is Markdown."""
    text = str(value).replace("`", "'").replace("|", "\\|")
    return f"`{' '.join(text.split())}`"
