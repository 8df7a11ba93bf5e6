"""The composition root: the one module that knows all the parts, and the only one that knows which parts there are."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import codegen_api
from codegen_api import authorities, documentation, workers
from codegen_api.auth.callers import Callers
from codegen_api.auth.quota import Quota
from codegen_api.auth.tickets import Tickets
from codegen_api.brokers import Broker
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.conversations import Conversations
from codegen_api.dialects import Dialect, agent_protocol, agio, codegen, everruns, native
from codegen_api.draining import Drain
from codegen_api.edge import METHODS, Edge
from codegen_api.embeddings import Embedder
from codegen_api.embeddings.openai import OpenAIEmbedder
from codegen_api.errors import GatewayError, Rejected, StoreUnavailable
from codegen_api.following import Patrol, Turns
from codegen_api.gateway import Gateway
from codegen_api.holdings import Holdings
from codegen_api.outcomes.memory import MemoryOutcomes
from codegen_api.pace import READING, WINDOW, Cadence
from codegen_api.proxies import way_through
from codegen_api.repeats import Repeats
from codegen_api.settings import PREFIX, Settings, SettingsError, read_settings, remarks, secret_keys
from codegen_api.shapes import Shapes
from codegen_api.stores import Store
from codegen_api.telemetry import Observer, Quiet, log_loop_fault, logger, set_up_logging, warn_on_terminal
from codegen_api.upstreams import Upstream
from codegen_api.upstreams.codegen import CodegenUpstream
from codegen_api.web import named, understood

if TYPE_CHECKING:
    from codegen_api.metrics import Metrics

DIALECTS: Mapping[str, Dialect] = {
    "native": native,
    "codegen": codegen,
    "agent_protocol": agent_protocol,
    "everruns": everruns,
    "agio": agio,
}
"""By their names in the settings. The native one is always on."""
DATABASE = "conversations.sqlite"
MIB = 1024 * 1024
BRISKEST = 0.1
"""Seconds between two reads of one log, at least, however much the host allows."""

DESCRIPTION = """\
Agent runs over REST, and their logs as one live, resumable stream.

