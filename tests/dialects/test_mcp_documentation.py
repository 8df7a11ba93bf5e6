"""What docs/clients.md and the OpenAPI document say of the MCP server."""

import re

from codegen_api.dialects.mcp.protocol import VERSIONS
from codegen_api.dialects.mcp.runs import LOG, MOST_CHARACTERS
from codegen_api.dialects.mcp.tools import LONGEST_WAIT, TOOLS
from codegen_api.http.openapi import ANYWHERE, COMMON
from tests.dialects.documented import chapter, documented, routes_in, undescribed

CLIENTS = chapter("MCP hosts")


def test_every_route_is_in_the_table_and_no_other() -> None:
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path, _ in documented("mcp"))


def test_every_route_is_described_with_its_errors() -> None:
    found = documented("mcp")
    assert undescribed(found) == []
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["operationId"].startswith("mcp_")
        assert operation.get("security", []) == ([{"HTTPBearer": []}] if path == "/mcp" else [])
        statuses = {int(status) for status in operation["responses"]}
        assert statuses >= set(COMMON if path == "/mcp" else ANYWHERE)
        for status in (status for status in statuses if status >= 400):
            example = operation["responses"][str(status)]["content"]["application/json"]["example"]
            assert set(example) == {"jsonrpc", "error"}  # an id of null is left out of the document
            assert example["error"]["message"].startswith(f"{example['error']['data']['code']}: ")


def test_every_tool_is_in_the_table_with_its_arguments_and_their_defaults() -> None:
    table = CLIENTS.split("\n| tool |")[1].split("\n\n", maxsplit=1)[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M))
    assert list(told) == [tool.name for tool in TOOLS]
    for tool in TOOLS:
        same = told["start_run"] if "the same" in told[tool.name] else ""
        arguments = f"{same}, {told[tool.name].replace('the same, ', '')}" if same else told[tool.name]
        fields = tool.arguments.model_fields
        assert re.findall(r"`(\w+)`", arguments) == list(fields), tool.name
        for name, default in re.findall(r"`(\w+)` \((\d+)\)", arguments):
            assert fields[name].default == int(default), (tool.name, name)


def test_the_numbers_told_are_those_of_the_code() -> None:
    assert f"at most {MOST_CHARACTERS:,} characters" in CLIENTS
    assert f"no tool waits longer than {LONGEST_WAIT}" in " ".join(CLIENTS.split())
    assert all(version in CLIENTS for version in VERSIONS)
    assert str(LOG["uriTemplate"]) in CLIENTS
