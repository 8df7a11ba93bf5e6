"""What Everruns has and the gateway has not: docs/clients.md lists it. The host has one agent, with what it has."""

from codegen_api.dialects import Absent

AGENT, SESSION = "/v1/agents/{agent_id}", "/v1/sessions/{session_id}"

FIRST = Absent(
    *(f"/v1/agents/{name}" for name in ("analyze", "check-name", "config", "import", "preview")),
    *(f"/v1/sessions/{name}" for name in ("chat", "stats")),
)
"""Where otherwise the id of an agent or a session stands."""

REST = Absent(
    *(
        f"/v1/{name}"
        for name in (
            "apps",
            "auth",
            "budgets",
            "capabilities",
            "channels",
            "durable",
            "harness-examples",
            "harnesses",
            "images",
            "knowledge-bases",
            "llm-models",
            "llm-providers",
            "mcp-servers",
            "memories",
            "models",
            "orgs",
            "payments",
            "providers",
            "reports",
            "resolve-org",
            "runtime-auth",
            "skills",
            "task-webhooks",
            "user",
            "workspaces",
        )
    ),
    *(f"{AGENT}/{name}" for name in ("capabilities", "copy", "export", "health-checks", "stats", "versions", "voice")),
    *(
        f"{SESSION}/{name}"
        for name in (
            "budget-check",
            "budgets",
            "context-report",
            "databases",
            "events/summary",
            "fork",
            "git",
            "pin",
            "question-answers",
            "resources",
            "resume",
            "sandbox",
            "storage",
            "tasks",
            "tool-approvals",
            "tool-results",
            "voice",
        )
    ),
    f"{AGENT}/sessions/{{session_id}}/fs",
)