Every request bears a token of the hosted API, or one of the deployment's own users: `Authorization: Bearer <token>`.
`X-Organization-ID` picks the organization. Every answer carries `X-Request-ID`, and every error has the same shape.
"""


class Application(FastAPI):
    """FastAPI with our edge outside of everything, where middleware cannot be put."""

    edge: Edge
    observer: Observer
    dialects: Mapping[str, Dialect]
    shapes: Shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await super().__call__(scope, receive, send)

        async def say(message: Message) -> None:
            # whoever serves us logs this, and Starlette puts a traceback into it
            failed = message["type"] == "lifespan.startup.failed" and self.state.cannot_start
            await send({**message, "message": failed} if failed else message)

        try:
            await super().__call__(scope, receive, say)
        except StoreUnavailable:
            if self.state.cannot_start is None:
                raise

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for dialect in self.dialects.values():
            if hasattr(dialect, "describe"):
                document = dialect.describe(document)
        return document

    def build_middleware_stack(self) -> ASGIApp:
        settings: Settings = self.state.settings
        self.edge = Edge(
            super().build_middleware_stack(),
            render=self.shapes.render,
            hosts=settings.trusted_names,
            via=_via(settings),
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
    """The gateway as an ASGI application.

    ``settings`` are read from the environment unless they are given; where the environment is not valid the process
    ends with status 2 and a line for each variable that is wrong. ``upstream``, ``broker``, ``store`` and ``embedder``
    replace those that the settings name. ``title`` and ``version`` are what the API calls itself.

    Raises:
        SettingsError: the settings that were given make no sense.
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
    observer: Observer = Quiet()
    set_up_logging(settings.log_level, lambda: observer.unlogged())  # noqa: PLW0108 - not the one that there is now
    beside = workers.beside(settings.workers)
    dialects = _dialects(settings)
    authorities.require(settings)
    upstream = upstream or _upstream(settings)
    if workers.speaks_for_all(settings.workers):
        _report(settings, beside)
    shared = workers.share(beside) if settings.metrics else None
    metrics = _metrics() if settings.metrics else None
    observer = metrics or observer
    gateway = _gateway(settings, beside, upstream, broker, observer)
    closing = AsyncExitStack()
    repeats = _repeats(settings, gateway)
    closing.push_async_callback(repeats.aclose)
    callers = authorities.callers(settings, gateway, closing, settings.upstream_requests_per_minute / beside)
    conversations = _conversations(settings, gateway, store, embedder, callers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        app.middleware_stack = app.middleware_stack or app.build_middleware_stack()  # which makes the edge
        if conversations is not None:
            await _open(app, conversations)
        callers.open()
        drain = Drain(
            gateway.hub.drain,
            app.edge.abort_stuck,
            app.edge.give_up,
            settings.drain_seconds,
            says=settings.workers == 1,
        )
        drain.take_signals()
        asyncio.get_running_loop().set_exception_handler(log_loop_fault)
        app.state.drain = drain
        yield
        drain.give_back()
        if conversations is not None:
            await conversations.aclose()
        await closing.aclose()
        await gateway.aclose()
        if shared:
            shared.leave()

    app = Application(
        title=title,
        version=version or codegen_api.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=named(),
        redirect_slashes=False,
    )
    app.observer = observer
    app.dialects = dialects
    app.shapes = Shapes(
        native.render_error,
        {prefix: dialect.render_error for dialect in dialects.values() for prefix in dialect.PREFIXES},
    )
    app.state.settings = settings
    app.state.gateway = gateway
    app.state.callers = callers
    app.state.repeats = repeats
    app.state.conversations = conversations
    _tell_dialects(app, settings)
    app.state.started, app.state.drain, app.state.cannot_start = time.time(), None, None
    for dialect in app.dialects.values():
        app.router.routes.extend(dialect.ROUTES)  # not include_router, which works out each of them anew
    documentation.install(app)
    if metrics:
        metrics.install(app)
    # Exception as well, or Starlette would answer it in words of its own before it reaches the edge
    for kind in (GatewayError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _render)
    return app


def _tell_dialects(app: FastAPI, settings: Settings) -> None:
    """What of the settings the dialects have to know."""
    app.state.tickets = _tickets(settings)
    app.state.documented_statuses = settings.agent_protocol_statuses == "documented"
    app.state.demo_token = None if settings.demo_token is None else settings.demo_token.get_secret_value()
    app.state.quota = None if settings.requests_per_minute is None else Quota(settings.requests_per_minute)
    app.state.stall_seconds = settings.stream_stall_seconds
    app.state.holdings = _holdings(settings)


def _gateway(settings: Settings, beside: int, upstream: Upstream, broker: Broker | None, observer: Observer) -> Gateway:
    holdings = _holdings(settings)
    limit = settings.upstream_requests_per_minute / beside
    return Gateway(
        upstream,
        broker or MemoryBroker(max_bytes=holdings.windows),
        organization=_organization(settings, upstream),
        ownership=authorities.ownership(settings),
        patrol=lambda: Patrol(
            # jittered, so that streams that began together do not all come back together
            max_age=settings.stream_max_age_seconds * random.uniform(0.9, 1.0),  # noqa: S311
            heartbeat=settings.stream_heartbeat_seconds,
        ),
        turns=Turns(limit=limit, together=settings.upstream_budget == "gateway"),
        cadence=lambda: Cadence(fast=max(BRISKEST, WINDOW / (limit * READING))),
        linger=settings.follower_linger_seconds,
        old_pages_bytes=holdings.old_pages,
        max_streams=settings.streams_per_process,
        max_streams_each=settings.streams_per_caller,
        observer=observer,
    )


def _repeats(settings: Settings, gateway: Gateway) -> Repeats:
    keys = [] if settings.secret_key is None else secret_keys(settings.secret_key)
    return Repeats(gateway, MemoryOutcomes(max_bytes=settings.memory_mib * MIB // 16), keys)


def _dialects(settings: Settings) -> Mapping[str, Dialect]:
    if not set(settings.dialects) <= set(DIALECTS):
        raise SettingsError(f"CODEGEN_DIALECTS: there are {', '.join(DIALECTS)}, and no others")
    return {name: dialect for name, dialect in DIALECTS.items() if dialect is native or name in settings.dialects}


def with_conversations(settings: Settings) -> tuple[str, ...]:
    """The dialects that are on and keep conversations. The demo token is for them, too."""
    return tuple(name for name, dialect in _dialects(settings).items() if getattr(dialect, "CONVERSATIONS", False))


def _holdings(settings: Settings) -> Holdings:
    return Holdings.of(settings.memory_mib * MIB, dialects=len(with_conversations(settings)))


def _exposed_headers(dialects: Mapping[str, Dialect]) -> tuple[str, ...]:
    """Headers of the dialects' own that pages may read."""
    return tuple(name for dialect in dialects.values() for name in getattr(dialect, "EXPOSED_HEADERS", ()))


async def _render(request: Request, error: Exception) -> Response:
    response: Response = request.app.shapes.render(request.scope, understood(error))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """What may be done at this path. Starlette names the methods of the first route there, and there may be several."""

    def is_known(method: str) -> bool:
        scope = {**request.scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_known(method)]


def _upstream(settings: Settings) -> Upstream:
    try:
        return CodegenUpstream(
            settings.base_url,
            connect_timeout=settings.upstream_connect_timeout_seconds,
            read_timeout=settings.upstream_read_timeout_seconds,
            via=_via(settings),
        )
    except ValueError as error:
        raise SettingsError(f"CODEGEN_BASE_URL: {error}") from error


def _conversations(
    settings: Settings, gateway: Gateway, store: Store | None, embedder: Embedder | None, callers: Callers
) -> Conversations | None:
    """What is kept for dialects that keep any, if there are such ones."""
    if not with_conversations(settings):
        return None
    return Conversations(
        gateway,
        store or _store(settings),
        kept_days=settings.conversation_days,
        turns_bytes=_holdings(settings).turns,
        absent=callers.absent if authorities.SHARED.keys() & set(settings.auth) else None,
        embedder=embedder or _embedder(settings),
    )


def _embedder(settings: Settings) -> Embedder | None:
    if settings.embeddings_url is None and settings.embeddings_model is None:
        return None
    if settings.embeddings_url is None or settings.embeddings_model is None:
        raise SettingsError(f"{PREFIX}EMBEDDINGS_URL and {PREFIX}EMBEDDINGS_MODEL: each needs the other")
    token = settings.embeddings_token
    try:
        return OpenAIEmbedder(
            settings.embeddings_url, settings.embeddings_model, None if token is None else token.get_secret_value()
        )
    except ValueError as error:
        raise SettingsError(f"{PREFIX}EMBEDDINGS_URL: {error}") from error


async def _open(app: FastAPI, conversations: Conversations) -> None:
    try:
        await conversations.open()
    except StoreUnavailable as error:
        app.state.cannot_start = error.message
        raise


def _store(settings: Settings) -> Store:
    # not before it is wanted: the native dialect alone opens no database, and does without what that would take
    from codegen_api.stores.sql import SqlStore  # noqa: PLC0415

    name, url = "DATA_DIR", f"sqlite:///{(settings.data_dir / DATABASE).absolute()}"
    if settings.database_url is not None:
        name, url = "DATABASE_URL", settings.database_url.get_secret_value()
    try:
        return SqlStore(url, bytes_each=settings.store_mib_per_user * MIB)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{name}: {error}") from error


def _organization(settings: Settings, upstream: Upstream) -> str | None:
    try:
        return None if settings.org_id is None else upstream.organization_id(settings.org_id)
    except Rejected as error:
        raise SettingsError("CODEGEN_ORG_ID: it is not the id of an organization") from error


def _tickets(settings: Settings) -> Tickets | None:
    if settings.secret_key is None:
        return None
    return Tickets(secret_keys(settings.secret_key), settings.stream_max_age_seconds)


def _report(settings: Settings, beside: int) -> None:
    logger.info("settings: %s", " ".join(f"{name}={value}" for name, value in settings.redacted().items()))
    for what, url in (("the host is asked", settings.base_url), ("the issuer is asked", settings.jwt_jwks_url)):
        proxy = None if url is None else way_through(url)
        if proxy is not None:
            logger.info("%s through the proxy %s", what, proxy)
    for remark in remarks():
        logger.warning("%s", remark)
    if settings.demo_token is not None and with_conversations(settings):
        logger.warning("requests without credentials are let in: whoever reaches this address may use the demo token")
    for text in authorities.cautions(settings):
        logger.warning(text)
    if beside > 1:
        logger.info(
            "%d workers without a shared broker: each takes 1/%d of the host's %d requests a minute",
            beside,
            beside,
            settings.upstream_requests_per_minute,
        )


def _metrics() -> "Metrics":
    # not before the directory is named: prometheus_client decides for good when it is imported
    from codegen_api.metrics import Metrics  # noqa: PLC0415

    directory = os.environ.get(workers.METRICS_DIRECTORY)
    try:
        return Metrics(Path(directory) if directory else None)
    except OSError as error:
        raise SettingsError(f"{workers.METRICS_DIRECTORY}: {error.strerror}") from error


def _via(settings: Settings) -> str:
    """The name under which this deployment forwards: gateways in a row differ by what is behind them."""
    return f"codegen-api-{hashlib.sha256(settings.base_url.encode()).hexdigest()[:12]}"
