"""The ASGI application: the edge outermost, then the routes of the enabled dialects, then the shared parts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import codegen_api
from codegen_api import build_auth, build_parts, documentation, workers
from codegen_api.brokers import Broker
from codegen_api.build_parts import MIB
from codegen_api.dialects import Dialect
from codegen_api.draining import Drain
from codegen_api.edge import METHODS, Edge
from codegen_api.embeddings import Embedder
from codegen_api.environment import SettingsError
from codegen_api.error_rendering import ErrorRenderer
from codegen_api.errors import GatewayError, StoreUnavailable
from codegen_api.proxies import displayed_proxy
from codegen_api.settings import Settings, read_settings, suspicious_variables
from codegen_api.stores import Store
from codegen_api.telemetry import NullObserver, Observer, log_loop_fault, logger, set_up_logging, warn_on_terminal
from codegen_api.upstreams import Upstream
from codegen_api.web import as_gateway_error, named

DESCRIPTION = """\
Agent runs over REST, and their logs as one live, resumable stream.

Every request bears a token of the hosted API, or one of the deployment's own users: `Authorization: Bearer <token>`.
`X-Organization-ID` picks the organization. Every answer carries `X-Request-ID`, and every error has the same shape.
"""


class Application(FastAPI):
    """FastAPI with the edge outside everything else, where middleware cannot be installed."""

    edge: Edge
    settings: Settings
    observer: Observer
    dialects: Mapping[str, Dialect]
    shapes: ErrorRenderer
    cannot_start: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await super().__call__(scope, receive, send)

        async def say(message: Message) -> None:
            # the server logs this message, into which Starlette puts a whole traceback
            failed = message["type"] == "lifespan.startup.failed" and self.cannot_start
            await send({**message, "message": failed} if failed else message)

        try:
            await super().__call__(scope, receive, say)
        except StoreUnavailable:
            if self.cannot_start is None:
                raise

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for dialect in self.dialects.values():
            document = dialect.describe(document)
        return document

    def build_middleware_stack(self) -> ASGIApp:
        settings = self.settings
        self.edge = Edge(
            super().build_middleware_stack(),
            render=self.shapes.render,
            hosts=settings.trusted_names,
            via=build_parts.via(settings),
            allowed_origins=settings.cors_origins,
            local_pages=settings.sandbox,
            exposed_headers=_exposed_headers(self.dialects),
            root_path=settings.root_path,
            max_body=settings.max_body_mib * MIB,
            observer=self.observer,
        )
        return self.edge


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

    Without ``settings`` they are read from the environment; if that is invalid, the process exits with status 2 after
    printing one line per bad variable. ``upstream``, ``broker``, ``store`` and ``embedder`` replace what the settings
    name. ``title`` and ``version`` appear in the API description.

    Raises:
        SettingsError: the given settings cannot be used.
    """
    try:
        return _build(settings or read_settings(), title, version, upstream, broker, store, embedder)
    except SettingsError as error:
        if settings is not None:
            raise
        warn_on_terminal(str(error))
        raise SystemExit(2) from None


def _build(
    settings: Settings,
    title: str,
    version: str | None,
    upstream: Upstream | None,
    broker: Broker | None,
    store: Store | None,
    embedder: Embedder | None,
) -> FastAPI:
    observer: Observer = NullObserver()
    set_up_logging(settings.log_level, lambda: observer.unlogged())  # noqa: PLW0108 - the observer is replaced below
    worker_count = workers.worker_count(settings.workers)
    dialects = build_parts.dialects(settings)
    build_auth.require(settings)
    upstream = upstream or build_parts.upstream(settings)
    if workers.logs_for_all(settings.workers):
        _report(settings, worker_count)
    shared = workers.share(worker_count) if settings.metrics else None
    metrics = build_parts.metrics() if settings.metrics else None
    observer = metrics or observer
    drain = Drain(settings.drain_seconds, announce=settings.workers == 1)
    closing = AsyncExitStack()
    parts = build_parts.parts(settings, drain, upstream, broker, store, embedder, observer, worker_count, closing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        app.middleware_stack = app.middleware_stack or app.build_middleware_stack()  # this builds the edge
        if parts.conversations is not None:
            try:
                await parts.conversations.open()
            except StoreUnavailable as error:
                app.cannot_start = error.message
                raise
        parts.callers.open()
        drain.handle_signals(parts.gateway.drain, app.edge.abort_stuck, app.edge.cancel_requests)
        asyncio.get_running_loop().set_exception_handler(log_loop_fault)
        yield
        drain.restore_signals()
        await closing.aclose()
        if shared:
            shared.leave()

    app = Application(
        title=title,
        version=version or codegen_api.__version__,
        description=DESCRIPTION,
        openapi_url=None,  # served by the documentation module, like the two below
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=named(),
        redirect_slashes=False,
    )
    app.settings = settings
    app.observer = observer
    app.dialects = dialects
    app.shapes = ErrorRenderer(
        dialects["native"].render_error,
        {prefix: dialect.render_error for dialect in dialects.values() for prefix in dialect.prefixes},
    )
    app.state.parts = parts
    for dialect in dialects.values():
        app.router.routes.extend(dialect.routes)  # include_router would analyse every route again
    documentation.install(app)
    if metrics:
        metrics.install(app)
    # Exception too, or Starlette would render it in its own words before it reaches the edge
    for kind in (GatewayError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _render)
    return app


def _exposed_headers(dialects: Mapping[str, Dialect]) -> tuple[str, ...]:
    """Response headers of the dialects that browsers may expose to pages."""
    return tuple(name for dialect in dialects.values() for name in dialect.exposed_headers)


async def _render(request: Request, error: Exception) -> Response:
    response: Response = request.app.shapes.render(request.scope, as_gateway_error(error))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """Methods allowed at this path. Starlette's ``Allow`` names only those of the first matching route."""

    def is_known(method: str) -> bool:
        scope = {**request.scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_known(method)]


def _report(settings: Settings, worker_count: int) -> None:
    logger.info("settings: %s", " ".join(f"{name}={value}" for name, value in settings.redacted().items()))
    for what, url in (("the host is asked", settings.base_url), ("the issuer is asked", settings.jwt_jwks_url)):
        proxy = None if url is None else displayed_proxy(url)
        if proxy is not None:
            logger.info("%s through the proxy %s", what, proxy)
    for remark in suspicious_variables():
        logger.warning("%s", remark)
    if settings.demo_token is not None and build_parts.with_conversations(settings):
        logger.warning("requests without credentials are let in: whoever reaches this address may use the demo token")
    for text in build_auth.warnings_for(settings):
        logger.warning(text)
    if worker_count > 1:
        logger.info(
            "%d workers without a shared broker: each takes 1/%d of the host's %d requests a minute",
            worker_count,
            worker_count,
            settings.upstream_requests_per_minute,
        )
