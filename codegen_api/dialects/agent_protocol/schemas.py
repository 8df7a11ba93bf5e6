"""Request models, and the limits of what is stored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from codegen_api.conversations import checked
from codegen_api.dialects import Ignored, rejected
from codegen_api.runs import Json, to_json
from codegen_api.stores import LONGEST
from codegen_api.worker_thread import is_large

IgnoredQuery = Annotated[str | None, Query(description="Has no meaning here, and is ignored.")]

MOST = 10**18
MOST_LISTED = 1000

MOST_STATES = 100
"""Maximum states in one answer: each may contain the whole conversation."""

Object = dict[str, Any]
Id = Annotated[str, Field(min_length=1, max_length=255, pattern="^[^/]+$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Limit = Annotated[int, Field(ge=1, le=MOST_LISTED, description="How many to give at most.")]
Offset = Annotated[int, Field(ge=0, le=MOST, description="How many to pass over.")]
Order = Annotated[Literal["asc", "desc"] | None, Field(description="`desc` by default.")]
OrderBy = Annotated[
    str | None,
    Field(
        pattern=r"(?i)^ *(thread_id|created_at|updated_at)( +(asc|desc))? *$",
        description="`sort_by` and `sort_order` in one, such as `created_at ASC`; they go before it.",
    ),
]
IfExists = Annotated[
    Literal["raise", "do_nothing"] | None,
    Field(description="What to do when the id is taken: answer 409, or give what is there."),
]
Labels = Annotated[list[str], Field(max_length=100)]
Names = Annotated[list[str], Field(fail_fast=True)]


# -- assistants -------------------------------------------------------------------------------------------------------


class CreateAssistant(BaseModel):
    """A new assistant. Of its context, and of `config.configurable`, the host is told `system_prompt` and `model`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"graph_id": "agent", "context": {"system_prompt": "Answer in rhymes."}}]}
    )

    graph_id: Name = Field(description="Any name will do: the host has one agent, which works for all of them.")
    config: Object | None = None
    context: Object | None = None
    metadata: Object | None = None
    assistant_id: Id | None = None
    if_exists: IfExists = None
    name: Name | None = None
    description: str | None = None


class UpdateAssistant(BaseModel):
    """The fields to change. `metadata` is merged into what is there; all else replaces it."""

    graph_id: Name | None = None
    config: Object | None = None
    context: Object | None = None
    metadata: Object | None = None
    name: Name | None = None
    description: str | None = None


class CountAssistants(BaseModel):
    """A filter for assistants."""

    metadata: Object | None = Field(None, description="What their own has to have.")
    graph_id: str | None = None
    name: str | None = Field(None, description="A part of the name, in either case.")


class SearchAssistants(CountAssistants):
    """A filter for assistants, and which page of them."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] | None = None
    sort_order: Order = None
    select: Names | None = Field(None, description="The fields that are wanted; all by default.")


class SearchAgents(BaseModel):
    """A filter for agents, and which page of them."""

    name: str | None = Field(None, description="A part of the name, in either case.")
    metadata: Object | None = Field(None, description="What their own has to have.")
    limit: Limit = 10
    offset: Offset = 0


class Versions(BaseModel):
    """Which page of versions."""

    metadata: Object | None = None
    limit: Limit = 10
    offset: Offset = 0


class Latest(BaseModel):
    """The version to make the latest."""

    version: int


# -- threads ----------------------------------------------------------------------------------------------------------


class CreateThread(BaseModel):
    """A new thread."""

    thread_id: Id | None = None
    metadata: Object | None = None
    if_exists: IfExists = None
    graph_id: str | None = Field(None, description="Goes into the metadata.")
    supersteps: list[Any] | None = Field(None, description="Not offered: a thread begins empty.")
    ttl: Any = Field(None, description="Not offered: how long threads are kept is the deployment's to say.")


class UpdateThread(BaseModel):
    """Metadata to merge into the thread's."""

    metadata: Object | None = None
    ttl: Any = Field(None, description="Not offered.")
    values: Any = Field(None, description="Not offered: the host keeps what was said.")
    messages: Any = Field(None, description="Not offered, likewise.")
    checkpoint: Any = Field(None, description="Not offered, likewise.")


class CountThreads(BaseModel):
    """A filter for threads."""

    metadata: Object | None = Field(None, description="What their own has to have.")
    values: Object | None = Field(None, description="Not offered: the host keeps what was said.")
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class SearchThreads(CountThreads):
    """A filter for threads, and which page of them."""

    ids: Annotated[list[str], Field(max_length=1000)] | None = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None = None
    sort_order: Order = None
    order_by: OrderBy = None
    select: Names | None = Field(None, description="The fields that are wanted; all by default.")
    extract: Object | None = Field(None, description="Not offered: the host keeps what was said.")


