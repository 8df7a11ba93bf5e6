"""The doctor's examination: who answers at an address, what passes on the way to the gateway and back, and how a live
log arrives. No finding quotes a token or a log. It starts a run only with ``--create``. The token goes to the given
address only, and after a redirect to HTTPS to the same host.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NoReturn
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpx

from .checks import CAUSES, NO_RUN
from .client import ANSWER_SECONDS, Client, code_of, connect, described, preflight_headers, reason, shown
from .diagnosis import Ailment, Diagnosis
from .lifecycle import PROMPT
from .options import Object, Options, object_in
from .watching import Watch, is_stream, watch

CONNECT_SECONDS = 15.0
"""Seconds for a connection and its TLS."""
HEARTBEAT = 15.0
"""A gateway's default, in seconds, used if its ``/health`` cannot be read."""
LATE = 4.0
"""Seconds that a live log may take to begin, besides those that the host takes."""
SKEW = 5.0
"""Seconds by which a clock may be wrong."""
LONG_TOKEN, LONG_QUERY, LARGE_BODY = 32_000, 7_200, 2 << 20
"""Characters of a token and of a ticket's URL, and bytes of a body with an image. The gateway accepts all of them."""
LISTED = 100
NO_SUCH_RUN = ("not_found", "validation_error")
"""Codes for the id of a run that does not exist, or cannot exist."""
FEED = "/agent-runs/stream"
"""A stream that needs no run, if the gateway has it."""
ORDER: Object = {"prompt": PROMPT}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CERTIFICATES = {9: "certificate-dates", 10: "certificate-dates", 62: "certificate-name", 64: "certificate-name"}
"""Names of findings by OpenSSL's numbers; all others mean that the issuer is not trusted."""


class Hopeless(Exception):
    """The examination cannot go on."""


class Moved(Exception):
    """A redirect leads to the URL in the text."""


async def examine(options: Options, clock: Callable[[], float] = time.time) -> Diagnosis:
    """What is wrong on the way to ``options.url``. ``clock`` gives epoch seconds."""
    diagnosis = Diagnosis()
    for _ in range(2):  # again after a redirect
        async with connect(options) as http:
            try:
                await Examination(http, options, diagnosis, clock).all()
            except Moved as moved:
                options = replace(options, url=str(moved))
                continue
            except Hopeless:
                pass
            except Exception as error:  # an answer may break the doctor in any way; the text could quote anything
                broke = f"What answers is so odd that the doctor itself broke ({type(error).__name__})."
                diagnosis.found.append(Ailment("no-gateway", broke))
        break
    return diagnosis


