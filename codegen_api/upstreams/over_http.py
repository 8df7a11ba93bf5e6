"""What adapters for JSON over HTTP share: making one exchange, notifying the observer, and interpreting the answer."""

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import ClassVar, TypedDict, TypeVar

import httpx

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.outbound import Outbound, Query
from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef
from codegen_api.telemetry import Observation, Observer, tracing_headers
from codegen_api.upstreams import InvalidOption, Listing, Organization, User, observed
from codegen_api.upstreams.host_json import ONLY, UNREADABLE, Object, nothing, text_in
from codegen_api.worker_thread import encoded, in_thread

T = TypeVar("T")
Headers = list[tuple[str, str]]

REFUSALS: Mapping[int, type[errors.GatewayError]] = {
    400: errors.Rejected,
    401: errors.InvalidToken,
    402: errors.QuotaExhausted,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.Rejected,
}


class ConnectArguments(TypedDict, total=False):
    """The arguments of ``Connect``, and for tests a ``transport``."""

    transport: httpx.AsyncBaseTransport | None
    connect_timeout: float
    read_timeout: float
    via: str | None
    options: Mapping[str, str]


class HttpUpstream:
    """A host that speaks JSON over HTTP. The arguments, except ``options``, are those of ``Outbound``.

    ``refusals`` maps statuses to errors. ``unreadable`` is the entry in the place of one that cannot be read.

    Raises:
        InvalidOption: an option is not in ``known_options``.
        ValueError: ``base_url`` or the proxy is unusable; the message quotes neither.
    """

    known_options: ClassVar[tuple[str, ...]] = ()
    refusals: ClassVar[Mapping[int, type[errors.GatewayError]]] = REFUSALS
    unreadable: ClassVar[LogEntry] = UNREADABLE
    exchanges_per_read = 1
    keeps_marks = True
    lags = True

    def __init__(
        self,
        base_url: str,
        prefix: str = "",
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        via: str | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        known = self.known_options
        for name in options:
            if name not in known:
                raise InvalidOption(name, f"there are {', '.join(known)}, and no others" if known else "there are none")
        self.options = options
        self.observer: Observer = Observer()
        self._outbound = Outbound(
            base_url, prefix, transport=transport, connect_timeout=connect_timeout, read_timeout=read_timeout, via=via
        )

    @property
    def observation(self) -> Observation | None:
        """Whether the last exchange brought JSON and no 5xx; cancelled ones do not count."""
        return self._outbound.observation

    async def aclose(self) -> None:
        await self._outbound.aclose()

    def run_id(self, text: str) -> str:
        """``text``, if URLs need not escape it. Raises ``Rejected`` otherwise."""
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.~-]{0,199}", text):
            return text
        what = "Must be 1 to 200 letters, digits, and signs of -_.~"
        raise errors.rejected(what, "string_pattern_mismatch", "run_id")

    def placeholder(self, ref: RunRef) -> LogEntry:
        return self.unreadable

    def answer(self, run: Run) -> str | None:
        return text_in(run.fields, "result") or None

    def authorization(self, credential: Credential) -> Headers:
        return [("Authorization", f"Bearer {credential.token}")]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """The error for an answer, with the sentence in its ``message`` or ``detail``; ``answer`` is its JSON.

        A ``detail`` that is a list names the faults of a request, as FastAPI does. Nothing of an answer that is not
        JSON, such as a page of HTML, is passed on.
        """
        fields = answer if isinstance(answer, dict) else {}
        detail = fields.get("detail")
        text = sentence(fields.get("message"), token) or sentence(detail, token)
        if status == 429:
            return errors.UpstreamRateLimited(text, retry_after=seconds(retry_after))
        kind = self.refusals.get(status)
        if kind is None or not isinstance(answer, dict):
            # on a read, 413 is about the answer: some hosts limit how much they return
            failure = errors.AnswerTooLong if status == 413 else errors.UpstreamError
            message = f"The host answered with status {status} and nothing of use."
            return failure(message, retry_after=seconds(retry_after))
        if kind is errors.Rejected and isinstance(detail, list):
            return kind(text, details=[_detail(item, token) for item in detail[:50] if isinstance(item, dict)])
        return kind(text)

    async def ask(
        self,
        credential: Credential,
        operation: str,
        method: str,
        path: str,
        read: Callable[[Json], T],
        query: Query = None,
        *,
        body: Json = None,
        order: bool = False,
    ) -> T:
        """Make one exchange and return what ``read`` makes of a successful answer. ``order``: any 2xx is a success, and
        ``read`` gets None if the body is not JSON.

        Raises:
            GatewayError: the host refused, failed, or did not answer.
        """
        content, headers = await self._content_and_headers(credential, body)
        with observed(self.observer, credential, operation) as limits:
            unread = order and read is nothing
            headers += tracing_headers()
            answer = await self._outbound.ask(method, path, query, content, headers, order=order, unread=unread)
            limits.allowance = answer.allowance
            try:
                if 200 <= answer.status < 300 and (answer.readable or order):
                    return await in_thread(read, answer.json) if answer.large else read(answer.json)
                if answer.cut and 200 <= answer.status < 300:
                    raise errors.AnswerCut
                raise self.refusal(answer.status, answer.json, answer.retry_after, credential.token)
            except errors.GatewayError as error:
                why = f" ({error.message})" if isinstance(error, errors.UpstreamError) and answer.readable else ""
                error.reason = f"{answer.account()}{why}"
                raise

    async def listen(
        self, credential: Credential, operation: str, path: str, query: Query = None, *, body: Json = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the data lines of server-sent events, after an empty one when listening has begun. With a ``body`` the
        request is a POST.

        Raises:
            GatewayError: as ``ask``, or the stream broke off.
        """
        content, headers = await self._content_and_headers(credential, body)
        headers += [] if content is None else [("Content-Type", "application/json")]
        async with AsyncExitStack() as stack:
            with observed(self.observer, credential, operation):
                headers += tracing_headers()
                answer, lines = await stack.enter_async_context(self._outbound.stream(path, query, headers, content))
                if lines is None:
                    error = self.refusal(answer.status, answer.json, answer.retry_after, credential.token)
                    error.reason = answer.account()
                    raise error
            yield b""
            async for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()

    async def _content_and_headers(self, credential: Credential, body: Json) -> tuple[bytes | None, Headers]:
        try:
            content = None if body is None else await encoded(body)
        except ValueError as error:
            raise errors.rejected("Nested too deeply.", "recursion_loop", "body") from error
        if not re.fullmatch(r"[!-~]+", credential.token):
            raise errors.InvalidToken  # no header can carry it, so no host can know it
        return content, [*self.authorization(credential)]


class OneOrganization(HttpUpstream):
    """A host without organizations, users and rate limits: all callers with the same credential are one user."""

    requests_per_minute = None

    def organization_id(self, text: str) -> str:
        """``default``; raises ``Rejected`` for anything else."""
        if text != ONLY:
            raise errors.rejected(f"This host has one organization: {ONLY}.", "literal_error", "organization_id")
        return ONLY

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """The only organization, which has a fixed name; the host is not asked."""
        items = (Organization(ONLY, {"id": ONLY, "name": ONLY}),)[skip : skip + limit]
        return Listing(items, Paging(1, None, limit, None), at_end=True)


def user_of(credential: Credential) -> User:
    """The user for a credential, at a host without users. The id is the same in every process and hides the token."""
    name = hashlib.sha256(b"codegen_api user " + credential.token.encode()).hexdigest()[:32]
    return User(name, {"id": name})


def sentence(text: Json, token: str) -> str | None:
    """``text`` on one line of at most 500 characters, without the token; None if nothing is left."""
    if not isinstance(text, str):
        return None
    hidden = re.escape(token) if len(token) > 7 else rf"\b{re.escape(token)}\b"  # "x" is in "expired", too
    shown = (letter if letter.isprintable() else " " for letter in re.sub(hidden, "...", text)[:1000])
    return " ".join("".join(shown).split())[:500] or None


def _detail(item: Object, token: str) -> errors.Detail:
    """One fault of a 422, without its ``input``, which quotes the request."""
    path = item.get("loc")
    loc = [step if type(step) is int else sentence(step, token) for step in path] if isinstance(path, list) else []
    msg, kind = sentence(item.get("msg"), token), sentence(item.get("type"), token)
    return errors.Detail(tuple(step for step in loc if step is not None), msg or "Not valid.", kind or "value_error")


def seconds(retry_after: str | None) -> float | None:
    """The seconds in a Retry-After header of either form, from 0 to an hour."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]+", retry_after):
        return min(float(retry_after), 3600.0)
    try:
        moment = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return min(max(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time(), 0.0), 3600.0)
