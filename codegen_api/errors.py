"""The gateway's errors. They know nothing of HTTP: dialects choose statuses and bodies.

    GatewayError
    ├── InvalidRequest              the request is malformed
    │   ├── InvalidCursor           the position in a log is malformed
    │   ├── InvalidIdempotencyKey   the Idempotency-Key is malformed
    │   ├── OrganizationRequired    no organization was named, and there are several
    │   ├── TokenInUrl              a token was sent in the URL
    │   ├── TokenTooLong            a token is too long for its purpose
    │   └── Rejected                validation failed; ``details`` lists the faults
    │       ├── IdempotencyKeyReused    the Idempotency-Key was used for a different request
    │       └── NotOffered              valid, but not supported by the gateway
    ├── NotAuthenticated            there are no credentials
    │   ├── InvalidToken            the token or key is invalid
    │   └── InvalidTicket           the stream ticket is invalid
    ├── Forbidden                   the caller may not do this
    │   └── InsufficientScope       the token or key lacks the scope
    ├── QuotaExhausted              the plan behind the token has no runs left
    ├── NotFound                    it does not exist, or the caller may not see it
    ├── Unsupported                 the host cannot do this
    │   └── TicketsNotConfigured    this deployment has no key to seal tickets with
    ├── Conflict                    it is not possible in the current state
    │   ├── AlreadyExists           the id is taken
    │   ├── RunEnded                the run has ended
    │   ├── RunFinal                the run has ended for good
    │   └── ConversationBusy        a turn of this conversation is in progress
    │       └── QueueFull               its queue of messages is full
    ├── InProgress                  a request with this Idempotency-Key is in progress
    │   └── OutcomeUnknown          one was interrupted, and it is not yet known whether the host acted
    ├── StoreFull                   the caller has used up their storage
    ├── LoopDetected                the gateway received its own request
    ├── Unavailable                 temporary; ``retry_after`` says when to retry
    │   ├── AuthUnavailable         the host cannot verify the token now
    │   ├── StoreUnavailable        the database cannot be used
    │   ├── ShuttingDown            this process is stopping
    │   ├── AtCapacity              this process has reached a limit
    │   ├── RateLimited             the caller has reached a limit
    │   └── UpstreamRateLimited     the host's rate limit is reached
    ├── RunFailed                   a run has no answer, which is all that the caller has waited for
    ├── Interrupted                 this process stopped during a request to the host, which may have acted
    └── UpstreamFailure             the host failed
        ├── UpstreamError           its answer is an error or unusable
        │   └── AnswerCut               its answer was incomplete: asking for less may help
        │       └── AnswerTooLong           its answer exceeds the limit: a retry does not help
        ├── UpstreamUnreachable     there was no connection, or it broke
        └── UpstreamTimeout         it did not answer in time, but may have acted

Messages are for the caller. They contain no token, prompt or log text, and nothing of an unexpected exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from codegen_api.runs import Json

T = TypeVar("T")

LONGEST_NAME = 255
UNQUOTED = frozenset("'\"`<>&\\")
"""Characters that have a meaning where messages are displayed or searched."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One fault of a request: the path to it, what is wrong, and the type of fault."""

    loc: tuple[str | int, ...]
    msg: str
    type: str

    @property
    def fields(self) -> dict[str, Json]:
        """The fault as JSON."""
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}

    @property
    def place(self) -> str:
        """The path in readable form: ``metadata.tags.0``, or ``the body``."""
        part, *path = self.loc or ("request",)
        if not path:
            return f"the {part}"
        return f"the {part} at {path[0]}" if isinstance(path[0], int) else ".".join(str(step)[:60] for step in path)


