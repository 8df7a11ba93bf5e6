"""What an application has one of, and how the routes of a dialect get at it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from codegen_api.auth.callers import Callers
from codegen_api.auth.quota import Quota
from codegen_api.auth.tickets import Tickets
from codegen_api.conversations import Conversations
from codegen_api.draining import Drain
from codegen_api.gateway import Gateway
from codegen_api.idempotency import Idempotency

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """``None`` where the settings ask for none. ``conversations`` is there where a dialect that is on keeps any.

    ``demo_token`` is what callers without credentials are taken to have shown, by dialects that keep conversations;
    ``sandbox``: the host is the emulation. ``stall_seconds`` is how long a viewer may take nothing of a stream,
    ``renderings_bytes`` how much of what it made of entries a dialect may hold. ``documented_statuses``: the Agent
    Protocol's runs have the statuses of its document, not those that its clients know. ``started`` is when, in seconds
    since the epoch. ``own`` is what dialects keep for themselves, by name.
    """

    gateway: Gateway
    callers: Callers
    idempotency: Idempotency
    conversations: Conversations | None
    tickets: Tickets | None
    quota: Quota | None
    drain: Drain
    demo_token: str | None
    sandbox: bool
    documented_statuses: bool
    stall_seconds: float
    renderings_bytes: int
    started: float
    own: dict[str, object] = field(default_factory=dict)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """What a dialect keeps under ``name``; the first request that asks for it makes it."""
        if name not in self.own:
            self.own[name] = make()
        return cast("T", self.own[name])


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def gateway_of(request: Request) -> Gateway:
    return parts_of(request).gateway


async def idempotency_of(request: Request) -> Idempotency:
    return parts_of(request).idempotency


async def conversations_of(request: Request) -> Conversations:
    return cast("Conversations", parts_of(request).conversations)  # there are, where a route asks for them


Door = Annotated[Gateway, Depends(gateway_of)]
Keeper = Annotated[Conversations, Depends(conversations_of)]
Idempotent = Annotated[Idempotency, Depends(idempotency_of)]
