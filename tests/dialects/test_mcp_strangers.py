"""Who may do what with the tools: the same as with the native routes, and nobody hears of the runs of others."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from codegen_api.dialects.mcp.tools import TOOLS
from codegen_api.identity import WRITE
from tests.auth.issuer import AUDIENCE
from tests.dialects.mcp import ABLE, McpClient
from tests.dialects.site import Site, serving
from tests.dialects.test_strangers import INTRUDERS, ISSUER, MISSING, keys_of, users_of
from tests.fakehost import FakeHost

ARGUMENTS: dict[str, dict[str, Any]] = {
    "get_run": {},
    "read_log": {},
    "follow_run": {"wait_seconds": 1},
    "resume_run": {"prompt": "Go on"},
    "cancel_run": {},
}
METADATA = "/.well-known/oauth-protected-resource/mcp"


def about(run: str) -> list[tuple[str, dict[str, Any]]]:
    """Every request about a run."""
    calls = [("tools/call", {"name": name, "arguments": {"run_id": run, **more}}) for name, more in ARGUMENTS.items()]
    tasks = [(f"tasks/{name}", {"taskId": run}) for name in ("get", "update", "cancel")]
    return [*calls, *tasks, ("resources/read", {"uri": f"codegen://runs/{run}/log"})]


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[tuple[Site, dict[str, str]]]:
    """A gateway with users of its own, a run of ann's, and the keys of the intruders."""
    keys = keys_of(tmp_path)
    async with serving(FakeHost(), dialects=("mcp",), upstream_requests_per_minute=10**6, **users_of(tmp_path)) as site:
        site.host.latency = 0
        await McpClient(site, token=ISSUER.token("ann")).told("start_run", prompt="Say hello")
        site.host.runs["1"].status = "COMPLETE"
        yield site, keys


def test_every_tool_that_takes_a_run_is_asked() -> None:
    schemas = {tool.name: tool.arguments.model_fields for tool in TOOLS}
    takes = [name for name, fields in schemas.items() if "run_id" in fields]
    assert sorted(takes) == sorted(ARGUMENTS)


@pytest.mark.parametrize("who", sorted(INTRUDERS))
async def test_nothing_tells_a_stranger_that_there_is_such_a_run(who: str, tmp_path: Path) -> None:
    async with place(tmp_path) as (site, keys):
        intruder = INTRUDERS[who]
        token = keys[who] if intruder.key else intruder.token()
        named = {} if intruder.organization is None else {"X-Organization-ID": intruder.organization}
        for (method, params), (_, others) in zip(about("1"), about(MISSING), strict=True):
            client = McpClient(site, ABLE, token, named)
            there, not_there = await client.send(method, params), await client.send(method, others)
            if intruder.status == 401:
                assert there.status_code == 401
            else:
                assert there.status_code in (200, 400, 403), there.text
                body = there.json()
                assert "error" in body or body["result"]["isError"], there.text
            heard = [json.dumps(each.json()).replace(f"runs/{MISSING}", "runs/1") for each in (there, not_there)]
            ids = [each.headers["x-request-id"] for each in (there, not_there)]
            assert heard[0].replace(ids[0], "") == heard[1].replace(ids[1], ""), (method, params)
            assert there.status_code == not_there.status_code
        assert len(site.host.runs["1"].entries) == 1
        assert site.host.runs["1"].status == "COMPLETE"
        assert "1" not in [run["run_id"] for run in await listed(site, token, named)]


async def listed(site: Site, token: str | None, named: dict[str, str]) -> Any:
    answer = await McpClient(site, None, token, named).send("tools/call", {"name": "list_runs", "arguments": {}})
    return answer.json().get("result", {}).get("structuredContent", {}).get("runs", [])


