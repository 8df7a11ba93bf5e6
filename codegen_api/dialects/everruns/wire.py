"""Errors, agents and sessions as JSON: pure functions. ``messages`` and ``rendering`` have the rest."""

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects import detail_fields
from codegen_api.dialects.everruns.families import FLAT, NESTED, Family, as_uuid, derived_id
from codegen_api.errors import GatewayError
from codegen_api.http.web import WAITS, error_headers, json_response, retry_after, status_of, timestamp
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Turn
from codegen_api.telemetry import request_id

OWN = "everruns"
"""The name of this dialect's data in agents and conversations. It also marks those that were created here."""

PROBLEM = "application/problem+json"

HARNESS_ID = FLAT.id("harness", derived_id("harness"))
"""The only harness: the host's own."""

_SHOWN_ORGANIZATION = re.compile(r"org_0*([0-9]{1,32})", re.ASCII)


# -- errors -----------------------------------------------------------------------------------------------------------


def error_fields(error: GatewayError) -> dict[str, Json]:
    """An error for both generations of clients: a problem of RFC 9457, with a code and a message in ``error``."""
    status = status_of(error)
    fields: dict[str, Json] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "error": {"code": error.code, "message": error.message},
        "status_code": status,
        "request_id": request_id(),
    }
    if error.details:
        fields["details"] = detail_fields(error)
    if status in WAITS:
        fields["retry_after_seconds"] = retry_after(error)
    return fields


def render_error(error: GatewayError) -> Response:
    return Response(to_json(error_fields(error)), status_of(error), error_headers(error), PROBLEM)


# -- agents and sessions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EverrunsClient:
    """The client of a request: its conversations, and the gateway's URL as it sees it. ``agent`` is the agent's id in
    the path, if there is one.
    """

    conversations: CallerConversations
    base_url: str
    agent: str | None

    @property
    def family(self) -> Family:
        return FLAT if self.agent is None else NESTED

    def links(self, path: str) -> dict[str, Json]:
        """The links to a resource. There are no web pages, so all of them lead to the resource itself."""
        url = f"{self.base_url}{path}"
        return {"self_url": url, "view_url": url, "ui_link": url}


def agent_fields(agent: Agent, sessions: int, client: EverrunsClient) -> dict[str, Json]:
    """An agent with its number of ``sessions``, for both families. It may come from another dialect, without settings
    of this one.
    """
    id = FLAT.id("agent", as_uuid(agent.id))  # noqa: A001 - as everywhere
    fields: dict[str, Json] = {
        "id": id,
        "name": agent.name,
        "display_name": own(agent.configuration).get("display_name"),
        "description": agent.description,
        "system_prompt": agent.system_prompt or "",
        "default_model_id": agent.model,
        "tags": list(agent.tags),
        "status": "archived" if agent.archived else "active",
        "harness_id": HARNESS_ID,
        "capabilities": [],
        "created_at": moment(agent.created),
        "updated_at": moment(agent.updated),
        "archived_at": moment(agent.updated) if agent.archived else None,
        "session_count": sessions,
        "app_count": 0,
        **client.links(f"/v1/agents/{id}"),
    }
    return without_nulls(fields)


def session_fields(
    client: EverrunsClient, session: Conversation, first: Turn | None, latest: Turn | None
) -> dict[str, Json]:
    """A conversation as a session, with its first and its latest turn."""
    family, agent = client.family, client.agent
    if agent is None and session.agent is not None:
        agent = family.id("agent", as_uuid(session.agent))
    status = family.status(latest)
    fields: dict[str, Json] = {
        "id": family.id("session", session.id),
        "agent_id": agent,
        "title": session.title,
        "tags": list(session.tags),
        "model_id": own(session.metadata).get("model_id"),
        "status": status,
        "created_at": moment(session.created),
        "updated_at": moment(session.updated),
        "started_at": None if first is None else moment(first.created),
        "finished_at": moment(latest.updated) if latest is not None and status == "failed" else None,
    }
    if family is FLAT:
        organization = own(session.metadata).get("organization")
        fields |= {
            "organization_id": format_organization(str(organization or "0")),
            "owner_principal_id": FLAT.id("principal", derived_id("principal", client.conversations.owner)),
            # each session has its own workspace, with the same id
            "workspace_id": family.id("wsp", session.id),
            "harness_id": HARNESS_ID,
            "capabilities": [],
            "features": [],
            **client.links(f"/v1/sessions/{fields['id']}"),
        }
    return without_nulls(fields)


def own(stored: Mapping[str, Json]) -> Mapping[str, Json]:
    """This dialect's data in an agent or a conversation."""
    found = stored.get(OWN)
    return found if isinstance(found, Mapping) else {}


def without_nulls(fields: Mapping[str, Json]) -> dict[str, Json]:
    """The fields that are not null: these clients tell an absent field from a null."""
    return {name: value for name, value in fields.items() if value is not None}


def moment(seconds: float) -> str:
    return timestamp(seconds, "microseconds")


def format_organization(stored: str) -> str:
    """An organization's id in the form that these clients expect. A numeric id can be read back from it."""
    if stored.isascii() and stored.isdecimal() and len(stored) <= len(uuid.UUID(int=0).hex):
        return f"org_{stored:0>32}"
    return f"org_{hashlib.sha256(stored.encode()).hexdigest()[:32]}"


def parse_organization(text: str) -> str:
    """The organization in a client's id: the host's own, or in the form of ``format_organization``."""
    found = _SHOWN_ORGANIZATION.fullmatch(text)
    return text if found is None else found[1]


def list_response(items: Sequence[Json], total: int, **more: Json) -> Response:
    """A list for all generations of clients: some read ``data``, and some ``items``."""
    encoded = to_json(items)
    rest = to_json({"total": total, **more})[1:-1]
    return json_response(b'{"data":%b,"items":%b,%b}' % (encoded, encoded, rest))
