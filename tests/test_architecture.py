"""The shape of the package. The directions of its imports are in pyproject.toml, and scripts/check looks after them."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import codegen_api
from scripts import size
from tests.commands import completed

PACKAGE = Path(codegen_api.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
SHOWN = [str(path.relative_to(PACKAGE)) for path in MODULES]
CORE = ["runs", "errors", "identity", "singleflight", "pace", "brokers", "upstreams", "following", "gateway", "auth"]
DRAWERS = {"utils", "helpers", "common", "core", "shared", "managers", "services", "models", "misc", "util", "base"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}", *arguments]
    )


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        said = ast.get_docstring(tree(path))
        assert said, path
        assert said.splitlines()[0].endswith((".", "?", ":")) or len(said.splitlines()) > 1, path


def test_a_file_stays_short_enough_to_be_read() -> None:
    assert not size.too_long(), f"none may have more than {size.LONGEST} lines"


def test_a_name_of_a_class_stands_for_one_thing() -> None:
    assert len(size.classes()) > 100
    assert not size.ambiguous()


def test_there_are_no_drawers() -> None:
    assert not [shown for shown in SHOWN if DRAWERS & set(Path(shown).with_suffix("").parts)]


LATE = {
    "auth/quota.py": {
        "from limits import RateLimitItemPerMinute",
        "from limits.aio.storage import MemoryStorage",
        "from limits.aio.strategies import SlidingWindowCounterRateLimiter",
    },
    "__init__.py": {"from codegen_api.app import create_app", "from codegen_api.settings import Settings"},
    "front_door.py": {
        "from codegen_api.program import key_maker",
        "from codegen_api.program.serve import main as serve",
        "from codegen_api.terminal.commands import run",
        "from codegen_api.validate import doctor",
    },
    "stores/sql/__init__.py": {"from codegen_api.stores.sql.postgres import PostgresDatabase"},
    "auth/tickets.py": {
        "from cryptography.exceptions import InvalidTag",
        "from cryptography.hazmat.primitives.ciphers.aead import AESGCM",
        "from cryptography.hazmat.primitives.hashes import SHA256",
        "from cryptography.hazmat.primitives.kdf.hkdf import HKDF",
    },
    "gateway/host_reads.py": {"import stamina"},
    "build_auth.py": {"from codegen_api.auth.issuer_keys import FixedKey, KeySet"},
    "build_parts.py": {
        "from codegen_api.brokers.redis import RedisBroker",
        "from codegen_api.conversations import Conversations",
        "from codegen_api.embeddings.openai import OpenAIEmbedder",
        "from codegen_api.in_redis import InRedis",
        "from codegen_api.redis_link import RedisLink",
        "from codegen_api.telemetry.metrics import PrometheusObserver",
        "from codegen_api.stores.sql import SqlStore",
        "from codegen_api.telemetry.tracing import OpenTelemetry",
    },
}
"""What is imported inside a function. These modules say why."""


def test_nothing_is_imported_inside_a_function() -> None:
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                imports = [inner for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)]
                late = LATE.get(str(path.relative_to(PACKAGE)), set())
                assert {ast.unparse(inner) for inner in imports} <= late, path


def test_nothing_is_changed_behind_the_back_of_a_module() -> None:
    for path in MODULES:
        assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Global)], path


def test_whoever_catches_everything_says_why() -> None:
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("Exception", "BaseException", "everything"):
                    raised_again = any(isinstance(step, ast.Raise) and step.exc is None for step in node.body)
                    assert raised_again or "  # " in lines[node.lineno - 1], f"{path}, line {node.lineno}"


def test_only_the_edges_of_the_process_read_the_environment() -> None:
    reading = [path for path in MODULES if "os.environ" in path.read_text() or "getenv" in path.read_text()]
    assert {path.name for path in reading} == {
        "build_parts.py",
        "colours.py",
        "commands.py",
        "environment.py",
        "keep_running.py",
        "local_hosts.py",
        "serve.py",
        "workers.py",
    }


def test_importing_does_nothing() -> None:
    code = """
import threading
touched = []
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system")):
        touched.append(event)
    written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if written and isinstance(arguments[0], str):
        touched.append(arguments[0])
