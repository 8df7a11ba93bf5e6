"""The objects that an application has exactly one of, and the dependencies that provide them to routes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from fastapi import Depends, Request

from codegen_api.auth.callers import Callers
from codegen_api.auth.quota import Quota
from codegen_api.auth.tickets import Tickets
from codegen_api.gateway import Gateway
from codegen_api.http.draining import Drain
from codegen_api.http.request_bodies import Authenticator
from codegen_api.idempotency import Idempotency
from codegen_api.identity import Caller

if TYPE_CHECKING:  # loaded only where they are used
    from codegen_api.conversations import CallerConversations, Conversations
    from codegen_api.in_redis.principals import RedisQuota
    from codegen_api.redis_link import RedisLink

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything shared by the routes; ``None`` if the settings switch it off. ``conversations`` exists only if an
    enabled dialect keeps conversations.

    ``demo_token`` is the token that lenient dialects assume for requests without credentials. ``sandbox``: the host is
    the emulation. ``documented_statuses``: Agent Protocol runs get the statuses of its document instead of those its
    clients know. ``heartbeat_seconds`` is how long a live log is silent at most, ``stall_seconds`` how long a client
    may read nothing from a stream. ``started`` is in epoch seconds. ``public_url`` is where clients reach the gateway,
    if configured. ``own`` holds the dialects' private state by name.
    """

    gateway: Gateway
    callers: Callers
    idempotency: Idempotency
    conversations: "Conversations | None"
    tickets: Tickets | None
    quota: "Quota | RedisQuota | None"
    drain: Drain
    demo_token: str | None
    sandbox: bool
    documented_statuses: bool
    redis: "RedisLink | None"
    heartbeat_seconds: float
    stall_seconds: float
    started: float
    public_url: str | None
    own: dict[str, object] = field(default_factory=dict)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """The private state of the dialect called ``name``, made by ``make`` on first use."""
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


def conversations_of(authenticator: Authenticator) -> Any:
    """A dependency that provides the caller's conversations, for the routes of a dialect that keeps some."""

    async def of(request: Request, caller: Annotated[Caller, Depends(authenticator)]) -> "CallerConversations":
        # never None where a route with this dependency is mounted
        conversations = cast("Conversations", parts_of(request).conversations)
        return conversations.of(caller)

    return Depends(of)


Door = Annotated[Gateway, Depends(gateway_of)]
Idempotent = Annotated[Idempotency, Depends(idempotency_of)]
