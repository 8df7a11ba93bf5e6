"""What the OpenAPI document says of the hosted API's paths, and that they are those of the host."""

from typing import Any

from codegen_api.dialects.codegen import DIALECT
from codegen_api.http.openapi import COMMON
from codegen_api.sandbox.host import OPERATIONS
from tests.dialects.documented import assert_errors_described, chapter, routes_in
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY
from tests.dialects.site import gateway_app
from tests.dialects.test_native_documentation import follow, nodes, operations

CLIENTS = chapter("Codegen's own API")


def document() -> dict[str, Any]:
    described = gateway_app(RichHost(), dialects=("codegen",)).openapi()
    described["paths"] = {
        path: methods for path, methods in described["paths"].items() if path.startswith(DIALECT.prefixes)
    }
    return described


def test_the_paths_are_those_of_the_host_and_of_its_cli_and_no_others() -> None:
    ours = {(method, path) for method, path, operation in operations(document()) if "200" in operation["responses"]}
    host = {(method, operation.path) for operation in OPERATIONS.values() for method in operation.methods or ()}
    assert ours == {*host, ("GET", "/v1/organizations/{org_id}/repositories")}
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path in ours)


def test_every_route_is_described_with_its_errors_and_examples() -> None:
    described = document()
    for method, path, operation in operations(described):
        assert operation["tags"] == ["Hosted API"]
        assert operation["summary"]
        assert operation["description"]
        assert operation["security"]
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
        statuses = {int(status) for status in operation["responses"]}
        once = method == "POST" and path.endswith(("/agent/run", "/resume"))
        assert_errors_described(operation, "HostedError")
        if 200 not in statuses:
            assert statuses == {501, *COMMON}
            continue
        assert statuses == {200, *COMMON, *({402, 409} if once else ()), *(() if path == "/v1/users/me" else {501})}
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert follow(described, schema["$ref"])["examples"]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert follow(described, schema["$ref"])["examples"]


def test_the_document_of_all_dialects_holds_together() -> None:
    described = gateway_app(RichHost(), dialects=EVERY).openapi()
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(ids) == len(set(ids))
    for node in nodes(described):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            assert follow(described, node["$ref"])
    names = described["components"]["schemas"]
    assert {name for name in names if "__" in name} == set()  # two would have the same name
    native = gateway_app(RichHost()).openapi()
    assert {name: names[name] for name in native["components"]["schemas"]} == native["components"]["schemas"]
