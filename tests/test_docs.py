"""The site builds without a warning or the network, tells every public name, and quotes what is really said."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyeqgan import functional

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytest.importorskip("mkdocs")
pytest.importorskip("material")


@pytest.fixture(scope="module")
def api():
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("api")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_nothing_is_fetched_to_read_it(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="?(\S+?)["\s>]', html)
        loaded += re.findall(r"<link[^>]*>", html)
        assert not [address for address in loaded if "//" in address.replace("://www.sitemaps.org", "")], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import\s+url|url\(['\"]?https?:", sheet.read_text(encoding="utf-8")), sheet


def test_equations_are_pictures_that_can_be_read_aloud(site):
    html = (site / "operations" / "bilateral_propagation.html").read_text(encoding="utf-8")
    assert html.count('<svg fill="currentColor" role="img" aria-label="') == 5
    assert "```" not in html


@pytest.mark.parametrize("name", functional.__all__)
def test_every_operation_has_a_page_with_a_figure(site, name):
    text = (DOCS / "operations" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# `{name}`\n") and f"]({name}.png)" in text and "**Source.**" in text
    assert (site / "operations" / f"{name}.html").exists()


def test_figures_are_drawn_by_the_operations():
    source = (DOCS / "figures.py").read_text(encoding="utf-8")
    assert set(re.findall(r"^@draws\(F\.(\w+)\)", source, re.MULTILINE)) == set(functional.__all__)


def test_every_public_name_is_in_the_reference_and_has_a_docstring(api, site):
    assert {"functional", "nn", "backends", "models", "data", "training", "evaluation", "export"} <= set(api.modules())
    for module in api.modules():
        html = (site / "api" / f"{module}.html").read_text(encoding="utf-8")
        for name, value in api.public(importlib.import_module(f"pyeqgan.{module}")).items():
            assert f"<code>{name}</code>" in html
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            assert inspect.getdoc(value), f"{module}.{name}"
            if inspect.isclass(value):
                for method, function in api.members(value).items():
                    assert inspect.getdoc(function), f"{module}.{name}.{method}"
                    assert f"<code>{name}.{method}</code>" in html


def templates():
    """Every string of the package, with … where an f-string has a value."""
    for path in (ROOT / "pyeqgan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_to_look_up_are_those_that_are_said():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^#### `(.*)`$", text, re.MULTILINE)
    said = set(templates())
    assert len(quoted) > 30
    assert [message for message in quoted if not any(message in template for template in said)] == [
        "CUDA out of memory"
    ]
