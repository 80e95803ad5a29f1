"""What mkdocs does not do by itself: pages that are made from the repository's own files, and the links between them.

Every file keeps the links that GitHub shows; on the site they lead to the page that is made of the file.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import posixpath
import re
import textwrap
from pathlib import Path
from typing import Any

import api
import mathematics
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pyeqgan.cli import COMMANDS

ROOT = Path(__file__).parent.parent

FILES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give fences of equations their form, and a place in the navigation to the pages that are made."""
    fences = {"name": "math", "class": "math", "format": mathematics.fence}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fences]
    records = [{t.split("/")[1]: t} for t in outside().values() if t.startswith("records/") and t.endswith(".md")]
    made = {"Records": records, "Reference": [f"api/{module}.md" for module in api.modules()]}
    config.nav = [{title: made.get(title, pages) for title, pages in entry.items()} for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files elsewhere, from docstrings and from examples."""
    for source, target in outside().items():
        path = ROOT / source
        if target.endswith(".md"):
            files.append(File.generated(config, target, content=_markdown(path)))
        else:
            files.append(File.generated(config, target, abs_src_path=str(path)))
    for module in api.modules():
        files.append(File.generated(config, f"api/{module}.md", content=api.page(module)))
    files.append(File.generated(config, "examples.md", content=examples()))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between the repository's files into links between pages."""
    targets = {f"docs/{file.src_uri}": file.src_uri for file in files} | outside()
    sources = {target: source for source, target in targets.items()}
    here = sources.get(page.file.src_uri)
    if here is None:
        return markdown

    def rewrite(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups()
        target = targets.get(posixpath.normpath(posixpath.join(posixpath.dirname(here), link)))
        if target is None:
            return match[0]
        return before + posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") + (anchor or "") + after

    return LINK.sub(rewrite, markdown)


def outside() -> dict[str, str]:
    """Files that are not in docs/, by their path in the repository, and where the site has them."""
    found = dict(FILES)
    for report in sorted(ROOT.glob("benchmarks/results/*/README.md")):
        folder = report.parent.relative_to(ROOT).as_posix()
        target = f"records/{report.parent.name}"
        found[f"{folder}/README.md"] = f"{target}/index.md"
        for file in (*report.parent.glob("*.svg"), *report.parent.glob("*.json")):
            found[f"{folder}/{file.name}"] = f"{target}/{file.name}"
    return found


def examples() -> str:
    """Every example under what it says of itself."""
    parts = ["# In your own code", "Each runs as it stands, and in the test suite."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        told = ast.get_docstring(ast.parse(source)) or path.stem
        title = told.partition("\n")[0].partition(":")[0].rstrip(".")
        parts += [f"## {title}", f'```python title="examples/{path.name}"\n{source}```']
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """The help of every subcommand, which `--help` shows with its options."""
    parts = ["# Commands", "`pyeqgan COMMAND --help` tells this and every option."]
    for name, command in COMMANDS.items():
        title, _, rest = command.help.partition("\n")
        parts += [f"## `pyeqgan {name}`", title, f"```text\n{rest.strip()}\n```" if rest.strip() else ""]
        parts.append(_options(command.options))
    return "\n\n".join(part for part in parts if part) + "\n"


def _options(options: Any) -> str:
    """A table of a command's options; their help is the string below each field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(options)))
    (definition,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    told: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            told[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    rows = []
    for field in dataclasses.fields(options):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default}`"
        rows.append(f"| `--{field.name.replace('_', '-')}` | {default} | {told.get(field.name, '')} |")
    return "\n".join(["| option | default | |", "|---|---|---|", *rows]) if rows else ""


def _markdown(path: Path) -> str:
    content = path.read_text(encoding="utf-8")
    return content if path.suffix == ".md" else f"# {path.name.capitalize()}\n\n```text\n{content}\n```\n"
