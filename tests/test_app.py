"""The composition root: what settings make of the parts."""

import asyncio
import importlib
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import codegen_api
from codegen_api import Settings, create_app, workers
from codegen_api.auth.keys import new_key
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.settings.environment import PREFIX, SettingsError
from tests.commands import completed
from tests.dialects.rich import RichHost
from tests.dialects.site import Site, gateway_app, lifespan, serving, settings
from tests.fakehost import FakeHost, caller

ROOT = Path(codegen_api.__file__).parents[1]


@pytest.fixture(autouse=True)
def _a_bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.chdir(tmp_path)


async def test_it_can_be_made_of_nothing_but_the_environment() -> None:
    app = create_app(title="My Codegen API", version="2.0.0")
    async with lifespan(app):
        site = Site(app, None)
        health = (await site.get("/health", token=None)).json()
        assert (health["version"], health["upstream"]["name"]) == ("2.0.0", "codegen")


async def test_the_parts_can_be_handed_in() -> None:
    host, broker = FakeHost(), MemoryBroker()
    host.latency = 0
    host.add(status="COMPLETE").append(3)
    app = create_app(settings(), upstream=host, broker=broker)
    async with lifespan(app):
        answer = await Site(app, host).get("/agent-runs/1/logs/stream")
        assert answer.text.count("event: log\n") == 3
        assert broker.held_bytes > 0
    assert host.closed
    assert broker.held_bytes == 0


async def test_two_applications_in_one_process_share_nothing() -> None:
    async with serving(RichHost()) as one, serving(RichHost()) as other:
        one.host.tokens = {"one": "1"}
        assert (await one.get("/users/me", token="one")).status_code == 200
        assert (await other.get("/users/me", token="one")).status_code == 401


async def test_an_application_can_be_part_of_another_one_s_life() -> None:
    app = gateway_app(RichHost())
    async with app.router.lifespan_context(app):
        assert (await Site(app, None).get("/readyz", token=None)).status_code == 200


@pytest.mark.wire("auth-remembered", "stream-heartbeat")
async def test_settings_reach_the_parts() -> None:
    host = RichHost()
    async with serving(host, token_cache_seconds=0.01, org_id="5") as site:
        for _ in range(2):
            await site.get("/users/me")
            await asyncio.sleep(0.05)
    assert host.calls["identify"] == 4  # each request checks the token, and asks


