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

_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"}
"""White space, controls, formats, and what is no character of Unicode. What it has not named yet may be seen."""
_MARKS = {"Mc", "Me", "Mn"}
"""They are seen on the character before them."""
_BLANK = re.compile(
    r"[\u115f\u1160\u2065\u2800\u3164\uffa0\ufff0-\ufff8\ufffc\U00013441\U00013442\U0001d159\U000e0000-\U000e0fff"
    r"\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)) + "]"
)
"""Letters and symbols without ink (fillers, the empty pattern of Braille, the place of an object that has not come),
what is to be ignored by default, and what will never be a character.
"""

_DATA_URI = re.compile(r"data:([^,;\s]{0,200})([^,\s]{0,1000}),", re.IGNORECASE)
_IMAGE = re.compile(r"image/[\w.+-]+", re.IGNORECASE | re.ASCII)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def says_nothing(text: str) -> bool:
    """Whether nothing can be seen of a text. Behind the white space at its beginning that has to be seen soon."""
    return not any(map(_is_seen, text.lstrip()[:LOOKED_AT]))


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in _UNSEEN | _MARKS and not _BLANK.match(character)


def _something(text: str) -> str:
    if says_nothing(text):
        raise PydanticCustomError("empty", EMPTY)
    return text


def no_image(url: str) -> str | None:
    """Why this is no image that the host could be given; None if it is one."""
    head = _DATA_URI.match(url)
    if head is None:
        return "must be a data URI: the host fetches no images"
    if not _IMAGE.fullmatch(head[1]):
        return "must be an image, and say so: its media type begins with image/"
    data = url[head.end() :].rstrip("=").encode(errors="replace")
    if not data:
        return "must not be an empty image"
    # whether it ends in = does not matter, but a single letter of four has no byte
    if not head[2].lower().endswith(";base64") or len(data) % 4 == 1 or data.translate(None, _BASE64):
        return "must have its bytes in base64"
    return None


def _inline(text: str) -> str:
    trouble = no_image(text)
    if trouble is not None:
        raise PydanticCustomError("image_not_inline", trouble)
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
