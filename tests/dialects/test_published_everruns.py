"""Everruns' published document, 0.2.0, and what its SDKs and its notebook send besides: each operation is served, or is
told to be none, and each name that clients may send means something, is refused, or is known to mean nothing.
"""

import json
import re
from typing import Any

import pytest

from codegen_api.dialects.everruns import schemas
from codegen_api.dialects.everruns.dependencies import END_USER
from tests.dialects.documented import chapter, part
from tests.dialects.everruns import Listening, Talk, a_talk, an_agent, speaking, talking
from tests.dialects.published import Operation, bare, declared, operations, served
from tests.dialects.site import Site

BUILT = "capabilities tools initial_files mcpServers network_access max_iterations harness_id harness_name"
AGENT = f"name system_prompt display_name description default_model_id tags parallel_tool_calls {BUILT}"
BEGUN = f"title tags model_id locale hints agent_identity_id workspace_id parallel_tool_calls {BUILT}"
SAID = "message controls metadata tags external_actor addressed_participant_id"
CHOSEN = "since_id types exclude after_sequence"
LISTED = (
    f"{CHOSEN} before_sequence limit turn_id order_desc around window from_ts to_ts exec_id trace_id tags tool_name q"
)
LINKS = "self_url view_url ui_link"
ONE_AGENT = f"id name system_prompt status harness_id created_at updated_at app_count session_count {LINKS}"
ONE_SESSION = f"id organization_id harness_id owner_principal_id workspace_id status created_at updated_at {LINKS}"
ONE_MESSAGE = "id role content created_at"
ONE_BELOW = "id agent_id tags status created_at"
ONE_MESSAGE_BELOW = "id session_id sequence role content created_at"
PAGED = "data total offset limit"
BELOW = "/v1/agents/{agent_id}/sessions"

SERVED = operations(
    f"""
    GET /v1/agents | search include_archived offset limit | | {PAGED}
    POST /v1/agents | | id {AGENT} | {ONE_AGENT}
    GET /v1/agents/{{agent_id}} | | | {ONE_AGENT}
    PUT /v1/agents/{{agent_id}} | | id {AGENT} | {ONE_AGENT}
    PATCH /v1/agents/{{agent_id}} | | status {AGENT} | {ONE_AGENT}
    DELETE /v1/agents/{{agent_id}}
    GET /v1/sessions | agent_id search offset limit page_token | | {PAGED}
    POST /v1/sessions | | agent_id agent_name system_prompt {BEGUN} | {ONE_SESSION}
    GET /v1/sessions/{{session_id}} | | | {ONE_SESSION}
    PATCH /v1/sessions/{{session_id}} | | title tags locale agent_identity_id | {ONE_SESSION}
    DELETE /v1/sessions/{{session_id}}
    POST /v1/sessions/{{session_id}}/cancel | | | status message
    GET /v1/sessions/{{session_id}}/events | {LISTED} | | data
    GET /v1/sessions/{{session_id}}/export
    GET /v1/sessions/{{session_id}}/messages | | | data
    POST /v1/sessions/{{session_id}}/messages | wait timeout_ms | {SAID} | {ONE_MESSAGE}
    GET /v1/sessions/{{session_id}}/sse | {CHOSEN}
    GET {BELOW} | | | data items total
    POST {BELOW} | | title tags model_id | {ONE_BELOW}
    GET {BELOW}/{{session_id}} | | | {ONE_BELOW}
    PATCH {BELOW}/{{session_id}} | | title tags | {ONE_BELOW}
    DELETE {BELOW}/{{session_id}}
    POST {BELOW}/{{session_id}}/messages | | message controls metadata tags | {ONE_MESSAGE_BELOW}
    GET {BELOW}/{{session_id}}/messages | | | data items total
    GET {BELOW}/{{session_id}}/events | | | data
    GET {BELOW}/{{session_id}}/events/list | | | data
    GET {BELOW}/{{session_id}}/sse
    """
)

