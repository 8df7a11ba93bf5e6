"""The hosted Codegen agent API, spoken over httpx: parses what it says, names it in our words, maps its errors.

Where a docstring says what the host does, it also says how that is known: from the host's OpenAPI document of
October 2025, or from payloads seen on the wire in June and August 2025. Nothing is repeated, cached or decided here.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.outbound import Outbound
from codegen_api.runs import Cursor, Json, LogEntry, Page, Paging, Run, RunRef, RunStatus, to_json
from codegen_api.telemetry import Observation, Observer, Quiet, trace
from codegen_api.upstreams import Listing, NewRun, Organization, RunFilter, User, observed

T = TypeVar("T")
Object = Mapping[str, Json]

_WORDS = {
    RunStatus.PENDING: "PENDING QUEUED",
    RunStatus.RUNNING: "ACTIVE RUNNING EVALUATION IN_PROGRESS",
    RunStatus.PAUSED: "PAUSED",
    RunStatus.COMPLETED: "COMPLETE COMPLETED",
    RunStatus.FAILED: "ERROR FAILED TIMEOUT MAX_ITERATIONS_REACHED OUT_OF_TOKENS",
    RunStatus.CANCELLED: "CANCELLED CANCELED STOPPED",
}
"""The wire says ACTIVE, COMPLETE and ERROR; the rest is what the host's own clients know, or its prose spells."""

_STATUSES = {word: status for status, words in _WORDS.items() for word in words.split()}

_NEVER_AMENDED = re.compile(
    "PLAN_EVALUATION|FINAL_ANSWER|ERROR|USER_MESSAGE|USER_GITHUB_ISSUE_COMMENT|INITIAL_PR_GENERATION|DETECT_PR_ERRORS"
    "|FIX_PR_ERRORS|PR_CREATION_FAILED|PR_EVALUATION|COMMIT_EVALUATION|AGENT_RUN_LINK"
)
"""The kinds of log entries in the host's prose that are whole when they appear: all but ACTION, a tool call."""

_REFUSALS: Mapping[int, type[errors.GatewayError]] = {
    401: errors.InvalidToken,
    402: errors.QuotaExhausted,
    403: errors.Forbidden,
    404: errors.NotFound,
    422: errors.Rejected,
}

