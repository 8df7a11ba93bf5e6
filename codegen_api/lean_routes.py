"""Calls routes that take no body, without what FastAPI does for routes of every kind.

Its solver of dependencies and the contexts around each call cost a third of a small request. These routes need little
of it: what they depend on takes the request, parameters of the path, the query and headers, and other such things.
FastAPI still declares, documents and validates them.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.security.base import SecurityBase
from starlette.requests import Request
from starlette.responses import Response

BEYOND = (
    "cookie_params", "body_params", "websocket_param_name", "http_connection_param_name", "response_param_name",
    "background_tasks_param_name", "security_scopes_param_name", "concurrency",
)  # fmt: skip
"""What a dependency may want, and none of these does."""

TEXTS = (str, str | None)
"""Types of parameters that need no validation: what was sent is a text."""


@dataclass(frozen=True, slots=True)
class LeanCall:
    """A function and what it depends on; ``name`` is the parameter for which somebody else depends on it.

    ``texts`` are parameters that are taken as they are: the place of each, what it is called there, and here.
    ``parameters`` of each place are validated. ``defaults`` are those of the query, if it may be empty. ``bare``:
    it depends on nothing but the request.
    """

    name: str | None
    call: Callable[..., Any]
    dependencies: "list[LeanCall]"
    texts: list[tuple[str, str, str]]
    parameters: list[tuple[str, list[ModelField]]]
    defaults: dict[str, Any] | None
    request_name: str | None
    bare: bool

    @classmethod
    def of(cls, dependant: Dependant) -> "LeanCall | None":
        """None if it needs more than this."""
        call = dependant.call
        if call is None or any(getattr(dependant, name) for name in BEYOND) or not _is_coroutine_function(call):
            return None
        dependencies = []
        for each in dependant.dependencies:
            if isinstance(each.call, SecurityBase) and each.name is None:
                continue  # it is there for the document
            found = cls.of(each)
            if found is None:
                return None
            dependencies.append(found)
        texts, parameters = [], []
        for place, fields in (
            ("path_params", dependant.path_params),
            ("query_params", dependant.query_params),
            ("headers", dependant.header_params),
        ):
            texts += [(place, each.alias, each.name) for each in fields if _is_text(place, each)]
            if validated := [each for each in fields if not _is_text(place, each)]:
                parameters.append((place, validated))
        bare = not (dependencies or texts or parameters)
        defaults, request_name = _defaults(dependant.query_params), dependant.request_param_name
        return cls(dependant.name, call, dependencies, texts, parameters, defaults, request_name, bare)

    async def __call__(self, request: Request) -> Response:
        """Raises ``RequestValidationError`` if a parameter is missing or not valid."""
        errors: list[Any] = []
        values = await self._values(request, errors, {})
        if errors:
            raise RequestValidationError(errors)
        response: Response = await self.call(**values)
        return response

    async def _values(self, request: Request, errors: list[Any], known: dict[object, Any]) -> dict[str, Any]:
        """What to call it with. ``errors`` is added to; ``known`` has what was called already."""
        values: dict[str, Any] = {}
        for each in self.dependencies:
            if each.call in known:
                found = known[each.call]
            elif each.bare and each.request_name is not None:
                found = known[each.call] = await each.call(**{each.request_name: request})
            else:
                met = len(errors)
                wanted = await each._values(request, errors, known)
                if len(errors) > met:
                    continue
                found = known[each.call] = await each.call(**wanted)
            if each.name is not None:
                values[each.name] = found
        for place, alias, name in self.texts:
            values[name] = getattr(request, place).get(alias)
        for place, fields in self.parameters:
            if self.defaults is not None and place == "query_params" and not request.scope["query_string"]:
                values.update(self.defaults)
                continue
            given, wrong = request_params_to_args(fields, getattr(request, place))
            values.update(given)
            errors += wrong
        if self.request_name is not None:
            values[self.request_name] = request
        return values


def _is_text(place: str, field: ModelField) -> bool:
    info = field.field_info
    plain = info.annotation in TEXTS and not info.metadata
    if place == "headers":
        return plain and "_" not in field.alias and not info.is_required() and field.default is None
    return plain and place == "path_params"


def _defaults(fields: Sequence[ModelField]) -> dict[str, Any] | None:
    """What the parameters are when none is sent; None if that is not the same each time, or not allowed."""
    fixed = all(
        not each.field_info.is_required()
        and not each.field_info.validate_default
        and isinstance(each.default, str | int | float | None)
        for each in fields
    )
    return {each.name: each.default for each in fields} if fixed else None


def _is_coroutine_function(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
