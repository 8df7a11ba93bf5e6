"""The console in a real browser, as people use it, through whatever breaks on the way and whatever agents write."""

import base64
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from codegen_api.upstreams import Decision
from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.site import gateway_app
from tests.dialects.test_native_pending import a_waiting_host
from tests.end_to_end.chromium import CONTROL, Tab, chromium
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import ALICE, Sandbox, Server, eventually, gateway, sandbox, served
from tests.fakehost import FakeHost
from tests.leaks import WATCH

AXE = Path(__file__).parents[1] / "javascript/node_modules/axe-core/axe.min.js"
KEY = "a key for tests of many characters"
SETTINGS: dict[str, Any] = {**BRISK, "upstream_requests_per_minute": 60_000, "sandbox": "true", "drain_seconds": 0.5}
STATUS, CONNECTION = ".about-run .status", ".connection"
COUNT = "Number(document.querySelector('.connection .count')?.innerText.split(' ')[0] ?? 0)"
SHOWN = """(() => {
  const box = document.querySelector(".log"), edge = box.getBoundingClientRect().top;
  const rows = [...box.querySelectorAll("article")].map((row) => [row, row.getBoundingClientRect()]);
  const [row, place] = rows.find(([, place]) => place.bottom > edge + 1) ?? [];
  return row && [Number(row.dataset.position), Math.round(place.top - edge)];
})()"""
"""The first entry that can be seen, and where its top is."""


@pytest.fixture(scope="module")
def swift() -> Iterator[Sandbox]:
    """A host whose runs take three seconds."""
    with sandbox("--speed", "4") as host:
        yield host


