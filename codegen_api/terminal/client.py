"""A client of the native API (docs/wire.md): single requests, and a live log that reconnects."""

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

Object = dict[str, Any]

JSON_LINES = "application/x-ndjson"
DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""Hosts that are called without a proxy, whatever the environment says."""
LATER = (429, 502, 503, 504)
"""Statuses after which the same request may work a moment later."""
UNKNOWN = ("idempotency_in_progress", "outcome_unknown")
"""Codes of 409 after which the same order, sent again, learns its outcome."""
ATTEMPTS = 5
SILENCE = 60.0
"""Seconds of silence after which a connection is dead. Heartbeats come every 15 seconds."""
LONGEST_WAIT = 30.0
_HEAD = re.compile(rb'\{"event": ?"([a-z.]+)", ?"id": ?"([^"\\]+)"')


class Refused(Exception):
    """The gateway refused, or cannot be reached. The text is for people, and may quote untrusted text."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of a live log. ``data`` is None if it is nested too deeply to be parsed. ``line`` is the raw event."""

    name: str
    id: str | None
    data: Object | None
    line: bytes


class GatewayClient:
    """Requests of one person to one gateway. ``url`` is the gateway's address.

    All methods raise ``Refused``.
    """

    def __init__(self, url: str, token: str, organization: str | None) -> None:
        self._url = url
        chosen = {"X-Organization-ID": organization} if organization else {}
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}", **chosen},
            timeout=httpx.Timeout(SILENCE, connect=10.0),
            mounts=dict.fromkeys(DIRECT),
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **query: object) -> Object:
        """Send a request without a body, which may be repeated."""
        params = {name: str(value) for name, value in query.items() if value is not None}
        try:
            return self._object(self._http.request(method, path, params=params))
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def order(self, path: str, body: Mapping[str, object]) -> Object:
        """Create or resume a run once, however many attempts that takes."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        for left in reversed(range(ATTEMPTS)):
            try:
                answer = self._http.post(path, json=body, headers=key)
            except httpx.ConnectError as error:
                raise self.unreachable(error) from error
            except httpx.TransportError as error:
                if not left:
                    raise self.unreachable(error) from error
                time.sleep(2)
            else:
                if not left or (answer.status_code not in LATER and _body(answer).get("code") not in UNKNOWN):
                    break
                time.sleep(min(_retry_after(answer) or 2.0, LONGEST_WAIT))
        return self._object(answer)

    def stream(self, path: str, position: str) -> AbstractContextManager[httpx.Response]:
        """A live log behind ``position``, as JSON lines."""
        after = {"Last-Event-ID": position} if position else {}
        return self._http.stream("GET", path, headers={"Accept": JSON_LINES, **after})

    def _object(self, answer: httpx.Response) -> Object:
        self.expect_success(answer)
        found = _body(answer)
        if not found:
            raise Refused(self.no_gateway(answer))
        return found

    def expect_success(self, answer: httpx.Response) -> None:
        """Raise ``Refused`` for an error."""
        if answer.is_success:
            return
        answer.read()
        said = _body(answer)
        if not isinstance(said.get("error"), str):
            raise Refused(self.no_gateway(answer))
        hint = " Is CODEGEN_TOKEN the right one?" if answer.status_code == 401 else ""
        raise Refused(f"{said['error']} ({answer.status_code} {said.get('code')}){hint}")

    def no_gateway(self, answer: httpx.Response) -> str:
        kind = answer.headers.get("Content-Type", "nothing").partition(";")[0]
        return f"What answers at {self._url} is no gateway, or not its whole address: {answer.status_code}, {kind}."

    def unreachable(self, error: httpx.TransportError) -> Refused:
        inner: BaseException | None = error
        while inner is not None and not (isinstance(inner, OSError) and inner.strerror):
            inner = inner.__cause__ or inner.__context__
        said = (isinstance(inner, OSError) and inner.strerror) or str(error) or type(error).__name__
        return Refused(f"Nobody answers at {self._url}: {said}.")


@dataclass
class LiveLog:
    """A run's log from ``position`` on, which advances with each event that was handled.

    ``say`` is called with sentences about the connection. A gateway that cannot be reached at first is ``Refused``;
    later the log waits for it.
    """

    client: GatewayClient
    path: str
    position: str
    say: Callable[[str], None]
    _trouble: str | None = None

    def events(self, reached: bool = False) -> Iterator[LogEvent]:
        """The events until the log ends or fails. An event counts as handled when the next one is requested."""
        failures = 0
        while True:
            wait = 0.0
            try:
                with self.client.stream(self.path, self.position) as answer:
                    reached = True
                    if answer.status_code in LATER:
                        self._troubled(f"The gateway answers {answer.status_code}, trying again.")
                        wait = _retry_after(answer)
                    else:
                        self.client.expect_success(answer)
                        if not answer.headers.get("Content-Type", "").startswith(JSON_LINES):
                            raise Refused(self.client.no_gateway(answer))
                        for event in _events(answer):
                            failures = 0
                            yield event
                            self.position = event.id or self.position
                            if event.name in ("end", "failure"):
                                return
                            wait = self._notice(event)
            except httpx.TransportError as error:
                if not reached:
                    raise self.client.unreachable(error) from error
            if not wait:
                self._troubled("The connection is lost, trying again.")
                wait = min(2 * 1.5**failures, LONGEST_WAIT) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
                failures += 1
            time.sleep(wait)

    def _notice(self, event: LogEvent) -> float:
        """Say what an event means for the connection. Returns the seconds to wait if the stream ends after it."""
        said = event.data or {}
        if event.name != "notice" or said.get("code") == "recovered":
            if self._trouble is not None:
                self.say("Live again.")
            self._trouble = None
            return 0.0
        retry_in = said.get("retry_in")
        seconds = float(retry_in) if isinstance(retry_in, int | float) else 0.0
        match said.get("code"):
            case "rate_limited":
                self._troubled("Waiting for the host's limit.", f"Waiting for the host's limit, {seconds:.0f} s.")
            case "upstream_unavailable":
                self._troubled("The host does not answer, trying again.")
            case "waiting":
                self.say(f"The run waits: {said.get('reason')}.")
        return seconds

    def _troubled(self, trouble: str, text: str = "") -> None:
        if trouble != self._trouble:
            self.say(text or trouble)
        self._trouble = trouble


def run_path(run: str) -> str:
    return f"agent-runs/{quote(run, safe='')}"


def _events(answer: httpx.Response) -> Iterator[LogEvent]:
    rest: list[bytes] = []
    for chunk in answer.iter_bytes():
        first, *more = chunk.split(b"\n")
        rest.append(first)
        for piece in more:
            line = b"".join(rest)
            rest = [piece]
            event = _event(line)
            if event is not None:
                yield event
    # the rest is a line that was cut off, which comes again


def _event(line: bytes) -> LogEvent | None:
    """The event in a line; None for a heartbeat."""
    try:
        said = json.loads(line)
    except RecursionError:
        head = _HEAD.match(line)
        return LogEvent(head[1].decode(), head[2].decode(), None, line) if head else None
    except ValueError:
        raise Refused("What answers is no live log: a line of it is not JSON.") from None
    if not isinstance(said, dict) or said.get("event") in (None, "heartbeat"):
        return None
    data = said.get("data")
    return LogEvent(str(said["event"]), said.get("id"), data if isinstance(data, dict) else {}, line)


def _body(answer: httpx.Response) -> Object:
    """The JSON object of an answer; empty if it has none."""
    try:
        found = json.loads(answer.read())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0
