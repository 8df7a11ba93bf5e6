"""The OpenAPI document, and the pages that show it."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codegen_api import app, errors
from tests.dialects.eventsource import parse
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY, routes
from tests.dialects.site import gateway_app, serving
from tests.dialects.test_native_errors import KINDS, TABLE

CONTRACT = (Path(__file__).parents[2] / "docs/wire.md").read_text()
OPEN = {"/health", "/livez", "/readyz", "/metrics"}
METHODS = {"get", "post", "put", "patch", "delete"}


def document(**more: Any) -> dict[str, Any]:
    return gateway_app(RichHost(), **more).openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield method.upper(), path, operation


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def follow(described: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = described
    for step in reference[2:].split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


PAGES = ("/", "/console/", "/docs", "/redoc", "/openapi.json")
"""Routes that are not in the document: it is for programs."""


@pytest.mark.wire("documentation")
def test_every_route_of_the_contract_is_described_and_no_other() -> None:
    promised = set(re.findall(r"`(GET|POST) (/[^`]*)`", CONTRACT.split("## Routes")[1].split("## Paging")[0]))
    promised = {(method, path) for method, path in promised if path not in PAGES}
    assert {(method, path) for method, path, _ in operations(document())} == promised


@pytest.mark.wire("documentation")
def test_every_parameter_and_every_field_of_a_body_stands_in_the_contract() -> None:
    described, taken = document(), set()
    for method, path, operation in operations(described):
        taken |= {(method, path, each["name"]) for each in operation.get("parameters", []) if each["in"] != "path"}
        if "requestBody" in operation:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            taken |= {(method, path, name) for name in follow(described, body["$ref"])["properties"]}
    assert {("GET", "/agent-runs/{id}/logs/stream", "ticket"), ("POST", "/agent-runs", "prompt")} <= taken
    told = set(re.findall(r"[\w-]+", " ".join(re.findall("`([^`\n]+)`", CONTRACT))))
    assert {each for each in taken if each[2] not in told} == set()


@pytest.mark.wire("documentation")
def test_the_document_holds_together() -> None:
    described = document()
    assert described["openapi"].startswith("3.1")
    assert set(described["info"]) >= {"title", "version", "description"}
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z_]+", name) for name in ids)
    for node in nodes(described):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            assert follow(described, node["$ref"])
    for _, path, operation in operations(described):
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]
        for response in operation["responses"].values():
            assert response["description"]


@pytest.mark.wire("documentation", "auth-bearer")
def test_every_route_says_what_it_wants_and_how_it_fails() -> None:
    described = document()
    schemes = described["components"]["securitySchemes"]
    assert [(scheme["type"], scheme["scheme"]) for scheme in schemes.values()] == [("http", "bearer")]
    for method, path, operation in operations(described):
        anywhere = {"400", "413", "414", "431", "500", "508"}
        if path in OPEN:
            assert "security" not in operation
            assert path == "/metrics" or set(operation["responses"]) >= anywhere
            continue
        without: list[set[str]] = [set()] if path.endswith("/stream") else []  # there a ticket will do
        assert [set(each) for each in operation["security"]] == [set(schemes), *without]
        wanted = anywhere | {"401", "403", "404", "422", "429", "502", "503", "504"}
        wanted |= (
            {"402"} if (method, path.rsplit("/", 1)[-1]) in {("POST", "agent-runs"), ("POST", "resume")} else set()
        )
        wanted |= {"501"} if path.endswith(("/cancel", "/stream", "/stream-ticket")) or "/pending" in path else set()
        assert set(operation["responses"]) >= wanted
        assert "default" not in operation["responses"]


@pytest.mark.wire("documentation", "error-shape")
def test_every_error_is_described_in_the_one_shape_with_an_example() -> None:
    described = document()
    codes = {kind.code: TABLE[kind] for kind in KINDS}
    for _, _, operation in operations(described):
        for status, response in operation["responses"].items():
            if int(status) < 400 or "ReadyOut" in str(response):
                continue
            content = response["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorOut"}
            assert content["example"]["status_code"] == int(status)
            assert codes[content["example"]["code"]] == int(status)
            assert ("Retry-After" in response.get("headers", {})) == (status in ("409", "429", "503"))
            assert ("WWW-Authenticate" in response.get("headers", {})) == (status == "401")
    assert set(follow(described, "#/components/schemas/ErrorOut")["properties"]) == {
        "error", "code", "status_code", "request_id", "details", "retry_after",
    }  # fmt: skip


@pytest.mark.wire("documentation")
def test_every_good_answer_and_every_body_has_an_example() -> None:
    described = document()

    def has_example(schema: dict[str, Any]) -> bool:
        schema = follow(described, schema["$ref"]) if "$ref" in schema else schema
        if "examples" in schema or "example" in schema:
            return True
        plain = {"integer", "number", "string"}
        return bool(schema.get("properties")) and all(
            {"$ref", "items", "anyOf"} & set(part) or part.get("type") in plain or has_example(part)
            for part in schema["properties"].values()
        )

    for _, path, operation in operations(described):
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if int(status) < 300:
                    assert "example" in content or has_example(content["schema"]), (path, kind)
        body = operation.get("requestBody")
        if body is not None:
            assert has_example(body["content"]["application/json"]["schema"]), path


@pytest.mark.wire("documentation")
def test_the_stream_s_events_are_described() -> None:
    operation = document()["paths"]["/agent-runs/{id}/logs/stream"]["get"]
    response = operation["responses"]["200"]
    assert set(response["content"]) == {"text/event-stream", "application/x-ndjson"}
    for event in ("status", "log", "log.amended", "notice", "resync", "failure", "end"):
        assert f"`{event}`" in response["description"]
    assert "204" in operation["responses"]
    parameters = {(parameter["in"], parameter["name"].lower()) for parameter in operation["parameters"]}
    assert parameters >= {
        ("path", "id"),
        ("header", "last-event-id"),
        ("query", "last_event_id"),
        ("query", "lasteventid"),
        ("query", "skip"),
        ("query", "ticket"),
    }


@pytest.mark.wire("documentation")
def test_the_shapes_of_the_stream_s_data_are_in_the_document() -> None:
    described = document()
    text = described["paths"]["/agent-runs/{id}/logs/stream"]["get"]["responses"]["200"]["description"]
    for name in re.findall(r"\(`(\w+)`\)", text):
        assert name in described["components"]["schemas"]


@pytest.mark.wire("documentation", "org-choice", "position-sources")
def test_headers_that_routes_read_are_described() -> None:
    described = document()
    for _, path, operation in operations(described):
        headers = {p["name"].lower() for p in operation.get("parameters", []) if p["in"] == "header"}
        if path.startswith("/agent-runs"):
            assert "x-organization-id" in headers, path
        if path.endswith("/stream"):
            assert "last-event-id" in headers


@pytest.mark.wire("documentation")
def test_the_examples_of_the_stream_are_streams() -> None:
    content = document()["paths"]["/agent-runs/{id}/logs/stream"]["get"]["responses"]["200"]["content"]
    events = parse(content["text/event-stream"]["example"].encode())
    assert {event.type for event in events} <= {"status", "log", "log.amended", "notice", "resync", "failure", "end"}
    for event in events:
        assert isinstance(json.loads(event.data), dict), event
    for line in content["application/x-ndjson"]["example"].splitlines():
        assert "event" in json.loads(line)


def test_every_answer_of_the_dialect_is_written_by_itself() -> None:
    """FastAPI's own serialization would cut what it does not know."""
    found = routes(gateway_app(RichHost(), dialects=EVERY))
    assert len(found) > 100
    for route in found:
        assert route.response_model is None


