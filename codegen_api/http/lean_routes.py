"""Calls routes without a body directly, without FastAPI's general solver of dependencies.

The solver and the contexts around each call cost a third of a small request. These routes need little of it: their
dependencies take only the request, parameters of the path, the query and headers, and other such dependencies. FastAPI
still declares, documents and validates them.
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

UNSUPPORTED = (
    "cookie_params", "body_params", "websocket_param_name", "http_connection_param_name", "response_param_name",
    "background_tasks_param_name", "security_scopes_param_name", "concurrency",
)  # fmt: skip
"""Attributes of a ``Dependant`` that must all be empty: what lean routes cannot provide."""

TEXTS = (str, str | None)
"""Types of parameters that need no validation, since a client can only send text."""


@dataclass(frozen=True, slots=True)
class LeanCall:
    """A route or a dependency, with its own dependencies. ``name`` is the parameter that receives its result.

    ``texts`` are parameters that need no validation: the place of each, its name there, and its name as an argument.
    ``parameters`` of each place are validated. ``defaults`` are the arguments for an empty query, if they are constant.
    ``request_only``: it takes nothing but the request.
    """

    name: str | None
    call: Callable[..., Any]
    dependencies: "list[LeanCall]"
    texts: list[tuple[str, str, str]]
    parameters: list[tuple[str, list[ModelField]]]
    defaults: dict[str, Any] | None
    request_name: str | None
    request_only: bool

    @classmethod
    def of(cls, dependant: Dependant) -> "LeanCall | None":
        """The call for FastAPI's ``dependant``; None if that needs more than a lean call supports."""
        call = dependant.call
        if call is None or any(getattr(dependant, name) for name in UNSUPPORTED) or not _is_coroutine_function(call):
            return None
        dependencies = []
        for each in dependant.dependencies:
            if isinstance(each.call, SecurityBase) and each.name is None:
                continue  # it only serves the OpenAPI document
            dependency = cls.of(each)
            if dependency is None:
                return None
            dependencies.append(dependency)
        texts, parameters = [], []
        for place, fields in (
            ("path_params", dependant.path_params),
            ("query_params", dependant.query_params),
            ("headers", dependant.header_params),
        ):
            texts += [(place, each.alias, each.name) for each in fields if _is_text(place, each)]
            if validated := [each for each in fields if not _is_text(place, each)]:
                parameters.append((place, validated))
        request_only = not (dependencies or texts or parameters)
        defaults, request_name = _defaults(dependant.query_params), dependant.request_param_name
        return cls(dependant.name, call, dependencies, texts, parameters, defaults, request_name, request_only)

    async def __call__(self, request: Request) -> Response:
        """Raises ``RequestValidationError`` if a parameter is missing or not valid."""
        errors: list[Any] = []
        arguments = await self._arguments(request, errors, {})
        if errors:
            raise RequestValidationError(errors)
        response: Response = await self.call(**arguments)
        return response

    async def _arguments(self, request: Request, errors: list[Any], results: dict[object, Any]) -> dict[str, Any]:
        """The arguments for ``call``. Adds faults to ``errors``; ``results`` caches those of dependencies."""
        arguments: dict[str, Any] = {}
        for each in self.dependencies:
            if each.call in results:
                result = results[each.call]
            elif each.request_only and each.request_name is not None:
                result = results[each.call] = await each.call(**{each.request_name: request})
            else:
                errors_before = len(errors)
                needed = await each._arguments(request, errors, results)
                if len(errors) > errors_before:
                    continue
                result = results[each.call] = await each.call(**needed)
            if each.name is not None:
                arguments[each.name] = result
        for place, alias, name in self.texts:
            arguments[name] = getattr(request, place).get(alias)
        for place, fields in self.parameters:
            if self.defaults is not None and place == "query_params" and not request.scope["query_string"]:
                arguments.update(self.defaults)
                continue
            validated, faults = request_params_to_args(fields, getattr(request, place))
            arguments.update(validated)
            errors += faults
        if self.request_name is not None:
            arguments[self.request_name] = request
        return arguments


def _is_text(place: str, field: ModelField) -> bool:
    info = field.field_info
    plain = info.annotation in TEXTS and not info.metadata
    if place == "headers":
        return plain and "_" not in field.alias and not info.is_required() and field.default is None
    return plain and place == "path_params"


def _defaults(fields: Sequence[ModelField]) -> dict[str, Any] | None:
    """The values of the parameters when none is sent; None if one is required, or its default is not a constant."""
    constant = all(
        not each.field_info.is_required()
        and not each.field_info.validate_default
        and isinstance(each.default, str | int | float | None)
        for each in fields
    )
    return {each.name: each.default for each in fields} if constant else None


def _is_coroutine_function(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
