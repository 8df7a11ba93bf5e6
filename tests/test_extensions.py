"""Dialects and upstreams of other packages, which the gateway finds by their entry points; and those of its own."""

import json
import logging
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest

from codegen_api import create_app, following
from codegen_api.build_parts import DIALECTS, UPSTREAMS
from codegen_api.errors import NotFound
from codegen_api.runs import Step, StepKind
from codegen_api.settings.environment import SettingsError
from tests.commands import completed
from tests.dialects.site import Site, serving, settings
from tests.fakehost import FakeHost
from tests.test_log_lines import of_a_request

ROOT = Path(__file__).parents[1]

IMAGE = "data:image/png;base64,iVBORw0KGgo="
EXAMPLES = ROOT / "examples"
DIALECT = (EXAMPLES / "toy_dialect/toy_dialect.py").read_text()
CLOSED = DIALECT.replace("\nDIALECT =", "\nrouter.routes[0].openapi_extra = None\nDIALECT =")
OPEN = DIALECT.replace("route_class=CallerFirst, ", "")
assert CLOSED != DIALECT != OPEN

WRONG = """
from tests.fakehost import FakeHost

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
broken = toy_package:BROKEN
lost = toy_package:NOTHING
gone = toy_package_that_is_gone:DIALECT
native = toy_package:BROKEN
closed = toy_package_closed:DIALECT
open = toy_package_open:DIALECT
raising = toy_package_raising:DIALECT

[codegen_api.upstreams]
told = toy_package:connect
incomplete = toy_package:Incomplete
unlike = toy_package:unlike_others
"""


def install(folder: Path, package: str, entry_points: str) -> None:
    """What an installer leaves of a package, besides its modules."""
    about = folder / f"{package}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(entry_points)


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("", WRONG), ("_closed", CLOSED), ("_open", OPEN), ("_raising", "1 / 0")):
        (tmp_path / f"toy_package{name}.py").write_text(text)
    install(tmp_path, "toy_package", ENTRY_POINTS)
    for example in EXAMPLES.glob("toy_*"):
        groups = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"].items()
        lines = [f"[{group}]\n{name} = {where}\n" for group, points in groups for name, where in points.items()]
        install(tmp_path, example.name, "".join(lines))
        monkeypatch.syspath_prepend(str(example))
    monkeypatch.syspath_prepend(str(tmp_path))


def events(answer: httpx.Response) -> list[tuple[str, str | None, Any]]:
    """The lines of the example's log: each has an event, its id and its data."""
    found = [json.loads(line) for line in answer.text.splitlines()]
    return [(each["event"], each["id"], each["data"]) for each in found]


async def test_the_dialect_of_another_package_is_served_beside_our_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(dialects="toy") as site:
        made = await site.post("/toy/jobs", {"text": "hello"}, headers={"Idempotency-Key": "once"})
        assert (made.status_code, made.json()) == (201, {"job": "1", "state": "running", "answer": None})
        again = await site.post("/toy/jobs", {"text": "hello"}, headers={"Idempotency-Key": "once"})
        assert (again.headers["Idempotent-Replayed"], again.json()) == ("true", made.json())
        site.host.runs["1"].complete(24)
        site.host.runs["1"].result = "done"
        assert (await site.get("/toy/jobs/1")).json() == {"job": "1", "state": "completed", "answer": "done"}

        whole = events(await site.get("/toy/jobs/1/log"))
        assert [data["n"] for event, _, data in whole if event == "entry"] == list(range(1, 26))
        assert whole[-1] == ("end", "25.end", "completed")
        middle = next(place for event, place, data in whole if event == "entry" and data["n"] == 10)
        rest = events(await site.get(f"/toy/jobs/1/log?after={middle}"))
        assert [(event, data["n"]) for event, _, data in rest if event in ("entry", "amended")] == [
            ("entry", number) for number in range(11, 26)
        ]
        assert [(line["ending"], line["entries"]) for line in of_a_request(caplog)[-2:]] == [("end", 25), ("end", 15)]
        assert (await site.get("/toy/jobs/1/log?after=25.end")).status_code == 204
        assert ("elsewhere", "25", None) in events(await site.get("/toy/jobs/1/log?after=99"))
        head = await site.ask("HEAD", "/toy/jobs/1/log")
        assert (head.status_code, head.headers["content-type"], head.content) == (200, "application/x-ndjson", b"")

        for answer in (
            await site.get("/toy/jobs/2"),
            await site.get("/toy/jobs/2/log"),
            await site.ask("HEAD", "/toy/jobs/2/log"),
            await site.get("/toy/nothing"),
        ):
            assert answer.status_code == 404
            assert not answer.content or answer.json()["oops"] == "not_found"
        assert (await site.get("/toy/jobs/1", token=None)).json()["oops"] == "not_authenticated"
        assert (await site.post("/toy/jobs", {"text": " "})).json()["oops"] == "validation_error"
        assert (await site.get("/agent-runs/1")).json()["status"] == "COMPLETE"
        paths = site.app.openapi()["paths"]
        assert paths.keys() > {"/toy/jobs", "/toy/jobs/{job}", "/toy/jobs/{job}/log"}
        responses = paths["/toy/jobs/{job}/log"]["get"]["responses"]
        assert list(responses["200"]["content"]) == ["application/x-ndjson"]
        assert responses["404"]["content"]["application/json"]["example"]["oops"] == "not_found"


