"""Chooses from an agent's card how to call it (binding, version, path), and writes and reads such calls."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

from codegen_api import errors
from codegen_api.outbound import Query
from codegen_api.runs import Json
from codegen_api.upstreams.host_json import Object, as_object, objects_in, text_in
from codegen_api.upstreams.over_http import sentence

CARD = "/.well-known/agent-card.json"

Version: TypeAlias = Literal["1.0", "0.3"]


class Call(NamedTuple):
    """An operation: method and path of HTTP+JSON, and the methods of JSON-RPC in 1.0 and, if it exists there, 0.3."""

    method: str
    path: str
    name: str
    old_name: str | None


SEND = Call("POST", "/message:send", "SendMessage", "message/send")
GET = Call("GET", "/tasks/{id}", "GetTask", "tasks/get")
LIST = Call("GET", "/tasks", "ListTasks", None)
SUBSCRIBE = Call("POST", "/tasks/{id}:subscribe", "SubscribeToTask", None)
CANCEL = Call("POST", "/tasks/{id}:cancel", "CancelTask", "tasks/cancel")

_ERRORS = (
    ("TASK_NOT_FOUND", -32001, errors.NotFound),
    ("TASK_NOT_CANCELABLE", -32002, errors.Conflict),
    ("UNSUPPORTED_OPERATION", -32004, errors.Unsupported),
    ("CONTENT_TYPE_NOT_SUPPORTED", -32005, errors.Rejected),
    ("INVALID_AGENT_RESPONSE", -32006, errors.UpstreamError),
    ("EXTENSION_SUPPORT_REQUIRED", -32008, errors.Unsupported),
    ("VERSION_NOT_SUPPORTED", -32009, errors.UpstreamError),
    ("INVALID_REQUEST", -32600, errors.Rejected),
    ("METHOD_NOT_FOUND", -32601, errors.Unsupported),
    ("INVALID_PARAMS", -32602, errors.Rejected),
    ("INTERNAL", -32603, errors.UpstreamError),
)
"""The reasons of HTTP+JSON, and their codes in JSON-RPC."""

_KINDS: Mapping[str | int, type[errors.GatewayError]] = {
    name: kind for reason, code, kind in _ERRORS for name in (reason, code)
}


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to call an agent. ``path`` is that of its URL; ``rest``: over HTTP+JSON, else over JSON-RPC."""

    path: str
    rest: bool
    version: Version
    tenant: str

    @classmethod
    def chosen(cls, card: Json) -> "Interface":
        """The best interface of a card: version 1.0 before 0.3, and HTTP+JSON before JSON-RPC."""
        offered = _offered(as_object(card))
        if not offered:
            raise errors.UpstreamError("The agent's card offers neither HTTP+JSON nor JSON-RPC, in version 1.0 or 0.3.")
        return max(offered, key=lambda interface: (interface.version, interface.rest))

    def message(self, text: str, images: Sequence[str], more: Object) -> Object:
        """The fields of a ``SEND`` that does not wait for the outcome: a message with ``more`` fields. Raises
        ``Rejected`` for an image that is not a data URI.
        """
        old = self.version == "0.3"
        parts: list[Json] = [{"kind": "text", "text": text} if old else {"text": text}]
        parts += [_image(each, old=old) for each in images]
        message: dict[str, Json] = {"messageId": str(uuid.uuid4()), "parts": parts}
        message |= {"kind": "message", "role": "user"} if old else {"role": "ROLE_USER"}
        message |= {key: value for key, value in more.items() if value is not None}
        return {"message": message, "configuration": {"blocking": False} if old else {"returnImmediately": True}}

    def request(self, call: Call, fields: Object) -> tuple[str, str, Query, Json]:
        """Method, path, query and body of a call. Raises ``Unsupported`` if this version has no such operation."""
        if not self.rest:
            name = call.name if self.version == "1.0" else call.old_name
            if name is None:
                raise errors.Unsupported("This agent's version of the protocol cannot do this.")
            params = {**fields, "tenant": self.tenant} if self.tenant else fields
            return "POST", self.path, None, {"jsonrpc": "2.0", "id": "1", "method": name, "params": params}
        tenant = f"/{quote(self.tenant, safe='')}" if self.tenant else ""
        path = self.path.rstrip("/") + tenant + call.path.format(id=quote(str(fields.get("id")), safe=""))
        rest = {key: value for key, value in fields.items() if key != "id"}
        if call.method == "GET":
            return "GET", path, {key: str(value) for key, value in rest.items()}, None
        return "POST", path, None, rest

    def result(self, answer: Json, token: str) -> Object:
        """The result in an answer with status 200. Raises the error of JSON-RPC, which has this status, too."""
        fields = as_object(answer)
        if self.rest:
            return fields
        if isinstance(fields.get("error"), dict):
            raise error_in(fields, token) or errors.UpstreamError("The agent answered with an error that is not known.")
        return as_object(fields.get("result"))


def error_in(answer: Object, token: str) -> errors.GatewayError | None:
    """The error that an answer names, by its reason or its code in JSON-RPC; None if it names none that is known."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    details = error.get("details") or error.get("data")
    named = [text_in(each, "reason") for each in objects_in({"details": details}, "details")]
    code = error.get("code")
    reasons = [*named, code if isinstance(code, int) else None]
    kinds = [_KINDS[reason] for reason in reasons if reason is not None and reason in _KINDS]
    return kinds[0](sentence(error.get("message"), token)) if kinds else None


def _offered(card: Object) -> list[Interface]:
    """The interfaces of a card, in the form of version 0.3 or of 1.0."""
    own: Object = {"url": card.get("url"), "transport": card.get("preferredTransport") or "JSONRPC"}
    version = card.get("protocolVersion")
    old: list[Object] = [
        {"url": each.get("url"), "protocolBinding": each.get("transport"), "protocolVersion": version}
        for each in (own, *objects_in(card, "additionalInterfaces"))
    ]
    found = map(_interface, (*old, *objects_in(card, "supportedInterfaces")))
    return [each for each in found if each is not None]


def _interface(offer: Object) -> Interface | None:
    url, version, binding = (text_in(offer, key) for key in ("url", "protocolVersion", "protocolBinding"))
    if url is None or version is None or binding not in ("JSONRPC", "HTTP+JSON"):
        return None
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    known: Version | None = "1.0" if version.startswith("1.") else "0.3" if version.startswith("0.3") else None
    rest = binding == "HTTP+JSON"
    if known is None or (rest and known == "0.3"):
        return None
    return Interface(path, rest, known, text_in(offer, "tenant") or "")


def _image(uri: str, *, old: bool) -> Object:
    """A data URI as a part of a message."""
    found = re.fullmatch(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", uri, re.ASCII | re.DOTALL)
    if found is None:
        raise errors.rejected("Must be base64 data URIs.", "value_error", "body", "images")
    if old:
        return {"kind": "file", "file": {"mimeType": found[1], "bytes": found[2]}}
    return {"raw": found[2], "mediaType": found[1]}
