"""What goes over the wire, but for what is said: errors, agents and sessions as JSON. Pure functions."""

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
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Turn
from codegen_api.telemetry import request_id
from codegen_api.web import WAITS, error_headers, json_response, retry_after, status_of, timestamp

OWN = "everruns"
"""Under this name stands what this dialect keeps with an agent or a conversation, and that it has made it."""

PROBLEM = "application/problem+json"

HARNESS_ID = FLAT.id("harness", derived_id("harness"))
"""The one harness that there is: the host's own."""

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
    """Who asks and is answered: what is theirs, and the address at which they found us. ``agent`` is how they call the
    agent below which they ask, if they do.
    """

    conversations: CallerConversations
    home: str
    agent: str | None

    @property
    def family(self) -> Family:
        return FLAT if self.agent is None else NESTED

    def links(self, path: str) -> dict[str, Json]:
        """Where a thing is to be found. There are no pages, so whoever wants to show it gets the thing itself."""
        url = f"{self.home}{path}"
        return {"self_url": url, "view_url": url, "ui_link": url}


def agent_fields(agent: Agent, sessions: int, client: EverrunsClient) -> dict[str, Json]:
    """An agent with so many ``sessions``, which both families share. Those of other dialects have no settings of this
    one.
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
    return told(fields)


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
            "organization_id": shown_organization(str(organization or "0")),
            "owner_principal_id": FLAT.id("principal", derived_id("principal", client.conversations.owner)),
            # it has a workspace for itself alone, and this is how its id is made
            "workspace_id": family.id("wsp", session.id),
            "harness_id": HARNESS_ID,
            "capabilities": [],
            "features": [],
            **client.links(f"/v1/sessions/{fields['id']}"),
        }
    return told(fields)


def own(kept: Mapping[str, Json]) -> Mapping[str, Json]:
    """What this dialect keeps with an agent or a conversation."""
    found = kept.get(OWN)
    return found if isinstance(found, Mapping) else {}


def told(fields: Mapping[str, Json]) -> dict[str, Json]:
    """Without what is null: these clients look for names that are not there."""
    return {name: value for name, value in fields.items() if value is not None}


def moment(seconds: float) -> str:
    return timestamp(seconds, "microseconds")


def shown_organization(kept: str) -> str:
    """An organization's id in the form that these clients know; of a number it can be read back."""
    if kept.isascii() and kept.isdecimal() and len(kept) <= len(uuid.UUID(int=0).hex):
        return f"org_{kept:0>32}"
    return f"org_{hashlib.sha256(kept.encode()).hexdigest()[:32]}"


def heard_organization(text: str) -> str:
    """The organization that a client means: the host's own id, or that in the form above."""
    found = _SHOWN_ORGANIZATION.fullmatch(text)
    return text if found is None else found[1]


def listed(items: Sequence[Json], total: int, **more: Json) -> Response:
    """A list for all generations of clients: some read ``data``, and some ``items``."""
    encoded = to_json(items)
    rest = to_json({"total": total, **more})[1:-1]
    return json_response(b'{"data":%b,"items":%b,%b}' % (encoded, encoded, rest))
