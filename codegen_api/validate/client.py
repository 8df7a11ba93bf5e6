"""A client of the gateway that is checked, and what each of its answers has to be like.

Nothing that is said about an answer quotes it: texts of errors and logs may hold prompts.
"""

import asyncio
import json
import os
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

from .options import Object, Options, object_in

ANSWER_SECONDS = 45.0
"""How long an ordinary check may take: the gateway itself waits half a minute for its host."""
DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""Hosts that are asked without a proxy, whatever the environment says."""
PATIENCE = 3
"""How often a read that is answered 429 is tried."""
LONGEST_WAIT = 60.0
"""Seconds between two of these."""
LONGEST_LINE = 32 * 1024 * 1024
"""How many bytes a line may have before this is no stream of events any more."""

_CODE = re.compile(r"[a-z][a-z0-9_]{0,60}")
_HARMLESS = re.compile(r'[\w./:;=+" -]{1,80}', re.ASCII)


class Failed(Exception):
    """A check has failed. The text says what was seen, and goes on after the name of the check."""


class Skipped(Exception):
    """A check could not be made. The text says why."""


def expect(condition: object, otherwise: str) -> None:
    """Fail the check with ``otherwise`` unless ``condition`` holds."""
    if not condition:
        raise Failed(otherwise)


def connect(options: Options) -> httpx.AsyncClient:
    organization = {"X-Organization-ID": options.organization} if options.organization else {}
    return httpx.AsyncClient(
        base_url=options.url, headers=organization, timeout=ANSWER_SECONDS, mounts=dict.fromkeys(DIRECT)
    )


class Client:
    """Sends requests to the gateway. Each bears an ``X-Request-ID`` of its own, and the token unless told otherwise."""

    def __init__(self, http: httpx.AsyncClient, options: Options) -> None:
        self.options = options
        self._http = http

    def url(self, path: str, base: str = "") -> httpx.URL:
        """Where ``path``, as an answer of the gateway gave it, leads.

        Raises:
            Failed: to another origin, where neither the token nor a browser without internet should go.
        """
        url = httpx.URL(urljoin(base or self.options.url, path))
        own = httpx.URL(self.options.url)
        same = (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)
        expect(same, f"an address at another origin: {shown(url.host)}")
        return url

    async def ask(
        self,
        method: str,
        path: str | httpx.URL,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> httpx.Response:
        """One request and its whole answer. ``token``: None sends none, "" the one of the options.

        A read that is answered 429 is asked again, as a client should, but not for ever.
        """
        for _ in range(PATIENCE):
            response = await self._http.request(method, path, headers=self._headers(token, headers), json=body)
            if response.status_code != 429 or method != "GET":
                break
            after = response.headers.get("Retry-After", "")
            await asyncio.sleep(min(float(after) if after.isascii() and after.isdigit() else 1.0, LONGEST_WAIT))
        return response

    def stream(self, path: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[httpx.Response]:
        """A GET whose answer is read as it comes."""
        return self._http.stream("GET", path, headers=self._headers("", headers))

    def _headers(self, token: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
        authorization = {} if token is None else {"Authorization": f"Bearer {token or self.options.token}"}
        return {"X-Request-ID": uuid.uuid4().hex, **authorization, **(headers or {})}


def preflight_headers(origin: str) -> dict[str, str]:
    """What a browser asks before a page of ``origin`` may follow a log."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,last-event-id",
    }


# -- answers ----------------------------------------------------------------------------------------------------------


def json_of(response: httpx.Response, status: int = 200) -> Object:
    """The JSON object that the gateway answered with ``status``."""
    expect(response.status_code == status, f"answered {described(response)}, not {status}")
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    expect(kind == "application/json", f"answered {status} with {shown(kind or 'no type')}, not JSON")
    try:
        body = json.loads(response.content)
    except ValueError:
        raise Failed(f"answered {status} with JSON that cannot be read") from None
    expect(isinstance(body, dict), f"answered {status} with JSON that is no object")
    return body  # type: ignore[no-any-return]


