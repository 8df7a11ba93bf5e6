"""What the gateway uses of other libraries though they do not promise to keep it. Each such library has an upper bound
in pyproject.toml, and a test here says which part has gone when a new version no longer has it.
"""

import ast
import asyncio
import functools
import importlib.util
import inspect
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastapi._compat
import fastapi.dependencies.utils
import fastapi.middleware.asyncexitstack
import httptools
import prometheus_client.multiprocess
import prometheus_client.values
import pytest
import starlette._utils
import starlette.requests
import uvicorn
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from packaging.requirements import Requirement
from redis.asyncio.cluster import NodesManager, RedisCluster
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from uvicorn.supervisors import multiprocess

import codegen_api
from codegen_api.http.lean_routes import UNSUPPORTED

PACKAGE = Path(codegen_api.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
NEEDED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["redis"]]
BOUNDS: dict[str, Requirement] = {each.name: each for each in map(Requirement, NEEDED)}


@dataclass(frozen=True)
class Hook:
    """Names that ``module``, one of ours, uses of ``part``, which ``distribution`` may change without a word."""

    distribution: str
    module: str
    part: Any
    names: str

    def missing(self) -> list[str]:
        """A sentence for each that is no longer there."""
        had = _names_in(self.part)
        return [
            f"{self.distribution} {version(self.distribution)} has no {_title(self.part)}.{name} any more, which"
            f" codegen_api/{self.module} uses: pyproject.toml allows {BOUNDS[self.distribution].specifier}"
            for name in self.names.split()
            if name not in had
        ]


def _names_in(part: Any) -> set[str]:
    """Also those that the methods of a class give its instances."""
    names = set(dir(part))
    for base in inspect.getmro(part) if inspect.isclass(part) else ():
        names |= set(inspect.get_annotations(base))
        try:
            file = inspect.getsourcefile(base)
        except TypeError:  # it is written in C
            continue
        if file is not None:
            names |= _given_to_self(file).get(base.__name__, set())
    return names


@functools.cache
def _given_to_self(file: str) -> dict[str, set[str]]:
    """What the methods of each class in a file give ``self``; the large ones of redis have dozens of bases in one."""
    return {
        each.name: {
            node.attr
            for node in ast.walk(each)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
        for each in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(each, ast.ClassDef)
    }


def _title(part: Any) -> str:
    return f"{part.__module__}.{part.__qualname__}" if inspect.isclass(part) else str(part.__name__)


HOOKS = [
    Hook(
        "uvicorn",
        "program/http1.py",
        HttpToolsProtocol,
        "app connection_lost connection_made cycle data_received eof_received flow headers loop on_body on_header"
        " on_headers_complete on_message_begin on_message_complete on_response_complete parser pipeline resume_writing"
        " scope timeout_keep_alive timeout_keep_alive_handler timeout_keep_alive_task transport url"
        " _unset_keepalive_if_required",
    ),
    Hook(
        "uvicorn",
        "program/http1.py",
        RequestResponseCycle,
        "chunked_encoding disconnected expected_content_length flow keep_alive message_event more_body receive"
        " response_complete response_started scope send transport",
    ),
    Hook(
        "uvicorn",
        "program/http1.py",
        FlowControl,
        "_transport drain pause_reading pause_writing read_paused resume_reading resume_writing write_paused",
    ),
    Hook("uvicorn", "sandbox/__main__.py", uvicorn.Server, "handle_exit started startup"),
    Hook(
        "httptools",
        "program/http1.py",
        httptools.HttpRequestParser,
        "feed_data get_http_version get_method set_dangerous_leniencies should_upgrade",
    ),
    Hook("alembic", "stores/sql/migrations/__init__.py", ScriptDirectory, "_upgrade_revs get_revision"),
    Hook(
        "alembic", "stores/sql/migrations/__init__.py", MigrationContext, "configure get_current_heads run_migrations"
    ),
    Hook("fastapi", "http/request_bodies.py", APIRoute, "app body_field dependant get_route_handler"),
    Hook(
        "fastapi",
        "http/lean_routes.py",
        Dependant,
        f"{' '.join(UNSUPPORTED)} header_params path_params request_param_name",
    ),
    Hook("fastapi", "http/lean_routes.py", fastapi.dependencies.utils, "request_params_to_args"),
    Hook("fastapi", "http/lean_routes.py", fastapi._compat.ModelField, "alias default field_info name"),
    Hook("fastapi", "http/dispatch.py", fastapi.middleware.asyncexitstack, "AsyncExitStackMiddleware"),
    Hook("fastapi", "http/unknown_names.py", Dependant, "call dependencies query_params"),
    Hook("fastapi", "app.py", FastAPI, "build_middleware_stack openapi"),
    Hook("starlette", "http/request_bodies.py", starlette.requests.Request, "_body body json stream"),
    Hook("starlette", "app.py", starlette._utils, "get_route_path"),
    Hook("starlette", "http/dispatch.py", starlette._utils, "get_route_path"),
    Hook("starlette", "http/dispatch.py", Route, "endpoint methods param_convertors path_regex"),
    Hook("starlette", "http/edge.py", CORSMiddleware, "is_allowed_origin preflight_response simple_response"),
    Hook("starlette", "dialects/__init__.py", Route, "methods param_convertors path_regex"),
    Hook("redis", "redis_link.py", RedisCluster, "nodes_manager"),
    Hook("redis", "redis_link.py", NodesManager, "aclose"),
    Hook("prometheus-client", "telemetry/metrics.py", prometheus_client.values, "MutexValue ValueClass"),
    Hook("prometheus-client", "telemetry/metrics.py", prometheus_client.Histogram, "_buckets _sum _upper_bounds"),
    Hook("prometheus-client", "telemetry/metrics.py", prometheus_client.multiprocess.MultiProcessCollector, "merge"),
]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook.module} of {_title(hook.part)}")
def test_what_is_used_of_the_inside_of_a_library_is_still_there(hook: Hook) -> None:
    assert (PACKAGE / hook.module).is_file()
    assert not hook.missing()