ABSENT = operations(
    """
    POST /v1/agents/analyze
    GET /v1/agents/check-name
    GET /v1/agents/config
    POST /v1/agents/import
    POST /v1/agents/preview
    GET,PUT /v1/agents/{a}/capabilities
    POST /v1/agents/{a}/copy
    GET /v1/agents/{a}/export
    GET,POST /v1/agents/{a}/health-checks
    GET /v1/agents/{a}/health-checks/{r}
    GET /v1/agents/{a}/stats
    GET,POST /v1/agents/{a}/versions
    POST /v1/agents/{a}/versions/default
    GET /v1/agents/{a}/versions/{f}/diff/{t}
    POST /v1/agents/{a}/versions/{v}/fork
    POST /v1/agents/{a}/versions/{v}/rollback
    POST /v1/agents/{a}/voice/sessions
    GET,PUT,POST,DELETE /v1/agents/{a}/sessions/{s}/fs/{p}
    GET,POST /v1/apps
    GET /v1/apps/config
    GET,DELETE,PATCH /v1/apps/{a}
    POST /v1/apps/{a}/a2a-channels
    POST /v1/apps/{a}/a2a-channels/{c}/regenerate-key
    POST /v1/apps/{a}/a2a/{c}
    GET /v1/apps/{a}/a2a/{c}/.well-known/agent-card.json
    GET,POST /v1/apps/{a}/fcp
    POST /v1/apps/{a}/publish
    GET /v1/apps/{a}/runs
    POST /v1/apps/{a}/unpublish
    POST /v1/apps/{a}/webhooks/{c}
    POST /v1/auth/login
    GET,POST /v1/budgets
    GET,PATCH,DELETE /v1/budgets/{b}
    POST /v1/budgets/{b}/top-up
    GET /v1/budgets/{b}/ledger
    GET /v1/budgets/{b}/check
    GET,POST /v1/capabilities
    GET /v1/capabilities/declarative
    GET /v1/capabilities/declarative/config
    GET,DELETE,PATCH /v1/capabilities/declarative/{c}
    POST /v1/capabilities/declarative/{c}/delete
    POST /v1/capabilities/guardrails/dry-run
    GET /v1/capabilities/guardrails/examples
    GET /v1/capabilities/{c}
    GET /v1/channels/{c}
    GET,POST /v1/channels/{c}/sessions
    GET /v1/channels/{c}/sessions/{s}/sse
    GET /v1/durable/circuit-breakers
    GET,DELETE /v1/durable/circuit-breakers/{k}
    POST /v1/durable/circuit-breakers/{k}/close
    POST /v1/durable/circuit-breakers/{k}/open
    GET /v1/durable/config
    GET /v1/durable/dlq
    POST /v1/durable/dlq/{d}/retry
    GET /v1/durable/executions/{e}
    GET /v1/durable/health
    GET /v1/durable/metrics/timeseries
    GET,POST /v1/durable/schedules
    GET,DELETE,PATCH /v1/durable/schedules/{s}
    GET /v1/durable/schedules/{s}/executions
    POST /v1/durable/schedules/{s}/pause
    POST /v1/durable/schedules/{s}/resume
    GET /v1/durable/schedules/{s}/stats
    POST /v1/durable/schedules/{s}/trigger
    GET /v1/durable/sse
    GET,POST /v1/durable/tasks
    GET /v1/durable/workers
    POST /v1/durable/workers/{w}/drain
    POST /v1/durable/workers/{w}/resume
    GET /v1/durable/workflows
    GET /v1/durable/workflows/{w}
    POST /v1/durable/workflows/{w}/cancel
    GET /v1/durable/workflows/{w}/events
    POST /v1/durable/workflows/{w}/signal
    GET /v1/durable/workflows/{w}/sse
    GET /v1/harness-examples
    GET,POST /v1/harnesses
    GET /v1/harnesses/check-name
    GET /v1/harnesses/config
    POST /v1/harnesses/import
    POST /v1/harnesses/preview
    GET,DELETE,PATCH /v1/harnesses/{h}
    POST /v1/harnesses/{h}/copy
    GET /v1/harnesses/{h}/stats
    GET,POST /v1/images
    GET,DELETE /v1/images/{i}
    GET /v1/images/{i}/thumbnail
    GET,POST /v1/knowledge-bases
    GET,DELETE,PATCH /v1/knowledge-bases/{k}
    GET,POST /v1/knowledge-bases/{k}/entries
    GET,DELETE,PATCH /v1/knowledge-bases/{k}/entries/{e}
    GET /v1/llm-models
    GET,POST /v1/llm-providers
    GET,POST /v1/mcp-servers
    GET /v1/mcp-servers/config
    GET,DELETE,PATCH /v1/mcp-servers/{m}
    GET,POST /v1/memories
    GET,DELETE,PATCH /v1/memories/{m}
    GET /v1/memories/{m}/fs
    GET /v1/memories/{m}/fs/_/download/{p}
    POST /v1/memories/{m}/fs/_/grep
    POST /v1/memories/{m}/fs/_/stat
    GET,PUT,POST,DELETE /v1/memories/{m}/fs/{p}
    POST /v1/memories/{m}/sync
    GET /v1/models
    GET /v1/models/config
    GET,DELETE,PATCH /v1/models/{m}
    GET,POST /v1/orgs
    GET,PATCH /v1/orgs/{o}
    GET,PATCH /v1/orgs/{o}/feature-flags
    GET /v1/orgs/{o}/feature-flags/settings
    GET,POST /v1/payments/accounts
    GET,DELETE,PATCH /v1/payments/accounts/{p}
    GET /v1/payments/attempts
    GET,POST /v1/payments/policies
    GET,DELETE,PATCH /v1/payments/policies/{p}
    GET,POST /v1/providers
    GET /v1/providers/config
    GET,DELETE,PATCH /v1/providers/{p}
    POST /v1/providers/{p}/sync-models
    GET,POST /v1/providers/{p}/models
    POST /v1/reports/admin/backfill
    GET /v1/reports/admin/diagnostics
    GET /v1/reports/catalog
    POST /v1/reports/projector/run
    POST /v1/reports/query
    POST /v1/reports/query/export
    GET,POST /v1/reports/saved
    GET,DELETE,PATCH /v1/reports/saved/{r}
    POST /v1/reports/saved/{r}/export
    POST /v1/reports/saved/{r}/run
    GET /v1/resolve-org
    POST /v1/runtime-auth
    POST /v1/sessions/chat
    POST /v1/sessions/chat/voice
    GET /v1/sessions/stats
    GET /v1/sessions/{s}/budget-check
    GET /v1/sessions/{s}/budgets
    GET /v1/sessions/{s}/context-report
    GET,POST /v1/sessions/{s}/databases
    GET,DELETE /v1/sessions/{s}/databases/{n}
    GET /v1/sessions/{s}/databases/{n}/schema
    GET /v1/sessions/{s}/events/summary
    POST /v1/sessions/{s}/fork
    POST /v1/sessions/{s}/git/branches
    DELETE /v1/sessions/{s}/git/branches/{n}
    POST /v1/sessions/{s}/git/commit
    GET /v1/sessions/{s}/git/diff
    GET /v1/sessions/{s}/git/log
    GET /v1/sessions/{s}/git/refs
    PUT,DELETE /v1/sessions/{s}/pin
    POST /v1/sessions/{s}/question-answers
    GET /v1/sessions/{s}/resources
    POST /v1/sessions/{s}/resume
    GET,POST /v1/sessions/{s}/sandbox
    GET /v1/sessions/{s}/storage/keys
    GET,PUT /v1/sessions/{s}/storage/secrets
    GET /v1/sessions/{s}/tasks
    GET /v1/sessions/{s}/tasks/{t}
    POST /v1/sessions/{s}/tasks/{t}/cancel
    POST /v1/sessions/{s}/tasks/{t}/messages
    POST /v1/sessions/{s}/tool-approvals
    POST /v1/sessions/{s}/tool-results
    POST /v1/sessions/{s}/voice/calls
    POST /v1/sessions/{s}/voice/client-secret
    POST /v1/sessions/{s}/voice/{c}/attach
    POST /v1/sessions/{s}/voice/{c}/end
    GET,POST /v1/skills
    GET /v1/skills/config
    POST /v1/skills/upload
    GET /v1/skills/usage
    POST /v1/skills/validate
    GET,DELETE,PATCH /v1/skills/{s}
    GET /v1/skills/{s}/content
    GET,POST /v1/task-webhooks
    GET,DELETE,PATCH /v1/task-webhooks/{w}
    GET,DELETE /v1/user/connections/{p}
    GET /v1/user/connections
    GET,POST /v1/workspaces
    GET,DELETE,PATCH /v1/workspaces/{w}
    GET /v1/workspaces/{w}/fs
    POST /v1/workspaces/{w}/fs/_/copy
    GET /v1/workspaces/{w}/fs/_/download/{p}
    POST /v1/workspaces/{w}/fs/_/grep
    POST /v1/workspaces/{w}/fs/_/move
    POST /v1/workspaces/{w}/fs/_/stat
    GET,PUT,POST,DELETE /v1/workspaces/{w}/fs/{p}
    """
)
"""Without those about users, which the hosted API's dialect has in the same place."""

