"""What adapters for JSON over HTTP have in common: one exchange, told to the observer, and what its answer means."""

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
    """How to connect to a host: what ``Connect`` says, and for tests the ``transport``."""

    transport: httpx.AsyncBaseTransport | None
    connect_timeout: float
    read_timeout: float
    via: str | None
    options: Mapping[str, str]


class HttpUpstream:
    """One host, over HTTP with JSON. The arguments, but for ``options``, are those of ``Outbound``.

    ``refusals``: what a status means. ``unreadable``: what is in the place of an entry that cannot be had.

    Raises:
        InvalidOption: there is an option that is not in ``known_options``.
        ValueError: ``base_url`` or the proxy cannot be used; neither is quoted.
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
        """Whether the last exchange brought JSON and no 5xx; one that was cancelled does not count."""
        return self._outbound.observation

    async def aclose(self) -> None:
        await self._outbound.aclose()

    def run_id(self, text: str) -> str:
        """An id that every URL can carry as it is; raises ``Rejected`` for anything else."""
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
        """The error that an answer means, with the sentence in ``message`` or ``detail``; ``answer`` is its JSON.

        A ``detail`` that is a list names the faults of a request, as FastAPI does. The text of anything but JSON, such
        as a page of HTML, goes no further.
        """
        said = answer if isinstance(answer, dict) else {}
        detail = said.get("detail")
        text = sentence(said.get("message"), token) or sentence(detail, token)
        if status == 429:
            return errors.UpstreamRateLimited(text, retry_after=seconds(retry_after))
        kind = self.refusals.get(status)
        if kind is None or not isinstance(answer, dict):
            # 413 is about the answer where something was read: some hosts may give so much and no more
            failure = errors.AnswerTooLong if status == 413 else errors.UpstreamError
            without_use = f"The host answered with status {status} and nothing of use."
            return failure(without_use, retry_after=seconds(retry_after))
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
        """One exchange: what ``read`` makes of a good answer. ``order``: any 2xx will do, and ``read`` gets None where
        it is no JSON.

        Raises:
            GatewayError: what a bad answer means, or why there was none.
        """
        content, headers = await self._content_and_headers(credential, body)
        with observed(self.observer, credential, operation) as heard:
            unread = order and read is nothing
            headers += tracing_headers()
            answer = await self._outbound.ask(method, path, query, content, headers, order=order, unread=unread)
            heard.allowance = answer.allowance
            try:
                if 200 <= answer.status < 300 and (answer.readable or order):
                    return await in_thread(read, answer.json) if answer.large else read(answer.json)
                if answer.cut and 200 <= answer.status < 300:
                    raise errors.AnswerCut
                raise self.refusal(answer.status, answer.json, answer.retry_after, credential.token)
            except errors.GatewayError as error:
                said = f" ({error.message})" if isinstance(error, errors.UpstreamError) and answer.readable else ""
                error.reason = f"{answer.account()}{said}"
                raise

    async def listen(
        self, credential: Credential, operation: str, path: str, query: Query = None, *, body: Json = None
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events, asked for with a POST where there is a ``body``: an empty text when listening has begun,
        and then each line of data.

        Raises:
            GatewayError: as ``ask``; or it broke off.
        """
        content, headers = await self._content_and_headers(credential, body)
        headers += [] if content is None else [("Content-Type", "application/json")]
        async with AsyncExitStack() as held:
            with observed(self.observer, credential, operation):
                headers += tracing_headers()
                answer, lines = await held.enter_async_context(self._outbound.stream(path, query, headers, content))
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
    """A host that has no organizations, no users and no limits: everybody with the same credential is one user."""

    requests_per_minute = None

    def organization_id(self, text: str) -> str:
        """``default``; raises ``Rejected`` for anything else."""
        if text != ONLY:
            raise errors.rejected(f"This host has one organization: {ONLY}.", "literal_error", "organization_id")
        return ONLY

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """One, with a fixed name. The host is not asked."""
        items = (Organization(ONLY, {"id": ONLY, "name": ONLY}),)[skip : skip + limit]
        return Listing(items, Paging(1, None, limit, None), at_end=True)


def user_of(credential: Credential) -> User:
    """The user behind a credential, at a host without users: the same id in every process, which hides the token."""
    name = hashlib.sha256(b"codegen_api user " + credential.token.encode()).hexdigest()[:32]
    return User(name, {"id": name})


def sentence(text: Json, token: str) -> str | None:
    """``text`` on one line of at most 500 characters, without the token; None when there is nothing to say."""
    if not isinstance(text, str):
        return None
    hidden = re.escape(token) if len(token) > 7 else rf"\b{re.escape(token)}\b"  # "x" is in "expired", too
    shown = (letter if letter.isprintable() else " " for letter in re.sub(hidden, "...", text)[:1000])
    return " ".join("".join(shown).split())[:500] or None


def _detail(item: Object, token: str) -> errors.Detail:
    """One fault of a 422; never its ``input``, which quotes the request."""
    way = item.get("loc")
    loc = [step if type(step) is int else sentence(step, token) for step in way] if isinstance(way, list) else []
    msg, kind = sentence(item.get("msg"), token), sentence(item.get("type"), token)
    return errors.Detail(tuple(step for step in loc if step is not None), msg or "Not valid.", kind or "value_error")


def seconds(retry_after: str | None) -> float | None:
    """Retry-After in either form, from 0 to an hour."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]+", retry_after):
        return min(float(retry_after), 3600.0)
    try:
        then = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return min(max(then.replace(tzinfo=then.tzinfo or UTC).timestamp() - time.time(), 0.0), 3600.0)
