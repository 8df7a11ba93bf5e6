"""Warnings about names in a request that its route does not know: typos, or fields of a newer version.

Such names are ignored, as clients expect, but reported in the ``Warning`` header, and in ``warnings`` if the response
is a JSON object, each with the closest known name.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, get_args
from urllib.parse import parse_qsl, urlencode

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response

from codegen_api.errors import Detail
from codegen_api.positions import names_a_position, plain
from codegen_api.runs import to_json

MAX_WARNINGS = 10
"""Maximum number of names reported."""
MAX_NAME = 60
"""Maximum characters of a reported name."""

WARNINGS = "warnings"
"""Key in an ASGI scope for further warnings from the route."""


class KnownNames:
    """The names a route knows: its query parameters, and the top-level fields of its body."""

    def __init__(self, route: APIRoute) -> None:
        self._query = frozenset(_declared(_query_fields(route.dependant)))
        body = None if route.body_field is None else _model(route.body_field.field_info.annotation)
        self._body = None if body is None else frozenset(_declared(body.model_fields.items()))

    def unknown(self, request: Request, fields: Iterable[str]) -> list[Detail]:
        """Unknown names in the query and among the body's ``fields``, at most ``MAX_WARNINGS``."""
        found = []
        if request.scope["query_string"]:
            sent = (name for name in request.query_params if not names_a_position(name))
            found += _unknown("query", sent, self._query)
        if self._body is not None:
            found += _unknown("body", fields, self._body)
        return found[:MAX_WARNINGS]


def with_suggestions(faults: Sequence[Mapping[str, Any]], unknown: Sequence[Detail]) -> list[dict[str, Any]]:
    """Validation faults, where the message for a missing field also names the unknown field that is probably meant."""

    def explained(fault: Mapping[str, Any]) -> dict[str, Any]:
        where, *rest = fault["loc"]
        if fault["type"] == "missing" and len(rest) == 1:
            meant = _nearest(str(rest[0]), [str(item.loc[1]) for item in unknown if item.loc[0] == where])
            if meant is not None:
                return {**fault, "msg": f"{fault['msg']}; {meant} is not known here"}
        return {**fault}

    return [explained(fault) for fault in faults]


def drop_empty(request: Request) -> None:
    """Remove query parameters without a value, which HTML forms send for fields that were left empty."""
    pairs = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    if not all(value for _, value in pairs):
        query = urlencode([pair for pair in pairs if pair[1]], encoding="latin-1")
        request.scope["query_string"] = query.encode("latin-1")


def warn(request: Request, text: str, *place: str) -> None:
    """Add a warning to the response that something at ``place`` may not have the intended effect."""
    request.scope.setdefault(WARNINGS, []).append(Detail(place, text, "no_effect"))


def with_warnings(response: Response, warnings: Sequence[Detail]) -> Response:
    """Add warnings to a response."""
    lines = [f"{'.'.join(map(str, item.loc))}: {item.msg}" for item in warnings]
    response.headers["Warning"] = ", ".join(f"299 - {_quoted(line)}" for line in lines)
    body = getattr(response, "body", b"")  # streaming responses have none
    if response.headers.get("content-type") == "application/json" and body.startswith(b"{"):
        fields = to_json([{"loc": list(item.loc), "msg": item.msg, "type": item.type} for item in warnings])
        response.body = b'%b%b"warnings":%b}' % (body[:-1], b"" if body == b"{}" else b",", fields)
        response.headers["Content-Length"] = str(len(response.body))
    return response


def _query_fields(dependant: Dependant) -> Iterator[tuple[str, FieldInfo]]:
    for field in dependant.query_params:
        model = _model(field.field_info.annotation)
        if model is None:
            yield field.alias, field.field_info
        else:
            yield from model.model_fields.items()
    for each in dependant.dependencies:
        yield from _query_fields(each)


def _declared(fields: Iterable[tuple[str, FieldInfo]]) -> Iterator[str]:
    for name, field in fields:
        yield field.validation_alias if isinstance(field.validation_alias, str) else name


def _model(annotation: Any) -> type[BaseModel] | None:
    """The single model of a body, or of all query parameters."""
    models = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in models if issubclass(each, BaseModel)), None)


def _unknown(where: str, sent: Iterable[str], known: frozenset[str]) -> list[Detail]:
    found = []
    for name in islice((each for each in sent if each not in known), MAX_WARNINGS):
        near = _nearest(name, known)
        meant = "" if near is None else f"; was {near} meant?"
        shown = name if len(name) <= MAX_NAME else name[:MAX_NAME] + "..."
        found.append(Detail((where, shown), f"is not known here, and was ignored{meant}", "unknown"))
    return found


def _nearest(name: str, candidates: Iterable[str]) -> str | None:
    by_plain_name = {plain(each): each for each in candidates}
    found = difflib.get_close_matches(plain(name[:MAX_NAME]), by_plain_name, 1, 0.75)
    return by_plain_name[found[0]] if found else None


def _quoted(text: str) -> str:
    """Text as a header's quoted-string, in printable ASCII."""
    shown = "".join(character if " " <= character <= "~" else "?" for character in text)
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
