"""The protocols that clients speak. A dialect translates and decides nothing.

All dialects validate the input of a run in the same way, since runs cost money: ``Prompt`` and ``Images``.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi.routing import APIRoute
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.convertors import StringConvertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from codegen_api.errors import Detail, GatewayError, NotFound, NotOffered
from codegen_api.errors import rejected as rejected
from codegen_api.http.request_bodies import Authenticator, CallerFirst, dependencies
from codegen_api.http.web import SCOPE
from codegen_api.runs import Json
from codegen_api.upstreams import PendingRequest

EMPTY = "must not be empty"

TITLE_CHARACTERS = 100
"""Maximum characters of a conversation's title, which is the beginning of its first message."""

MAX_ITEMS = 1000
"""Maximum messages per request, and parts per message: each is stored, and sent many times."""

MAX_EXAMINED = 10_000
"""Maximum characters examined one by one."""

_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs", "Mc", "Me", "Mn"}
"""Categories of white space, controls, formats, private use, surrogates, and marks, which are visible only on the
character before them. Not of unassigned code points, which may have a glyph.
"""
_BLANK = re.compile(
    r"[\u115f\u1160\u2065\u2800\u3164\uffa0\ufff0-\ufff8\ufffc\U00013441\U00013442\U0001d159\U000e0000-\U000e0fff"
    r"\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)) + "]"
)
"""Fillers, blank Braille, the object replacement character, default-ignorable code points and noncharacters."""

_DATA_URI = re.compile(r"data:([^,;\s]{0,200})([^,\s]{0,1000}),", re.IGNORECASE)
_IMAGE = re.compile(r"image/[\w.+-]+", re.IGNORECASE | re.ASCII)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def is_blank(text: str) -> bool:
    """Whether a text is blank. After leading white space only ``MAX_EXAMINED`` characters are examined."""
    return all(
        unicodedata.category(each) in _INVISIBLE or _BLANK.match(each) is not None
        for each in text.lstrip()[:MAX_EXAMINED]
    )


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("empty", EMPTY)
    return text


def image_fault(url: str) -> str | None:
    """Why this URL cannot be sent to the host as an image; None if it can."""
    head = _DATA_URI.match(url)
    if head is None:
        return "must be a data URI: the host fetches no images"
    if not _IMAGE.fullmatch(head[1]):
        return "must be an image, and say so: its media type begins with image/"
    data = url[head.end() :].rstrip("=").encode(errors="replace")
    if not data:
        return "must not be an empty image"
    # padding is optional, but a single character in the last group of four encodes no byte
    if not head[2].lower().endswith(";base64") or len(data) % 4 == 1 or data.translate(None, _BASE64):
        return "must have its bytes in base64"
    return None


def heard_image(url: object, *where: str | int) -> dict[str, Json]:
    """An image at this place in the request, as a part of a stored message.

    Raises:
        Rejected: it cannot be sent to the host.
    """
    fault = image_fault(str(url or ""))
    if fault is not None:
        raise rejected(fault, "image_not_inline", *where)
    return {"type": "image", "url": str(url)}


def detail_fields(error: GatewayError) -> list[Json]:
    """The details of an error as JSON."""
    return [item.fields if isinstance(item, Detail) else item for item in error.details]


def pending_fields(pending: PendingRequest) -> dict[str, Json]:
    """The fields of a request that a run waits for."""
    return {
        "id": pending.id,
        "reason": pending.reason.value,
        "text": pending.text,
        "tool": pending.tool,
        "input": pending.input,
        "choices": pending.choices,
        "fields": pending.fields,
    }


def _inline_image(text: str) -> str:
    fault = image_fault(text)
    if fault is not None:
        raise PydanticCustomError("image_not_inline", fault)
    return text


Prompt = Annotated[str, AfterValidator(_not_blank), Field(json_schema_extra={"pattern": r"\S"})]
"""A prompt that is not blank."""

