"""The source of this package's hooks as one text, for code that runs without this package.

Definitions are taken from their files, with everything of this package that they use, in the order that Python needs.
So `Plan.to_code` prints the very code that `Plan.apply` runs.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OWN = "profiler."
_FOR_CHECKERS = re.compile(r"  # (type: ignore|noqa).*$")


class _Imported(NamedTuple):
    """A name that a file imports; `name` is "" for a whole module."""

    module: str
    name: str
    written: str  # as in the import: `functional as F`


class _File:
    """The definitions and imports of one file."""

    def __init__(self, module: str) -> None:
        self.name = module
        source = inspect.getsource(import_module(module))
        self._lines = source.splitlines()
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, _Imported] = {}
        for node in ast.parse(source).body:
            self._take_in(node)

    def _take_in(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.definitions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            self.definitions[node.targets[0].id] = node
        elif isinstance(node, ast.Import):
            for one in node.names:
                bound = one.asname or one.name.partition(".")[0]
                self.imports[bound] = _Imported(one.name, "", ast.unparse(one))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                self.imports[one.asname or one.name] = _Imported(
                    node.module, one.name, ast.unparse(one)
                )

    def text(self, name: str) -> str:
        """Return the lines of a definition, with its decorators and the comments in it."""
        node = self.definitions[name]
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        lines = self._lines[first - 1 : node.end_lineno]
        return "\n".join(_FOR_CHECKERS.sub("", line) for line in lines)

    def module_of(self, name: str) -> str:
        """Return the module of this package that a name refers to; "" if it refers to something else."""
        found = self.imports.get(name)
        if found is None or not f"{found.module}.".startswith(_OWN):
            return ""
        whole = f"{found.module}.{found.name}"
        return whole if _is_module(whole) else ""


@cache
def _file(module: str) -> _File:
    return _File(module)


@cache
def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def source_of(things: Iterable[type]) -> str:
    """Return the source of classes and functions of this package, with imports from other packages at the top."""
    collected = _Collected()
    for thing in things:
        collected.take(thing.__module__, thing.__name__)
    return collected.text()


class _Collected:
    """The definitions taken so far, each after those that it needs."""

    def __init__(self) -> None:
        self._imports: set[_Imported] = set()
        self._texts: dict[tuple[str, str], str] = {}
        self._begun: set[tuple[str, str]] = set()

    def take(self, module: str, name: str) -> None:
        """Take one definition, and before it everything that it uses."""
        file = _file(module)
        if (module, name) in self._begun:
            return
        self._begun.add((module, name))
        text, node = file.text(name), file.definitions[name]
        for alias, attribute in _attributes(node):
            whole = file.module_of(alias)
            if whole:
                self.take(whole, attribute)
                text = re.sub(rf"\b{alias}\.{attribute}\b", attribute, text)
        for used in _names(node):
            self._take_used(file, used)
        self._texts[module, name] = text

    def _take_used(self, file: _File, used: str) -> None:
        if used in file.definitions:
            self.take(file.name, used)
            return
        found = file.imports.get(used)
        if found is None or file.module_of(used):
            return
        if found.module.startswith(_OWN):
            self.take(found.module, found.name)
        else:
            self._imports.add(found)

    def text(self) -> str:
        """Return all definitions, after their imports."""
        names = [name for _, name in self._texts]
        several = {
            name for name in names if len({self._texts[k] for k in self._texts if k[1] == name}) > 1
        }
        assert not several, f"{several} are defined in two ways"
        once = {name: text for (_, name), text in self._texts.items()}
        return "\n\n\n".join(["\n".join(self._import_lines()), *once.values()]) + "\n"

    def _import_lines(self) -> Iterator[str]:
        """Yield the import lines, in the order of the modules' names."""
        for module in sorted({one.module for one in self._imports}):
            of_it = [one for one in self._imports if one.module == module]
            names = sorted(one.written for one in of_it if one.name)
            yield from (f"import {one.written}" for one in of_it if not one.name)
            yield from [f"from {module} import {', '.join(names)}"] if names else []


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition uses when it runs, without those in annotations."""
    for child in _running(node):
        if isinstance(child, ast.Name):
            yield child.id


def _attributes(node: ast.AST) -> Iterator[tuple[str, str]]:
    for child in _running(node):
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            yield child.value.id, child.attr


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a definition without its annotations."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _running(child)
