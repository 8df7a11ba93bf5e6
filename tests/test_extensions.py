"""Dialects and upstreams of other packages, which the gateway finds by their entry points; and those of its own."""

import sys
from pathlib import Path

import pytest

from codegen_api import create_app
from codegen_api.build_parts import DIALECTS, UPSTREAMS
from codegen_api.settings.environment import SettingsError
from tests.commands import completed
from tests.dialects.site import serving, settings
from tests.fakehost import FakeHost

ROOT = Path(__file__).parents[1]

TOY = """
from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from codegen_api.dialects import Dialect
from codegen_api.identity import READ
from codegen_api.http.parts import Door
from codegen_api.http.web import Asker, named, needs, status_of
from tests.fakehost import FakeHost

router = APIRouter(generate_unique_id_function=named("toy_"))


@router.get("/toy/runs/{id}", openapi_extra=needs(READ))
async def show(id: str, gateway: Door, caller: Asker) -> PlainTextResponse:
    found = await gateway.get(caller, await gateway.accounts.organization(caller, None), id)
    return PlainTextResponse(found.status.value)


def render_error(error: Exception) -> PlainTextResponse:
    return PlainTextResponse(f"toy: {error.code}", status_of(error))


DIALECT = Dialect(routes=router.routes, render_error=render_error, prefixes=("/toy",))
BROKEN = "no dialect"


class Incomplete:
    name = "incomplete"

    def __init__(self, base_url: str, **more: object) -> None: ...


def unlike_others(base_url: str) -> None: ...


def connect(base_url: str, *, connect_timeout: float, read_timeout: float, via: str, options: object) -> FakeHost:
    if "toy" not in base_url:
        raise ValueError("it is no toy")
    host = FakeHost()
    host.name = f"{base_url} {connect_timeout:g} {read_timeout:g} {via[:11]}"
    return host
"""

ENTRY_POINTS = """
[codegen_api.dialects]
toy = toy_package:DIALECT
broken = toy_package:BROKEN
lost = toy_package:NOTHING
gone = toy_package_that_is_gone:DIALECT
native = toy_package:BROKEN
closed = toy_package_closed:DIALECT
open = toy_package_open:DIALECT
raising = toy_package_raising:DIALECT

[codegen_api.upstreams]
toy = toy_package:connect
incomplete = toy_package:Incomplete
unlike = toy_package:unlike_others
"""

CLOSED = TOY.replace(", openapi_extra=needs(READ)", "")
OPEN = TOY.replace("@router.get", "@router.post").replace("id: str,", "id: str, body: dict[str, str],")


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("", TOY), ("_closed", CLOSED), ("_open", OPEN), ("_raising", "1 / 0")):
        (tmp_path / f"toy_package{name}.py").write_text(text)
    about = tmp_path / "toy_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))


async def test_a_dialect_of_another_package_is_served_beside_our_own() -> None:
    async with serving(dialects="toy") as site:
        site.host.add("1")
        answer = await site.get("/toy/runs/1")
        assert (answer.status_code, answer.text) == (200, "running")
        assert (await site.get("/toy/runs/2")).text == "toy: not_found"
        assert (await site.get("/toy/nothing")).text == "toy: not_found"
        assert (await site.get("/toy/runs/1", token=None)).text == "toy: not_authenticated"
        assert (await site.get("/agent-runs/1")).json()["status"] == "ACTIVE"
        assert "/toy/runs/{id}" in site.app.openapi()["paths"]


def test_an_upstream_of_another_package_is_told_where_its_host_is() -> None:
    app = create_app(
        settings(upstream="toy", base_url="https://toy.example", upstream_connect_timeout_seconds=2, metrics=False)
    )
    assert app.state.parts.gateway.upstream_name == "https://toy.example 2 30 codegen-api"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"dialects": "nobody"},
            "CODEGEN_DIALECTS: there are native, codegen, agent_protocol, openai, everruns, agio, ai_sdk, mcp, broken,",
        ),
        ({"dialects": "broken"}, "CODEGEN_DIALECTS: broken is not a Dialect of codegen_api.dialects"),
        ({"dialects": "lost"}, "CODEGEN_DIALECTS: lost cannot be loaded: .*NOTHING"),
        ({"dialects": "gone"}, "CODEGEN_DIALECTS: gone cannot be loaded: No module named 'toy_package_that_is_gone'"),
        ({"dialects": "closed"}, "CODEGEN_DIALECTS: closed cannot be loaded: /toy/runs/{id} does not declare .* scope"),
        ({"dialects": "open"}, "CODEGEN_DIALECTS: open cannot be loaded: /toy/runs/{id} has a body"),
        ({"dialects": "raising"}, "CODEGEN_DIALECTS: raising cannot be loaded: division by zero"),
        ({"upstream": "nobody"}, "CODEGEN_UPSTREAM: there are .*codegen,.* incomplete, toy, unlike, and no others"),
        (
            {"upstream": "incomplete", "base_url": "https://host.example"},
            "CODEGEN_UPSTREAM: incomplete is not an Upstream: it lacks aclose, answer, create_run",
        ),
        (
            {"upstream": "unlike", "base_url": "https://host.example"},
            "CODEGEN_UPSTREAM: unlike cannot be created: .*unexpected keyword",
        ),
        ({"upstream": "toy", "base_url": "https://host.example"}, "CODEGEN_BASE_URL: it is no toy"),
        ({"upstream": "toy"}, "CODEGEN_BASE_URL: set it to the address of the host"),
    ],
)
def test_what_cannot_be_had_is_told_by_the_setting_that_asks_for_it(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        create_app(settings(metrics=False, **wrong))


def test_nobody_takes_the_name_of_one_of_our_own() -> None:
    create_app(settings(), upstream=FakeHost())


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_that_is_off_is_not_imported(name: str) -> None:
    code = f"""
import sys
from codegen_api import Settings, create_app
create_app(Settings(_env_file=None, dialects={name!r}, log_level="ERROR"))
print(*{{module.split(".")[2] for module in sys.modules if module.startswith("codegen_api.dialects.")}})
"""
    done = completed([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    assert set(done.stdout.split()) == {"native", name}


def test_whatever_is_in_the_tables_can_be_loaded() -> None:
    for entry in (*DIALECTS.values(), *UPSTREAMS.values()):
        assert entry.load()
