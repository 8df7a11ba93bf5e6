"""The request bodies: the host's three, and those of the admin routes.

Unknown members are ignored, as FastAPI does by default. Metadata is kept verbatim, so what JSON itself does not
know (NaN, infinities) and what could not be written back (nesting beyond 100 levels) is refused with 422.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

DEEPEST = 100
"""How many levels of nesting are accepted where a body may carry any JSON."""


def _sound(value: Any) -> Any:
    """Refuse what cannot be written back as JSON. Iterative, as deep nesting would break a recursive walk."""
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        part, depth = todo.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        if isinstance(part, dict | list):
            if depth > DEEPEST:
                raise PydanticCustomError("too_deep", "Input should be nested less deeply")
            todo.extend((child, depth + 1) for child in (part.values() if isinstance(part, dict) else part))
    return value


Json = Annotated[Any, AfterValidator(_sound)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_sound)]


class CreateBody(BaseModel):
    """The host's CreateAgentRunInput. Only the prompt, the number of images and the metadata have an effect."""

    prompt: str
    images: list[str] | None = None
    metadata: JsonObject | None = None
    repo_id: int | None = None
    model: str | None = None
    agent_type: Literal["codegen", "claude_code"] | None = None


class ResumeBody(BaseModel):
    """The host's ResumeAgentRunInput."""

    agent_run_id: int
    prompt: str
    images: list[str] | None = None


class StopBody(BaseModel):
    """The host's StopAgentRunInput, for ban, unban and remove-from-pr; the card positions have no effect."""

    agent_run_id: int
    before_card_order_id: str | None = None
    after_card_order_id: str | None = None


FaultKind = Literal[
    "latency", "429", "500", "503_html", "html", "reset", "half_body", "hang", "cookie", "odd_json", "status", "empty",
    "revoked",
]  # fmt: skip


class FaultMatch(BaseModel):
    """Which requests a fault strikes: by operation, by user (a token or a name); null means all."""

    operation: str | None = None
    token: str | None = None


class FaultOrder(BaseModel):
    """A fault to be played: `times` requests long, or `for_seconds`, or until it is deleted.

    `seconds` belongs to latency (default 1) and hang (default 60), `retry_after` to 429 (seconds, or the literal
    text of the header; null sends none), `status` and `body` to status, `value` to cookie.
    """

    kind: FaultKind
    match: FaultMatch = FaultMatch()
    times: Annotated[int, Field(ge=1)] | None = None
    for_seconds: Annotated[float, Field(gt=0)] | None = None
    seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    retry_after: (
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | Annotated[str, Field(pattern=r"^[!-~ ]{1,64}$")] | None
    ) = None
    status: Annotated[int, Field(ge=200, le=599)] = 500
    body: Json = None
    value: Annotated[str, Field(pattern=r"^[!-:<-~]{1,200}$")] = "sandbox"


class SeedOrder(BaseModel):
    """A run made by hand: `entries` verbatim, then `count` generated ones, padded to `entry_bytes` if that is more.

    An entry may bring its own `agent_run_id` and `created_at`; else they are added. `user` is a name or a token.
    """

    organization_id: int = 323
    user: str = "alice"
    status: str | None = "ACTIVE"
    result: str | None = None
    summary: str | None = None
    source_type: str | None = "API"
    github_pull_requests: list[JsonObject] = []
    metadata: JsonObject | None = None
    entries: list[JsonObject] = []
    count: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    entry_bytes: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class EntryAmendment(BaseModel):
    """New values for some members of the entry at `position`, counted from 1."""

    position: int
    fields: JsonObject


class PatchOrder(BaseModel):
    """Changes to a run, in this order: `entries` (the whole log anew), `append`, `amend`, then the state.

    A change to the log or the state ends the run's script: from then on only further orders move it; `amend`
    alone lets it go on. A `status` or `result` of null is set; one that is absent stays.
    """

    entries: list[JsonObject] | None = None
    append: list[JsonObject] = []
    amend: list[EntryAmendment] = []
    status: str | None = None
    result: str | None = None
    summary: str | None = None