import asyncio, ssl, logging, signal, socket, uuid, multiprocessing
import fastapi, httpx, aiohttp, uvicorn, pydantic_settings, cachetools, orjson, stamina, fastapi_offline
handlers = list(logging.getLogger().handlers), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import codegen_api, codegen_api.program.serve, codegen_api.app
assert not touched, touched
assert threading.active_count() == 1
assert handlers == (list(logging.getLogger().handlers), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)])
assert not logging.getLogger("codegen_api").handlers
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_a_start_loads_and_builds_no_more_than_the_first_request_needs() -> None:
    code = """
import gc
import pydantic
built, build = [], pydantic.TypeAdapter.__init__
def count(self, *args, **more):
    built.append(args)
    build(self, *args, **more)
pydantic.TypeAdapter.__init__ = count
from codegen_api.program.serve import GC_THRESHOLD, application
app = application()
loaded = {name.partition(".")[0] for name in sys.modules}
unneeded = loaded & {"cryptography", "jose", "limits", "redis", "sqlalchemy", "stamina", "tenacity", "sse_starlette"}
assert not unneeded, unneeded
ours = [name for name in sys.modules if name.startswith("codegen_api.")]
assert len(ours) <= 115, ours  # 102 in November 2026
assert len(built) <= 90, len(built)  # parameters of routes: 68, and 300 with what the document says of answers
assert app.openapi_schema is None
assert gc.get_freeze_count() > 50_000 and gc.get_threshold()[0] == GC_THRESHOLD
answers = app.openapi()["paths"]["/agent-runs/{id}"]["get"]["responses"]
assert answers["200"]["content"]["application/json"]["schema"], answers
assert len(built) > 200
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_who_keeps_no_conversations_needs_no_database() -> None:
    code = """
from codegen_api import Settings, create_app
def drivers():
    return {name for name in sys.modules if name.partition(".")[0] in ("sqlalchemy", "asyncpg", "alembic")}
create_app(Settings(_env_file=None, dialects=("native", "codegen")))
assert not drivers(), drivers()
create_app(Settings(_env_file=None, dialects=("agent_protocol",)))
assert drivers()
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_postgresql_without_its_extra_is_refused_in_a_line_that_names_it() -> None:
    code = """
import os
os.environ.update(CODEGEN_DIALECTS="agio", CODEGEN_DATABASE_URL="postgresql://root:sesame-o-pen-123@localhost/db")
if sys.argv[1] == "without":
    sys.modules["asyncpg"] = None  # it is not found
from codegen_api import Settings, create_app
create_app(Settings(_env_file=None, database_url="sqlite:///never-opened.db"))
if sys.argv[1] == "with":
    create_app(Settings(_env_file=None))
    sys.exit("served")
from codegen_api.program.serve import main
main(["--port", "0"])
"""
    assert fresh(code, "with").stderr.splitlines()[-1] == "served"
    done = fresh(code, "without")
    assert done.returncode == 2
    refused = "CODEGEN_DATABASE_URL: For PostgreSQL install the extra: pip install 'codegen-gateway[postgres]'."
    assert refused in done.stderr.splitlines()  # before or behind log lines, which a thread writes
    assert "Traceback" not in done.stderr
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert [each.partition(">")[0] for each in project["optional-dependencies"]["postgres"]] == ["asyncpg"]
    assert "\nasyncpg==" in (PACKAGE.parent / "requirements.lock").read_text()  # which the image runs


def test_who_shares_nothing_needs_no_redis() -> None:
    code = """
from codegen_api import Settings, create_app
create_app(Settings(_env_file=None))
assert not {"redis", "codegen_api.redis_link", "codegen_api.in_redis"} & set(sys.modules)
create_app(Settings(_env_file=None, redis_url="redis://localhost", secret_key="0123456789abcdef" * 2))
assert "redis" in sys.modules
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_redis_without_its_extra_is_refused_in_a_line_that_names_it() -> None:
    code = """
import os
os.environ.update(CODEGEN_REDIS_URL="redis://:sesame-o-pen-123@localhost", CODEGEN_SECRET_KEY="0123456789abcdef" * 2)
sys.modules["redis"] = None  # it is not found
from codegen_api.program.serve import main
main(["--port", "0"])
"""
    done = fresh(code)
    assert done.returncode == 2
    refused = "CODEGEN_REDIS_URL: For Redis install the extra: pip install 'codegen-gateway[redis]'."
    assert refused in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert [each.partition(">")[0] for each in project["optional-dependencies"]["redis"]] == ["redis"]
    assert "\nredis==" in (PACKAGE.parent / "requirements.lock").read_text()  # which the image runs


def test_importing_the_core_needs_no_web_framework() -> None:
    """The package itself opens the door to the application; the modules beneath must not."""
    foreign = ("fastapi", "starlette", "httpx", "pydantic", "uvicorn", "redis", "aiohttp")
    paths = [
        path for name in CORE for path in (PACKAGE / f"{name}.py", PACKAGE / name / "__init__.py") if path.exists()
    ]
    assert len(paths) == len(CORE)
    for path in paths:
        for node in ast.walk(tree(path)):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [module for module in named if module.split(".")[0] in foreign]


def test_the_public_names_are_those_of_the_readme() -> None:
    assert sorted(codegen_api.__all__) == ["Settings", "create_app"]
    done = fresh("from codegen_api import *; print(sorted(n for n in dir() if not n.startswith('_') and n != 'sys'))")
    assert done.stdout.strip() == "['Settings', 'create_app']"


def test_the_front_doors_are_the_same() -> None:
    done = fresh("import codegen_api.__main__ as m, codegen_api.front_door as d; assert m.main is d.main")
    assert done.returncode == 0, done.stderr
