"""The reference of the public interface, as Markdown, from docstrings and signatures alone."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parent.parent / "pyeqgan"
INSIDE = {"options", "models.eqgan", "models.ecgan"}  # of the command line; of models, which exports all of theirs

SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Shape", "Yields")
WIDTH = 100


def modules() -> list[str]:
    """The modules that say what they export, and backends, which exports all; those of the kernels first."""
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("*/*/__init__.py")]
    exporting = [file for file in files if "\n__all__ =" in file.read_text(encoding="utf-8")]
    places = [file.parent if file.stem == "__init__" else file.with_suffix("") for file in exporting]
    names = {".".join(place.relative_to(PACKAGE).parts) for place in places} - INSIDE
    first = ["functional", "nn", "backends"]
    return [*first, *sorted(names - set(first))]


def public(module: ModuleType) -> dict[str, Any]:
    """What a module exports: the names of its `__all__`; without one, its own that do not begin with an underscore."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return {name: getattr(module, name) for name in names}


def members(of: type) -> dict[str, Any]:
    """The public methods and properties that a class defines itself."""
    kinds = (classmethod, staticmethod, property)
    return {
        name: value
        for name, value in vars(of).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    }


def page(name: str) -> str:
    """The page of a module."""
    module = importlib.import_module(f"pyeqgan.{name}")
    entries = [entry(name, key, value) for key, value in sorted(public(module).items(), key=lambda i: i[0].lower())]
    return "\n\n".join([f"# `pyeqgan.{name}`", text(module), *entries]) + "\n"


def entry(module: str, name: str, value: Any) -> str:
    """A function, a class with its methods, or the name of a type."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"## `{name}`\n\n```python\n{name} = {re.sub(r'[a-zA-Z_.]+[.]', '', str(value))}\n```"
    parts = [f"## `{name}`", signature(f"pyeqgan.{module}.{name}", value), text(value)]
    if inspect.isclass(value):
        for method, function in members(value).items():
            parts.append(f"### `{name}.{method}`")
            if not isinstance(function, property):
                parts.append(signature(method, getattr(value, method)))
            parts.append(text(function))
    return "\n\n".join(part for part in parts if part)


def signature(name: str, value: Any) -> str:
    """The call, on one line if it fits."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"```python\n{name}\n```"
    call = inspect.signature(value)
    silent = inspect.isclass(value) or call.return_annotation is call.empty
    returned = "" if silent else f" -> {call.return_annotation}"
    arguments = list(_arguments(call))
    line = f"{name}({', '.join(arguments)}){returned}"
    if len(line) > WIDTH:
        line = f"{name}(\n    {f',{chr(10)}    '.join(arguments)},\n){returned}"
    return f"```python\n{line}\n```"


def _arguments(call: inspect.Signature) -> Iterator[str]:
    """Each as it is written: annotations are strings, which `str` would quote."""
    star = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in call.parameters.values())
    for parameter in call.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            yield "*"
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        yield f"{prefix}{parameter.name}{annotation}{default}"


def text(value: Any) -> str:
    """A docstring as Markdown; a definition list for each section of arguments and errors."""
    docstring = inspect.getdoc(value) or ""
    return "\n".join(_sections(_inline(docstring).splitlines()))


def _inline(docstring: str) -> str:
    """Roles of Sphinx become the names they point at; a `<` is no tag."""
    docstring = re.sub(r":\w+:`~([\w.]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", docstring)
    docstring = re.sub(r":\w+:`([^`]+)`", r"`\1`", docstring)
    return re.sub(r"``([^`]+)``", r"`\1`", docstring).replace("<", "&lt;")


def _sections(lines: list[str]) -> Iterator[str]:
    """Headings in bold; entries such as `name: what it is`, indented once, as items of a list."""
    section = ""
    for line in lines:
        heading = re.fullmatch(r"(\w+):(.*)", line)
        if heading and heading[1] in (*SECTIONS, "Source"):
            section = heading[1]
            yield f"\n**{section}:**{heading[2]}" if heading[2] else f"\n**{section}:**\n"
        elif section and not line.strip():
            section = "" if section != "Source" else section
            yield line
        elif section in ("Args", "Attributes", "Raises") and (item := re.fullmatch(r" {4}(\S[^:]*): (.*)", line)):
            names = ", ".join(f"`{name.strip()}`" for name in item[1].split(","))
            yield f"- {names}: {item[2]}"
        elif section in ("Args", "Attributes", "Raises"):
            yield f"    {line.strip()}"
        elif section:
            yield line.strip()
        else:
            yield line
