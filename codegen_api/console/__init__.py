"""The console, a web page for people, and the index at ``/``.

The page consists of static files, and calls the native API like any other client. What it cannot know by itself
(whether this is the sandbox, where to sign in) is in ``/console/config.json``.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from codegen_api.errors import GatewayError, NotFound
from codegen_api.http.web import json_response
from codegen_api.runs import Json, to_json
from codegen_api.telemetry.log_lines import LogLimiter

PATH = "/console/"
PAGE = "index.html"
FILES = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
LINKS = {
    "console": PATH,
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
    "me": "/users/me",
    "organizations": "/organizations",
    "runs": "/agent-runs",
}
SANDBOX_TOKENS = ("sandbox-alice", "sandbox-bob")

HEADERS = {
    "Cache-Control": "no-cache",  # modules import each other by name, so the names cannot contain versions
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{token_origin};"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types dompurify"
)

FRESH_SECONDS = 300.0
"""How long an answer of the issuer is used."""
COOL_DOWN_SECONDS = 5.0
"""How long after a failure the issuer is not asked again."""
WAIT_SECONDS = 5.0
"""How long the page waits for the issuer."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Where users of an OpenID Connect issuer sign in, and as which public client."""

    issuer: str
    client_id: str
    scope: str
    audience: str
    authorization_endpoint: str
    token_endpoint: str


Discover = Callable[[], Awaitable[SignIn]]
"""Asks the issuer. Raises ``GatewayError`` or ``ValueError`` without a usable answer."""


class SignInCache:
    """Caches what ``discover`` returns."""

    def __init__(self, discover: Discover) -> None:
        self._discover = discover
        self._latest: SignIn | None = None
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()
        self._log = LogLimiter()

    async def get(self) -> SignIn | None:
        """The latest answer of the issuer; None if there was none yet."""
        async with self._lock:
            if time.monotonic() >= self._fresh_until:
                try:
                    async with asyncio.timeout(WAIT_SECONDS):
                        self._latest = await self._discover()
                    self._fresh_until = time.monotonic() + FRESH_SECONDS
                except (GatewayError, ValueError, TimeoutError) as error:
                    reason = getattr(error, "reason", None) or str(error) or "it does not answer"
                    self._log.log("sign-in", f"nobody can sign in to the console with the issuer: {reason}")
                    self._fresh_until = time.monotonic() + COOL_DOWN_SECONDS
            return self._latest


def install(app: FastAPI, *, enabled: bool, sandbox: bool, discover: Discover | None) -> None:
    """Serve the index at ``/``, and the console if it is ``enabled``."""

    async def index(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        if enabled and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(root + PATH, headers={"Vary": "Accept"})
        links: dict[str, Json] = {name: root + path for name, path in LINKS.items() if enabled or path != PATH}
        body: dict[str, Json] = {"name": app.title, "version": app.version, "links": links}
        return json_response(to_json(body), headers={"Vary": "Accept"})

    app.add_route("/", index, include_in_schema=False)  # one of FastAPI's own routes takes milliseconds to build
    if not enabled:
        return
    contents = _contents()
    sign_in = None if discover is None else SignInCache(discover)

    async def without_slash(request: Request) -> Response:
        return RedirectResponse(request.scope.get("root_path", "") + PATH)

    async def config(_: Request) -> Response:
        found = None if sign_in is None else await sign_in.get()
        body: dict[str, Json] = {
            "version": app.version,
            "sandbox_tokens": [*SANDBOX_TOKENS] if sandbox else [],
            "sign_in": None if found is None else asdict(found),
            "sign_in_unavailable": sign_in is not None and found is None,
        }
        return json_response(to_json(body))

    async def file(request: Request) -> Response:
        name = request.path_params["name"] or PAGE
        if name not in contents:
            raise NotFound
        content, tag = contents[name]
        headers = {**HEADERS, "ETag": tag}
        if name == PAGE:
            found = None if sign_in is None else await sign_in.get()
            token_origin = "" if found is None else " " + _origin(found.token_endpoint)
            headers["Content-Security-Policy"] = POLICY.format(token_origin=token_origin)
            headers["Cache-Control"] = "no-store"  # the policy may change without the page
        elif tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=TYPES[Path(name).suffix])

    app.add_route(PATH.rstrip("/"), without_slash, include_in_schema=False)
    app.add_route(PATH + "config.json", config, include_in_schema=False)
    app.add_route(PATH + "{name:path}", file, include_in_schema=False)


@cache
def _contents() -> dict[str, tuple[bytes, str]]:
    """The content and entity tag of each file, by its name."""
    contents = {path.relative_to(FILES).as_posix(): path.read_bytes() for path in FILES.rglob("*.*")}
    return {name: (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"') for name, content in contents.items()}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    name = quote(parts.hostname or "", safe=":")  # safe in a header
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}" + (f":{parts.port}" if parts.port else "")
