"""A real browser, on a page of another origin, follows runs through whatever breaks on the way."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.end_to_end.chromium import chromium
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import Sandbox, Server, eventually, gateway
from tests.end_to_end.relay import relay
from tests.test_examples import pages
from tests.test_readme import UI, blocks, section

KEY = "a key for tests of many characters"
OUTAGE = 10.0
END_FRAME = re.compile(rb"id: [0-9]+\.end\n")
CLOSED = 2

PAGE = """
<!doctype html><title>Elsewhere</title><script>
const NAMES = ["status", "log", "log.amended", "notice", "resync", "failure", "end"];
const headers = {Authorization: "Bearer sandbox-alice"};
const seen = {};

async function ticketed(base, run) {
  const answer = await fetch(`${base}/agent-runs/${run}/logs/stream-ticket`, {method: "POST", headers});
  return (await answer.json()).url;
}

function watch(name, url) {
  const source = new EventSource(url);
  const mine = seen[name] = {opens: 0, errors: 0, events: [], get state() { return source.readyState; }};
  source.onopen = () => mine.opens++;
  source.onerror = () => mine.errors++;
  for (const kind of NAMES)
    source.addEventListener(kind, (event) => mine.events.push([kind, event.lastEventId, JSON.parse(event.data)]));
}
</script>
"""


class Page:
    """The page in the browser."""

    def __init__(self, evaluate: Callable[[str], Any]) -> None:
        self.evaluate = evaluate

    def watch(self, base: str, run: int, name: str = "it") -> str:
        """Open an ``EventSource`` with a new ticket: its URL, a path."""
        url: str = self.evaluate(f"ticketed({base!r}, {run})")
        assert "?ticket=" in url
        self.evaluate(f"watch({name!r}, {base + url!r})")
        return url

    def events(self, name: str = "it") -> list[Any]:
        found: list[Any] = self.evaluate(f"seen.{name}?.events") or []
        return found

    def ids(self, name: str = "it") -> list[int]:
        """The positions of the entries that came, in the order in which they came."""
        return [data["position"] for kind, _, data in self.events(name) if kind == "log"]

    def notices(self, name: str = "it") -> list[str]:
        return [data["code"] for kind, _, data in self.events(name) if kind == "notice"]

    def closed(self, name: str = "it") -> bool:
        return bool(self.evaluate(f"seen.{name}.state") == CLOSED)

    def until(self, position: int, name: str = "it") -> None:
        eventually(lambda: self.ids(name), lambda ids: bool(ids) and ids[-1] >= position)

    def check_whole(self, length: int, name: str = "it") -> None:
        """Every entry once and in order, one end, and then no more."""
        eventually(lambda: self.closed(name))
        assert self.ids(name) == list(range(1, length + 1))
        ends = [(last_id, data["total_logs"]) for kind, last_id, data in self.events(name) if kind == "end"]
        assert ends == [(f"{length}.end", length)]
        assert self.events(name)[-1][0] == "end"
        assert not [kind for kind, _, _ in self.events(name) if kind in ("failure", "resync")]


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab.evaluate


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page: an origin that is not the gateway's."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "index.html").write_text(PAGE)
    with pages(directory) as address:
        yield address


@pytest.fixture
def page(evaluate: Callable[[str], Any], elsewhere: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, loaded anew."""
    address = f"{elsewhere}/?{request.node.name}"
    evaluate(f"location.href = {json.dumps(address)}")
    loaded = "document.readyState === 'complete' && location.search + document.title"
    eventually(lambda: evaluate(loaded), lambda found: found == f"?{request.node.name}Elsewhere")
    yield Page(evaluate)
    evaluate("location.href = 'about:blank'")


@pytest.fixture(scope="module")
def local(host: Sandbox) -> Iterator[Server]:
    """A gateway that pages of other local origins may call."""
    with gateway(host, sandbox="true", secret_key=KEY, **BRISK) as server:
        yield server


@pytest.mark.wire("ticket-stream", "ticket-reconnect", "position-continues", "end-known", "cors-every-answer")
def test_event_source_comes_back_after_a_cut_between_the_last_entry_and_the_end(
    host: Sandbox, local: Server, page: Page
) -> None:
    run = host.create("default", 10)
    with relay(local.url) as between:
        between.cut_before = END_FRAME
        page.watch(between.url, run)
        page.check_whole(12)
        closed_at = time.monotonic()
        assert between.cuts == 1
        path = f"/agent-runs/{run}/logs/stream"
        (_, last) = between.asked[1]
        assert re.fullmatch("12~.*", last or "")
        asked = [(path, None), (path, last), (path, "12.end")]
        assert between.asked == asked
        # longer than the two seconds that the stream told the browser to wait
        eventually(lambda: time.monotonic() - closed_at, lambda seconds: seconds > 2.5)
        assert page.closed()
        assert between.asked == asked


@pytest.mark.wire("end-known", "ticket-stream")
def test_event_source_stops_at_the_end_of_a_run_that_has_ended_before(local: Server, page: Page) -> None:
    with relay(local.url) as between:
        page.watch(between.url, 12345)
        page.check_whole(28)
        path = "/agent-runs/12345/logs/stream"
        assert between.asked == [(path, None), (path, "28.end")]