OF_USERS = operations(
    """
    GET /v1/users
    DELETE,PATCH /v1/users/me
    GET /v1/users/me/export
    POST /v1/users/me/switch-org
    """
)

EVENTS = {
    "input.message": "message",
    "session.activated": "turn_id input_message_id",
    "turn.started": "turn_id input_message_id",
    "output.message.started": "turn_id",
    "output.message.delta": "turn_id delta accumulated",
    "output.message.completed": "message",
    "tool.started": "tool_call",
    "tool.completed": "tool_call_id tool_name success status",
    "turn.completed": "turn_id iterations",
    "session.idled": "turn_id",
}
"""What the data of an event has to have."""

CLIENTS = chapter("Everruns")


def not_there() -> list[str]:
    """Templates of paths of which docs/clients.md says that they are not there, with all below them."""
    rows = [line.split("|") for line in part(CLIENTS, "Not there").splitlines() if line.startswith("| `")]
    return [bare(row[1].strip(" `") + name) for row in rows for name in re.findall("`([^`]+)`", row[2])]


def named(title: str) -> set[str]:
    """The fields in a table of docs/clients.md."""
    rows = [line for line in part(CLIENTS, title).splitlines() if line.startswith("| ")]
    return set(re.findall("`([A-Za-z_]+)(?:=true)?`", "".join(rows)))


