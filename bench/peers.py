"""The gateway, what is compared with it, and the hosts behind them; each is a process while its block lasts."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench.machine import Server, free_port, program, started
from tests.end_to_end import processes
from tests.end_to_end.processes import ROOT

TOKENS = 10
_OPEN = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"  # to check tokens it would need a database
DIALECTS = "codegen,agent_protocol,everruns,agio"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

_NGINX = """{user}daemon off; error_log stderr error; pid {directory}/pid; worker_processes 1;
worker_rlimit_nofile 60000; {modules}
events {{ worker_connections 30000; }}
http {{
  access_log {log}; keepalive_requests 100000000; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s; {around}
  server {{ listen 127.0.0.1:{port} backlog=4096; location = / {{ return 200 ok; }} {locations} }}
}}"""

_RUNS = """location ~ ^/v1/organizations/1/agent/run/(?<run>[0-9]+)$ { default_type application/json; return 200
'{"id":$run,"organization_id":1,"status":"ACTIVE","created_at":"2026-11-01 12:00:00.123456","source_type":"API",
"web_url":"https://codegen.example/agent/trace/$run","result":null,"summary":"Mends the build.",
"github_pull_requests":[],"metadata":{"team":"builders"}}'; }
location = /v1/users/me { default_type application/json; return 200 '{"id":1,"email":"bench@example.com"}'; }"""

_PROXY = """location ~ ^/agent-runs/(?<run>[0-9]+)$ {{ proxy_http_version 1.1; proxy_set_header Connection "";
proxy_pass http://host/v1/organizations/1/agent/run/$run; }}"""

_CHANNELS = """location ~ ^/pub/([0-9]+)$ { nchan_publisher; nchan_channel_id $1; nchan_message_timeout 1h;
nchan_message_buffer_length 20000; }
location ~ ^/sub/([0-9]+)$ { nchan_subscriber eventsource; nchan_channel_id $1; nchan_eventsource_ping_interval 15; }"""

Start = Callable[[Server], AbstractContextManager[Server]]
"""Starts something that asks the host given."""


@dataclass(frozen=True)
class Peer:
    """``missing`` says what has to be installed for it, where something has to."""

    name: str
    start: Start
    path: str = "/agent-runs/"
    """Where a run is, before its number."""
    missing: str | None = None


def static_host() -> AbstractContextManager[Server]:
    """A host that gives any run at once: nginx, from its configuration."""
    return _nginx(_RUNS, measured=False)


def live_host(*arguments: str) -> AbstractContextManager[Server]:
    """A host whose logs grow: ``bench.host``."""
    port = free_port()
    command = [sys.executable, "-m", "bench.host", "--port", str(port), *arguments]
    return started(command, port, "/bench/requests", measured=False)


@contextmanager
def gateway(host: Server, **settings: object) -> Iterator[Server]:
    """The gateway with everything on: it asks ``host`` about tokens, logs at INFO, and counts its metrics."""
    port = free_port()
    with TemporaryDirectory(prefix="bench-data-") as data:
        given = {"base_url": f"{host.url}/v1", "org_id": 1, "streams_per_caller": 1_000_000, "data_dir": data}
        command = [sys.executable, str(ROOT / "run_server.py"), "--port", str(port)]
        with started(command, port, "/livez", settings={**given, **settings}) as server:
            yield server


@contextmanager
def warm_gateway(host: Server, **settings: object) -> Iterator[Server]:
    """The same, started as the tests start it: in no time, so that its start says nothing."""
    given = {"base_url": f"{host.url}/v1", "org_id": 1, "streams_per_caller": 1_000_000, **settings}
    with processes.gateway(None, **given) as server:
        yield Server(urlsplit(server.url).port or 0, server.pid)


def python_peer(application: str, host: Server, **variables: str) -> AbstractContextManager[Server]:
    """One of ``bench.apps``, as uvicorn serves it best, with one worker."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", f"bench.apps:{application}", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--backlog", "4096"]
    given = {"BENCH_HOST": host.url, **variables}
    return started(command, port, "/livez", variables=given, statuses=(200, 404))


def proxy(host: Server) -> AbstractContextManager[Server]:
    """Nginx in front of the host, with an access log."""
    around = f"upstream host {{ server 127.0.0.1:{host.port}; keepalive 64; }}"
    return _nginx(_PROXY.format(), around=around, log="access")


def nchan() -> AbstractContextManager[Server]:
    """Nginx with nchan."""
    return _nginx(_CHANNELS, modules=f"load_module {NCHAN};")


def litellm(python: str) -> Start:
    """LiteLLM's pass-through, of the environment in which ``python`` is."""

    @contextmanager
    def start(host: Server) -> Iterator[Server]:
        port = free_port()
        with TemporaryDirectory(prefix="bench-") as directory:
            config = Path(directory) / "config.yaml"
            config.write_text(
                "general_settings:\n  pass_through_endpoints:\n"
                f'    - path: "/agent-runs"\n      target: "{host.url}/v1/organizations/1/agent/run"\n'
                "      include_subpath: true\n      forward_headers: true\n"
            )
            command = [str(Path(python).with_name("litellm")), "--config", str(config)]
            command += ["--host", "127.0.0.1", "--port", str(port)]
            variables = {_OPEN: "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
            with started(command, port, "/health/liveliness", variables=variables, within=600) as server:
                yield server

    return start


def request_peers(start: Start, litellm_python: str | None = None) -> list[Peer]:
    """All that pass a GET on; ``start`` starts the gateway."""
    peers = [
        Peer("gateway", start),
        Peer("FastAPI + aiohttp + log line", lambda host: python_peer("over_aiohttp", host, BENCH_LOG="1")),
        Peer("FastAPI + aiohttp", lambda host: python_peer("over_aiohttp", host)),
        Peer("FastAPI + httpx", lambda host: python_peer("over_httpx", host)),
        Peer("nginx", proxy, missing=None if program("nginx") else "nginx"),
    ]
    return [*peers, Peer("LiteLLM", litellm(litellm_python))] if litellm_python else peers


def missing_nchan() -> str | None:
    return None if program("nginx") and NCHAN.exists() else "libnginx-mod-nchan (and nginx)"


def missing_queues() -> str | None:
    return None if find_spec("sse_starlette") else "the extra [bench] (sse-starlette)"


@contextmanager
def _nginx(
    locations: str, *, around: str = "", modules: str = "", log: str = "off", measured: bool = True
) -> Iterator[Server]:
    port = free_port()
    with TemporaryDirectory(prefix="bench-nginx-") as directory:
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                user="user root; " if os.geteuid() == 0 else "",
                directory=directory,
                modules=modules,
                log=log if log == "off" else f"{directory}/{log}",
                around=around,
                port=port,
                locations=locations,
            )
        )
        command = [program("nginx") or "nginx", "-p", directory, "-c", str(configuration)]
        with started(command, port, measured=measured) as server:
            yield server
