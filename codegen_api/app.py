"""The ASGI application: the edge outermost, then the routes of the enabled dialects, then the shared parts."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette._utils import get_route_path
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import codegen_api
from codegen_api import build_auth, build_parts, console, workers
from codegen_api.brokers import Broker
from codegen_api.build_parts import MIB
from codegen_api.dialects import Absent, Dialect
from codegen_api.embeddings import Embedder
from codegen_api.errors import GatewayError, NotAuthenticated, StoreUnavailable
from codegen_api.http import documentation
from codegen_api.http.dispatch import Dispatch
from codegen_api.http.draining import Drain
from codegen_api.http.edge import METHODS, Edge
from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.web import named
from codegen_api.outbound.proxies import displayed_proxy
from codegen_api.settings import Settings, read_settings, suspicious_variables
from codegen_api.settings.environment import PREFIX, SettingsError
from codegen_api.stores import Store
from codegen_api.telemetry import Observer, Tracer, logger, note
from codegen_api.telemetry.log_lines import form_of, log_loop_fault, set_up_logging, warn_on_terminal
from codegen_api.upstreams import Upstream

DESCRIPTION = """\
Agent runs over REST, and their logs as one live, resumable stream.

Every request bears a token of the hosted API, or one of the deployment's own users: `Authorization: Bearer <token>`.
`X-Organization-ID` picks the organization. Every answer carries `X-Request-ID`, and every error has the same shape.
"""


class Application(FastAPI):
    """FastAPI with the edge as the outermost layer, outside of where FastAPI installs middleware."""

    edge: Edge
    cannot_start: str | None = None

    def __init__(
        self,
        settings: Settings,
        dialects: Mapping[str, Dialect],
        observer: Observer,
        tracer: Tracer | None,
        **more: Any,
    ) -> None:
        self.settings, self.dialects, self.observer, self.tracer = settings, dialects, observer, tracer
        # the documentation module serves the OpenAPI document and its pages
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, **more)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["app"] = self
            self.middleware_stack = self.middleware_stack or self.build_middleware_stack()
            return await self.middleware_stack(scope, receive, send)

        async def send_without_traceback(message: Message) -> None:
            # the server logs the message of a failed startup, and Starlette makes it a whole traceback
            if message["type"] == "lifespan.startup.failed" and self.cannot_start:
                message = {**message, "message": self.cannot_start}
            await send(message)

        try:
            await super().__call__(scope, receive, send_without_traceback)
        except StoreUnavailable:
            if self.cannot_start is None:
                raise

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            routes = [route.documented() if isinstance(route, CallerFirst) else route for route in self.routes]
            self.openapi_schema = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=routes
            )
        document = self.openapi_schema
        for dialect in self.dialects.values():
            document = dialect.describe(document)
        return document

    def build_middleware_stack(self) -> ASGIApp:
        """The edge around the routes, without FastAPI's own middleware, whose work the edge already does."""
        settings = self.settings
        self.edge = Edge(
            Dispatch(self.router),
            render=self._render,
            hosts=settings.trusted_names,
            via=build_parts.via(settings),
            allowed_origins=settings.cors_origins,
            local_pages=settings.sandbox,
            exposed_headers=tuple(name for dialect in self.dialects.values() for name in dialect.exposed_headers),
            root_path=settings.root_path,
            max_body=settings.max_body_mib * MIB,
            observer=self.observer,
            tracer=self.tracer,
        )
        return self.edge

    def _render(self, scope: Scope, error: GatewayError) -> Response:
        """Render an error in the shape of the request's dialect, and note it for the log line."""
        # refused tokens have their own, rate-limited log lines, since anybody can cause them
        note(error.code, None if isinstance(error, NotAuthenticated) else error.root_reason)
        response = dialect_of(scope, self.dialects).render_error(error)
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(self._methods(scope))
        return response

    def _methods(self, scope: Scope) -> list[str]:
        """Methods allowed at this path. Starlette's ``Allow`` names only those of the first matching route."""

        def is_allowed(method: str) -> bool:
            tried = {**scope, "method": "GET" if method == "HEAD" else method}
            return any(route.matches(tried)[0] is Match.FULL for route in self.routes)

        return [method for method in METHODS if is_allowed(method)]


def dialect_of(scope: Scope, dialects: Mapping[str, Dialect]) -> Dialect:
    """The dialect whose prefix is the longest match (in whole segments) for the path; else the native one."""
    path = f"{get_route_path(scope)}/"
    by_prefix = {prefix: dialect for dialect in dialects.values() for prefix in dialect.prefixes}
    matching = [prefix for prefix in by_prefix if path.startswith(f"{prefix}/")]
    return by_prefix[max(matching, key=len)] if matching else dialects["native"]


