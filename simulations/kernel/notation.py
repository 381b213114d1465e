"""Scenarios as text: each value prints as the Python that makes it, and is read back from that."""

import ast
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TypeVar

from beiran.errors import SettingsError

Made = TypeVar("Made")


def call_text(value: object) -> str:
    """Return a dataclass on one line, without the fields that have their default: ``Crash(2)``."""
    arguments = []
    for field in fields(value):  # type: ignore[arg-type]
        argument = getattr(value, field.name)
        if field.default is MISSING:
            arguments.append(repr(argument))
        elif argument != field.default:
            arguments.append(f"{field.name}={argument!r}")
    return f"{type(value).__name__}({', '.join(arguments)})"


def scenario_text(scenario: object) -> str:
    """Return a dataclass with a field ``operations``, one line each, these last."""
    parts = []
    for field in fields(scenario):  # type: ignore[arg-type]
        value = getattr(scenario, field.name)
        if field.name != "operations" and (field.default is MISSING or value != field.default):
            parts.append(f"{field.name}={value!r}")
    operations = getattr(scenario, "operations", ())
    if operations:
        lines = "".join(f"\n        {at!r}," for at in operations)
        parts.append(f"operations=({lines}\n    )")
    return f"{type(scenario).__name__}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def read_text(text: str, kind: type[Made], classes: Mapping[str, type]) -> Made:
    """Read the text of a ``kind``, made of ``classes`` (by name) and literals.

    Raises: SettingsError for any other text.
    """
    name = kind.__name__
    try:
        made = _make(ast.parse(text.strip(), mode="eval").body, {**classes, name: kind})
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"not a scenario: {error}") from None
    if not isinstance(made, kind):
        raise SettingsError(f"not a scenario: it must be {name}(…)")
    return made


def _make(node: ast.expr, classes: Mapping[str, type]) -> object:
    """Evaluate literals, tuples and calls of ``classes``; refuse all else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_make(argument, classes) for argument in node.args]
        named = {str(word.arg): _make(word.value, classes) for word in node.keywords}
        if node.func.id not in classes:
            raise ValueError(f"{node.func.id} is no operation")
        made: object = classes[node.func.id](*arguments, **named)
        return made
    if isinstance(node, ast.Tuple):
        return tuple(_make(item, classes) for item in node.elts)
    return ast.literal_eval(node)