@pytest.mark.parametrize("distribution", sorted({hook.distribution for hook in HOOKS} | {"fastapi-offline"}))
def test_a_library_whose_inside_is_used_has_an_upper_bound(distribution: str) -> None:
    specifier = BOUNDS[distribution].specifier
    assert "<" in {each.operator for each in specifier}, f"{distribution} has no upper bound in pyproject.toml"
    assert specifier.contains(version(distribution)), (
        f"{distribution} {version(distribution)} is not within {specifier}"
    )


def test_a_part_that_has_gone_is_told_in_a_sentence() -> None:
    (said,) = Hook("alembic", "stores/sql/migrations/__init__.py", ScriptDirectory, "get_revision _gone").missing()
    assert said == (
        f"alembic {version('alembic')} has no alembic.script.base.ScriptDirectory._gone any more, which"
        f" codegen_api/stores/sql/migrations/__init__.py uses: pyproject.toml allows {BOUNDS['alembic'].specifier}"
    )


def test_nothing_private_of_others_is_used_but_what_is_named_here() -> None:
    """What begins with an underscore, and none of us has made."""
    used, made = set(), {"_replace", "_exit"}  # of named tuples and of os, which are documented
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Load()) if name.startswith("_") and not name.startswith("__"):
                    used.add(name)
                case ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Store()):
                    made.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    made.add(name)
    assert used - made <= {name for hook in HOOKS for name in hook.names.split()}


# -- what has no name -------------------------------------------------------------------------------------------------


async def test_what_uvicorn_gives_an_application_belongs_to_its_exchange() -> None:
    """``edge``, ``http1`` and the sandbox find the connection by it."""
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([receive.__self__, send.__self__])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(application, log_config=None, lifespan="off", ws="none")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpToolsProtocol(config, ServerState(), {}, loop), "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
        writer.close()
        await writer.wait_closed()
    assert [type(each) for each in seen] == [RequestResponseCycle] * 2, f"uvicorn {version('uvicorn')} has changed this"
    assert isinstance(seen[1].transport, asyncio.Transport)


def test_the_words_and_names_of_uvicorns_log_are_those_that_are_silenced() -> None:
    """In ``serve``, ``telemetry`` and the sandbox."""
    assert 'logger.info("Received SIGTERM' in inspect.getsource(multiprocess), version("uvicorn")
    assert {"uvicorn", "uvicorn.access", "uvicorn.error"} <= set(LOGGING_CONFIG["loggers"]), version("uvicorn")


def test_fastapi_offline_has_the_assets_of_the_pages() -> None:
    """In ``documentation``."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None
    assert found.origin is not None
    assets = {path.name for path in (Path(found.origin).parent / "static").iterdir()}
    needed = {"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png", "redoc.standalone.js"}
    assert needed <= assets, f"fastapi-offline {version('fastapi-offline')} has no {needed - assets}"
