"""Scenarios as text: each value prints as the Python that makes it, and is read back from that."""

import ast
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TypeVar

from beiran.errors import SettingsError

Made = TypeVar("Made")


def call_text(value: object) -> str:
    """A dataclass on one line, without what has its default: ``Crash(2)``."""
    named = []
    for field in fields(value):  # type: ignore[arg-type]
        part = getattr(value, field.name)
        if field.default is MISSING:
            named.append(repr(part))
        elif part != field.default:
            named.append(f"{field.name}={part!r}")
    return f"{type(value).__name__}({', '.join(named)})"


def scenario_text(scenario: object) -> str:
    """A dataclass with a field ``operations``, a line each, these last."""
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


def read(text: str, kind: type[Made], names: Mapping[str, type]) -> Made:
    """Read what was printed so: a ``kind``, made of the classes ``names`` and literals.

    Raises: SettingsError for anything else.
    """
    what = kind.__name__
    try:
        made = _make(ast.parse(text.strip(), mode="eval").body, {**names, what: kind})
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"not a scenario: {error}") from None
    if not isinstance(made, kind):
        raise SettingsError(f"not a scenario: it must be {what}(…)")
    return made


def _make(node: ast.expr, names: Mapping[str, type]) -> object:
    """Literals, tuples and calls of known classes; nothing else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_make(argument, names) for argument in node.args]
        named = {str(word.arg): _make(word.value, names) for word in node.keywords}
        if node.func.id not in names:
            raise ValueError(f"{node.func.id} is no operation")
        made: object = names[node.func.id](*arguments, **named)
        return made
    if isinstance(node, ast.Tuple):
        return tuple(_make(item, names) for item in node.elts)
    return ast.literal_eval(node)