class PruneThreads(BaseModel):
    """The threads to delete."""

    thread_ids: Annotated[list[str], Field(max_length=1000)]
    strategy: str = Field("delete", description="Only `delete` is offered.")


class AtCheckpoint(BaseModel):
    """A checkpoint."""

    checkpoint: Object = Field(description="Its `checkpoint_id` says which; without one, the end of the thread.")
    subgraphs: Ignored = None


class WantedHistory(BaseModel):
    """A filter for the states of a thread."""

    limit: Annotated[int, Field(ge=1, le=1000, description=f"How many to give, {MOST_STATES} at most.")] = 10
    before: Object | str | None = Field(None, description="Only those from before this checkpoint.")
    checkpoint: Object | None = Field(None, description="Only that one.")
    metadata: Object | None = Field(None, description="Only those with this `run_id`, `source` or `step`.")


# -- runs -------------------------------------------------------------------------------------------------------------


class ManyRuns(BaseModel):
    """The runs to cancel."""

    thread_id: str | None = None
    run_ids: Names | None = None
    status: Literal["pending", "running", "all"] | None = None


class SearchRuns(BaseModel):
    """A filter for runs, and which page of them."""

    thread_id: str | None = None
    status: str | None = Field(None, description="Only runs with this status.")
    metadata: Object | None = Field(None, description="Not offered.")
    agent_id: str | None = Field(None, description="Not offered.")
    limit: Limit = 10
    offset: Offset = 0


# -- items ------------------------------------------------------------------------------------------------------------


class PutItem(BaseModel):
    """An item to store."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"namespace": ["users", "ann"], "key": "tea", "value": {"likes": "green"}}]}
    )

    namespace: Labels = Field(min_length=1, description="Labels of 1 to 100 characters, without dots.")
    key: Name
    value: Object
    index: Literal[False] | Annotated[list[Name], Field(max_length=32, fail_fast=True)] | None = Field(
        None,
        description="By whose meaning it is found: paths in the value, such as `text`, `notes[*].text` or `$`, the"
        " whole; else that, and with false nothing. Paths are offered where the gateway has a model for it.",
    )
    ttl: Any = Field(None, description="Not offered: an item is kept until it is deleted.")


class DeleteItem(BaseModel):
    """The item to delete."""

    namespace: Labels
    key: str


class SearchItems(BaseModel):
    """A filter for items, and which page of them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"namespace_prefix": ["users"], "filter": {"likes": "green"}}]}
    )

    namespace_prefix: Labels = []
    filter: Object | None = Field(
        None,
        description="What their values have to have: `{field: value}`, or `{field: {operator: value}}` with the"
        " operators `$eq`, `$ne`, `$gt`, `$gte`, `$lt` and `$lte`.",
    )
    query: str | None = Field(
        None,
        description="What is looked for: by meaning where the gateway has a model for it, else words that have to occur"
        " in the texts of the value, in either case.",
    )
    limit: Limit = 10
    offset: Offset = 0
    refresh_ttl: Ignored = None


class ListNamespaces(BaseModel):
    """A filter for namespaces, and which page of them. A label `*` stands for any."""

    prefix: Labels | None = None
    suffix: Labels | None = None
    max_depth: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="Cut longer ones to this.")
    limit: Limit = 100
    offset: Offset = 0


# -- limits -----------------------------------------------------------------------------------------------------------


LARGEST = 256 * 1024
"""Maximum bytes of a stored object as JSON: many are read at a time."""


def check_storable(**given: Json) -> None:
    """Check values that a client wants stored, by the names of their fields.

    Raises:
        Rejected: one cannot be stored, or is too large.
    """
    for name, value in given.items():
        large = isinstance(value, Mapping) and is_large(value)
        if not large:
            checked(value)
        if large or (isinstance(value, Mapping) and len(to_json(value)) > LARGEST):
            raise rejected(f"Must have at most {LARGEST} bytes as JSON.", "too_long", "body", name)


def check_ids(**given: str) -> None:
    """Check ids and keys that a client has chosen, by the names of their fields.

    Raises:
        Rejected: one cannot be stored, or is too long.
    """
    for name, text in given.items():
        checked(text)
        if len(text.encode()) > LONGEST:
            raise rejected(f"Must have at most {LONGEST} bytes.", "string_too_long", "body", name)
