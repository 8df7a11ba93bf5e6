"""What a published document promises, held against what is served and what docs/clients.md says of the rest."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from tests.dialects.routes import methods, routes
from tests.dialects.site import gateway_app


@dataclass(frozen=True)
class Operation:
    """``query`` and ``body`` are the names of what clients may send, ``answer`` of what they cannot do without."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations(text: str) -> list[Operation]:
    """Lines of ``METHODS path``, or of ``METHOD path | query | body | answer`` with names between spaces."""

    def each() -> Iterator[Operation]:
        for line in filter(None, map(str.strip, text.splitlines())):
            operation, *names = line.split("|")
            methods, path = operation.split()
            for method in methods.split(","):
                yield Operation(method, path, *(tuple(some.split()) for some in names))

    return list(each())


def bare(path: str) -> str:
    """A path, whatever the things in braces are called."""
    return re.sub("{[^}]*}", "{}", path)


def served(dialect: str) -> dict[tuple[str, str], APIRoute]:
    found = routes(gateway_app(dialects=(dialect,)))
    return {(method, bare(route.path)): route for route in found for method in methods(route)}


def declared(route: APIRoute) -> tuple[set[str], set[str]]:
    """The names that a route knows in a query and at the top of a body."""
    all_of_it = list(_dependants(route.dependant))
    return (
        _names([field for each in all_of_it for field in each.query_params]),
        _names([field for each in all_of_it for field in each.body_params]),
    )


def _dependants(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for each in dependant.dependencies:
        yield from _dependants(each)


def _names(fields: Any) -> set[str]:
    found = set()
    for field in fields:
        annotation = field.field_info.annotation
        for kind in (annotation, *get_args(annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= {inner.alias or name for name, inner in kind.model_fields.items()}
                break
        else:
            found.add(field.alias)
    return found