@pytest.mark.parametrize("operation", SERVED, ids=str)
def test_what_is_served_knows_all_that_clients_send(operation: Operation) -> None:
    query, body = declared(served("everruns")[operation.method, bare(operation.path)])
    assert set(operation.query) - query == set()
    assert set(operation.body) - body == set()


def test_what_means_nothing_or_is_refused_is_listed_and_nothing_else() -> None:
    refused, ignored = named("Refused by name"), named("Ignored")
    kinds = [value for value in vars(schemas).values() if isinstance(value, type) and hasattr(value, "model_fields")]
    fields = [(field.alias or name, field) for kind in kinds for name, field in kind.model_fields.items()]
    never = {name for name, field in fields if schemas.NEVER in field.metadata}
    nothing = {name for name, field in fields if (field.description or "").startswith("Has no meaning here")}
    assert never - refused == set()
    assert nothing - ignored == set()
    assert ignored - nothing == {"timeout_ms", "role"}
    assert set(schemas.EventsQuery().list_options()) <= refused
    assert refused - never - set(schemas.EventsQuery().list_options()) == {"wait"}
    assert f"`{END_USER}`" in CLIENTS


@pytest.mark.parametrize("path", sorted({operation.path for operation in ABSENT}))
def test_what_is_not_there_is_listed(path: str) -> None:
    assert any(f"{bare(path)}/".startswith(f"{each}/") for each in not_there()), path


def test_nothing_is_listed_as_not_there_that_is_served() -> None:
    paths = {path for _, path in served("everruns")}
    assert [each for each in not_there() if any(f"{path}/".startswith(f"{each}/") for path in paths)] == []


async def test_what_is_not_there_is_said_by_name_in_the_shape_of_the_document() -> None:
    async with speaking() as site:
        for operation in [*ABSENT, *OF_USERS]:
            answer = await site.ask(operation.method, re.sub("{.}", "x", operation.path), token=None)
            assert answer.status_code == 404, operation
            assert answer.headers["content-type"] == "application/problem+json", operation
            told = answer.json()
            assert (told["title"], told["status"], told["code"]) == ("Not Found", 404, "not_found")
            if operation in ABSENT:
                name = told["detail"].removesuffix(" is not offered here.")
                assert bare(name) in not_there(), operation