class GatewayError(Exception):
    """Base class of all errors.

    ``code`` is a stable name for programs, ``message`` a sentence for people, ``retry_after`` in seconds. ``details``
    are ``Detail`` items for a rejected request, or the valid choices. ``reason`` is for the operator's log only: what
    was checked and what was found. ``resource_metadata`` is a URL that tells clients where to get a token.
    """

    code: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "Something went wrong inside the gateway."
    resource_metadata: str | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Sequence[Detail] | Sequence[Json] = (),
        retry_after: float | None = None,
        reason: str | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.details = tuple(details)
        self.retry_after = retry_after
        self.reason = reason
        super().__init__(self.message)

    @property
    def root_reason(self) -> str | None:
        """The reason of this error, or of the nearest cause that has one."""
        error: BaseException | None = self
        while error is not None:
            if isinstance(error, GatewayError) and error.reason is not None:
                return error.reason
            error = error.__cause__
        return None


class InvalidRequest(GatewayError):
    code = "invalid_request"
    default_message = "The request cannot be understood."


class InvalidCursor(InvalidRequest):
    code = "invalid_last_event_id"
    default_message = "The last event id is neither a position, such as 25, nor an end, such as 25.end."


class InvalidIdempotencyKey(InvalidRequest):
    code = "invalid_idempotency_key"
    default_message = "The Idempotency-Key must be 1 to 255 printable ASCII characters."


class OrganizationRequired(InvalidRequest):
    code = "organization_required"
    default_message = "Say which organization is meant with X-Organization-ID; the choices are in details."


class TokenInUrl(InvalidRequest):
    code = "token_in_url"
    default_message = (
        "Access tokens are not taken from the URL, where logs would keep them: send Authorization: Bearer,"
        " or ask for a stream ticket."
    )


class TokenTooLong(InvalidRequest):
    code = "token_too_long"
    default_message = "The token is too long."


class Rejected(InvalidRequest):
    code = "validation_error"
    default_message = "The request is not valid."

    def __init__(
        self, message: str | None = None, *, details: Sequence[Detail] | Sequence[Json] = (), **more: Any
    ) -> None:
        """Without a ``message``, one is made from the first of ``details`` and their number."""
        first = next(iter(details), None)
        if message is None and isinstance(first, Detail):
            others = f" (and {len(details) - 1} more: see the details)" if len(details) > 1 else ""
            fault = first.msg.rstrip(".")
            fault = fault if fault[1:2].isupper() else fault[:1].lower() + fault[1:]
            message = f"{first.place}: {fault}{others}."
        super().__init__(message, details=details, **more)


def rejected(msg: str, kind: str, *loc: str | int) -> Rejected:
    """The error for one fault of a request; the arguments are those of ``Detail``."""
    return Rejected(details=[Detail(loc, msg, kind)])


class IdempotencyKeyReused(Rejected):
    code = "idempotency_key_reused"
    default_message = "This Idempotency-Key was used for another request; take a new one."


class NotOffered(Rejected):
    code = "unsupported"
    default_message = "The gateway does not do this."


class NotAuthenticated(GatewayError):
    code = "not_authenticated"
    default_message = "Authentication is required: send Authorization: Bearer <token>."


class InvalidToken(NotAuthenticated):
    code = "invalid_token"
    default_message = "Authentication failed: the token is not valid."


class InvalidTicket(NotAuthenticated):
    code = "invalid_ticket"
    default_message = "The ticket is not good for this, or no longer: ask for a new one."


class Forbidden(GatewayError):
    code = "forbidden"
    default_message = "You may not do this."


class InsufficientScope(Forbidden):
    """``scope`` is the missing scope."""

    code = "insufficient_scope"
    default_message = "Your token or key lacks the scope for this."
    scope: str | None = None

    @classmethod
    def lacking(cls, scope: str) -> "InsufficientScope":
        error = cls(f"This needs the scope {scope}, which your token or key does not have.", details=[scope])
        error.scope = scope
        return error


class QuotaExhausted(GatewayError):
    code = "quota_exhausted"
    default_message = "The plan behind this token has no agent runs left."