MARKS = "codegen_gateway"
"""The key of a run's metadata under which the gateway's marks are kept; clients neither set nor see it."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)


class CodegenUpstream:
    """The Codegen API as an ``Upstream`` that also ``Cancels``.

    ``base_url`` may end in ``/v1`` and slashes or not. Times are in seconds: ``connect_timeout`` until there is a
    connection, ``read_timeout`` between two pieces of an answer; a whole exchange has ``connect_timeout + 2 *
    read_timeout``. ``via`` names this gateway in a ``Via`` header, so that it can tell when it asks itself. Proxies and
    certificates of the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``) hold unless a
    ``transport`` is given. Raises ``ValueError``, which quotes neither, when ``base_url`` or the proxy cannot be used.
    """

    name = "codegen"
    page_size = 100

    def __init__(
        self,
        base_url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        via: str | None = None,
    ) -> None:
        self.observer: Observer = Quiet()
        self._outbound = Outbound(
            base_url.strip().rstrip("/").removesuffix("/v1"),
            "/v1",
            transport=transport,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            via=via,
        )

    @property
    def observation(self) -> Observation | None:
        """Whether the last exchange brought JSON and no 5xx; one that was cancelled does not count."""
        return self._outbound.observation

    def organization_id(self, text: str) -> str:
        """``"0323"`` -> ``"323"``: the host's ids are JSON integers. Raises ``Rejected`` for anything else."""
        return _identifier(text, "organization_id")

    def run_id(self, text: str) -> str:
        """As ``organization_id``, for runs."""
        return _identifier(text, "run_id")

    async def identify(self, credential: Credential) -> User:
        """The user to whom the token belongs: the host's tokens are a user's, not an organization's."""
        answer = _object(await self._ask(credential, "identify", "GET", "/users/me"))
        return User(_id(answer), answer)

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """The user's organizations; ``limit`` from 1 to 100."""
        answer = await self._ask(credential, "organizations", "GET", "/organizations", _window(skip, limit))
        return _listing(answer, limit, lambda item: Organization(_id(item), item))

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Start a run; what ``new`` leaves out is not sent. The host answers 200, never 201 (OpenAPI document).

        Metadata is kept as it is and comes back with every description of the run (OpenAPI document).
        """
        body: dict[str, Json] = {
            "prompt": new.prompt,
            "metadata": _marked(new.metadata, new.marks),
            "images": new.images,
            "repo_id": new.repo_id,
            "model": new.model,
            "agent_type": new.agent_type,
        }
        return _run(_object(await self._ask(credential, "create_run", "POST", self._runs(organization), body=body)))

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The run with every field that the host has."""
        return _run(_object(await self._ask(credential, "get_run", "GET", self._path(ref))))

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Runs, newest first; ``limit`` from 1 to 100. Only here is the path a plural (OpenAPI document)."""
        filters = {"source_type": only.source_type, "user_id": only.user_id}
        query = {**_window(skip, limit), **{key: value for key, value in filters.items() if value is not None}}
        answer = await self._ask(credential, "list_runs", "GET", f"{self._runs(organization)}s", query)
        return _listing(answer, limit, _run)

    async def resume_run(self, credential: Credential, ref: RunRef, prompt: str, images: tuple[str, ...] | None) -> Run:
        """Go on with a run under the same id."""
        return _run(_object(await self._order(credential, "resume_run", ref, "resume", prompt=prompt, images=images)))

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Ban the run, the only stop the host offers; it also stops the checks of the run's pull request."""
        await self._order(credential, "cancel_run", ref, "ban")

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Lift the ban. The run stays stopped until it is resumed."""
        await self._order(credential, "uncancel_run", ref, "unban")

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> Page:
        """A page of the log, ``limit`` from 1 to 100. Its run lacks summary, source_type and github_pull_requests.

        Logs are the one thing under ``/v1/alpha`` (OpenAPI document; the host's prose leaves it out, and is wrong).
        """
        query = _window(after, limit) | ({"reverse": "true"} if newest_first else {})
        answer = _object(await self._ask(credential, "read_log", "GET", f"/alpha{self._path(ref)}/logs", query))
        logs = _member(answer, "logs", list)
        beyond = ("logs", "total_logs", "page", "size", "pages")
        run = _run({key: value for key, value in answer.items() if key not in beyond})
        entries = tuple(_entry(item, run.ref) for item in logs[:limit])
        return Page(run, after, entries, len(logs) < limit, _paging(answer, "total_logs"), newest_first)

    async def aclose(self) -> None:
        """Let go of every connection; later calls raise ``UpstreamUnreachable``."""
        await self._outbound.aclose()

    def _runs(self, organization: str) -> str:
        return f"/organizations/{self.organization_id(organization)}/agent/run"

    def _path(self, ref: RunRef) -> str:
        return f"{self._runs(ref.organization)}/{self.run_id(ref.id)}"

    async def _order(self, credential: Credential, operation: str, ref: RunRef, order: str, **more: Json) -> Json:
        body = {"agent_run_id": int(self.run_id(ref.id)), **more}
        return await self._ask(credential, operation, "POST", f"{self._runs(ref.organization)}/{order}", body=body)

    async def _ask(
        self,
        credential: Credential,
        operation: str,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Object | None = None,
    ) -> Json:
        """One exchange: the JSON of a good answer, or the error that a bad one means."""
        content, headers = None if body is None else _encoded(body), _headers(credential)
        with observed(self.observer, credential, operation) as heard:
            answer = await self._outbound.ask(method, path, query, content, headers)
            heard.allowance = answer.allowance
            if answer.readable and 200 <= answer.status < 300:
                return answer.json
            raise _refusal(answer.status, answer.json, answer.retry_after, credential.token)


def _headers(credential: Credential) -> list[tuple[str, str]]:
    if not re.fullmatch(r"[!-~]+", credential.token):
        raise errors.InvalidToken  # no header can carry it, so no host can know it
    current = trace.get()
    passed_on = (("X-Request-ID", current.request_id), *current.passed_on) if current else ()
    safe = [(name, value) for name, value in passed_on if value.isascii() and value.isprintable()]
    return [("Authorization", f"Bearer {credential.token}"), *safe]


def _encoded(body: Object) -> bytes:
    try:
        return to_json({key: value for key, value in body.items() if value is not None})
    except ValueError as error:
        raise errors.Rejected(details=[errors.Detail(("body",), "Nested too deeply.", "recursion_loop")]) from error


def _identifier(text: str, what: str) -> str:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return str(int(text))
    raise errors.Rejected(details=[errors.Detail((what,), "Must be a number of 1 to 18 digits.", "int_parsing")])


def _window(skip: int, limit: int) -> dict[str, str | int]:
    if skip < 0 or not 1 <= limit <= CodegenUpstream.page_size:
        raise ValueError(f"skip must be at least 0 and limit from 1 to 100, not {skip} and {limit}")
    return {"skip": skip, "limit": limit}


def _refusal(status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
    """The error that an answer means; ``answer`` is its JSON, None when it has none.

    The host has three shapes: ``message`` for its own errors, ``detail`` as a text (401, seen on the wire; unknown
    routes) and ``detail`` as a list (422). The text of anything else, such as a page of HTML, goes no further.
    """
    said = answer if isinstance(answer, dict) else {}
    detail = said.get("detail")
    sentence = _sentence(said.get("message"), token) or _sentence(detail, token)
    if status == 429:
        return errors.UpstreamRateLimited(sentence, retry_after=_seconds(retry_after))
    kind = _REFUSALS.get(status)
    if kind is None or not isinstance(answer, dict):
        return errors.UpstreamError(f"The host answered with status {status} and nothing of use.")
    if kind is errors.Rejected and isinstance(detail, list):
        return kind(sentence, details=[_detail(item, token) for item in detail[:50] if isinstance(item, dict)])
    return kind(sentence)


def _sentence(text: Json, token: str) -> str | None:
    """``text`` on one line of at most 500 characters, without the token; None when there is nothing to say."""
    if not isinstance(text, str):
        return None
    shown = (letter if letter.isprintable() else " " for letter in text.replace(token, "...")[:1000])
    return " ".join("".join(shown).split())[:500] or None


def _detail(item: Object, token: str) -> errors.Detail:
    """One fault of a 422; never its ``input``, which quotes the request."""
    way = item.get("loc")
    loc = [step if type(step) is int else _sentence(step, token) for step in way] if isinstance(way, list) else []
    msg, kind = _sentence(item.get("msg"), token), _sentence(item.get("type"), token)
    return errors.Detail(tuple(step for step in loc if step is not None), msg or "Not valid.", kind or "value_error")


def _seconds(retry_after: str | None) -> float | None:
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


def _object(answer: Json) -> Object:
    if isinstance(answer, dict):
        return answer
    raise errors.UpstreamError("The host's answer is not the object that was expected.")


def _member(answer: Object, key: str, kind: type[T]) -> T:
    value = answer.get(key)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.")


def _id(answer: Object, key: str = "id") -> str:
    return str(_member(answer, key, int))


def _paging(answer: Object, total: str) -> Paging:
    values = (answer.get(key) for key in (total, "page", "size", "pages"))
    return Paging(*(value if type(value) is int else None for value in values))


def _listing(answer: Json, limit: int, read: Callable[[Object], T]) -> Listing[T]:
    page = _object(answer)
    items = _member(page, "items", list)
    return Listing(tuple(read(_object(item)) for item in items[:limit]), _paging(page, "total"), len(items) < limit)


def _run(answer: Object) -> Run:
    fields = _with_times(answer)
    pulls = fields.get("github_pull_requests")
    if isinstance(pulls, list):
        fields["github_pull_requests"] = [_with_times(pull) if isinstance(pull, dict) else pull for pull in pulls]
    raw = answer.get("status")
    raw = raw if isinstance(raw, str) else None
    word = (raw or "").strip().upper()
    status = RunStatus.WAITING if word.startswith("WAITING") else _STATUSES.get(word, RunStatus.UNKNOWN)
    marks = _unmarked(fields) if "metadata" in fields else None
    return Run(RunRef(_id(answer, "organization_id"), _id(answer)), status, raw, fields, marks)


def _marked(metadata: Mapping[str, Json] | None, marks: Mapping[str, str]) -> Mapping[str, Json] | None:
    if metadata is not None and MARKS in metadata:
        where = ("body", "metadata", MARKS)
        raise errors.Rejected(details=[errors.Detail(where, "This key is reserved for the gateway.", "reserved_key")])
    return {**(metadata or {}), MARKS: marks} if marks else metadata


def _unmarked(fields: dict[str, Json]) -> Mapping[str, str]:
    """Take the marks out of the metadata in ``fields``. A run whose client gave none has none again."""
    metadata = fields["metadata"]
    if not isinstance(metadata, dict) or MARKS not in metadata:
        return {}
    fields["metadata"] = {key: value for key, value in metadata.items() if key != MARKS} or None
    marks = metadata[MARKS]
    return {key: mark for key, mark in marks.items() if isinstance(mark, str)} if isinstance(marks, dict) else {}


def _entry(item: Json, ref: RunRef) -> LogEntry:
    """One entry; for what cannot be read or written again, another in its place, because positions must not shift."""
    entry = _with_times(item) if isinstance(item, dict) else {}
    known = {key: value for key, value in entry.items() if isinstance(value, str)}
    created_at, kind, tool = known.get("created_at"), known.get("message_type"), known.get("tool_name")
    word = (kind or "").strip().upper()
    # An unknown kind that names a tool is taken for a tool call; a user's message names user_input (wire, June 2025).
    amendable = word == "ACTION" or (tool not in (None, "", "user_input") and not _NEVER_AMENDED.fullmatch(word))
    try:
        encoded = to_json(entry) if isinstance(item, dict) else None
    except ValueError:
        encoded = None
    if encoded is None:
        unreadable = {"agent_run_id": int(ref.id), "created_at": created_at, "message_type": "UNREADABLE"}
        encoded = to_json({**unreadable, "observation": "The gateway could not read this entry."})
    said = "\n".join(_texts(entry)) if word == "USER_MESSAGE" else None
    return LogEntry(encoded, created_at, amendable and entry.get("tool_output") is None, amendable, said)


def _texts(entry: Object) -> Iterator[str]:
    """Every text in what a user said: where exactly it stands is not known (one payload, June 2025, cut short)."""
    waiting: list[Json] = [entry.get(key) for key in ("observation", "thought", "tool_input", "tool_output")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _with_times(fields: Object) -> dict[str, Json]:
    return {key: _rfc3339(value) if key.endswith("_at") else value for key, value in fields.items()}


def _rfc3339(value: Json) -> Json:
    """A time in UTC with ``T`` and ``Z``; what is none stays. The host's are naive, with a space (wire, June 2025)."""
    parts = _TIME.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return value
    day, clock, fraction, offset = parts.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(offset or 'Z').upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return value
    return f"{moment.replace(tzinfo=None).isoformat()}{fraction or ''}Z"
