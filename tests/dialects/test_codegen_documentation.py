"""What the OpenAPI document says of the hosted API's paths, and that they are those of the host."""

from pathlib import Path
from typing import Any

from codegen_api.dialects import codegen
from codegen_api.sandbox.operations import OPERATIONS
from codegen_api.web import COMMON, WAITS
from tests.dialects.rich import RichHost
from tests.dialects.site import gateway_app
from tests.dialects.test_native_documentation import follow, nodes, operations
from tests.dialects.test_native_errors import KINDS, TABLE

CLIENTS = (Path(__file__).parents[2] / "docs/clients.md").read_text()


def document() -> dict[str, Any]:
    described = gateway_app(RichHost(), dialects=("codegen",)).openapi()
    described["paths"] = {
        path: methods for path, methods in described["paths"].items() if path.startswith(codegen.PREFIXES)
    }
    return described


def test_the_paths_are_those_of_the_host_and_no_others() -> None:
    ours = {(method, path) for method, path, _ in operations(document())}
    assert ours == {(operation.method, operation.path) for operation in OPERATIONS.values()}
    table = CLIENTS.split("## Codegen's own API")[1]
    for method, path in ours:
        assert f"`{method} {path}`" in table


def test_every_route_is_described_with_its_errors_and_examples() -> None:
    described = document()
    codes = {kind.code: TABLE[kind] for kind in KINDS}
    for method, path, operation in operations(described):
        assert operation["tags"] == ["Hosted API"]
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"]
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
        statuses = {int(status) for status in operation["responses"]}
        once = method == "POST" and path.endswith(("/agent/run", "/resume"))
        power = path.endswith(("ban", "/remove-from-pr", "/users", "/{user_id}"))
        assert statuses == {200, *COMMON, *({402, 409} if once else ()), *({501} if power else ())}
        for status in statuses - {200}:
            response = operation["responses"][str(status)]
            content = response["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/HostedError"}
            assert content["example"]["status_code"] == codes[content["example"]["code"]] == status
            assert ("Retry-After" in response["headers"]) == (status in WAITS)
            assert ("WWW-Authenticate" in response["headers"]) == (status == 401)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert follow(described, schema["$ref"])["examples"]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert follow(described, schema["$ref"])["examples"]


def test_the_document_of_all_dialects_holds_together() -> None:
    described = gateway_app(RichHost(), dialects=("native", "codegen")).openapi()
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(ids) == len(set(ids))
    for node in nodes(described):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            assert follow(described, node["$ref"])
    native = gateway_app(RichHost()).openapi()
    assert {name: described["components"]["schemas"][name] for name in native["components"]["schemas"]} == native[
        "components"
    ]["schemas"]
