"""What is said of the Agent Protocol, in the OpenAPI document and in docs/clients.md."""

from pathlib import Path
from typing import Any

from codegen_api.dialects import agent_protocol
from codegen_api.web import ANYWHERE, COMMON, WAITS
from tests.dialects.rich import RichHost
from tests.dialects.site import gateway_app
from tests.dialects.test_native_documentation import operations
from tests.dialects.test_native_errors import KINDS, TABLE

DOCUMENT = (Path(__file__).parents[2] / "docs/clients.md").read_text()
CLIENTS = DOCUMENT.split("\n## The Agent Protocol\n")[1].split("\n## ")[0]
PUBLIC = ("/info", "/ok")
SECURITY = {frozenset({"HTTPBearer"}), frozenset({"ApiKey"})}
REFUSED = [
    "after_seconds",
    "extract",
    "index",
    "interrupt_after",
    "interrupt_before",
    "supersteps",
    "ttl",
    "values",
    "webhook",
]
IGNORED = [
    "durability",
    "feedback_keys",
    "include",
    "recurse",
    "refresh_ttl",
    "stream_resumable",
    "stream_subgraphs",
    "xray",
]


def ours() -> list[tuple[str, str, Any]]:
    described = gateway_app(RichHost(), dialects=("agent_protocol",)).openapi()
    return [each for each in operations(described) if each[1].startswith(agent_protocol.PREFIXES)]


def test_every_route_is_in_the_table_or_said_to_be_refused() -> None:
    for method, path, operation in ours():
        if operation["tags"] == ["Agent Protocol: not offered"]:
            assert "crons" in path or path.split("/")[-1] in ("copy", "state", "stream", "commands", "events")
        else:
            assert f"`{method} {path}`" in CLIENTS, (method, path)


def test_every_route_is_described_with_its_errors() -> None:
    codes = {kind.code: TABLE[kind] for kind in KINDS}
    for method, path, operation in ours():
        assert operation["summary"]
        assert operation["description"]
        assert operation["operationId"].startswith("agent_protocol_")
        assert bool(operation.get("security")) == (path not in PUBLIC), (method, path)
        statuses = {int(status) for status in operation["responses"]}
        assert statuses >= set(ANYWHERE if path in PUBLIC else COMMON)
        for status in (status for status in statuses if status >= 400):
            response = operation["responses"][str(status)]
            content = response["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/AgentProtocolError"}
            assert content["example"]["status_code"] == codes[content["example"]["code"]] == status
            assert ("Retry-After" in response["headers"]) == (status in WAITS)
        if path not in PUBLIC:
            assert {frozenset(each) for each in operation["security"]} == SECURITY


def test_what_is_refused_by_name_and_what_is_ignored_is_listed() -> None:
    _, _, lists = CLIENTS.partition("**Refused by name.**")
    refused, _, ignored = lists.partition("**Ignored**")
    for name in REFUSED:
        assert f"`{name}`" in refused, name
    for name in IGNORED:
        assert f"`{name}`" in ignored, name
