"""The base of all operations: changes of a world at one moment, as values that print as Python.

    At(3.0, Crash(2))

An operation that makes no sense when its time comes (killing a process that does not run) does
nothing, so a list of operations stays valid when any of them is left out. The operations themselves
are in ``simulations.gossip.operations`` and ``simulations.swarm.operations``.
"""

import ast
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import ModuleType
from typing import ClassVar, Generic, TypeVar

from beiran.errors import SettingsError

WorldIn = TypeVar("WorldIn", contravariant=True)
Made = TypeVar("Made")


class Operation(Generic[WorldIn]):
    """Something that is done to a world (or to what a workload plays on) at one moment.

    Attributes:
      disturbs: whether hosts, or the network between them, are worse off afterwards. What follows
        is not the fault of the members for a while.
    """

    disturbs: ClassVar[bool] = True

    def apply(self, world: WorldIn, /) -> None:
        """Do it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return call_text(self)


AnyOperation = TypeVar("AnyOperation", covariant=True)


@dataclass(frozen=True, slots=True)
class At(Generic[AnyOperation]):
    """An operation and its time, in seconds after the start."""

    at_s: float
    do: AnyOperation

    def __repr__(self) -> str:
        return f"At({self.at_s!r}, {self.do!r})"


def operations_in(module: ModuleType) -> dict[str, type]:
    """Return the operations of a module and ``At``, by name, to read scenarios with."""
    return {
        name: made
        for name, made in vars(module).items()
        if isinstance(made, type) and (issubclass(made, Operation) or made is At)
    }


# --- scenarios as text --------------------------------------------------------------------------


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