def error_of(response: httpx.Response, status: int) -> Object:
    """The body of an error, which has one shape wherever it comes from."""
    body = json_of(response, status)
    expect(isinstance(body.get("error"), str) and body["error"], "the error body has no sentence in `error`")
    expect(_CODE.fullmatch(str(body.get("code"))), "the error body has no snake_case `code`")
    expect(body.get("status_code") == status, "`status_code` of the error body is not the status")
    sent = response.request.headers["X-Request-ID"]
    expect(response.headers.get("X-Request-ID") == sent, "X-Request-ID does not come back")
    expect(body.get("request_id") == sent, "`request_id` of the error body is not the X-Request-ID that was sent")
    return body


def page_of(response: httpx.Response, limit: int) -> list[Object]:
    body = json_of(response)
    items = body.get("items")
    objects = isinstance(items, list) and all(isinstance(item, dict) for item in items)
    expect(objects, "`items` is not a list of objects")
    absent = [name for name in ("total", "page", "size", "pages") if name not in body]
    expect(not absent, f"the page lacks {', '.join(absent)}")
    expect(len(items or ()) <= limit, f"more items than the {limit} asked for")
    return items or []


def run_of(body: Object, run_id: int | str | None = None) -> Object:
    """``body``, if it is a run, and the right one."""
    expect(isinstance(body.get("id"), int | str), "the run has no `id`")
    expect(run_id in (None, body["id"]), f"this is run {body['id']}, not run {run_id}")
    expect(isinstance(body.get("run_status"), str), "the run has no `run_status`")
    expect(isinstance(body.get("ended"), bool), "the run does not say whether it has `ended`")
    return body


def times_of(body: Object) -> Iterator[object]:
    """The times in a run, a page of its log or the state of health, where they are not null."""
    for name in ("created_at", "timestamp", "checked_at"):
        if body.get(name) is not None:
            yield body[name]
    for name in ("github_pull_requests", "logs", "upstream"):
        for inner in body[name] if isinstance(body.get(name), list) else [body.get(name)]:
            if isinstance(inner, dict):
                yield from times_of(inner)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. ``retry`` is what the stream last asked for, in milliseconds."""

    name: str
    data: str
    id: str | None
    retry: int | None


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """The events in ``chunks``, as they come, until the connection ends or breaks; of one cut off nothing is said.

    Lines end in LF or CRLF, not in a bare CR.
    """
    rest, fields, retry = b"", dict[str, str](), None
    with suppress(httpx.TransportError):  # the client comes back
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise Failed("what comes is not a stream of events")
            for line in lines:
                # not str.splitlines: JSON may contain U+2028 and the like unescaped
                name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
                value = value.removeprefix(" ")
                if name == "data" and "data" in fields:
                    fields["data"] += "\n" + value
                elif name == "retry":
                    retry = int(value) if value.isascii() and value.isdigit() else retry
                elif name in ("id", "event", "data"):
                    fields[name] = value
                elif not line.strip():
                    if "data" in fields:
                        yield ServerEvent(fields.get("event", "message"), fields["data"], fields.get("id"), retry)
                    fields = {}


def described(response: httpx.Response) -> str:
    """An answer in a few words: its status and the code of our errors, or what it is instead."""
    code = code_of(response) or response.headers.get("Content-Type", "without a type").partition(";")[0]
    return f"{response.status_code} ({shown(code)})"


def code_of(response: httpx.Response) -> str:
    """The code of one of our errors; nothing for any other answer."""
    try:
        return str((object_in(response.content) or {}).get("code", ""))
    except httpx.ResponseNotRead:
        return ""


def shown(value: object) -> str:
    """A value from outside as it may stand in a report."""
    text = str(value)
    return text if _HARMLESS.fullmatch(text) else f"a strange {type(value).__name__}"


def reason(error: BaseException) -> str:
    """What the system said: that of the library is often only that it did not work."""
    inner: BaseException | None = error
    while inner is not None and not (isinstance(inner, OSError) and inner.strerror):
        inner = inner.__cause__ or inner.__context__
    said = (inner is not None and inner.strerror) or str(error) or type(error).__name__
    number = getattr(inner, "errno", None)
    return os.strerror(number) if number and said.startswith("Connect call failed") else said  # as asyncio puts it