class Examination:
    """Goes the way once, from the outside in: what is found first explains the most."""

    def __init__(
        self, http: httpx.AsyncClient, options: Options, diagnosis: Diagnosis, clock: Callable[[], float]
    ) -> None:
        self._http = http
        self._client = Client(http, options)
        self._options = options
        self._url = httpx.URL(options.url)
        self._diagnosis = diagnosis
        self._clock = clock
        self._heartbeat = HEARTBEAT
        self._open = "/users/me"
        self._lost: list[str] = []
        self._lost_back: list[str] = []

    async def all(self) -> None:
        try:
            await self._connection()
            await self._gateway()
            await self._lengths()
            await self._pages()
            await self._headers()
            await self._body()
            await self._live_log()
        finally:
            for name, way, headers in (
                ("lost-request-headers", "Lost or replaced on the way to the gateway", self._lost),
                ("lost-answer-headers", "Lost on the way back", self._lost_back),
            ):
                if headers:
                    self._find(name, f"{way}: {', '.join(headers)}.")

    def _find(self, name: str, seen: str) -> None:
        self._diagnosis.found.append(Ailment(name, seen))

    def _give_up(self, name: str, seen: str) -> NoReturn:
        self._find(name, seen)
        raise Hopeless

    async def _ask(
        self,
        method: str,
        path: str,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> httpx.Response:
        """As ``Client.ask``, but no answer at all is a finding."""
        try:
            return await self._client.ask(method, path, token=token, headers=headers, body=body)
        except httpx.TransportError as error:
            self._give_up("no-connection", f"{method} {path} is not answered: {reason(error)}.")

    # -- who answers --

    async def _connection(self) -> None:
        """Connect without the HTTP client, to see what exactly fails, and whether there is HTTP/2."""
        host, tls = self._url.host, self._url.scheme == "https"
        if host not in LOOPBACK and self._url.scheme in getproxies() and not proxy_bypass(host):
            self._diagnosis.unseen.append("the connection itself, as this machine's settings name a proxy for it")
            return
        context = httpx.create_ssl_context() if tls else None
        if context:
            context.set_alpn_protocols(["h2", "http/1.1"])
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(host, self._url.port or (443 if tls else 80), ssl=context)
        except socket.gaierror as error:
            self._give_up("no-address", f"No address is known for {host}: {error.strerror}.")
        except ssl.SSLCertVerificationError as error:
            name = CERTIFICATES.get(error.verify_code, "certificate-issuer")
            self._give_up(name, f"The certificate is not accepted: {error.verify_message.rstrip('.')}.")
        except ssl.SSLError as error:
            self._give_up("no-tls", f"What answers at {host} does not speak TLS as it should: {error.reason}.")
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error) or f"no answer within {CONNECT_SECONDS:g} s"
            self._give_up("no-connection", f"There is no connection to {self._options.url}: {why}.")
        secure = writer.get_extra_info("ssl_object")
        writer.close()
        if secure and secure.selected_alpn_protocol() != "h2":
            self._find("no-http2", "There is no HTTP/2: browsers open six connections, and each live log takes one.")

    async def _gateway(self) -> None:
        """Check that a gateway answers, and what it says about itself."""
        before = self._clock()
        health = await self._ask("GET", "/health", None)
        after = self._clock()
        body, code = _json(health), code_of(health)
        if health.has_redirect_location:
            self._follow(health)
        if code == "untrusted_host":
            self._give_up("host", "The gateway is asked for under a name that its CODEGEN_TRUSTED_HOSTS do not have.")
        if code == "not_found":
            self._give_up("prefix", f"The path {self._url.path} is passed on to the gateway, which does not know it.")
        if not {"uptime_seconds", "timestamp"} <= body.keys():
            if not code_of(await self._ask("GET", "/users/me", None)):
                self._give_up(*_stranger(health))
            self._diagnosis.unseen.append(f"clock, caches and HTTP/1.0: /health is answered {described(health)}")
            return
        self._open = "/health"
        self._heartbeat = float(body.get("stream_heartbeat_seconds", HEARTBEAT))
        if self._url.scheme == "http" and not _is_private(self._url.host):
            self._find("no-encryption", "There is no TLS: whoever is on the way can read tokens.")
        spoken = {"clients": health.http_version, "the gateway": f"HTTP/{body.get('http_version')}"}
        if old := [side for side, version in spoken.items() if version == "HTTP/1.0"]:
            self._find("http10", f"HTTP/1.0 is spoken with {' and '.join(old)}: each request needs a new connection.")
        again = await self._ask("GET", "/health", None)
        fresh = again.headers.get("X-Request-ID") == again.request.headers["X-Request-ID"]
        if _json(again).get("timestamp") == body["timestamp"] and not fresh:
            self._find("cached", "Answers come a second time from a cache, although they say `no-store`.")
        else:
            gateway = datetime.fromisoformat(body["timestamp"]).timestamp()
            ahead = max(gateway - after, 0.0) or min(gateway - before, 0.0)
            if abs(ahead) > SKEW:
                word = "ahead of" if ahead > 0 else "behind"
                self._find("clock", f"The gateway's clock is {abs(ahead):.0f} s {word} that of this machine.")
        await self._prefix()

    async def _prefix(self) -> None:
        """Check that the paths in the gateway's answers lie below the address."""
        here, path = self._url.path.rstrip("/"), _json(await self._ask("GET", "/", None)).get("links", {}).get("health")
        if isinstance(path, str) and path != f"{here}/health":
            self._find("prefix", f"The gateway takes {shown(path)} for the path of what lies at {here}/health here.")

    def _follow(self, health: httpx.Response) -> NoReturn:
        target = self._url.join(health.headers["Location"])
        if (target.scheme, target.host) == ("https", self._url.host) and target.path.endswith("/health"):
            self._find(
                "redirect",
                "http:// is redirected to https://: tokens have been sent in the clear by then, and many clients send"
                " neither their token nor a body after it. What follows is about https://.",
            )
            raise Moved(str(target.copy_with(query=None)).removesuffix("/health"))
        where = shown(str(target.copy_with(query=None)))
        self._give_up("login", f"Whoever asks for the gateway is sent elsewhere, to {where}.")

    # -- what does not pass --

    async def _lengths(self) -> None:
        long_url = f"{self._open}?x={'x' * LONG_QUERY}"
        await self._reaches("long-headers", f"A token of {LONG_TOKEN:,} characters", self._open, "x" * LONG_TOKEN)
        await self._reaches("long-urls", f"A URL of {LONG_QUERY:,} characters, as of a ticket,", long_url, None)

    async def _body(self) -> None:
        """Send a body as large as an image. It lacks a prompt, so no run is started."""
        body: Object = {"images": ["x" * LARGE_BODY]}
        await self._reaches("large-bodies", f"A body of {LARGE_BODY >> 20} MiB", "/agent-runs", body=body)

    async def _reaches(
        self, name: str, what: str, path: str, token: str | None = "", body: Object | None = None
    ) -> None:
        """See that the gateway is who answers a large request; a body it would refuse."""
        try:
            answer = await self._client.ask("POST" if body else "GET", path, token=token, body=body)
        except httpx.TransportError as error:
            saw = reason(error)
        else:
            ours = code_of(answer) or (not body and answer.status_code < 400)
            saw = "" if ours else described(answer)
        if saw:
            self._find(name, f"{what} does not reach the gateway: {saw}.")

    async def _pages(self) -> None:
        """Check that pages of another origin get the headers that browsers require."""
        origin = self._options.origin
        if not origin:
            self._diagnosis.unseen.append(
                "CORS: name a page that calls the gateway with --origin https://app.example.com"
            )
            return
        preflight = await self._ask("OPTIONS", "/agent-runs", None, preflight_headers(origin))
        if code_of(preflight) == "cors_refused":
            self._find("cors-origin", f"The gateway does not let in pages of {origin}.")
            return
        answer = await self._ask("GET", "/users/me", None, {"Origin": origin})
        names = preflight.headers.get("Access-Control-Allow-Headers", "").lower()
        passed = all(name in names for name in ("authorization", "last-event-id"))
        for what, each, good in (("A preflight", preflight, passed), ("An answer", answer, True)):
            allowed = each.headers.get_list("Access-Control-Allow-Origin", split_commas=True)
            ours = each.headers.get("X-Request-ID") == each.request.headers["X-Request-ID"]
            if len(allowed) > 1:
                self._find("cors-doubled", f"{what} has Access-Control-Allow-Origin twice: browsers refuse that.")
            elif not good or allowed not in ([origin], ["*"]):
                name = "cors-lost" if ours else "cors-preflight"
                self._find(name, f"{what} to a page of {origin}, {described(each)}, lacks headers of the gateway.")
            else:
                continue
            return

    async def _headers(self) -> None:
        nobody = await self._ask("GET", "/users/me", None)
        self._lost_back += [name for name in ("X-Request-ID", "WWW-Authenticate") if name not in nobody.headers]
        if _json(nobody).get("request_id") != nobody.request.headers["X-Request-ID"]:
            self._lost.append("X-Request-ID")
        me = await self._ask("GET", "/users/me")
        code = code_of(me)
        if code == "not_authenticated" or code_of(nobody) != "not_authenticated":
            self._lost.append("Authorization")
            raise Hopeless
        if code == "invalid_token":
            self._give_up("token", "The gateway does not accept the token.")
        if me.status_code != 200:
            self._give_up("trouble", f"The gateway answers {described(me)}: {CAUSES.get(code, 'it has failed')}.")
        # for a run that does not exist, with values that the gateway refuses if they arrive
        nowhere = f"/agent-runs/{NO_RUN}"
        position = await self._ask("GET", f"{nowhere}/logs/stream", headers={"Last-Event-ID": "nowhere"})
        if code_of(position) in NO_SUCH_RUN:
            self._lost.append("Last-Event-ID")
        order = await self._ask("POST", f"{nowhere}/resume", headers={"Idempotency-Key": "k" * 256}, body=ORDER)
        if code_of(order) in NO_SUCH_RUN:
            self._lost.append("Idempotency-Key")
        inside = await self._ask("GET", "/agent-runs?limit=1", headers={"X-Organization-ID": "none-that-exists"})
        if inside.status_code < 400 or code_of(inside) == "organization_required":
            self._lost.append("X-Organization-ID")

    # -- the live log --

    async def _live_log(self) -> None:
        started = time.monotonic()
        path, otherwise = await self._to_watch()
        if path is None:
            self._diagnosis.unseen.append(otherwise)
            return
        host = time.monotonic() - started
        self._http.timeout = httpx.Timeout(max(ANSWER_SECONDS, 2 * self._heartbeat))
        if sys.stderr.isatty():
            print(f"Watching {path} for {self._options.patience or self._heartbeat:g} s ...", file=sys.stderr)
        seen = await watch(self._client, path, self._heartbeat, self._options.patience)
        answer = seen.answer
        if answer is not None and not is_stream(answer):
            if path == FEED:
                self._diagnosis.unseen.append(otherwise)
                return
            name = "trouble" if code_of(answer) else _stranger(answer)[0]
            self._give_up(name, f"Instead of a live log there is {described(answer)}.")
        self._diagnosis.watched = round(seen.seconds, 1)
        if answer is not None:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                self._find("compressed", "Live logs are compressed on the way: compressors wait for more to compress.")
            if "no-cache" not in answer.headers.get("Cache-Control", ""):
                self._lost_back.append("Cache-Control")
        self._judge(seen, LATE + host)

    async def _to_watch(self) -> tuple[str | None, str]:
        """The path of a live log that has not ended, and what to report if there is none."""
        wanted = self._options.run
        if self._options.create and wanted is None:
            answer = await self._ask("POST", "/agent-runs", body=ORDER)
        else:
            which = f"?limit={LISTED}" if wanted is None else f"/{quote(wanted, safe='')}"
            answer = await self._ask("GET", f"/agent-runs{which}")
        body = _json(answer)
        for run in body.get("items", [body]):
            if run.get("ended") is False:
                logs = f"/agent-runs/{quote(str(run['id']), safe='')}/logs"
                page = await self._ask("GET", f"{logs}?limit=1")
                if (_json(page).get("total_logs") or 0) > 1 and "next" not in page.links:
                    self._lost_back.append("Link")
                return f"{logs}/stream", ""
        what, ended, one = "live logs", "there is no run that has not ended", "one"
        if wanted is not None:
            what, ended, one = f"live logs of run {wanted}", "it has ended", "another"
        why = described(answer) if answer.status_code >= 400 else ended
        otherwise = f"{what}: {why}. Name {one} with --run, or start one with --create"
        return None if wanted or answer.status_code >= 400 else FEED, otherwise

    def _judge(self, seen: Watch, in_time: float) -> None:
        beat = f"{self._heartbeat:g} s"
        if seen.outcome == "silent" and seen.pieces:
            late = (
                f"after its beginning nothing came for {seen.silence:.0f} s; the gateway is silent for {beat} at most"
            )
        elif seen.outcome == "silent":
            late = f"nothing of it came for {seen.seconds:.0f} s; the gateway begins it at once"
        elif seen.pieces and seen.pieces[0] > in_time:
            late = f"nothing of it came in the first {seen.pieces[0]:.0f} s; the gateway begins it at once"
        else:
            late = ""
        if late:
            self._find("held-back", f"Live logs are held back: {late}.")
        if seen.outcome == "cut" and (seen.heartbeat or seen.silence < seen.survived):
            self._find("total", f"Live logs are cut although they are not silent, this one after {seen.seconds:.0f} s.")
        elif seen.outcome == "cut":
            after = f"this one after {seen.silence:.1f} s; the gateway is silent for {beat} at most"
            self._find("idle", f"Live logs are cut when they are silent, {after}.")
        elif not seen.heartbeat and seen.outcome != "silent":
            self._diagnosis.unseen.append(f"time limits of silence: this log was not silent for {beat}")
        if seen.outcome in ("enough", "over") and self._options.patience is None:
            self._diagnosis.unseen.append("time limits of whole answers: wait for them with --patience 700")


def _json(answer: httpx.Response) -> Object:
    """The JSON object in an answer; empty if there is none."""
    return object_in(answer.content) or {}


def _stranger(answer: httpx.Response) -> tuple[str, str]:
    """The finding if something other than the gateway gave this answer."""
    asks = answer.status_code in (401, 403, 407) or b'type="password"' in answer.content
    if answer.status_code in (502, 503, 504):
        return (
            "no-upstream",
            f"What is in front of the gateway does not reach it: it answers {described(answer)} itself.",
        )
    if asks:
        return "login", f"Not the gateway asks for a login: {described(answer)}."
    if answer.status_code == 400 and b"HTTPS port" in answer.content:
        return "redirect", "This port is for https://."
    return "no-gateway", f"What answers here is no gateway: {described(answer)}."


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host
