"""Operations of the hosted API that the gateway does not offer, so that clients get an explanation instead of a 404."""

import re
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends
from starlette.responses import Response

from codegen_api.dialects.codegen import schemas
from codegen_api.dialects.codegen.routes import ORGANIZATION
from codegen_api.errors import Unsupported
from codegen_api.identity import READ, WRITE
from codegen_api.request_bodies import CallerFirst
from codegen_api.web import Asker, bearer, named, needs

router = APIRouter(
    route_class=CallerFirst,
    tags=["Hosted API"],
    dependencies=[Depends(bearer)],
    generate_unique_id_function=named(),
)

OPERATIONS = (
    ("GET", f"{ORGANIZATION}/repos/check-suite-settings", "get_check_suite_settings", "Get check suite settings"),
    ("PUT", f"{ORGANIZATION}/repos/check-suite-settings", "update_check_suite_settings", "Change check suite settings"),
    ("PATCH", f"{ORGANIZATION}/prs/{{pr_id}}", "edit_pull_request_simple", "Edit a pull request"),
    (
        "PATCH",
        f"{ORGANIZATION}/repos/{{repo_id}}/prs/{{pr_id}}",
        "edit_pull_request",
        "Edit a pull request of a repository",
    ),
    ("GET", f"{ORGANIZATION}/integrations", "get_organization_integrations", "List integrations"),
    ("POST", f"{ORGANIZATION}/setup-commands/generate", "generate_setup_commands", "Generate setup commands"),
    ("POST", f"{ORGANIZATION}/sandbox/{{sandbox_id}}/analyze-logs", "analyze_sandbox_logs", "Analyze a sandbox's logs"),
    ("GET", f"{ORGANIZATION}/cli/rules", "get_cli_rules", "Get the rules for the CLI"),
    ("GET", f"{ORGANIZATION}/models", "get_models", "List models"),
    ("GET", f"{ORGANIZATION}/webhooks/agent-run", "get_webhook", "Get the webhook"),
    ("POST", f"{ORGANIZATION}/webhooks/agent-run", "set_webhook", "Set the webhook"),
    ("DELETE", f"{ORGANIZATION}/webhooks/agent-run", "delete_webhook", "Delete the webhook"),
    ("POST", f"{ORGANIZATION}/webhooks/agent-run/test", "test_webhook", "Test the webhook"),
    ("GET", "/v1/mcp-providers", "get_mcp_providers", "List MCP providers"),
    ("GET", "/v1/oauth/tokens/status", "get_oauth_token_status", "Get the status of OAuth tokens"),
    ("POST", "/v1/oauth/tokens/revoke", "revoke_oauth_token", "Revoke an OAuth token"),
    ("POST", "/v1/slack-connect/generate-token", "generate_slack_connect_token", "Create a Slack token"),
)
"""Method, path, name and summary: settings of the host, and operations on pull requests that bypass any run."""


def _refusing(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: Asker) -> Response:
        raise Unsupported(why)

    return refuse


for _method, _path, _name, _summary in OPERATIONS:
    _why = f"Not offered by the gateway: {_summary[0].lower()}{_summary[1:]}. Ask the host itself."
    _ids = [
        {"name": each, "in": "path", "required": True, "schema": {"type": "integer"}, "description": "Not read."}
        for each in re.findall(r"{(\w+)}", _path)
    ]
    router.add_api_route(
        _path,
        _refusing(_why),
        methods=[_method],
        name=_name,
        summary=_summary,
        description="Not offered.",
        status_code=501,
        responses=schemas.answers.never(_why),
        openapi_extra={**needs(READ if _method == "GET" else WRITE), "parameters": _ids},
    )