def create_app(
    settings: Settings | None = None,
    *,
    title: str = "codegen_api",
    version: str | None = None,
    upstream: Upstream | None = None,
    broker: Broker | None = None,
    store: Store | None = None,
    embedder: Embedder | None = None,
) -> FastAPI:
    """Build the gateway as an ASGI application.

    Without ``settings``, they are read from the environment; if they are invalid, the process prints one line per bad
    variable and exits with status 2. ``upstream``, ``broker``, ``store`` and ``embedder`` replace what the settings
    name. ``title`` and ``version`` appear in the OpenAPI document.

    Raises:
        SettingsError: the given settings cannot be used.
    """
    if settings is None:
        try:
            return create_app(
                read_settings(),
                title=title,
                version=version,
                upstream=upstream,
                broker=broker,
                store=store,
                embedder=embedder,
            )
        except SettingsError as error:
            warn_on_terminal(str(error))
            raise SystemExit(2) from None
    observer: Observer = Observer()
    set_up_logging(settings.log_level, settings.log_format, lambda: observer.unlogged())  # noqa: PLW0108 - replaced below
    worker_count = workers.worker_count(settings.workers)
    dialects = build_parts.dialects(settings)
    build_auth.require(settings)
    upstream = upstream or build_parts.upstream(settings)
    if workers.logs_startup(settings.workers):
        _log_configuration(settings, worker_count, upstream)
    shared = workers.share(worker_count) if settings.metrics else None
    metrics = build_parts.metrics() if settings.metrics else None
    observer = metrics or observer
    tracing = build_parts.tracing()
    drain = Drain(settings.drain_seconds, announce=settings.workers == 1)
    closing = AsyncExitStack()
    parts = build_parts.parts(settings, drain, upstream, broker, store, embedder, observer, worker_count, closing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        app.middleware_stack = app.middleware_stack or app.build_middleware_stack()  # builds the edge
        if parts.conversations is not None:
            try:
                await parts.conversations.open()
            except StoreUnavailable as error:
                setting = "DATA_DIR" if settings.database_url is None else "DATABASE_URL"
                app.cannot_start = f"{PREFIX}{setting}: {error.message}"
                raise
        if parts.redis is not None:
            await parts.redis.start()
        parts.callers.open()
        drain.handle_signals(parts.gateway.drain, app.edge.abort_stuck, app.edge.cancel_requests)
        asyncio.get_running_loop().set_exception_handler(log_loop_fault)
        yield
        drain.restore_signals()
        await closing.aclose()
        if tracing is not None:
            await tracing.aclose()
        if shared:
            shared.leave()

    app = Application(
        settings,
        dialects,
        observer,
        tracing,
        title=title,
        version=version or codegen_api.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        generate_unique_id_function=named(),
    )
    app.state.parts = parts
    app.router.routes.extend(_routes_of(dialects.values()))  # include_router would analyse every route again
    documentation.install(app)
    console.install(
        app,
        enabled=settings.console,
        sandbox=settings.sandbox and "token" in settings.auth,
        discover=build_auth.console_sign_in(settings),
    )
    if metrics:
        metrics.install(app)
    return app


def _routes_of(dialects: Collection[Dialect]) -> Iterator[BaseRoute]:
    """The routes of all dialects. A path that is ``Absent`` in one dialect may be served by another."""
    for dialect in dialects:
        others = {path for other in dialects if other is not dialect for path in other.paths}
        yield from (route.beside(others) if isinstance(route, Absent) else route for route in dialect.routes)


def _log_configuration(settings: Settings, worker_count: int, upstream: Upstream) -> None:
    changed = " ".join(f"{name}={value}" for name, value in settings.changed().items())
    # at a terminal, the reader has just set them
    level = logging.DEBUG if form_of(settings.log_format) == "people" else logging.INFO
    logger.log(level, "settings that differ from the defaults: %s", changed or "none")
    for target, url in (("host", settings.base_url), ("issuer", settings.jwt_jwks_url)):
        proxy = None if url is None else displayed_proxy(url)
        if proxy is not None:
            logger.info("requests to the %s go through the proxy %s", target, proxy)
    for warning in suspicious_variables(settings.upstream):
        logger.warning("%s", warning)
    if build_parts.allows_anonymous(settings):
        logger.warning(
            "requests without credentials are accepted: anybody who can reach this address can use the demo token",
            extra={"announced": settings.sandbox},
        )
    for warning in build_auth.warnings_for(settings):
        logger.warning(warning)
    limit = build_parts.requests_per_minute(settings, upstream)
    if worker_count > 1 and settings.redis_url is None:
        share = "" if limit is None else f"each takes 1/{worker_count} of the host's {limit} requests a minute; "
        logger.info(
            "%d workers without %sREDIS_URL: %sthey share no live logs, idempotency keys, or counts of streams and"
            " requests per user",
            worker_count,
            PREFIX,
            share,
        )
