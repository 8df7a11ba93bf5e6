"""Builds the parts of an application from its settings. Dialects and upstreams are loaded by name.

Other packages can register more with entry points: a ``Dialect`` in the group ``codegen_api.dialects``, or a
``Connect`` in ``codegen_api.upstreams``.
"""

import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codegen_api import build_auth, workers
from codegen_api.auth.quota import Quota
from codegen_api.auth.tickets import Tickets
from codegen_api.brokers import Broker
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.dialects import Dialect
from codegen_api.embeddings import Embedder
from codegen_api.errors import Rejected
from codegen_api.following import Patrol, ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.http.draining import Drain
from codegen_api.http.parts import Parts
from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.records import MemoryRecords
from codegen_api.pace import READ_SHARE, WINDOW, Cadence
from codegen_api.settings import Settings
from codegen_api.settings.environment import PREFIX, SettingsError, adapter_options, errors_about, option_prefix
from codegen_api.stores import Store
from codegen_api.telemetry import Observer, logger
from codegen_api.upstreams import Connect, InvalidOption, Upstream

if TYPE_CHECKING:
    from codegen_api.in_redis import InRedis
    from codegen_api.telemetry.metrics import PrometheusObserver
    from codegen_api.telemetry.tracing import OpenTelemetry

DIALECTS = {
    name: EntryPoint(name, f"codegen_api.dialects.{name}:DIALECT", "codegen_api.dialects")
    for name in ("native", "codegen", "agent_protocol", "openai", "everruns", "agio", "ai_sdk", "mcp")
}
"""The built-in dialects by their names in the settings. ``native`` is always on."""

UPSTREAMS = {
    name: EntryPoint(name, f"codegen_api.upstreams.{name}:{adapter}", "codegen_api.upstreams")
    for name, adapter in {
        "a2a": "A2AUpstream",
        "codegen": "CodegenUpstream",
        "langgraph": "LangGraphUpstream",
        "opencode": "OpencodeUpstream",
        "openhands": "OpenHandsUpstream",
    }.items()
}

TRACES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
DATABASE = "conversations.sqlite"
MIB = 1024 * 1024
UNLIMITED = 1_000_000
"""Requests a minute that stand for no limit."""
MIN_READ_INTERVAL = 0.1
"""Minimum seconds between two reads of one log, however high the host's limit."""
LOCAL_READ_INTERVAL = 0.25
"""Seconds between two reads of the log of an active run, at a host without a limit."""


# -- dialects and upstreams, loaded by name ---------------------------------------------------------------------------


def _load(setting: str, name: str, builtin: Mapping[str, EntryPoint]) -> Any:
    """Load ``name``, which is one of ``builtin`` or an entry point of another installed package.

    Raises:
        SettingsError: it does not exist, or cannot be imported.
    """
    group = next(iter(builtin.values())).group
    found = builtin[name] if name in builtin else next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        known = [*builtin, *sorted(entry_points(group=group).names - builtin.keys())]
        # without the name, which may be a secret in the wrong place
        raise SettingsError(f"{PREFIX}{setting}: there are {', '.join(known)}, and no others")
    try:
        return found.load()
    except Exception as error:  # plug-in boundary: the import of another package may raise anything
        raise SettingsError(f"{PREFIX}{setting}: {name} cannot be loaded: {error}") from error


def dialects(settings: Settings) -> Mapping[str, Dialect]:
    enabled = {name: None for name in (*DIALECTS, *settings.dialects) if name == "native" or name in settings.dialects}
    loaded = {name: _load("DIALECTS", name, DIALECTS) for name in enabled}
    for name, dialect in loaded.items():
        if not isinstance(dialect, Dialect):
            raise SettingsError(f"{PREFIX}DIALECTS: {name} is not a Dialect of codegen_api.dialects")
        if name != "native" and not dialect.prefixes:
            raise SettingsError(f"{PREFIX}DIALECTS: {name} has no prefixes, so its errors would look like native's")
    return loaded


def allows_anonymous(settings: Settings) -> bool:
    """Whether requests without credentials are served as those of the demo user."""
    lenient = any(dialect.lenient or dialect.conversations for dialect in dialects(settings).values())
    return settings.demo_token is not None and lenient


def upstream(settings: Settings) -> Upstream:
    connect: Connect = _load("UPSTREAM", settings.upstream, UPSTREAMS)
    if settings.upstream != "codegen" and "base_url" not in settings.model_fields_set:
        raise SettingsError(f"{PREFIX}BASE_URL: set it to the address of the host; only codegen has a default")
    try:
        adapter = connect(
            settings.base_url,
            connect_timeout=settings.upstream_connect_timeout_seconds,
            read_timeout=settings.upstream_read_timeout_seconds,
            via=via(settings),
            options=adapter_options(settings.upstream),
        )
    except InvalidOption as error:
        raise SettingsError(f"{option_prefix(settings.upstream)}{error.name.upper()}: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{PREFIX}BASE_URL: {error}") from error
    except TypeError as error:
        raise SettingsError(f"{PREFIX}UPSTREAM: {settings.upstream} cannot be created: {error}") from error
    if not isinstance(adapter, Upstream):
        members = {name for name in (*vars(Upstream), *Upstream.__annotations__) if not name.startswith("_")}
        lacks = sorted(members - set(dir(adapter)))
        raise SettingsError(f"{PREFIX}UPSTREAM: {settings.upstream} is not an Upstream: it lacks {', '.join(lacks)}")
    return adapter


