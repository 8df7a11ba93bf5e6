"""The host's published document against the dialect that bears its name: each operation has its answer, each parameter
and field its meaning, or docs/clients.md says what it has instead.

The facts are those of the OpenAPI document of October 2025, and what the one of 2026 added.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from codegen_api.dialects.codegen import DIALECT
from codegen_api.sandbox import create_sandbox
from codegen_api.upstreams.codegen import CodegenUpstream
from tests.dialects.documented import chapter, routes_in
from tests.dialects.routes import methods, routes
from tests.dialects.site import gateway_app, serving

BELOW = "/v1/organizations/{org_id}"
RUNS = f"{BELOW}/agent/run"
PAGE = ("items", "total", "page", "size", "pages")
RUN = ("id", "organization_id")
USER = ("id", "github_user_id", "github_username")
REPOSITORY = (
    *("id", "name", "full_name", "description", "github_id", "organization_id", "visibility", "archived"),
    *("setup_status", "language"),
)


@dataclass(frozen=True)
class Published:
    """An operation: what it takes, and what its answer, and each item there, has to have."""

    operation: str
    query: Sequence[str] = ()
    body: Sequence[str] = ()
    required: Sequence[str] = ()
    items: tuple[str, Sequence[str]] | None = None


SERVED = [
    Published("GET /v1/users/me", required=USER),
    Published("GET /v1/organizations", ("skip", "limit"), required=PAGE, items=("items", ("id", "name", "settings"))),
    Published(f"GET {BELOW}/users", ("skip", "limit"), required=PAGE, items=("items", USER)),
    Published(f"GET {BELOW}/users/{{user_id}}", required=USER),
    Published(f"GET {BELOW}/repos", ("skip", "limit"), required=PAGE, items=("items", REPOSITORY)),
    Published(f"POST {RUNS}", (), ("prompt", "images", "metadata", "repo_id", "model", "agent_type", "webhooks"), RUN),
    Published(f"GET {RUNS}/{{agent_run_id}}", required=RUN),
    Published(f"GET {RUNS}s", ("user_id", "source_type", "skip", "limit"), required=PAGE, items=("items", RUN)),
    Published(f"POST {RUNS}/resume", (), ("agent_run_id", "prompt", "images", "model", "webhooks"), RUN),
    *(
        Published(f"POST {RUNS}/{order}", (), ("agent_run_id", "before_card_order_id", "after_card_order_id"))
        for order in ("ban", "unban", "remove-from-pr")
    ),
    Published(
        "GET /v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs",
        ("skip", "limit", "reverse"),
        required=(*RUN, "logs"),
        items=("logs", ("agent_run_id",)),
    ),
]
NOT_OFFERED = [
    f"GET {BELOW}/repos/check-suite-settings",
    f"PUT {BELOW}/repos/check-suite-settings",
    f"PATCH {BELOW}/prs/{{pr_id}}",
    f"PATCH {BELOW}/repos/{{repo_id}}/prs/{{pr_id}}",
    f"GET {BELOW}/integrations",
    f"POST {BELOW}/setup-commands/generate",
    f"POST {BELOW}/sandbox/{{sandbox_id}}/analyze-logs",
    f"GET {BELOW}/cli/rules",
    f"GET {BELOW}/models",
    f"GET {BELOW}/webhooks/agent-run",
    f"POST {BELOW}/webhooks/agent-run",
    f"DELETE {BELOW}/webhooks/agent-run",
    f"POST {BELOW}/webhooks/agent-run/test",
    "GET /v1/mcp-providers",
    "GET /v1/oauth/tokens/status",
    "POST /v1/oauth/tokens/revoke",
    "POST /v1/slack-connect/generate-token",
]
CLIENTS = chapter("Codegen's own API")
REFUSED, IGNORED = (
    re.search(rf"\n- \*\*Fields {kind}\*\*:(.*?)\n- ", CLIENTS, re.DOTALL)[1]  # type: ignore[index]
    for kind in ("that are refused", "without effect")
)
BODY = {"prompt": "Mend the gate", "agent_run_id": 12345}
ORDERED = sorted(SERVED, key=lambda each: "/agent/run/" in each.operation and each.operation.startswith("POST"))
"""What ends or begins something comes last."""


def split(operation: str) -> tuple[str, str]:
    method, _, path = operation.partition(" ")
    return method, path


def filled(path: str) -> str:
    return path.format(org_id=323, agent_run_id=12345, user_id=1002, pr_id=7, repo_id=7, sandbox_id=7)


def test_every_published_operation_is_served_or_said_not_to_be() -> None:
    ours = {f"{method} {each.path}" for each in routes(gateway_app(dialects=("codegen",))) for method in methods(each)}
    served, refused = [each.operation for each in SERVED], CLIENTS.split("| not offered |")[1].split("\n\n")[0]
    assert {*served, *NOT_OFFERED} - ours == set()
    assert set(served) - set(routes_in(CLIENTS)) == set()
    assert sorted(re.findall("`([A-Z]+ /[^`]+)`", refused)) == sorted(NOT_OFFERED)


@pytest.mark.parametrize("published", SERVED, ids=lambda each: each.operation)
def test_every_published_parameter_and_field_is_known(published: Published) -> None:
    method, path = split(published.operation)
    (route,) = (
        each for each in routes(gateway_app(dialects=("codegen",))) if each.path == path and method in methods(each)
    )
    assert {each.alias for each in route.dependant.query_params} == set(published.query)
    (body,) = [each.field_info.annotation for each in route.dependant.body_params] or [None]
    assert set(getattr(body, "model_fields", {})) == set(published.body)


async def test_what_is_refused_or_ignored_is_what_the_documentation_says() -> None:
    assert set(re.findall("`([a-z_]+)`", REFUSED)) == {"webhooks", "model", "unsupported"}
    assert set(re.findall("`([a-z_]+)`", IGNORED)) == {"before_card_order_id", "after_card_order_id"}

    async with sandboxed() as site:
        for path, field, value in (
            (RUNS, "webhooks", [{"url": "https://a.example"}]),
            (f"{RUNS}/resume", "webhooks", [{"url": "https://a.example"}]),
            (f"{RUNS}/resume", "model", "m"),
        ):
            answer = await site.post(filled(path), {**BODY, field: value}, token="sandbox-alice")
            assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
            assert answer.json()["detail"][0]["loc"] == ["body", field]
        for order in ("ban", "unban", "remove-from-pr"):
            body = {**BODY, "before_card_order_id": "a", "after_card_order_id": 7}
            assert (await site.post(filled(f"{RUNS}/{order}"), body, token="sandbox-alice")).status_code == 200


def sandboxed() -> Any:
    """The gateway in front of an emulation of the host, in one process."""
    transport = httpx.ASGITransport(create_sandbox(limits="off"))
    return serving(CodegenUpstream("http://host.example", transport=transport), dialects=("codegen",))


async def test_every_answer_has_what_the_document_requires_of_it() -> None:
    async with sandboxed() as site:
        for published in ORDERED:
            method, path = split(published.operation)
            more = {"json": BODY} if method == "POST" else {}
            answer = await site.ask(method, filled(path), token="sandbox-alice", **more)
            assert answer.status_code == 200, answer.text
            assert set(published.required) - set(answer.json()) == set(), published.operation
            if published.items is not None:
                key, required = published.items
                assert answer.json()[key], published.operation
                for item in answer.json()[key]:
                    assert set(required) - set(item) == set(), published.operation


@pytest.mark.parametrize("operation", NOT_OFFERED)
async def test_what_is_not_offered_is_501_in_the_host_s_shape(operation: str) -> None:
    method, path = split(operation)
    assert any(f"{path}/".startswith(f"{prefix}/") for prefix in DIALECT.prefixes)
    async with sandboxed() as site:
        answer = await site.ask(method, f"{filled(path)}?repo_id=7&org_id=323", token="sandbox-alice", json={})
        assert answer.status_code == answer.json()["status_code"] == 501
        assert answer.json()["detail"] == answer.json()["message"]