async def test_a_viewer_of_the_example_who_comes_back_gets_what_has_changed_and_nothing_again() -> None:
    async with serving(dialects="toy", stream_max_age_seconds=1) as site:
        run = site.host.add("1", 3)
        run.act()
        cut = events(await site.get("/toy/jobs/1/log"))
        assert [event for event, _, _ in cut if event != "state"] == ["entry"] * 4 + ["reconnect"]
        run.amend(4, output="found")
        run.complete()
        rest = events(await site.get(f"/toy/jobs/1/log?after={cut[-1][1]}"))
        assert [(event, data["n"]) for event, _, data in rest if event in ("entry", "amended")] == [
            ("amended", 4),
            ("entry", 5),
        ]
        assert rest[-1] == ("end", "5.end", "completed")


async def test_the_example_says_when_a_log_is_late_or_fails() -> None:
    async def stream() -> AsyncIterator[Any]:
        yield following.Quiet()
        yield following.Notice("upstream_unavailable", 1)
        yield following.Current(3)
        raise NotFound

    (found,) = entry_points(group="codegen_api.dialects", name="toy")
    frames = found.load() and sys.modules["toy_dialect"].frames
    assert [json.loads(line)["event"] async for line in frames(stream())] == ["quiet", "late", "error"]


class ToyHost:
    """The host that the example of an adapter is for, in memory."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.orders: list[str] = []
        self.transport = httpx.MockTransport(self._answer)

    def say(self, run_id: str, kind: str, text: str, **more: Any) -> None:
        log = self.runs[run_id]["log"]
        log.append({"id": f"e{len(log) + 1}", "kind": kind, "text": text, "at": "2026-11-30 12:00:00", **more})

    def finish(self, run_id: str, answer: str) -> None:
        self.say(run_id, "answer", answer)
        self.runs[run_id] |= {"state": "done", "answer": answer}

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers["Authorization"] not in ("Bearer alice", "Bearer bob"):
            return httpx.Response(401, json={"message": "Who are you?"})
        _, _, run_id, *rest = [*request.url.path.split("/"), ""]
        if not run_id:
            skip, limit = (int(request.url.params.get(name, 0)) for name in ("skip", "limit"))
            shown = [{**run, "log": None} for run in reversed(self.runs.values())]
            return httpx.Response(200, json={"runs": shown[skip : skip + limit], "total": len(shown)})
        if request.method != "GET":
            self.orders.append(f"{request.method} {request.url.path}")
            body = json.loads(request.content)
            if rest[0] == "texts" and self.runs[run_id]["state"] == "busy":
                return httpx.Response(409, json={"message": "It is busy."})
            if rest[0] == "texts" or run_id not in self.runs:
                new = {"id": run_id, "created_at": "2026-11-30 12:00:00", "metadata": body.get("metadata"), "log": []}
                self.runs[run_id] = {**new, **self.runs.get(run_id, {}), "state": "busy", "answer": None}
                self.say(run_id, "user", body["text"])
        if run_id not in self.runs:
            return httpx.Response(404, json={"message": "There is none."})
        return httpx.Response(200, json=self.runs[run_id])


@asynccontextmanager
async def toy_site(**more: Any) -> AsyncIterator[Site]:
    """A gateway in front of the host of the example."""
    host = ToyHost()
    (found,) = entry_points(group="codegen_api.upstreams", name="toy")
    async with serving(found.load()("http://toy.example", transport=host.transport), dialects="toy", **more) as site:
        site.host = host
        yield site


async def test_the_adapter_of_another_package_creates_resumes_lists_and_reads() -> None:
    async with toy_site() as site:
        body, once = {"prompt": "hello", "metadata": {"mine": 1}}, {"Idempotency-Key": "once"}
        made = await site.post("/agent-runs", body, headers=once)
        run = made.json()
        assert (made.status_code, run["status"], run["metadata"]) == (201, "running", {"mine": 1})
        assert (await site.post("/agent-runs", body, headers=once)).json()["id"] == run["id"]
        assert run["created_at"] == "2026-11-30T12:00:00Z"
        path = f"/agent-runs/{run['id']}"
        assert (await site.post(f"{path}/resume", {"prompt": "more"})).status_code == 409
        site.host.say(run["id"], "thought", "hm")
        site.host.finish(run["id"], "done")
        assert (await site.get(path)).json()["result"] == "done"

        log = (await site.get(f"{path}/logs")).json()
        assert [(entry["kind"], entry["position"]) for entry in log["logs"]] == [
            ("user", 1),
            ("thought", 2),
            ("answer", 3),
        ]
        newest = (await site.get(f"{path}/logs?reverse=true&limit=2")).json()
        assert [entry["position"] for entry in newest["logs"]] == [3, 2]

        assert (await site.post(f"{path}/resume", {"prompt": "more"})).json()["status"] == "running"
        site.host.finish(run["id"], "again")
        other = (await site.post("/agent-runs", {"prompt": "other"})).json()
        listed = (await site.get("/agent-runs?limit=1")).json()
        assert ([item["id"] for item in listed["items"]], listed["next_skip"]) == ([other["id"]], 1)
        rest = (await site.get("/agent-runs?skip=1")).json()
        assert ([item["result"] for item in rest["items"]], rest["next_skip"]) == (["again"], None)
        assert len(site.host.orders) == 4

        assert (await site.post("/agent-runs", {"prompt": "x", "images": [IMAGE]})).status_code == 422
        assert (await site.post(f"{path}/resume", {"prompt": "x", "images": [IMAGE]})).status_code == 422
        assert (await site.get("/agent-runs?user_id=1")).status_code == 422
        assert (await site.get("/agent-runs/no-uuid")).status_code == 422
        assert (await site.get("/agent-runs/7f1f3d34-6a4f-4c41-8a0e-6c8f9c9f6a10")).status_code == 404
        assert (await site.get(path, token="mallory")).status_code == 401


async def test_a_log_that_the_adapter_reads_is_resumed_in_the_middle_and_keeps_its_places() -> None:
    async with toy_site(stream_max_age_seconds=1) as site:
        job = (await site.post("/toy/jobs", {"text": "hello"})).json()["job"]
        log = site.host.runs[job]["log"]
        site.host.say(job, "tool", "", tool="grep", input={"word": "x"}, output=None)
        log.append("no object")
        cut = events(await site.get(f"/toy/jobs/{job}/log"))
        assert [data["kind"] for event, _, data in cut if event == "entry"] == ["user", "tool", "unreadable"]
        log[1]["output"] = "found"
        site.host.finish(job, "done")
        rest = events(await site.get(f"/toy/jobs/{job}/log?after={cut[-1][1]}"))
        assert [(event, data["kind"]) for event, _, data in rest if event in ("entry", "amended")] == [
            ("amended", "tool"),
            ("entry", "answer"),
        ]
        assert rest[-1] == ("end", "4.end", "completed")


def test_the_adapter_tells_what_its_entries_mean() -> None:
    (found,) = entry_points(group="codegen_api.upstreams", name="toy")
    kind = found.load()
    nested: Any = None
    adapter, entry_of = kind("http://toy.example"), sys.modules[kind.__module__].entry_of
    for _ in range(2000):
        nested = [nested]
    said = {"kind": "user", "text": "hello"}
    used = {"kind": "tool", "tool": "grep", "input": {"word": "x"}, "output": None}
    for entry, told in (
        (said, Step(StepKind.USER, "user", "hello")),
        ({"kind": "news", "text": 1}, Step(StepKind.OTHER, "news", "")),
        (used, Step(StepKind.ACTION, "tool", "", "grep", {"word": "x"}, None, closed=False)),
        ({**used, "output": "y"}, Step(StepKind.ACTION, "tool", "", "grep", {"word": "x"}, "y")),
        (["no object"], Step(StepKind.OTHER, "unreadable", "The gateway could not read this entry.")),
        (
            {"kind": "user", "text": nested},
            Step(StepKind.OTHER, "unreadable", "The gateway could not read this entry."),
        ),
    ):
        assert adapter.step(entry_of(entry)) == told


def test_an_upstream_of_another_package_is_told_where_its_host_is() -> None:
    assert (
        create_app(settings(upstream="toy", base_url="http://toy.example")).state.parts.gateway.upstream_name == "toy"
    )
    app = create_app(
        settings(upstream="told", base_url="https://toy.example", upstream_connect_timeout_seconds=2, metrics=False)
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
        ({"dialects": "closed"}, "CODEGEN_DIALECTS: closed cannot be loaded: /toy/jobs does not declare .* scope"),
        ({"dialects": "open"}, "CODEGEN_DIALECTS: open cannot be loaded: /toy/jobs has a body"),
        ({"dialects": "raising"}, "CODEGEN_DIALECTS: raising cannot be loaded: division by zero"),
        ({"upstream": "nobody"}, "CODEGEN_UPSTREAM: there are .*codegen,.* incomplete, told, .*unlike, and no others"),
        (
            {"upstream": "incomplete", "base_url": "https://host.example"},
            "CODEGEN_UPSTREAM: incomplete is not an Upstream: it lacks aclose, answer, create_run",
        ),
        (
            {"upstream": "unlike", "base_url": "https://host.example"},
            "CODEGEN_UPSTREAM: unlike cannot be created: .*unexpected keyword",
        ),
        ({"upstream": "told", "base_url": "https://host.example"}, "CODEGEN_BASE_URL: it is no toy"),
        ({"upstream": "told"}, "CODEGEN_BASE_URL: set it to the address of the host"),
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