# -- parts ------------------------------------------------------------------------------------------------------------


def parts(
    settings: Settings,
    drain: Drain,
    upstream: Upstream,
    broker: Broker | None,
    store: Store | None,
    embedder: Embedder | None,
    observer: Observer,
    worker_count: int,
    closing: AsyncExitStack,
) -> Parts:
    """Build all parts. Without Redis ``worker_count`` processes share the host's limit. Cleanup is pushed onto
    ``closing``.

    Raises:
        SettingsError: a setting cannot be used.
    """
    conversing = sum(dialect.conversations for dialect in dialects(settings).values())
    log_bytes, turn_bytes, rendered_bytes = memory_shares(settings.memory_mib * MIB, conversing)
    shared = _in_redis(settings, worker_count)
    if shared is not None:
        closing.push_async_callback(shared.aclose)
    total_limit = requests_per_minute(settings, upstream) or UNLIMITED
    limit = total_limit / worker_count
    broker = broker or _broker(settings, log_bytes, shared, observer)
    gateway = _gateway(settings, limit if shared is None else total_limit, upstream, broker, observer, shared)
    closing.push_async_callback(gateway.aclose)
    callers = build_auth.callers(settings, gateway, closing, limit, observer)
    records = MemoryRecords(max_bytes=settings.memory_mib * MIB // 16)
    idempotency = Idempotency(gateway, records if shared is None else shared.records(records), settings.secret_keys)
    closing.push_async_callback(idempotency.aclose)
    per_minute = settings.requests_per_minute
    conversations = None
    if conversing:
        # imported on demand, as in Parts
        from codegen_api.conversations import Conversations  # noqa: PLC0415

        conversations = Conversations(
            gateway,
            store or _store(settings),
            kept_days=settings.conversation_days,
            turns_bytes=turn_bytes,
            rendered_bytes=rendered_bytes,
            absent=callers.absent if build_auth.SHARED.keys() & set(settings.auth) else None,
            embedder=embedder or _embedder(settings),
        )
        closing.push_async_callback(conversations.aclose)
    return Parts(
        gateway=gateway,
        callers=callers,
        idempotency=idempotency,
        conversations=conversations,
        tickets=Tickets(settings.secret_keys, settings.stream_max_age_seconds) if settings.secret_keys else None,
        quota=None if per_minute is None else (Quota if shared is None else shared.quota)(per_minute),
        drain=drain,
        demo_token=None if settings.demo_token is None else settings.demo_token.get_secret_value(),
        sandbox=settings.sandbox,
        documented_statuses=settings.agent_protocol_statuses == "documented",
        redis=None if shared is None else shared.link,
        heartbeat_seconds=settings.stream_heartbeat_seconds,
        stall_seconds=settings.stream_stall_seconds,
        started=time.time(),
        public_url=settings.public_url,
    )


def memory_shares(total: int, dialects: int) -> tuple[int, int, int]:
    """Divide ``total`` bytes of memory among followed logs with their renderings, pages of finished turns, and entries
    rendered by the dialects with conversations, of which there are ``dialects``.
    """
    part = total // 8 if dialects else 0
    return total - (1 + dialects) * part, part, dialects * part


def _gateway(
    settings: Settings,
    limit: float,
    upstream: Upstream,
    broker: Broker,
    observer: Observer,
    shared: "InRedis | None",
) -> Gateway:
    limited = requests_per_minute(settings, upstream) is not None
    return Gateway(
        upstream,
        broker,
        organization=_organization(settings, upstream),
        ownership=build_auth.ownership(settings, upstream),
        patrol=lambda: Patrol(
            # jittered, so that streams opened together do not all reconnect together
            max_age=settings.stream_max_age_seconds * random.uniform(0.9, 1.0),  # noqa: S311
            heartbeat=settings.stream_heartbeat_seconds,
        ),
        turns=ReadQueue(
            limit=limit,
            together=settings.upstream_budget == "gateway",
            cost=upstream.exchanges_per_read,
            observer=observer if limited else None,
            common=shared.budgets if shared is not None and limited else None,
        ),
        cadence=_cadence(settings, upstream, limit),
        linger=settings.follower_linger_seconds,
        max_streams=settings.streams_per_process,
        max_streams_each=settings.streams_per_caller,
        open_streams=None if shared is None else shared.open_streams,
        common_rights=None if shared is None else shared.rights,
        observer=observer,
    )


def _broker(settings: Settings, max_bytes: int, shared: "InRedis | None", observer: Observer) -> Broker:
    memory = MemoryBroker(max_bytes=max_bytes)
    if shared is None:
        return memory
    from codegen_api.brokers.redis import RedisBroker  # noqa: PLC0415 - its driver is an extra

    return RedisBroker(shared.link, memory, keep=settings.redis_log_seconds, observer=observer)


def requests_per_minute(settings: Settings, upstream: Upstream) -> int | None:
    """The host's limit for one credential; None if there is none."""
    return settings.upstream_requests_per_minute or upstream.requests_per_minute


def _cadence(settings: Settings, upstream: Upstream, limit: float) -> Callable[[], Cadence]:
    fast = settings.upstream_read_interval_seconds
    if requests_per_minute(settings, upstream) is None:
        fast = fast or LOCAL_READ_INTERVAL
        return partial(Cadence, fast=fast, slow=2 * fast, resting=4 * fast)
    return partial(Cadence, fast=fast or max(MIN_READ_INTERVAL, WINDOW / (limit * READ_SHARE)))


def _embedder(settings: Settings) -> Embedder | None:
    if settings.embeddings_url is None and settings.embeddings_model is None:
        return None
    if settings.embeddings_url is None or settings.embeddings_model is None:
        raise SettingsError(f"{PREFIX}EMBEDDINGS_URL and {PREFIX}EMBEDDINGS_MODEL: each needs the other")
    # imported on demand: few deployments use one, and it brings its own HTTP client
    from codegen_api.embeddings.openai import OpenAIEmbedder  # noqa: PLC0415

    token = None if settings.embeddings_token is None else settings.embeddings_token.get_secret_value()
    with errors_about("EMBEDDINGS_URL"):
        return OpenAIEmbedder(settings.embeddings_url, settings.embeddings_model, token)


def _store(settings: Settings) -> Store:
    # imported on demand: the native dialect alone needs no database, nor the import time of one
    from codegen_api.stores.sql import SqlStore  # noqa: PLC0415

    name, url = "DATA_DIR", f"sqlite:///{(settings.data_dir / DATABASE).absolute()}"
    if settings.database_url is not None:
        name, url = "DATABASE_URL", settings.database_url.get_secret_value()
    with errors_about(name):
        return SqlStore(url, bytes_each=settings.store_mib_per_user * MIB)


def _in_redis(settings: Settings, worker_count: int) -> "InRedis | None":
    if settings.redis_url is None:
        return None
    try:
        from codegen_api.in_redis import InRedis  # noqa: PLC0415 - its driver is an extra
        from codegen_api.redis_link import RedisLink  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SettingsError(
            f"{PREFIX}REDIS_URL: For Redis install the extra: pip install 'codegen-gateway[redis]'."
        ) from None
    with errors_about("REDIS_URL"):
        link = RedisLink(settings.redis_url.get_secret_value(), prefix=settings.redis_prefix)
        return InRedis(link, build_auth.digest_key(settings), workers=worker_count)


def _organization(settings: Settings, upstream: Upstream) -> str | None:
    try:
        return None if settings.org_id is None else upstream.organization_id(settings.org_id)
    except Rejected as error:
        raise SettingsError(f"{PREFIX}ORG_ID: it is not the id of an organization") from error


def metrics() -> "PrometheusObserver":
    # imported late: prometheus_client looks for the directory once, on import
    from codegen_api.telemetry.metrics import PrometheusObserver  # noqa: PLC0415

    directory = os.environ.get(workers.METRICS_DIRECTORY)
    try:
        return PrometheusObserver(Path(directory) if directory else None)
    except OSError as error:
        raise SettingsError(f"{workers.METRICS_DIRECTORY}: {error.strerror}") from error


def traces_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables of OpenTelemetry say where traces go, and do not switch them off."""
    values = [environment.get(name, "").strip() for name in TRACES]
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or values[0].lower() == "none"
    return any(values) and not disabled


def tracing() -> "OpenTelemetry | None":
    """The tracer, if traces are wanted and the extra is installed."""
    if not traces_wanted(os.environ):
        return None
    # imported on demand: it is an extra with many dependencies
    try:
        from codegen_api.telemetry.tracing import OpenTelemetry  # noqa: PLC0415
    except ImportError:
        logger.warning("OTEL_... asks for traces, which need the extra: pip install 'codegen-gateway[otel]'")
        return None
    try:
        return OpenTelemetry(os.environ)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def via(settings: Settings) -> str:
    """The ``Via`` pseudonym of this deployment. Derived from the base URL, so that chained gateways differ."""
    return f"codegen-api-{hashlib.sha256(settings.base_url.encode()).hexdigest()[:12]}"
