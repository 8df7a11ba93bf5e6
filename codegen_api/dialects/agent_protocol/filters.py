"""What is asked of the values of items: conditions on their fields, and words in their texts. Pure functions."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence

from codegen_api.dialects import rejected
from codegen_api.runs import Json


def holds(condition: Json, value: Json) -> bool:
    """Whether ``value`` is as ``condition`` says: equal to it; if that is an object, each of its fields holds for the
    one of the same name; if that has operators, each of them holds.
    """
    if not isinstance(condition, Mapping):
        return same(condition, value)
    if _has_operators(condition):
        return all(OPERATORS[name](value, operand) for name, operand in condition.items())
    return isinstance(value, Mapping) and all(holds(part, value.get(name)) for name, part in condition.items())


def understood(condition: Json, where: tuple[str | int, ...]) -> None:
    """
    Raises:
        Rejected: there is an operator in it that is none.
    """
    if not isinstance(condition, Mapping):
        return
    operators = _has_operators(condition)
    for name, part in condition.items():
        if operators and name not in OPERATORS:
            raise rejected(f"Must be one of {', '.join(OPERATORS)}.", "operator", *where, name)
        if not operators:
            understood(part, (*where, name))


def mentions(value: Json, words: Sequence[str]) -> bool:
    """Whether all ``words`` (case folded) occur in the texts of ``value``."""
    text = "\n".join(_texts(value)).casefold()
    return all(word in text for word in words)


def same(one: Json, other: Json) -> bool:
    """Equal, as JSON has it: true is not 1, but 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(part, other[name]) for name, part in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def begins(pattern: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a namespace begins with these labels, of which ``*`` is any."""
    return len(pattern) <= len(labels) and all(
        wanted in ("*", label) for wanted, label in zip(pattern, labels, strict=False)
    )


def _ordered(compare: Callable[[float | str, float | str], bool]) -> Callable[[Json, Json], bool]:
    """An operator for numbers among each other, and texts among each other; for all else it does not hold."""

    def holds_for(value: Json, operand: Json) -> bool:
        if isinstance(value, bool) or isinstance(operand, bool):
            return False
        if isinstance(value, str) and isinstance(operand, str):
            return compare(value, operand)
        return isinstance(value, int | float) and isinstance(operand, int | float) and compare(value, operand)

    return holds_for


OPERATORS: Mapping[str, Callable[[Json, Json], bool]] = {
    "$eq": same,
    "$ne": lambda value, operand: not same(value, operand),
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
}


def _has_operators(condition: Mapping[str, Json]) -> bool:
    return any(name.startswith("$") for name in condition)


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)
