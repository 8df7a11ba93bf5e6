"""What docs/clients.md and the OpenAPI document say of a dialect, and what they have to say of any."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from codegen_api.build_parts import DIALECTS
from codegen_api.http.openapi import ANYWHERE, COMMON
from codegen_api.http.web import WAITS
from tests.dialects.rich import RichHost
from tests.dialects.site import gateway_app
from tests.dialects.test_native_documentation import operations
from tests.dialects.test_native_errors import KINDS, TABLE

DOCUMENT = (Path(__file__).parents[2] / "docs/clients.md").read_text()
CODES = {kind.code: TABLE[kind] for kind in KINDS}

Operations = list[tuple[str, str, dict[str, Any]]]


def chapter(title: str) -> str:
    """What docs/clients.md says of a dialect."""
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def part(text: str, title: str) -> str:
    """What stands behind the words in bold that a part of a chapter begins with."""
    return text.split(f"\n**{title}")[1].split("\n**", maxsplit=1)[0]


def routes_in(text: str) -> list[str]:
    """The routes of the first table of a chapter."""
    table = text.split("\n| route |")[1].split("\n\n", maxsplit=1)[0]
    return re.findall(r"`((?:DELETE|GET|PATCH|POST|PUT) /[^`]*)`", table)


def documented(name: str) -> Operations:
    """Method, path and description of each route of a dialect, in the OpenAPI document."""
    described = gateway_app(RichHost(), dialects=(name,)).openapi()
    return [each for each in operations(described) if each[1].startswith(DIALECTS[name].load().prefixes)]


def assert_described(
    found: Operations,
    *,
    prefix: str,
    security: set[str],
    shape: str,
    media_type: str = "application/json",
    public: Collection[str] = (),
) -> None:
    """Every route says what it does, who may ask, and how it fails. ``security`` names the schemes, each of which will
    do; ``shape`` is the dialect's one model of an error; what is ``public`` wants no caller.
    """
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["operationId"].startswith(prefix), (method, path)
        asked = [set(each) for each in operation.get("security", [])]
        assert sorted(map(sorted, asked)) == ([] if path in public else sorted([each] for each in security))
        assert {int(status) for status in operation["responses"]} >= set(ANYWHERE if path in public else COMMON)
        assert_errors_described(operation, shape, media_type)


def undescribed(found: Operations) -> list[tuple[str, str]]:
    """Parameters of which nothing is said, with their paths."""
    given = [(path, each) for _, path, operation in found for each in operation.get("parameters", [])]
    return [(path, each["name"]) for path, each in given if not each.get("description")]


def assert_errors_described(operation: dict[str, Any], shape: str, media_type: str = "application/json") -> None:
    """In the dialect's own shape and nothing else, each with an example that could be an answer."""
    for status in (int(status) for status in operation["responses"] if int(status) >= 400):
        response = operation["responses"][str(status)]
        assert set(response["content"]) == {media_type}
        content = response["content"][media_type]
        assert content["schema"] == {"$ref": f"#/components/schemas/{shape}"}
        assert content["example"]["status_code"] == CODES[content["example"]["code"]] == status
        assert ("Retry-After" in response["headers"]) == (status in WAITS)
        assert ("WWW-Authenticate" in response["headers"]) == (status == 401)