Image = Annotated[str, AfterValidator(_inline_image), Field(json_schema_extra={"pattern": "^data:"})]
Images = Annotated[list[Image], Field(fail_fast=True)]
"""Images, of which only the first invalid one is reported: there may be thousands."""

Ignored = Annotated[Any, Field(description="Has no meaning here, and is ignored.")]
"""A field of a protocol that has no effect here. It is declared so that it is not reported as a typo."""


def not_offered(**given: object) -> None:
    """Refuse fields of the body that ask for features the gateway does not offer; each is passed by its name.

    Raises:
        NotOffered: one of them has a value.
    """
    faults = [Detail(("body", name), "Is not offered here.", "unsupported") for name, value in given.items() if value]
    if faults:
        names = ", ".join(f"`{fault.loc[-1]}`" for fault in faults)
        raise NotOffered(f"The gateway does not do what {names} asks for.", details=faults)


class Absent(Route):
    """A route for unsupported parts of a protocol: ``paths``, with parameters in braces, and everything below them. Any
    request gets a 404 that names the unsupported path.
    """

    def __init__(self, *paths: str) -> None:
        super().__init__("/", self._refuse, name="absent", include_in_schema=False)
        self.methods = None
        self._paths = {path: re.sub("{[^}]*}", "[^/]+", path) for path in paths}
        any_path = "|".join(self._paths.values()) or "(?!)"  # without paths it matches nothing, not the empty path
        self.path_regex = re.compile(f"(?P<path>{any_path})(?:/.*)?$")
        self.param_convertors = {"path": StringConvertor()}

    def beside(self, served: Collection[str]) -> "Absent":
        """This route without the paths at or below which other dialects serve something."""
        left = [path for path in self._paths if not any(f"{each}/".startswith(f"{path}/") for each in served)]
        return self if len(left) == len(self._paths) else Absent(*left)

    async def _refuse(self, request: Request) -> Response:
        requested = request.path_params["path"]
        path = next(path for path, pattern in self._paths.items() if re.fullmatch(pattern, requested))
        raise NotFound(f"{path} is not offered here.")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The gateway's side of one protocol. Each dialect package has one, called ``DIALECT``.

    ``prefixes`` are its paths, in whole segments; below them ``render_error`` renders every error, even of a missing
    route. ``exposed_headers`` can be read by pages of other origins, besides the general ones. ``conversations``: it
    keeps conversations, so the deployment needs a database, and it accepts the demo token. ``lenient``: it accepts the
    demo token without keeping any. ``describe`` adds to the OpenAPI document what routes cannot.
    """

    routes: Sequence[BaseRoute]
    render_error: Callable[[GatewayError], Response]
    prefixes: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    conversations: bool = False
    lenient: bool = False
    describe: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document

    @property
    def paths(self) -> frozenset[str]:
        """The paths of its routes."""
        return frozenset(route.path for route in self.routes if isinstance(route, APIRoute))

    def __post_init__(self) -> None:
        """Raises ``ValueError`` if a route refuses everybody, would read a body before it knows the caller, or has its
        errors rendered by another dialect.
        """
        for prefix in self.prefixes:
            if not re.fullmatch(r"(/[^/]+)+", prefix):
                raise ValueError(f"the prefix {prefix!r} is not a path such as /toy")
        for path in sorted(self.paths) if self.prefixes else ():
            if not any(f"{path}/".startswith(f"{prefix}/") for prefix in self.prefixes):
                raise ValueError(f"{path} lies below none of the prefixes {', '.join(self.prefixes)}")
        for route in self.routes:
            if isinstance(route, APIRoute):
                authenticates = any(isinstance(each, Authenticator) for each in dependencies(route.dependant))
                if authenticates and SCOPE not in (route.openapi_extra or {}):
                    raise ValueError(f"{route.path} does not declare which scope it requires (web.operation)")
                if route.body_field is not None and not isinstance(route, CallerFirst):
                    raise ValueError(f"{route.path} has a body, and its router no route_class=CallerFirst")
