"""What clients speak. A dialect translates and decides nothing.

What a run is started with is checked in the same way by all of them, as it costs money: ``Prompt`` and ``Images``.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.convertors import StringConvertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from codegen_api.errors import Detail, NotFound, NotOffered
from codegen_api.shapes import RenderError

EMPTY = "must not be empty"

MOST_SAID = 1000
"""Messages of a request, and parts of a message: each is kept, and told again and again."""

LOOKED_AT = 10_000
"""Characters that are looked at, one by one."""

_UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf"}
_DATA_URI = re.compile(r"data:[^,\s]{0,1000},", re.IGNORECASE)


def says_nothing(text: str) -> bool:
    """Whether nothing can be seen of a text: white space, control and format characters at most. Behind the white space
    at its beginning that has to be seen soon.
    """
    return all(unicodedata.category(character) in _UNSEEN for character in text.lstrip()[:LOOKED_AT])


def _something(text: str) -> str:
    if says_nothing(text):
        raise PydanticCustomError("empty", EMPTY)
    return text


def _inline(text: str) -> str:
    if not _DATA_URI.match(text):
        raise PydanticCustomError("image_not_inline", "must be a data URI: the host fetches no images")
    return text


Prompt = Annotated[str, AfterValidator(_something), Field(json_schema_extra={"pattern": r"\S"})]
"""What the agent is told: something."""

Image = Annotated[str, AfterValidator(_inline), Field(json_schema_extra={"pattern": "^data:"})]
Images = Annotated[list[Image], Field(fail_fast=True)]
"""Of thousands that are none, one is told."""


Ignored = Annotated[Any, Field(description="Has no meaning here, and is ignored.")]
"""A field that a protocol has and the gateway need not know: named, so that it is told from a slip of the pen."""


def not_offered(**given: object) -> None:
    """What a client may ask for elsewhere, by the name of its field in the body.

    Raises:
        NotOffered: some of these are given.
    """
    places = [Detail(("body", name), "Is not offered here.", "unsupported") for name, value in given.items() if value]
    if places:
        named = ", ".join(f"`{place.loc[-1]}`" for place in places)
        raise NotOffered(f"The gateway does not do what {named} asks for.", details=places)


class Absent(Route):
    """What a protocol has and the gateway has not: ``paths``, with names in braces as in any route, and all below them.
    Whatever is done there is 404, and the answer names what is not offered.
    """

    def __init__(self, *paths: str) -> None:
        super().__init__("/", self._refuse, name="absent", include_in_schema=False)
        self.methods = None
        self._paths = {path: re.sub("{[^}]*}", "[^/]+", path) for path in paths}
        self.path_regex = re.compile(f"(?P<what>{'|'.join(self._paths.values())})(?:/.*)?$")
        self.param_convertors = {"what": StringConvertor()}

    async def _refuse(self, request: Request) -> Response:
        """
        Raises:
            NotFound: always.
        """
        asked = request.path_params["what"]
        path = next(path for path, pattern in self._paths.items() if re.fullmatch(pattern, asked))
        raise NotFound(f"{path} is not offered here.")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What clients of one protocol are served: a package has one, called ``DIALECT``.

    ``prefixes`` are the beginnings of its paths, in whole segments: below them ``render_error`` writes every error,
    also that there is no such path. ``exposed_headers`` may be read by web pages of other origins, besides what holds
    for all. ``conversations``: it keeps some, so the deployment needs a database; and it lets the demo token in.
    ``describe`` puts into the OpenAPI document what no route can say.
    """

    routes: Sequence[BaseRoute]
    render_error: RenderError
    prefixes: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    conversations: bool = False
    describe: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document