@pytest.fixture(scope="module")
def server(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """A tab that knows nothing yet. In the end nothing may have gone wrong in it."""
    browser.look()
    browser.complaints.clear()
    browser.asked.clear()
    yield browser
    browser.evaluate("1")  # what was said until now
    origins = {urlsplit(url).netloc for url in browser.asked} - {""}
    browser.go("data:text/html,")
    assert browser.complaints == []
    assert all(each.startswith("127.0.0.1:") for each in origins)


def enter(tab: Tab, url: str, view: str = "", name: str = "alice") -> None:
    tab.go(f"{url}/console/{view}")
    tab.evaluate("sessionStorage.clear()")
    tab.click(".people button", name)
    tab.until("document.querySelector('.top')")


def only_from(tab: Tab, url: str) -> None:
    """All that was asked for was asked of the gateway."""
    assert {f"http://{urlsplit(each).netloc}" for each in tab.asked if each.startswith("http")} == {url}


@pytest.mark.wire("console")
def test_a_newcomer_with_a_keyboard_alone_starts_a_run_watches_it_and_goes_on(server: Server, tab: Tab) -> None:
    prompt, more = "Write a haiku about streams", "Now one about pages"
    WATCH.secret("a prompt", prompt)
    WATCH.secret("a prompt", more)
    tab.send("Network.clearBrowserCache")
    tab.received = 0
    tab.go(server.url)  # which leads to the console
    tab.shows("Continue as alice")
    assert tab.received < 100_000
    tab.tab_to("Continue as alice")
    tab.press("Enter")
    tab.shows("New run")
    tab.evaluate("document.body.focus()")
    tab.tab_to("New run")
    tab.press("Enter")
    tab.until("document.querySelector('#prompt')")
    tab.tab_to("What is the agent to do?")
    tab.send("Input.insertText", text=prompt)
    tab.press("Enter", CONTROL)
    tab.until(f"{COUNT} > 0 && document.querySelector({STATUS!r}).innerText === 'running'")
    seen = tab.evaluate(COUNT)
    tab.until(f"{COUNT} > {seen} && document.querySelector({STATUS!r}).innerText === 'running'")
    tab.until(f"document.querySelector({STATUS!r}).innerText === 'completed' && {COUNT} === 12")
    tab.shows("I did what you asked")
    assert tab.text("h1") == prompt
    tab.shows("Pull request")
    assert tab.evaluate("document.querySelector('.markdown a').rel") == "noopener noreferrer"
    tab.tab_to("What next")
    tab.send("Input.insertText", text=more)
    tab.press("Enter", CONTROL)
    tab.until(f"{COUNT} > 12")
    tab.until(f"document.querySelector({STATUS!r}).innerText === 'completed' && {COUNT} === 24")
    tab.evaluate("document.querySelector('.log').focus()")
    tab.press("k")
    tab.press("k")
    tab.until("document.activeElement.dataset.position === '23'")
    tab.press("Home")
    tab.until(f"{SHOWN}[0] === 1")
    tab.press("j")
    tab.until("document.activeElement.dataset.position === '1'")
    only_from(tab, server.url)


@pytest.mark.wire("auth-challenge")
def test_a_token_is_forgotten_with_the_page_unless_somebody_asks_to_keep_it(server: Server, tab: Tab) -> None:
    tab.go(f"{server.url}/console/#/runs/12345/7")
    tab.fill("#token", "nobody")
    tab.click("form button")
    tab.shows("Invalid or expired API token")
    tab.evaluate("document.querySelector('#token').select()")
    tab.fill("#token", "sandbox-bob")
    tab.click("form button")
    tab.until("document.querySelector('.named')?.dataset.position === '7'")  # where the address leads
    assert tab.evaluate("JSON.stringify([localStorage, sessionStorage])").count("sandbox-bob") == 0
    tab.go(f"{server.url}/console/")
    tab.until("document.querySelector('.check input')")
    tab.evaluate("document.querySelector('.check input').click()")
    tab.fill("#token", "sandbox-bob")
    tab.click("form button")
    tab.shows("Shared Works")
    tab.go(f"{server.url}/console/")
    tab.shows("Bob's Workshop")
    tab.evaluate("""(() => {
      const choice = document.querySelector(".org");
      choice.value = "402";
      choice.dispatchEvent(new Event("change", { bubbles: true }));
    })()""")
    tab.shows("No runs yet")
    tab.click("button", "Sign out")
    tab.shows("or with a token")
    assert tab.evaluate("sessionStorage.length") == 0


class Accounts(http.server.BaseHTTPRequestHandler):
    """An OpenID Connect provider that signs everybody in as carol, if they prove that they are who has asked."""

    protocol_version = "HTTP/1.0"

    def __init__(self, issuer: Issuer, challenges: dict[str, Any], *arguments: Any) -> None:
        self.issuer, self.challenges = issuer, challenges
        super().__init__(*arguments)

    def do_GET(self) -> None:
        name, query = self.issuer.name, {key: each[0] for key, each in parse_qs(urlsplit(self.path).query).items()}
        match urlsplit(self.path).path:
            case "/.well-known/openid-configuration":
                places = {"jwks_uri": "certs", "authorization_endpoint": "authorize", "token_endpoint": "token"}
                self._say({"issuer": name, **{key: f"{name}/{path}" for key, path in places.items()}})
            case "/certs":
                self._say(self.issuer.jwks)
            case "/authorize":
                self.challenges["a code"] = query
                self.send_response(302)
                back = urlencode({"code": "a code", "state": query["state"]})
                self.send_header("Location", f"{query['redirect_uri']}?{back}")
                self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        given = {key: each[0] for key, each in parse_qs(body).items()}
        asked = self.challenges.pop(given["code"])  # a code is good once
        digest = hashlib.sha256(given["code_verifier"].encode()).digest()
        assert asked["code_challenge_method"] == "S256"
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        assert given["client_id"] == asked["client_id"] == "console"
        assert given["redirect_uri"] == asked["redirect_uri"]
        assert (asked["audience"], asked["scope"]) == (AUDIENCE, "openid runs:read runs:write")
        self._say({"access_token": self.issuer.token("carol"), "token_type": "Bearer"})

    def _say(self, value: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def accounts() -> Iterator[Issuer]:
    issuer = Issuer()
    handler = functools.partial(Accounts, issuer, {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        issuer.name = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.wire("console", "auth-jwt")
def test_users_of_an_issuer_sign_in_there_and_come_back_to_where_they_were(swift: Sandbox, tab: Tab) -> None:
    with accounts() as issuer:
        jwt = {"auth": "jwt", "jwt_issuer": issuer.name, "jwt_audience": AUDIENCE, "console_client_id": "console"}
        shared = {"api_token": "sandbox-alice", "secret_key": KEY, **BRISK}
        with gateway(swift, **jwt, **shared) as server:
            tab.go(f"{server.url}/console/#/new")
            tab.click("button", "Sign in with")
            tab.until("document.querySelector('#prompt')")
            assert tab.evaluate("location.href").startswith(f"{server.url}/console/#/new")  # the code is gone
            assert tab.evaluate("JSON.stringify([localStorage, sessionStorage])").count("eyJ") == 0
            tab.fill("#prompt", "Hello from carol")
            tab.click("button", "Start run")
            tab.until(f"{COUNT} > 0")
            tab.go(f"{server.url}/console/?code=a+code&state=made+up")
            tab.shows("was not begun here")
            tab.go(f"{server.url}/console/?error=access_denied&state=made+up")
            tab.shows("was not begun here")


@pytest.mark.wire("position-continues", "drain-streams")
def test_a_log_is_complete_in_two_tabs_after_the_gateway_was_killed_and_came_back(swift: Sandbox, tab: Tab) -> None:
    run = swift.seed(count=3)
    with tab.another() as other, gateway(swift, **SETTINGS) as server:
        enter(other, server.url, f"#/runs/{run}", "bob")
        other.until(f"{COUNT} === 3")
        enter(tab, server.url, f"#/runs/{run}")
        tab.until(f"{COUNT} === 3")
        tab.evaluate("window.loaded = 'once'")
        server.process.kill()
        server.process.wait(20)
        tab.shows("Connection lost, trying again")
        swift.append(run, "four", "five")
        with gateway(swift, "--port", server.url.rpartition(":")[2], **SETTINGS):
            tab.until(f"{COUNT} === 5")
            assert tab.text(CONNECTION).startswith("Live")
            swift.append(run, "six", status="COMPLETE")
            tab.until(f"document.querySelector({CONNECTION!r}).innerText.startsWith('Complete')")
            rows = tab.evaluate("[...document.querySelectorAll('.log article')].map((row) => row.dataset.position)")
            assert rows == ["1", "2", "3", "4", "5", "6"]
            assert tab.evaluate("window.loaded") == "once"
            other.until(f"{COUNT} === 6 && document.querySelector({CONNECTION!r}).innerText.startsWith('Complete')")
            assert other.complaints == []


@pytest.mark.wire("feed-list", "feed-run", "feed-removed", "feed-pace")
def test_the_list_changes_by_itself_over_one_stream_also_after_a_restart(tab: Tab) -> None:
    host = FakeHost()
    host.requests_per_minute = None  # so its list is read every second
    app = gateway_app(host, org_id="9", drain_seconds=0.1)
    listed = "[...document.querySelectorAll('.runs li')].map((row) => row.innerText.split('\\n')[0]).join()"
    with served(app) as url:
        tab.go(f"{url}/console/#/runs")
        tab.fill("#token", "alice")
        tab.click("form button")
        tab.shows("No runs yet")
        host.add("1")
        tab.until(f"{listed} === 'running'")
        host.add("2", status="PAUSED")
        host.runs["1"].status = "COMPLETE"
        tab.until(f"{listed} === 'paused,completed'")
        for number in range(3, 40):
            host.add(str(number))
        tab.until("document.querySelectorAll('.runs li').length === 25")
        tab.click(".pager a", "Older")
        tab.until("document.querySelectorAll('.runs li').length === 14")
        tab.click(".chips a", "paused")
        tab.until(f"{listed} === 'paused'")
        tab.click(".chips a", "all")
        tab.until(f"{listed}.startsWith('running')")
        asked = [urlsplit(each) for each in tab.asked if urlsplit(each).path == "/agent-runs"]
        assert {each.query.split("&")[-1] for each in asked} <= {
            "skip=25",
            "status=paused",
        }  # the newest come by the feed
        port = url.rpartition(":")[2]
    tab.shows("Connection lost, trying again")
    host.runs["39"].status = "ERROR"
    with served(gateway_app(host, org_id="9", drain_seconds=0.1), int(port)):
        tab.until(f"{listed}.startsWith('failed,running') && !document.querySelector('.problem')")


@pytest.mark.wire("cancel", "fault-notice", "fault-recovered")
def test_a_run_is_cancelled_and_what_the_host_does_meanwhile_is_said(swift: Sandbox, server: Server, tab: Tab) -> None:
    run = swift.seed(count=2, status="ACTIVE")
    enter(tab, server.url, f"#/runs/{run}")
    tab.until(f"{COUNT} === 2")
    swift.fault("429", retry_after=2, times=3)
    tab.shows("Waiting for the host's limit")
    swift.heal()
    tab.until(f"document.querySelector({CONNECTION!r}).innerText.startsWith('Live')")
    tab.click(".actions button", "Cancel")
    assert swift.ask("GET", f"organizations/323/agent/run/{run}")["status"] == "ACTIVE"
    tab.click(".actions button", "Really cancel")
    tab.until(f"document.querySelector({STATUS!r}).innerText === 'cancelled'")
    assert server.get(f"/agent-runs/{run}", ALICE).json()["run_status"] == "cancelled"
    tab.evaluate("window.left = document.querySelector('.log'), location.hash = '#/runs'")
    tab.until("!window.left.isConnected && (window.left.dispatchEvent(new Event('scroll')), true)")  # as it scrolled on


@pytest.mark.wire("decide", "pending")
def test_what_a_run_waits_for_is_shown_and_decided(tab: Tab) -> None:
    host = a_waiting_host()
    with served(gateway_app(host, org_id="9")) as url:
        tab.go(f"{url}/console/#/runs/1")
        tab.fill("#token", "alice")
        tab.click("form button")
        tab.shows("waiting for approval")
        tab.shows("May I?")
        tab.click(".pending button", "Approve")
        tab.until("!document.body.innerText.includes('May I?')")
        tab.shows("waiting for question")
        tab.click(".pending button", "that")
        tab.until("!document.querySelector('.pending')")
    assert host.decisions == [("a b", Decision("approve")), ("q", Decision("answer", "that"))]


def test_ten_thousand_entries_scroll_and_are_found_and_nothing_moves_under_the_reader(
    swift: Sandbox, server: Server, tab: Tab
) -> None:
    run = swift.seed(count=10_000)
    enter(tab, server.url, f"#/runs/{run}/5000")
    tab.until("document.querySelector('.named')?.dataset.position === '5000'")
    tab.until(f"{COUNT} === 10000")
    assert tab.evaluate("document.querySelectorAll('.log article').length") < 100
    usual = tab.evaluate("""new Promise((done) => {
      const box = document.querySelector(".log"), times = [];
      const step = (now) => {
        box.scrollTop += 700;
        if (times.push(now) < 60) return requestAnimationFrame(step);
        done(times.map((time, n) => time - times[n - 1]).slice(1).sort((a, b) => b - a)[29]);
      };
      requestAnimationFrame(step);
    })""")
    assert usual < 100  # milliseconds of half of the frames, on a machine that does other things, too
    tab.evaluate("document.querySelector('.log').scrollTop -= 3000")
    place = eventually(lambda: tab.evaluate(SHOWN), lambda found: found[1] <= 0 and found == tab.evaluate(SHOWN))
    swift.append(run, *(f"new {number}" for number in range(3)))
    tab.shows("3 new")
    assert tab.evaluate(SHOWN) == place
    tab.click(".newest")
    tab.shows("new 2")
    swift.append(run, "the very newest")
    tab.shows("the very newest")  # it is followed again
    tab.fill(".search", "file_7776.py")
    tab.shows("1 of 10004")
    tab.click(".log .number")
    tab.until("document.querySelector('.named')?.dataset.position === '7777'")
    assert tab.evaluate("document.querySelector('.search').value") == ""
    tab.evaluate("window.saved = []; URL.createObjectURL = (blob) => (saved.push(blob), 'data:,'); 0")
    tab.click("button", "Download")
    lines = tab.until("saved[0]?.text()").splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(1, 10_005))


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)> [here](javascript:alert(4))"
    " ![picture](https://evil.example/x.png) <https://evil.example> \u202egnp.exe \x1b[31mred\x1b]0;title\x07 \x00"
)


def hostile_run(host: Sandbox) -> int:
    def says(kind: str, **fields: object) -> dict[str, object]:
        return {
            **dict.fromkeys(("thought", "observation", "tool_input", "tool_output")),
            "message_type": kind,
            **fields,
        }

    texts = [HOSTILE, "> " * 10_000 + "deep", "- " * 10_000, "*_" * 20_000, "[" * 20_000, "word " * 1_000_000]
    entries = [
        *(says("FINAL_ANSWER", observation=text) for text in texts),
        *(says(kind, thought=HOSTILE) for kind in ("PLAN_EVALUATION", "ERROR", "USER_MESSAGE", HOSTILE)),
        says("ACTION", tool_name=HOSTILE, tool_input={"command": HOSTILE, HOSTILE: [HOSTILE]}, tool_output=HOSTILE),
        says("ACTION", tool_name={"a": 1}, tool_input=[None, {}], tool_output={"exit_code": HOSTILE}, thought=7),
        says("ACTION", tool_name="edit", tool_input={"path": HOSTILE, "old": HOSTILE, "new": 1}, tool_calls=5),
        says("FINAL_ANSWER", observation=f"# Fine\n\n{HOSTILE}\n\n| a | b |\n|---|---|\n| 1 | `x` |\n\n```sh\nls\n```"),
    ]  # fmt: skip
    pulls: list[object] = [{"id": 1, "title": HOSTILE, "url": "javascript:alert(5)"}, {"url": 7}]
    return host.seed(
        entries=entries, status="ERROR", metadata={"prompt": HOSTILE}, summary=HOSTILE, github_pull_requests=pulls
    )


def test_hostile_texts_do_nothing(swift: Sandbox, server: Server, tab: Tab) -> None:
    run = hostile_run(swift)
    enter(tab, server.url)
    tab.shows("onerror=alert(2)")
    tab.evaluate(f"location.hash = '#/runs/{run}'")
    tab.until(f"{COUNT} === 14 && document.querySelector('.markdown h1')")
    tab.click(".bar .quiet", "Unfold all")
    for position in range(14, 0, -1):
        tab.evaluate(f"location.hash = '#/runs/{run}/{position}'")
        tab.until(f"document.querySelector('.named')?.dataset.position === '{position}'")
        assert tab.evaluate("document.querySelector('.named').innerText.length") > 20
        page = tab.evaluate("document.documentElement.outerHTML")
        assert not {"\u202e", "\x1b", "\x07"} & set(page)
        bad = "#app script, #app svg, .log img, [onerror], [onload]"
        assert tab.evaluate(f"document.querySelectorAll('{bad}').length") == 0
        links = tab.evaluate("[...document.links].map((link) => link.protocol)")
        assert set(links) <= {"http:", "https:"}
    only_from(tab, server.url)


def test_no_view_has_a_serious_fault_for_people_who_cannot_see_it_well(
    swift: Sandbox, server: Server, tab: Tab
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not there: npm ci --prefix tests/javascript --ignore-scripts")
    run, running = hostile_run(swift), swift.seed(count=3)
    views = {
        "": ".card",
        "#/runs": ".runs",
        "#/new": "#prompt",
        f"#/runs/{run}": ".markdown h1",
        "#/runs/12345/7": ".named",
        f"#/runs/{running}": "article",
        "#/runs/99": ".problem",
    }
    found: dict[str, Any] = {}
    tab.go(f"{server.url}/console/")
    axe = AXE.read_text()
    tab.evaluate(f"{axe}; 0")
    for view, sign in views.items():
        if view == "#/runs":
            tab.click(".people button", "alice")
        tab.evaluate(f"location.hash = {view!r}")
        tab.until(f"document.querySelector({sign!r})")
        if view == "#/new":
            tab.evaluate("document.querySelector('details').open = true")
        if view == "#/runs/12345/7":
            tab.click(".bar .quiet", "Unfold all")
        for dark in (False, True):
            tab.look(dark=dark)
            said = tab.evaluate(
                "axe.run({resultTypes: ['violations']}).then(({violations}) => violations"
                ".filter(({impact}) => ['serious', 'critical'].includes(impact))"
                ".map(({id, nodes}) => [id, nodes.slice(0, 3).map((each) => each.html + each.failureSummary)]))"
            )
            found |= {f"{view} {'dark' if dark else 'light'}": said} if said else {}
    assert found == {}
