"""Responses in the OpenAPI document. The dialects' own code writes the examples of errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from codegen_api import errors
from codegen_api.errors import GatewayError
from codegen_api.http.web import WAITS, HeadersTooLarge, PayloadTooLarge, RequestTimeout, Responses, UriTooLong
from codegen_api.runs import Json

Meaning = tuple[GatewayError, str]
"""For one status, an error as the example, and a description of all errors."""

MEANINGS: Mapping[int, Meaning] = {
    400: (errors.InvalidRequest(), "The request cannot be understood."),
    401: (errors.InvalidToken(), "There are no credentials, or they (or the ticket) are not good."),
    402: (errors.QuotaExhausted(), "The plan behind the token has no runs left."),
    403: (errors.Forbidden(), "The caller may not do this."),
    404: (errors.NotFound(), "There is no such thing, or not for this caller."),
    408: (RequestTimeout(), "The body of the request did not come in time."),
    409: (
        errors.InProgress(),
        "A request with this `Idempotency-Key` is under way, or broke off and it is being found out what came of it.",
    ),
    413: (
        PayloadTooLarge(),
        "The body of the request is too large, there is too much in it, or the caller keeps as much here as they may.",
    ),
    414: (UriTooLong(), "The URL of the request is too long."),
    422: (
        errors.Rejected(details=[errors.Detail(("body", "prompt"), "Field required", "missing")]),
        "The request has the wrong shape; the body says where.",
    ),
    429: (errors.UpstreamRateLimited(), "The host asks for patience, or the caller has asked as often as they may."),
    431: (HeadersTooLarge(), "The headers of the request are too many or too large."),
    500: (GatewayError(), "The gateway failed."),
    501: (errors.Unsupported(), "The host cannot do this."),
    502: (errors.UpstreamError(), "The host answered with an error, or cannot be reached."),
    503: (
        errors.AuthUnavailable(),
        "The host cannot say whether the token is good, or this process is about to stop, or has enough to do.",
    ),
    504: (errors.UpstreamTimeout(), "The host did not answer in time."),
    508: (errors.LoopDetected(), "The gateway was asked by itself."),
}

ANYWHERE = (400, 408, 413, 414, 431, 500, 508)
"""Statuses that any request may get."""

COMMON = (*ANYWHERE, 401, 403, 404, 422, 429, 502, 503, 504)
"""Statuses that a request may get if it calls the host for the caller."""

RUN: Mapping[str, Json] = {
    "id": 12345,
    "organization_id": 323,
    "status": "ACTIVE",
    "created_at": "2025-06-21T11:20:04.338398Z",
    "web_url": "https://codegen.com/agent/trace/12345",
    "result": None,
    "summary": None,
    "source_type": "API",
    "github_pull_requests": [],
    "metadata": {"source": "api"},
}
ENTRY: Mapping[str, Json] = {
    "agent_run_id": 12345,
    "created_at": "2025-06-21T11:20:09.108894Z",
    "tool_name": "ripgrep_search",
    "message_type": "ACTION",
    "thought": "Look for the function first.",
    "observation": None,
    "tool_input": {"query": "def fibonacci"},
    "tool_output": {"matches": 1},
}
"""Examples of the data that the adapter for the hosted API returns; the dialects write them in their own shapes."""

JSON = "application/json"
REQUEST_ID = "5f0c0f2a2f6f"


def header(description: str, kind: str = "string") -> dict[str, Any]:
    """A header of a response."""
    return {"schema": {"type": kind}, "description": description}


REPLAYED = {"Idempotent-Replayed": header("`true` where a repeat is answered as the first time.")}
"""The header of a response that may be a replay."""


@dataclass(frozen=True)
class Answers:
    """The responses of a dialect. ``fields`` writes an error in the shape of ``model``, or as text if that is None;
    ``meanings`` override the general ones.
    """

    model: type[BaseModel] | None
    fields: Callable[[GatewayError], Mapping[str, Json] | str]
    meanings: Mapping[int, Meaning] = field(default_factory=dict)
    media_type: str = JSON

    def __call__(self, status: int, model: Any, description: str, *errors: int) -> Responses:
        """The successful response, the common errors, and those with the statuses ``errors``."""
        success = {"description": description, **({} if model is None else {"model": model})}
        return {status: success, **self.errors(*COMMON, *errors)}

    def never(self, why: str) -> Responses:
        """The responses of a route that only explains why it is not offered."""
        return {**self.errors(*COMMON), 501: {**self.error(501), "description": why}}

    def errors(self, *statuses: int) -> Responses:
        return {status: self.error(status) for status in sorted({*statuses})}

    def error(self, status: int, meaning: Meaning | None = None) -> dict[str, Any]:
        """One error, in FastAPI's form."""
        error, sentence = meaning or self.meanings.get(status) or MEANINGS[status]
        headers = {}
        if status == 401:
            headers["WWW-Authenticate"] = header("`Bearer`, as RFC 6750 has it.")
        if status in WAITS:
            headers["Retry-After"] = header("Seconds.", "integer")
        example = self.fields(error)
        if isinstance(example, Mapping) and "request_id" in example:
            example = {**example, "request_id": REQUEST_ID}
        described = {"description": sentence, "content": {self.media_type: {"example": example}}, "headers": headers}
        if self.media_type == JSON:
            return {"model": self.model, **described}
        # with a "model", FastAPI would also list it as plain JSON
        schema = {"type": "string"} if self.model is None else {"$ref": f"#/components/schemas/{self.model.__name__}"}
        return {**described, "content": {self.media_type: {"schema": schema, "example": example}}}