@pytest.mark.wire("ticket-any-instance", "drain-streams", "position-continues")
def test_event_source_goes_on_after_a_restart_in_the_middle_of_a_run(host: Sandbox, page: Page) -> None:
    settings: dict[str, Any] = {"sandbox": "true", "secret_key": KEY, "drain_seconds": 0.5, **BRISK}
    run = host.seed(count=2)
    with gateway(host, **settings) as server:
        page.watch(server.url, run)
        page.until(2)
        host.append(run, "three")
        page.until(3)
        server.process.terminate()
        server.process.wait(20)
        host.append(run, "four")
    assert page.notices() == ["reconnect"]
    with gateway(host, "--port", server.url.rpartition(":")[2], **settings):
        page.until(4)
        host.append(run, "five", status="COMPLETE")
        page.check_whole(5)


@pytest.mark.wire("ticket-reconnect", "trouble-on-reconnect", "fault-notice", "fault-recovered", "ticket-any-instance")
def test_event_source_outlasts_a_host_that_is_away_for_ten_seconds(host: Sandbox, page: Page) -> None:
    settings: dict[str, Any] = {"sandbox": "true", "secret_key": KEY, "org_id": 323, **BRISK}
    run = host.seed(count=2)
    with (
        relay(host.url) as link,
        gateway(None, base_url=link.url, **settings) as server,
        gateway(None, base_url=link.url, **settings) as other,
    ):
        url = page.watch(server.url, run)
        page.until(2)
        assert other.get("/users/me").status_code == 200  # so it knows the token, but not the right to the run
        link.go_down()
        gone_at = time.monotonic()
        page.evaluate(f"watch('late', {other.url + url!r})")
        eventually(lambda: "upstream_unavailable" in page.notices())
        host.append(run, "three")
        eventually(lambda: len(page.notices("late")) >= 3)  # it came three times, each time into a 200
        assert {kind for kind, _, _ in page.events("late")} == {"notice"}
        eventually(lambda: time.monotonic() - gone_at, lambda seconds: seconds > OUTAGE)
        assert page.ids() == [1, 2]
        link.come_up()
        page.until(3)
        page.until(3, "late")
        host.append(run, "four", status="COMPLETE")
        page.check_whole(4)
        page.check_whole(4, "late")
        assert page.notices()[-1] == "recovered"
        assert page.evaluate("seen.it.opens") == 1  # the stream lived on; after its end there was a 204


@pytest.mark.wire("cors-headers", "position-continues", "end-complete")
def test_a_reader_with_fetch_and_a_bearer_token_comes_back_after_a_cut(
    host: Sandbox, local: Server, page: Page
) -> None:
    reader = blocks(section("Examples", UI), "javascript")[0]
    run = host.create("default", 10)
    path = f"/agent-runs/{run}/logs/stream"
    with relay(local.url) as between:
        between.cut_before = END_FRAME
        page.evaluate(reader)
        page.evaluate(f"""
            seen.it = {{events: [], done: false}};
            (async () => {{
              for await (const {{ id, event, data }} of follow("{between.url}{path}", "sandbox-bob"))
                seen.it.events.push([event, id, data]);
              seen.it.done = true;
            }})();
        """)
        eventually(lambda: page.evaluate("seen.it.done"))
        assert between.cuts == 1
        assert page.ids() == list(range(1, 13))
        assert [last_id for kind, last_id, _ in page.events() if kind == "end"] == ["12.end"]
        (first, second) = between.asked
        assert first == (path, None)
        assert second[0] == path
        assert re.fullmatch("12~.*", second[1] or "")


@pytest.mark.wire("ticket-invalid", "ticket-mint")
def test_the_example_that_is_shown_gets_a_new_ticket_when_its_own_is_no_longer_good(host: Sandbox, page: Page) -> None:
    settings: dict[str, Any] = {"sandbox": "true", "drain_seconds": 0.5, **BRISK}  # and a key that lasts until the stop
    run = host.seed(count=2)
    shown = blocks(section("Examples", UI), "javascript")[1].replace("sk-YOUR-TOKEN", "sandbox-alice")
    with gateway(host, **settings) as server:
        page.evaluate("seen.it = {events: []}; console.log = (name, data) => seen.it.events.push([name, '', data])")
        address = f"{server.url}/agent-runs/{run}/"
        # in a scope of its own: the page has names of its own
        page.evaluate(f"(() => {{{shown.replace('http://127.0.0.1:8000/agent-runs/12345/', address)}}})()")
        page.until(2)
        server.process.terminate()
        server.process.wait(20)
    with gateway(host, "--port", server.url.rpartition(":")[2], **settings) as again:
        host.append(run, "three", status="COMPLETE")
        eventually(lambda: page.events()[-1][0] == "end")
        assert page.ids() == [1, 2, 3]
        log = again.log.read_text()
        assert f"GET /agent-runs/{run}/logs/stream 401 " in log
        assert f"POST /agent-runs/{run}/logs/stream-ticket 201 " in log
