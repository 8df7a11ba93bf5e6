"""What adapters for JSON over HTTP have in common: one exchange, told to the observer, and what its answer means."""

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import ClassVar, TypedDict, TypeVar

import httpx

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.outbound import Outbound
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, to_json
from codegen_api.telemetry import NullObserver, Observation, Observer, tracing_headers
from codegen_api.upstreams import InvalidOption, Listing, NewRun, Organization, RunFilter, User, observed
from codegen_api.worker_thread import encoded, in_thread

T = TypeVar("T")
Object = Mapping[str, Json]
Headers = list[tuple[str, str]]

MARKS = "codegen_gateway"
"""The key of a run's metadata under which the gateway's marks are kept; clients neither set nor see it."""

ONLY = "default"
"""The organization of hosts that have none."""

REFUSALS: Mapping[int, type[errors.GatewayError]] = {
    400: errors.Rejected,
    401: errors.InvalidToken,
    402: errors.QuotaExhausted,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.Rejected,
}

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)


class ConnectArguments(TypedDict, total=False):
    """How to connect to a host: what ``Connect`` says, and for tests the ``transport``."""

    transport: httpx.AsyncBaseTransport | None
    connect_timeout: float
    read_timeout: float
    via: str | None
    options: Mapping[str, str]


class HttpUpstream:
    """One host, over HTTP with JSON.

    Times are in seconds: ``connect_timeout`` until there is a connection, ``read_timeout`` between two pieces of an
    answer; a whole exchange has ``connect_timeout + 2 * read_timeout``. ``via`` names this gateway in a ``Via`` header,
    so that it can tell when it asks itself. Proxies and certificates of the environment (``HTTPS_PROXY``,
    ``HTTP_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``) hold unless a ``transport`` is given.

    Raises:
        InvalidOption: there is an option that is not in ``known_options``.
        ValueError: ``base_url`` or the proxy cannot be used; neither is quoted.
    """

    known_options: ClassVar[tuple[str, ...]] = ()
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
        only_options(options, *self.known_options)
        self.options = options
        self.observer: Observer = NullObserver()
        self._outbound = Outbound(
            base_url,
            prefix,
            transport=transport,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            via=via,
        )

    @property
    def observation(self) -> Observation | None:
        """Whether the last exchange brought JSON and no 5xx; one that was cancelled does not count."""
        return self._outbound.observation

    async def aclose(self) -> None:
        """Let go of every connection; later calls raise ``UpstreamUnreachable``."""
        await self._outbound.aclose()

    def run_id(self, text: str) -> str:
        """An id that every URL can carry as it is; raises ``Rejected`` for anything else."""
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.~-]{0,199}", text):
            return text
        what = "Must be 1 to 200 letters, digits, and signs of -_.~"
        raise errors.Rejected(details=[errors.Detail(("run_id",), what, "string_pattern_mismatch")])

    def placeholder(self, ref: RunRef) -> LogEntry:
        """As the function of this name."""
        return placeholder()

    def answer(self, run: Run) -> str | None:
        """The text in ``result``."""
        result = run.fields.get("result")
        return result if isinstance(result, str) and result else None

    def authorization(self, credential: Credential) -> Headers:
        """The headers that show a credential to the host."""
        return [("Authorization", f"Bearer {credential.token}")]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """The error that an answer means; ``answer`` is its JSON, None when it has none."""
        return refusal(status, answer, retry_after, token)

    async def ask(
        self,
        credential: Credential,
        operation: str,
        method: str,
        path: str,
        read: Callable[[Json], T],
        query: Mapping[str, str | int] | None = None,
        *,
        body: Json = None,
        order: bool = False,
    ) -> T:
        """One exchange: what ``read`` makes of a good answer. ``order``: any 2xx will do, and ``read`` gets None where
        it is no JSON.

        Raises:
            GatewayError: what a bad answer means, or why there was none.
        """
        content, headers = None if body is None else await _encoded(body), self._headers(credential)
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
        self,
        credential: Credential,
        operation: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        body: Json = None,
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events, asked for with a POST where there is a ``body``: an empty text when listening has begun,
        and then each line of data.

        Raises:
            GatewayError: as ``ask``; or it broke off.
        """
        content, headers = None if body is None else await _encoded(body), self._headers(credential)
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

    def _headers(self, credential: Credential) -> Headers:
        if not re.fullmatch(r"[!-~]+", credential.token):
            raise errors.InvalidToken  # no header can carry it, so no host can know it
        return [*self.authorization(credential)]


class OneOrganization(HttpUpstream):
    """A host that has no organizations, no users and no limits: everybody with the same credential is one user."""

    requests_per_minute = None

    def organization_id(self, text: str) -> str:
        """``default``; raises ``Rejected`` for anything else."""
        if text != ONLY:
            detail = errors.Detail(("organization_id",), f"This host has one organization: {ONLY}.", "literal_error")
            raise errors.Rejected(details=[detail])
        return ONLY

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """One, with a fixed name. The host is not asked."""
        items = (Organization(ONLY, {"id": ONLY, "name": ONLY}),)[skip : skip + limit]
        return Listing(items, Paging(1, None, limit, None), at_end=True)


def user_of(credential: Credential) -> User:
    """The user behind a credential, at a host that knows none: the same id in every process, which does not reveal the
    token.
    """
    name = hashlib.sha256(b"codegen_api user " + credential.token.encode()).hexdigest()[:32]
    return User(name, {"id": name})


def placeholder() -> LogEntry:
    """An entry in the place of one that cannot be had, and so may differ from it."""
    unreadable = {"type": "unreadable", "content": "The gateway could not read this entry."}
    return LogEntry(to_json(unreadable), None, open=False, amendable=True, absent=True)


def page_of(
    run: Run,
    total: int,
    after: Cursor,
    limit: int,
    read: Callable[[int, int], Sequence[LogEntry]],
    *,
    newest_first: bool,
    revision: str | None = None,
) -> LogPage:
    """A page of a log that is there as a whole, of ``total`` entries. ``read`` gives those from one index to another,
    oldest first. The rest is as in ``read_log`` and ``LogPage``.
    """
    end = max(0, total - after) if newest_first else min(after + limit, total)
    entries = tuple(read(max(0, end - limit) if newest_first else min(after, end), end))
    return LogPage(
        run,
        after,
        entries[::-1] if newest_first else entries,
        after + limit >= total,
        Paging(total, None, limit, None),
        newest_first,
        revision,
    )


def nothing(_: Json) -> None:
    """What is read of an answer that has no known shape."""


def as_object(answer: Json) -> Object:
    if isinstance(answer, dict):
        return answer
    raise errors.UpstreamError("The host's answer is not the object that was expected.")


def as_objects(answer: Json) -> list[Object]:
    if isinstance(answer, list):
        return [as_object(item) for item in answer]
    raise errors.UpstreamError("The host's answer is not the list that was expected.")


def member(answer: Object, key: str, kind: type[T]) -> T:
    value = answer.get(key)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.")


def refusal(
    status: int,
    answer: Json,
    retry_after: str | None,
    token: str,
    *,
    kinds: Mapping[int, type[errors.GatewayError]] = REFUSALS,
) -> errors.GatewayError:
    """The error that an answer means, by its status, with the sentence in ``message`` or ``detail``.

    A ``detail`` that is a list names the faults of a request, as FastAPI does. The text of anything but JSON, such as a
    page of HTML, goes no further.
    """
    said = answer if isinstance(answer, dict) else {}
    detail = said.get("detail")
    text = sentence(said.get("message"), token) or sentence(detail, token)
    if status == 429:
        return errors.UpstreamRateLimited(text, retry_after=seconds(retry_after))
    kind = kinds.get(status)
    if kind is None or not isinstance(answer, dict):
        # 413 is about the answer where something was read: some hosts may give so much and no more
        failure = errors.AnswerTooLong if status == 413 else errors.UpstreamError
        without_use = f"The host answered with status {status} and nothing of use."
        return failure(without_use, retry_after=seconds(retry_after))
    if kind is errors.Rejected and isinstance(detail, list):
        return kind(text, details=[_detail(item, token) for item in detail[:50] if isinstance(item, dict)])
    return kind(text)


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


def marked(metadata: Mapping[str, Json] | None, marks: Mapping[str, str]) -> Mapping[str, Json] | None:
    """Metadata for the host, with the marks in it. Raises ``Rejected`` for metadata that would pass for marks."""
    if metadata is not None and MARKS in metadata:
        where = ("body", "metadata", MARKS)
        raise errors.Rejected(details=[errors.Detail(where, "This key is reserved for the gateway.", "reserved_key")])
    return {**(metadata or {}), MARKS: marks} if marks else metadata


def unmarked(metadata: Json) -> tuple[Json, Mapping[str, str]]:
    """The client's part of the host's metadata, and the marks. A run whose client gave none has none again."""
    if not isinstance(metadata, dict) or MARKS not in metadata:
        return metadata, {}
    marks = metadata[MARKS]
    rest = {key: value for key, value in metadata.items() if key != MARKS} or None
    return rest, {key: mark for key, mark in marks.items() if isinstance(mark, str)} if isinstance(marks, dict) else {}


def refuse(asked: NewRun | RunFilter, *names: str) -> None:
    """
    Raises:
        NotOffered: one of these is asked for, and the host has no word for it.
    """
    for name in names:
        if getattr(asked, name) is not None:
            raise not_offered(*(["body"] if isinstance(asked, NewRun) else []), name)


def not_offered(*place: str) -> errors.NotOffered:
    """For what a client asks for at this place of its request, and the host has no word for."""
    return errors.NotOffered(details=[errors.Detail(place, "This host has nothing of the kind.", "unsupported")])


def only_options(options: Mapping[str, str], *known: str) -> None:
    """
    Raises:
        InvalidOption: there are others.
    """
    for name in options:
        if name not in known:
            raise InvalidOption(name, f"there are {', '.join(known)}, and no others" if known else "there are none")


def rfc3339(value: Json) -> Json:
    """A time in UTC with ``T`` and ``Z``, one without a zone taken as UTC; what is none stays."""
    parts = _TIME.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return value
    day, clock, fraction, offset = parts.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(offset or 'Z').upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return value
    return f"{moment.replace(tzinfo=None).isoformat()}{fraction or ''}Z"


async def _encoded(body: Json) -> bytes:
    try:
        return await encoded(body)
    except ValueError as error:
        raise errors.Rejected(details=[errors.Detail(("body",), "Nested too deeply.", "recursion_loop")]) from error
