"""What the host is told to do: with which agent, what is said to it, and what is kept with it."""

import json
import uuid
from collections.abc import Mapping

from codegen_api import errors
from codegen_api.runs import Json
from codegen_api.upstreams import InvalidOption
from codegen_api.upstreams.openhands.conversations import tags_of
from codegen_api.upstreams.over_http import Object

WORKPLACE = "workspace/project"
"""Where agents work if no other folder is named: below the one in which the server was started."""

CONFIRM: Mapping[str, Object] = {
    "never": {},
    "risky": {
        "security_analyzer": {"kind": "LLMSecurityAnalyzer"},
        "confirmation_policy": {"kind": "ConfirmRisky"},
    },
    "always": {"confirmation_policy": {"kind": "AlwaysConfirm"}},
}


def conversation_of(key: str | None) -> str:
    """The id of a new conversation: the same for each repeat of the order that makes it."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"codegen_gateway conversation {key}"))


def agent_of(text: str) -> Object:
    """
    Raises:
        InvalidOption: it is no agent.
    """
    try:
        agent = json.loads(text)
    except (ValueError, RecursionError):
        agent = None  # the error would quote it
    if not isinstance(agent, dict) or not isinstance(agent.get("llm"), dict):
        raise InvalidOption("agent", "must be the agent as a JSON object, with the settings of its model in llm")
    return {"kind": "Agent", **agent}


def kept(metadata: Mapping[str, Json] | None) -> Object:
    try:
        return tags_of(metadata)
    except ValueError as error:
        where = ("body", "metadata")
        raise errors.Rejected(details=[errors.Detail(where, "Nested too deeply.", "recursion_loop")]) from error


def said(prompt: str, images: tuple[str, ...] | None) -> Object:
    """A message that sets the agent to work."""
    content: list[Json] = [{"type": "text", "text": prompt}]
    content += [{"type": "image", "image_urls": list(images)}] if images else []
    return {"role": "user", "content": content, "run": True}