class NotFound(GatewayError):
    code = "not_found"
    default_message = "There is nothing here."

    @classmethod
    def named(cls, kind: str, name: str) -> "NotFound":
        """The error for a missing ``kind`` of thing, in words that some clients search for.

        The name, which the client chose, is quoted only if it is short and harmless.
        """
        quotable = len(name) <= LONGEST_NAME and name.isprintable() and not UNQUOTED & set(name)
        return cls(f"{kind} '{name}' not found" if quotable else f"{kind} not found")

    @classmethod
    def unless(cls, found: T | None, kind: str, name: str) -> T:
        """Return ``found``.

        Raises:
            NotFound: it is None.
        """
        if found is None:
            raise cls.named(kind, name)
        return found


class Unsupported(GatewayError):
    code = "unsupported"
    default_message = "The host cannot do this."


class TicketsNotConfigured(Unsupported):
    code = "tickets_not_configured"
    default_message = "This gateway gives no stream tickets: its operator has set no secret key."


class Conflict(GatewayError):
    code = "conflict"
    default_message = "This does not go together with how things are."


class AlreadyExists(Conflict):
    code = "already_exists"
    default_message = "There is one with this id already."


class RunEnded(Conflict):
    code = "run_ended"
    default_message = "The run is over: there is nothing to stop any more."


class RunFinal(Conflict):
    code = "run_final"
    default_message = "The run has ended for good: this host does not resume it."


class ConversationBusy(Conflict):
    code = "conversation_busy"
    default_message = "A turn of this conversation is under way: wait for its end, or stop it."


class QueueFull(ConversationBusy):
    code = "queue_full"
    default_message = "As many messages wait in this conversation as may: wait until some have begun, or cancel some."


class InProgress(GatewayError):
    code = "idempotency_in_progress"
    default_message = "A request with this Idempotency-Key is under way; ask again."


class OutcomeUnknown(InProgress):
    code = "outcome_unknown"
    default_message = (
        "A request with this Idempotency-Key broke off, and whether the host acted on it is not known yet; ask again."
    )


class LoopDetected(GatewayError):
    code = "loop_detected"
    default_message = "The gateway was asked by itself: its base URL points back at it."


class Unavailable(GatewayError):
    code = "unavailable"
    default_message = "Not available just now."


class AuthUnavailable(Unavailable):
    code = "auth_unavailable"
    default_message = "The host cannot say just now whether this token is good."


class StoreFull(GatewayError):
    code = "storage_full"
    default_message = "You keep as much here as you may: delete something."


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    default_message = "What the gateway has to remember cannot be read or written just now."


class ShuttingDown(Unavailable):
    code = "shutting_down"
    default_message = "This instance is about to stop; ask again."


class AtCapacity(Unavailable):
    code = "at_capacity"
    default_message = "This instance has as many live logs open as it may."


class RateLimited(Unavailable):
    code = "rate_limited"
    default_message = "You have as many live logs open as you may."


class UpstreamRateLimited(Unavailable):
    code = "upstream_rate_limited"
    default_message = "The host's rate limit is reached."


class Interrupted(GatewayError):
    code = "interrupted"
    default_message = "This instance stopped before the host had answered; whether the host acted is unknown."


class RunFailed(GatewayError):
    code = "run_failed"
    default_message = "The run has failed."


class UpstreamFailure(GatewayError):
    """``may_have_acted``: the host may have received the request and carried it out."""

    may_have_acted = True
    code = "upstream_failure"
    default_message = "The host did not do its part."


class UpstreamError(UpstreamFailure):
    code = "upstream_error"
    default_message = "The host answered with an error."


class AnswerCut(UpstreamError):
    default_message = "The host's answer broke off or cannot be read."


class AnswerTooLong(AnswerCut):
    default_message = "The host's answer is too long."


class UpstreamUnreachable(UpstreamFailure):
    code = "upstream_unreachable"
    default_message = "The host cannot be reached."


class UpstreamTimeout(UpstreamFailure):
    code = "upstream_timeout"
    default_message = "The host did not answer in time."


class StreamCut(Exception):
    """Cuts a stream off. The client must not take what it has for complete, and should reconnect."""

    def __init__(self, *, is_shutdown: bool = False) -> None:
        super().__init__()
        self.is_shutdown = is_shutdown
