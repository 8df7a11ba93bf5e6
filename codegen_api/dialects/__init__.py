"""What clients speak. A dialect translates and decides nothing.

It is a module that meets ``Dialect``. It may also have ``EXPOSED_HEADERS``: what web pages of other origins may read of
its answers, besides what holds for all. ``CONVERSATIONS = True``: it keeps some, so the deployment needs a database;
and it lets the demo token in. And ``describe``: given the OpenAPI document, it puts in what no route can say.
"""

from collections.abc import Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.routing import BaseRoute

from codegen_api.errors import GatewayError


class Dialect(Protocol):
    """A module here. ``PREFIXES`` are the beginnings of its paths, in whole segments: below them every error is told in
    its shape, also that there is no such path.
    """

    @property
    def ROUTES(self) -> Sequence[BaseRoute]: ...  # noqa: N802 - a module's constant

    @property
    def PREFIXES(self) -> tuple[str, ...]: ...  # noqa: N802 - a module's constant

    def render_error(self, error: GatewayError) -> Response:
        """Any error, in the dialect's shape."""
        ...