INVALID = [
    ("CODEGEN_PORT", "x"),
    ("CODEGEN_BASE_URL", "https://user:hunter2@api.example.com"),
    ("CODEGEN_BASE_URL", "https://"),
    ("CODEGEN_BASE_URL", "https://api.example.com/?key=hunter2"),
    ("CODEGEN_BASE_URL", "http://[::1"),
    ("CODEGEN_ORG_ID", "acme"),
    ("CODEGEN_DIALECTS", "codegen,hunter2"),
    ("CODEGEN_API_TOKEN_FILE", "/nowhere/at/all"),
]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_an_environment_that_makes_no_sense_ends_the_process_with_a_readable_line(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        create_app()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert "hunter2" not in line + caplog.text


@pytest.mark.parametrize(
    "more", [{"base_url": "https://user:hunter2@api.example.com"}, {"org_id": "acme"}, {"base_url": "http://"}]
)
def test_settings_that_were_handed_in_and_make_no_sense_are_an_error(more: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as raised:
        create_app(settings(**more))
    assert str(raised.value).startswith(f"CODEGEN_{next(iter(more)).upper()}: ")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("auth", ["token", "key", "token,key"])
def test_a_host_that_cannot_store_owners_is_for_callers_with_tokens_of_their_own(auth: str) -> None:
    host = FakeHost()
    host.keeps_marks = False
    given = settings(auth=auth, api_token="t", secret_key="k" * 32, api_keys=new_key("me", ("runs:read",))[1])
    if auth == "token":
        create_app(given, upstream=host)
        return
    with pytest.raises(SettingsError, match="CODEGEN_AUTH: fake cannot store the owner of a run"):
        create_app(given, upstream=host)


@pytest.mark.wire("logs-hold-no-secrets")
def test_what_is_in_force_is_logged_once_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CODEGEN_PROT", "9")
    create_app(settings(api_token="sk-secret"), upstream=FakeHost())
    lines = [record.getMessage() for record in caplog.records if record.name == "codegen_api"]
    assert len([line for line in lines if "api_token=set" in line]) == 1
    assert "CODEGEN_PROT is not a setting; did you mean CODEGEN_PORT?" in lines
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("workers", [1, 4])
def test_processes_beside_each_other_share_the_budget(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = create_app(settings(workers=workers), upstream=FakeHost())
    assert app.state.parts.gateway._hub.cadence().fast == pytest.approx(1.25 * workers)
    said = "4 workers without CODEGEN_REDIS_URL: each takes 1/4 of the host's 60 requests a minute; they share no"
    assert (said in caplog.text) == (workers == 4)


def test_with_redis_workers_divide_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shared = {"redis_url": "redis://127.0.0.1:1", "secret_key": "0123456789abcdef" * 2}
    app = create_app(settings(workers=4, **shared), upstream=FakeHost())
    assert app.state.parts.gateway._hub.cadence().fast == pytest.approx(1.25)
    assert "they share no" not in caplog.text


def test_redis_needs_a_secret_that_all_instances_have() -> None:
    with pytest.raises(SettingsError, match="CODEGEN_SECRET_KEY: it is needed with CODEGEN_REDIS_URL"):
        create_app(settings(redis_url="redis://127.0.0.1:1"), upstream=FakeHost())


def _cadence_of_a_worker(answer: "multiprocessing.SimpleQueue[float]", arguments: list[str]) -> None:
    sys.argv[1:] = arguments
    answer.put(create_app(settings(), upstream=FakeHost()).state.parts.gateway._hub.cadence().fast)


@pytest.mark.parametrize(
    ("concurrency", "arguments", "share"), [("3", [], 3), (None, ["--workers", "4"], 4), ("3", ["--workers=2"], 2)]
)
def test_a_worker_of_the_server_knows_how_many_it_has_beside_it(
    concurrency: str | None, arguments: list[str], share: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the worker ends without tidying up
    if concurrency:
        monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.SimpleQueue[float] = context.SimpleQueue()
    worker = context.Process(target=_cadence_of_a_worker, args=(answer, arguments))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert answer.get() == pytest.approx(1.25 * share)


def _metrics_of_a_worker(answer: "multiprocessing.SimpleQueue[tuple[str, int]]", hindrance: str) -> None:
    async def scrape() -> str:
        app = create_app(settings(workers=3), upstream=FakeHost())
        async with lifespan(app):
            return (await Site(app, None).get("/metrics", token=None)).text

    shared = workers.join()
    shared.leave()
    if hindrance == "another's directory":
        shared.path.mkdir()
        shared.path.chmod(0o755)
    if hindrance == "an early import":
        importlib.import_module("prometheus_client")
    text = asyncio.run(scrape())
    answer.put((text, len(list(shared.path.glob("*.db"))) if shared.path.exists() else 0))


@pytest.mark.wire("metrics")
@pytest.mark.parametrize("hindrance", ["another's directory", "an early import"])
def test_a_worker_that_cannot_share_gives_its_own_numbers_and_says_so(
    hindrance: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.SimpleQueue[tuple[str, int]] = context.SimpleQueue()
    worker = context.Process(target=_metrics_of_a_worker, args=(answer, hindrance))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    text, files = answer.get()
    assert "codegen_api_viewers 0.0" in text
    assert files == 0
    assert capfd.readouterr().err.count("/metrics gives the numbers of single workers") == 1


def test_a_directory_that_the_operator_names_is_used_or_refused_by_name(tmp_path: Path) -> None:
    code = "from codegen_api import create_app; create_app(); import os; print(os.listdir(os.environ['WHERE']))"
    for path, status in ((tmp_path, 0), (tmp_path / "missing", 2)):
        done = completed(
            [sys.executable, "-c", code],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(path), "WHERE": str(path), "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == status, done.stderr
        assert ("gauge_livesum_" in done.stdout) == (status == 0)
        assert ("PROMETHEUS_MULTIPROC_DIR: No such file" in done.stderr) == (status == 2)
    assert list(tmp_path.glob("gauge_livesum_*.db"))  # what the operator named is not ours to remove


@pytest.mark.wire("stream-age")
def test_streams_that_began_together_do_not_all_end_together() -> None:
    app = gateway_app(FakeHost(), stream_max_age_seconds=100, stream_heartbeat_seconds=7)
    patrols = [app.state.parts.gateway.patrol(caller()) for _ in range(50)]
    assert all(90 <= patrol.max_age <= 100 for patrol in patrols)
    assert len({patrol.max_age for patrol in patrols}) > 10
    assert {patrol.heartbeat for patrol in patrols} == {7}


def test_the_public_names_are_two() -> None:
    assert sorted(codegen_api.__all__) == ["Settings", "create_app"]
    assert codegen_api.Settings is Settings


def test_a_database_that_cannot_be_used_ends_the_start_with_lines_that_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("This is no directory.")
    environment = {**os.environ, "CODEGEN_DATA_DIR": str(tmp_path / "file"), "CODEGEN_DIALECTS": "agio"}
    ended = completed(
        [sys.executable, "-m", "uvicorn", "--factory", "codegen_api:create_app", "--port", "0"],
        cwd=ROOT,
        env=environment,
    )
    assert ended.returncode != 0
    assert "the database cannot be used: FileExistsError EEXIST File exists" in ended.stderr
    assert "CODEGEN_DATA_DIR: What the gateway has to remember cannot be read or written just now." in ended.stderr
    assert "Traceback" not in ended.stderr