async def test_the_owner_gets_an_answer(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        client = McpClient(site, ABLE, ISSUER.token("ann"))
        for method, params in about("1"):
            site.host.runs["1"].status = "ACTIVE" if "cancel" in json.dumps([method, params]) else "COMPLETE"
            answer = await client.send(method, params)
            assert answer.status_code == 200, answer.text
            assert not answer.json()["result"].get("isError"), answer.text
            assert "owner" not in answer.text
        assert [run["run_id"] for run in await listed(site, ISSUER.token("ann"), {})] == ["1"]


@pytest.mark.parametrize("scope", ["runs:read", "runs:write"])
async def test_each_tool_needs_its_scope_and_a_client_is_told_which(scope: str, tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        other = {"runs:read": "runs:write", "runs:write": "runs:read"}[scope]
        client = McpClient(site, ABLE, ISSUER.token("ann", scope=other))
        needing = [("tools/call", {"name": tool.name}) for tool in TOOLS if tool.scope == scope]
        tasks = {"runs:read": ["tasks/get"], "runs:write": ["tasks/update", "tasks/cancel"]}[scope]
        needing += [(name, {"taskId": "1"}) for name in tasks]
        needing += [("resources/read", {"uri": "codegen://runs/1/log"})] if scope == "runs:read" else []
        for method, params in needing:
            answer = await client.send(method, params)
            assert (answer.status_code, answer.json()["id"]) == (403, 1), (method, params)
            assert answer.json()["error"]["data"]["code"] == "insufficient_scope"
            challenge = answer.headers["www-authenticate"]
            assert challenge == (
                f'Bearer error="insufficient_scope", scope="{scope}", resource_metadata="http://localhost{METADATA}"'
            )
        assert (await client.result("tools/list"))["tools"]
        assert len(needing) >= 5


def test_tools_that_order_need_the_scope_to_write() -> None:
    orders = [tool.name for tool in TOOLS if tool.scope == WRITE]
    assert orders == ["start_run", "run_agent", "resume_run", "cancel_run"]


# -- where a token is to be had ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "error"), [(None, ""), ("x.y.z", 'error="invalid_token", ')])
async def test_a_client_without_a_good_jwt_is_told_where_to_get_one(
    token: str | None, error: str, tmp_path: Path
) -> None:
    keys_of(tmp_path)
    more = {**users_of(tmp_path), "public_url": "https://agents.example/gateway", "jwt_scope_prefix": "gateway/"}
    async with serving(FakeHost(), dialects=("mcp",), **more) as site:
        answer = await McpClient(site, token=token).send("initialize", {"protocolVersion": "2025-11-25"})
        where = f"https://agents.example/gateway{METADATA}"
        assert (answer.status_code, answer.headers["www-authenticate"]) == (
            401, f'Bearer {error}resource_metadata="{where}"',
        )  # fmt: skip
        found = await site.get(METADATA, token=None)
        assert found.json() == {
            "resource": "https://agents.example/gateway/mcp",
            "resource_name": "codegen_api",
            "authorization_servers": [ISSUER.name],
            "scopes_supported": ["gateway/runs:read", "gateway/runs:write"],
            "bearer_methods_supported": ["header"],
        }
        assert (await site.post("/agent-runs", {}, token=None)).headers["www-authenticate"] == "Bearer"
        reads = McpClient(site, token=ISSUER.token("ann", scope="gateway/runs:read"))
        lacks = await reads.send("tools/call", {"name": "start_run", "arguments": {"prompt": "Say hello"}})
        assert f'scope="gateway/runs:write", resource_metadata="{where}"' in lacks.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("host", "root_path", "told"),
    [
        ("agents.example", "", "http://agents.example"),
        ("Agents.example:8443", "/gateway", "http://Agents.example:8443/gateway"),
        ("[::1]:8000", "", "http://[::1]:8000"),
        ('evil"example', "", "http://localhost"),
        ("[", "", "http://localhost"),
    ],
)
async def test_without_a_setting_the_name_is_that_by_which_the_client_asks(
    host: str, root_path: str, told: str, tmp_path: Path
) -> None:
    keys_of(tmp_path)
    async with serving(FakeHost(), dialects=("mcp",), root_path=root_path, **users_of(tmp_path)) as site:
        found = await site.get(root_path + METADATA, token=None, headers={"Host": host})
        assert found.json()["resource"] == f"{told}/mcp"
        answer = await site.post(f"{root_path}/mcp", {}, token=None, headers={"Host": host})
        assert answer.headers["www-authenticate"] == f'Bearer resource_metadata="{told}{METADATA}"'


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"auth": ("key",), "api_keys": "", "api_token": "alice", "secret_key": "x" * 40},
        {
            "auth": ("jwt",), "api_token": "alice", "secret_key": "x" * 40, "jwt_issuer": "our-issuer",
            "jwt_audience": AUDIENCE, "jwt_key": ISSUER.public_pem,
        },
    ],
    ids=["token", "key", "an issuer without a URL"],
)  # fmt: skip
async def test_where_no_issuer_can_be_asked_nothing_is_said_of_one(more: dict[str, Any]) -> None:
    async with serving(FakeHost(), dialects=("mcp",), **more) as site:
        answer = await McpClient(site, token=None).send("ping")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        missing = await site.get(METADATA, token=None)
        assert (missing.status_code, missing.json()["error"]["data"]["code"]) == (404, "not_found")
