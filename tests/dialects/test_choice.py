"""Which dialects are spoken, and which of them tells an error."""

from typing import Any

import pytest
from starlette.routing import Match

from codegen_api import Settings, create_app
from codegen_api.app import Application
from codegen_api.build_parts import DIALECTS
from codegen_api.dialects import Absent
from codegen_api.settings.environment import SettingsError
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY
from tests.dialects.site import Connection, gateway_app, serving, settings

APP = "https://app.example.com"
NATIVE = {"error", "code", "status_code", "request_id"}
HOSTED = {"detail", "message", "code", "status_code", "request_id"}
PROBLEM = {"type", "title", "status", "detail", "error", "code", "status_code", "request_id"}
PATHS = [
    ("/v1/users/me", HOSTED),
    ("/v1/users/x/y", HOSTED),
    ("/v1/usersx", PROBLEM),
    ("/v1", PROBLEM),
    ("/v1x", NATIVE),
    ("/users/me", NATIVE),
]


def shape(answer: Any) -> set[str]:
    return set(answer.json()) - {"details", "retry_after"}


async def test_by_default_the_gateway_speaks_for_itself_only() -> None:
    async with serving(RichHost()) as site:
        answer = await site.get("/v1/users/me")
        assert (answer.status_code, shape(answer)) == (404, NATIVE)


@pytest.mark.parametrize("named", [("codegen",), ("codegen", "native"), EVERY, "codegen , native,"])
async def test_the_native_dialect_is_always_on(named: Any) -> None:
    async with serving(RichHost(), dialects=named) as site:
        assert (await site.get("/users/me")).status_code == 200
        assert (await site.get("/v1/users/me")).status_code == 200


def test_nothing_named_is_the_native_dialect_alone() -> None:
    app = gateway_app(RichHost(), dialects=",")
    assert isinstance(app, Application)
    assert list(app.dialects) == ["native"]


def test_a_dialect_that_is_none_is_refused_by_its_setting() -> None:
    with pytest.raises(SettingsError, match=r"^CODEGEN_DIALECTS: there are native, .*codegen"):
        create_app(settings(dialects="native,esperanto"), upstream=RichHost())


def test_every_dialect_has_paths_of_its_own() -> None:
    prefixes = [prefix for dialect in DIALECTS.values() for prefix in dialect.load().prefixes]
    assert len(prefixes) == len(set(prefixes))
    assert all(prefix.startswith("/") and not prefix.endswith("/") for prefix in prefixes)
    assert Settings.model_fields["dialects"].default == ("native",)


@pytest.mark.parametrize(("path", "expected"), PATHS)
@pytest.mark.parametrize(
    ("method", "more", "status"),
    [
        ("GET", {"token": None}, {401, 404}),
        ("GET", {"token": "sk-nobody"}, {401, 404}),
        ("DELETE", {}, {404, 405}),
        ("GET", {"headers": {"Host": "evil.example"}}, {400}),
        ("GET", {"params": {"access_token": "x"}}, {400}),
        ("GET", {"params": {"x": "y" * 20_000}}, {414}),
        ("GET", {"headers": {"X-Long": "y" * 70_000}}, {431}),
        ("POST", {"content": b"x" * 2_000_000}, {413}),
        ("OPTIONS", {"headers": {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}}, {400}),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/codegen"])
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_an_error_is_told_in_the_shape_of_the_path_it_is_about(
    path: str, expected: set[str], method: str, more: Any, status: set[int], root_path: str
) -> None:
    names = {"trusted_hosts": "localhost", "cors_origins": APP, "max_body_mib": 1, "root_path": root_path}
    async with serving(RichHost(), dialects=EVERY, **names) as site:
        for asked in {path, root_path + path}:
            answer = await site.ask(method, asked, **more)
            assert answer.status_code in status, answer.text
            assert shape(answer) == expected
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
            assert ("allow" in answer.headers) == (answer.status_code == 405)


@pytest.mark.parametrize(
    ("dialects", "expected"),
    [
        (("codegen",), [HOSTED, NATIVE, NATIVE]),
        (("everruns",), [PROBLEM, PROBLEM, PROBLEM]),
        (("codegen", "everruns"), [HOSTED, PROBLEM, PROBLEM]),
        (("agio",), [NATIVE, NATIVE, NATIVE]),
    ],
)
async def test_what_two_dialects_share_of_a_path_is_told_by_that_which_is_on(dialects: Any, expected: Any) -> None:
    async with serving(RichHost(), dialects=dialects) as site:
        for path, keys in zip(("/v1/organizations/9/x", "/v1/memories", "/v1/x"), expected, strict=True):
            answer = await site.get(path)
            assert (answer.status_code, shape(answer)) == (404, keys), path


@pytest.mark.parametrize(
    ("served", "absent"),
    [
        (set(), {"/api/config", "/api/config/x", "/api/metrics"}),
        ({"/api/config"}, {"/api/metrics"}),
        ({"/api/config/{name}", "/api/metrics"}, set()),
    ],
)
def test_what_others_serve_is_not_absent_and_nothing_else_is_either(served: set[str], absent: set[str]) -> None:
    route = Absent("/api/config", "/api/metrics").beside(served)
    asked = ("/", "/api", "/api/config", "/api/config/x", "/api/configs", "/api/metrics", "/agent-runs")
    scopes = {path: {"type": "http", "method": "GET", "path": path} for path in asked}
    assert {path for path, scope in scopes.items() if route.matches(scope)[0] is not Match.NONE} == absent


@pytest.mark.parametrize(("path", "expected"), [("/v1/organizations/9/agent/run/1", HOSTED), ("/agent-runs/1", NATIVE)])
async def test_a_fault_inside_is_told_in_that_shape_too(path: str, expected: set[str]) -> None:
    host = RichHost()
    host.add()
    host.unexpected = RuntimeError("secret-prompt")
    async with serving(host, dialects=EVERY, org_id="9") as site:
        answer = await site.get(path)
        assert (answer.status_code, shape(answer)) == (500, expected)
        assert "secret-" not in answer.text


async def test_who_still_waits_when_the_process_stops_is_told_in_that_shape() -> None:
    host = RichHost()
    async with serving(host, dialects=EVERY) as site:

        async def stop(_: str) -> None:
            site.edge.cancel_requests()

        host.before = stop
        connection = Connection(site.app, "/v1/users/me")
        await connection.task
        assert connection.status == 503
        assert b'"detail":"This instance is about to stop' in connection.body