@pytest.mark.wire("documentation", "error-codes")
def test_the_contract_s_codes_are_those_that_are_raised() -> None:
    table = CONTRACT.split("`error-codes`")[1].split("## ")[0]
    promised = {
        code: int(row.split("|")[2])
        for row in table.splitlines()
        if row.startswith("| `")
        for code in re.findall(r"`(\w+)`", row)
    }
    abstract = {errors.Unavailable, errors.UpstreamFailure}  # only their children are raised
    of_conversations = {errors.AlreadyExists, errors.ConversationBusy, errors.NotOffered, errors.RunFailed}
    raised = {kind.code: TABLE[kind] for kind in KINDS if kind not in abstract | of_conversations}
    assert promised == raised


@pytest.mark.wire("documentation", "root-path")
@pytest.mark.parametrize("root_path", ["", "/codegen"])
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_the_description_is_made_once_and_beside_the_event_loop(
    root_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def openapi(application: app.Application) -> dict[str, Any]:
        made.append(threading.current_thread().name)
        return described(application)

    described = app.Application.openapi
    monkeypatch.setattr(app.Application, "openapi", openapi)

    async with serving(RichHost(), root_path=root_path) as site:
        asked = await asyncio.gather(*(site.get("/openapi.json", token=None) for _ in range(3)))
        for answer in asked:
            assert answer.headers["content-type"] == "application/json"
            assert answer.json().get("servers") == ([{"url": root_path}] if root_path else None)
        assert len(made) == 1
        assert made[0].startswith("worker_thread")


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("documentation", "root-path")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
@pytest.mark.parametrize("root_path", ["", "/codegen"])
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_the_pages_load_nothing_from_other_hosts(page: str, root_path: str) -> None:
    async with serving(RichHost(), root_path=root_path, title="My Codegen API") as site:
        answer = await site.get(page, token=None)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert "My Codegen API" in answer.text
        assert f"{root_path}/openapi.json" in answer.text
        assert not re.search(r"(https?:)?//[\w.-]+\.", answer.text)
        loaded = [url for url in re.findall(r'(?:src|href)="([^"]+)"', answer.text) if not url.startswith("data:")]
        assert len(loaded) >= 2
        for url in loaded:
            assert url.startswith(f"{root_path}/docs/assets/")
            for asked in {url, url.removeprefix(root_path)}:  # a proxy may strip the prefix, or not
                asset = await site.get(asked, token=None)
                assert asset.status_code == 200, asked
                assert len(asset.content) > 100


@pytest.mark.wire("documentation")
@pytest.mark.parametrize("name", ["..%2f..%2fapp.py", "../__init__.py", "nothing.js", "%00", ""])
async def test_only_the_assets_are_served(name: str) -> None:
    async with serving(RichHost()) as site:
        answer = await site.get(f"/docs/assets/{name}", token=None)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_api_calls_itself_what_it_is_told_to() -> None:
    described = document(title="My Codegen API", version="2.0.0")
    assert (described["info"]["title"], described["info"]["version"]) == ("My Codegen API", "2.0.0")
    assert document()["info"]["version"]
