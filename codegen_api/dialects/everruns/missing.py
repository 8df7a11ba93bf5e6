"""The parts of Everruns that the gateway does not offer: docs/clients.md lists them."""

from codegen_api.dialects import Absent

AGENT, SESSION = "/v1/agents/{agent_id}", "/v1/sessions/{session_id}"


def _below(path: str, names: str) -> list[str]:
    return [f"{path}/{name}" for name in names.split()]


FIRST = Absent(
    *_below("/v1/agents", "analyze check-name config import preview"),
    *_below("/v1/sessions", "chat stats"),
)
"""Paths that the routes of an agent or a session would match otherwise."""

REST = Absent(
    *_below(
        "/v1",
        "apps auth budgets capabilities channels durable harness-examples harnesses images knowledge-bases llm-models"
        " llm-providers mcp-servers memories models orgs payments providers reports resolve-org runtime-auth skills"
        " task-webhooks user workspaces",
    ),
    *_below(AGENT, "capabilities copy export health-checks stats versions voice"),
    *_below(
        SESSION,
        "budget-check budgets context-report databases events/summary fork git pin question-answers resources resume"
        " sandbox storage tasks tool-approvals tool-results voice",
    ),
    f"{AGENT}/sessions/{{session_id}}/fs",
)