async def ask(site: Site, talk: Talk, agent: str, operation: Operation) -> Any:
    """What a served operation answers, in a session with one turn that is over."""
    below = operation.path.startswith(BELOW)
    path = operation.path.replace("{session_id}", talk.id).replace("{agent_id}", talk.agent if below else agent)
    body: dict[str, Any] = {}
    if operation.path.endswith("messages"):
        body = {"message": {"role": "user", "content": [{"type": "text", "text": "And 3 + 3?"}]}}
    elif operation.path.startswith("/v1/agents") and not below:
        body = {"name": "one", "system_prompt": "Be brief."}
    sent = None if operation.method in ("GET", "DELETE") else body
    answer = await site.ask(operation.method, path, json=sent)
    assert answer.is_success, (operation, answer.text)
    return answer


@pytest.mark.parametrize("operation", [each for each in SERVED if not each.path.endswith("sse")], ids=str)
async def test_answers_have_what_clients_cannot_do_without(operation: Operation) -> None:
    async with speaking() as site:
        talk, agent = await a_talk(site), await an_agent(site)
        await talk.answered()
        answer = await ask(site, talk, agent["id"], operation)
        if operation.method == "DELETE":
            assert (answer.status_code, answer.content) == (204, b"")
        elif operation.answer:
            told = answer.json()
            assert set(operation.answer) - {name for name, value in told.items() if value is not None} == set()
            item = next((each for each in SERVED if each.path.startswith(operation.path + "/{")), operation)
            for each in told.get("data", []) if "events" not in operation.path else []:
                required = ONE_MESSAGE.split() if operation.path.endswith("messages") else item.answer
                assert set(required) - set(each) == set()


async def test_events_have_what_clients_cannot_do_without() -> None:
    async with talking() as (site, talk):
        await talk.say()
        hosted = list(site.host.runs.values())[-1]
        hosted.append(type="ACTION", tool_name="bash", tool_input={"command": "ls"}, tool_output="a")
        hosted.append(type="ANSWER", text="Done.")
        hosted.status = "COMPLETE"
        await talk.over()
        query = "&".join(f"types={kind}" for kind in EVENTS)
        events = (await talk.get(f"/events?{query}"))["data"]
        listening = Listening(site, f"{talk.flat}/sse")
        live = [json.loads(event.data) for event in (await listening.until("session.idled"))[1:]]
        await listening.leave()
        for told in (events, live):
            assert {event["type"] for event in told} == set(EVENTS)
            for event in told:
                assert {"id", "type", "ts", "session_id", "context", "data"} - set(event) == set()
                assert set(EVENTS[event["type"]].split()) - set(event["data"]) == set(), event


@pytest.mark.parametrize("query", ["q=x", "tags=a", "around=event_1", "limit=5", "turn_id=x", "order_desc=true"])
async def test_what_a_live_stream_cannot_be_chosen_by_is_refused_by_name(query: str) -> None:
    async with talking() as (site, talk):
        for path in (talk.flat, talk.nested):
            answer = await site.get(f"{path}/events?{query}", headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
            assert f"`{query.partition('=')[0]}`" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "name"),
    [
        ("POST", "/messages", {"addressed_participant_id": "participant_1"}, "addressed_participant_id"),
        ("PATCH", "", {"agent_identity_id": "identity_1"}, "agent_identity_id"),
        ("POST", None, {"workspace_id": "wsp_1"}, "workspace_id"),
        ("POST", None, {"mcpServers": {"a": {}}}, "mcpServers"),
    ],
)
async def test_what_would_change_what_is_done_is_refused_by_name(
    method: str, path: str | None, body: dict[str, Any], name: str
) -> None:
    async with talking() as (site, talk):
        where = "/v1/sessions" if path is None else talk.flat + path
        message = {"message": {"content": [{"type": "text", "text": "Hello"}]}}
        answer = await site.ask(method, where, json={**message, **body})
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
        assert f"`{name}`" in answer.json()["detail"]
        assert (await talk.get("/messages"))["data"] == []
        assert (await site.get("/v1/sessions")).json()["total"] == 1
