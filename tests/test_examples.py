"""The examples do what they say, against a gateway and its sandbox in processes of their own."""

import functools
import http.server
import json
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.commands import completed
from tests.dialects.documented import chapter
from tests.dialects.site import gateway_app
from tests.end_to_end import processes
from tests.end_to_end.chromium import Tab, chromium
from tests.end_to_end.mcp_fixtures import FixtureHost
from tests.end_to_end.processes import program
from tests.end_to_end.relay import relay
from tests.leaks import WATCH
from tests.test_readme import UI, blocks, section

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
MODULES = ROOT / "tests/javascript/node_modules"


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    with processes.gateway(None, "--sandbox") as server:
        yield server.url


@pytest.fixture(scope="module")
def restless() -> Iterator[str]:
    """A gateway that sends its viewers away every second."""
    with processes.gateway(None, "--sandbox", stream_max_age_seconds=1) as server:
        yield server.url


def ran(*command: str | Path, text: str | None = None, cwd: Path = EXAMPLES) -> str:
    """What a command printed; it must succeed."""
    done = completed(command, input=text, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def create(gateway: str, **metadata: Any) -> str:
    headers, body = {"Authorization": "Bearer sandbox-bob"}, {"prompt": "Write a haiku", "metadata": metadata}
    WATCH.sent(headers, body)
    answer = requests.post(f"{gateway}/agent-runs", json=body, headers=headers, timeout=30)
    assert answer.status_code == 201
    return str(answer.json()["id"])


def assert_whole(printed: str) -> None:
    """The log of the sandbox's usual run: every entry once and in order, through at least one cut, and an end."""
    events = [json.loads(line) for line in printed.splitlines()]
    log = [event for event in events if event["event"] == "log"]
    assert [event["data"]["position"] for event in log] == list(range(1, 13))
    assert [re.split("[-~]", event["id"])[0] for event in log] == [str(number) for number in range(1, 13)]
    assert [event["id"] for event in events if event["event"] == "end"] == ["12.end"]
    assert events[-1]["event"] == "end"
    assert "reconnect" in [event["data"]["code"] for event in events if event["event"] == "notice"]


def test_the_curl_example_sees_a_run_end_and_go_on(gateway: str) -> None:
    program("curl"), program("jq")
    printed = ran("sh", EXAMPLES / "curl.sh", gateway, "sandbox-alice")
    assert '["end","12.end","COMPLETE"]' in printed
    assert '["end","24.end","COMPLETE"]' in printed
    assert re.search(r"^id: 11\S*\nid: 12\S*\nid: 12\.end\n", printed, re.MULTILINE)


def runner_of(name: str) -> str:
    return program("node") if name.endswith(".js") else sys.executable


@pytest.mark.wire("position-continues", "ndjson")
@pytest.mark.parametrize("name", ["follow.py", "sse.py", "follow.js"])
def test_a_reader_comes_back_after_every_cut(name: str, restless: str) -> None:
    assert_whole(ran(runner_of(name), EXAMPLES / name, restless, "sandbox-bob", create(restless, speed=4)))


@pytest.mark.wire("end-known")
def test_the_fetch_reader_stops_where_the_end_is_known(gateway: str) -> None:
    assert ran(program("node"), EXAMPLES / "follow.js", gateway, "sandbox-bob", "12345", "28.end") == ""


def test_the_fetch_reader_gives_up_where_coming_back_does_not_help(gateway: str) -> None:
    done = completed([program("node"), EXAMPLES / "follow.js", gateway, "sandbox-bob", "99"])
    assert done.returncode != 0
    assert '"code":"not_found"' in done.stderr


@pytest.mark.parametrize("arguments", [(), ("http://127.0.0.1:8000",), ("--help",)])
@pytest.mark.parametrize(
    "name", ["follow.py", "sse.py", "follow.js", "curl.sh", "responses.py", "agents_sdk.py", "mcp_client.py"]
)
def test_an_example_that_is_told_too_little_says_how_it_is_used(name: str, arguments: tuple[str, ...]) -> None:
    if name == "curl.sh" and arguments != ("--help",):
        return  # it has defaults
    if name in ("responses.py", "agents_sdk.py") and arguments:
        return  # SDKs take long to import
    runner = "sh" if name == "curl.sh" else runner_of(name)
    done = completed([runner, EXAMPLES / name, *arguments])
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["follow.py", "sse.py", "follow.js"])
def test_an_example_that_is_refused_says_why_in_a_line(name: str, gateway: str) -> None:
    done = completed([runner_of(name), EXAMPLES / name, gateway, "nobody", "12345"])
    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "invalid_token"


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    """A gateway with a host that is eight times as fast as usual."""
    with processes.sandbox("--speed", "8") as host, processes.gateway(host, dialects="openai") as server:
        yield server.url


def test_the_example_with_the_sdk_of_openai_follows_a_response_through_a_cut_and_again(hasty: str) -> None:
    WATCH.secret("a prompt", "Write a poem of logs")
    with relay(hasty) as between:
        between.cut_before = re.compile(rb"event: response.mcp_call.completed")
        command = [sys.executable, str(EXAMPLES / "responses.py"), between.url, "sandbox-bob"]
        response, *printed = ran(*command, "Write a poem of logs").splitlines()
        assert between.cuts == 1
        assert printed[-1] == "completed"
        assert sum(line.startswith("tool: ") for line in printed) == 7
        assert any("pull request" in line for line in printed)
        assert ran(*command, response).splitlines() == printed


def test_the_example_with_the_agents_sdk_talks_on_in_one_run(hasty: str) -> None:
    texts = ["Write a poem of pears", "Now of plums"]
    for text in texts:
        WATCH.secret("a prompt", text)
    printed = ran(sys.executable, EXAMPLES / "agents_sdk.py", hasty, "sandbox-bob", *texts)
    assert printed.count("tool: ") == 14
    assert printed.index(f"> {texts[0]}") < printed.index(f"> {texts[1]}")
    assert "what has been said" not in printed  # as another run would be told


@pytest.mark.parametrize("name", ["responses.py", "agents_sdk.py"])
def test_an_example_with_an_sdk_that_is_refused_says_why(name: str, hasty: str) -> None:
    command = [sys.executable, str(EXAMPLES / name), hasty, "nobody", "Hello"]
    done = completed(command)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error code: 401 - Invalid or expired API token"


def readme(language: str, number: int, gateway: str) -> str:
    text = blocks(section("Examples", UI), language)[number]
    return text.replace("http://127.0.0.1:8000", gateway).replace("sk-YOUR-TOKEN", "sandbox-alice")


def test_the_lines_of_the_first_minute_work_when_pasted(gateway: str) -> None:
    program("curl"), program("jq")
    lines = blocks(section("The first minute"), "sh")[1].replace("http://127.0.0.1:8000", gateway)
    printed = ran("sh", "-c", lines.replace('{"prompt"', '{"metadata":{"speed":10},"prompt"'))
    assert re.match(r"[0-9]+\n", printed)
    assert '"id":"12.end"' in printed
    assert re.search(r"event: log\ndata: .*\nid: 4\b.*\n\n", printed)


def test_the_curl_examples_that_are_shown_work(gateway: str) -> None:
    program("curl")
    printed = ran("sh", "-c", readme("sh", 0, gateway))
    assert '"metadata":{"priority":"high","source":"api"}' in printed
    assert '"size":10,' in printed
    assert printed.endswith("\nid: 28.end\n\n")


def test_the_python_example_that_is_shown_works(gateway: str) -> None:
    assert re.fullmatch(r"201 [0-9]+\n", ran(sys.executable, "-c", readme("python", 0, gateway)))


def reader_for_agio(script: Path, gateway: str, scenario: str) -> list[str | Path]:
    """The reader that docs/clients.md shows, with a run that plays ``scenario``."""
    (text,) = blocks(chapter("Agio"), "javascript")
    text = text.replace("http://127.0.0.1:8000", gateway).replace("sk-YOUR-TOKEN", "sandbox-alice")
    script.write_text(text.replace("stream: true", f'metadata: {{ scenario: "{scenario}", speed: 10 }}'))
    return [program("node"), script]


def test_the_reader_that_is_shown_for_agio_reads_a_chat(gateway: str, tmp_path: Path) -> None:
    printed = ran(*reader_for_agio(tmp_path / "agio.mjs", gateway, "quick")).splitlines()
    assert printed[0] == "A look is enough."
    assert printed[-1] == "Completed"


def test_the_reader_that_is_shown_for_agio_says_what_went_wrong(gateway: str, tmp_path: Path) -> None:
    command = reader_for_agio(tmp_path / "agio.mjs", gateway, "fails")
    done = completed(command)
    assert done.returncode != 0
    assert "Error: The run ended as ERROR." in done.stderr


class Quietly(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages(directory: Path = EXAMPLES) -> Iterator[str]:
    """A folder, as ``python -m http.server`` shows it."""
    handler = functools.partial(Quietly, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return held


FASTER = """
const really = fetch;
window.fetch = (url, how) => {
  const { metadata, ...body } = JSON.parse(how.body ?? "{}");
  return really(url, how.body ? { ...how, body: JSON.stringify({ ...body, metadata: { speed: 10 } }) } : how);
};
"""
"""Makes the sandbox play the page's run at ten times the speed."""


def test_the_fetch_example_that_is_shown_works_as_it_is_written(gateway: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(EXAMPLES / "follow.js", site)
    (example,) = blocks(section("Examples", UI), "html")
    page = example.replace("http://127.0.0.1:8000", gateway).replace("sk-YOUR-TOKEN", "sandbox-alice")
    quick = page.replace('source: "web_ui"', 'source: "web_ui", scenario: "quick"')
    (site / "page.html").write_text(f"<!doctype html>\n{RECORDING}\n{quick}")
    with pages(site) as address, chromium(tmp_path) as tab:
        evaluate = tab.evaluate
        evaluate(f"location.href = {json.dumps(address + '/page.html')}")
        eventually(lambda: evaluate("globalThis.printed?.at(-1)?.startsWith('end')"))
        printed = evaluate("printed")
    assert printed[0] == "status running"
    assert [line for line in printed if line.startswith("log ")] == ["log 1", "log 2", "log 3"]


RECORDING = "<script>globalThis.printed = []; console.log = (...said) => printed.push(said.join(' '));</script>"


def shortest(language: str, number: int, gateway: str) -> str:
    """What README shows to follow a run with."""
    return blocks(section("Follow a run from anywhere"), language)[number].replace("http://127.0.0.1:8000", gateway)


def test_the_shortest_ways_to_follow_a_run_work_as_readme_shows_them(gateway: str, tmp_path: Path) -> None:
    program("curl")
    for line in shortest("sh", 0, gateway).splitlines():
        assert "28.end" in ran("sh", "-c", line)
    for number in (0, 1):
        assert ran(sys.executable, "-c", shortest("python", number, gateway)).endswith("\nend 28.end\n")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "follow.mjs").write_text(shortest("javascript", 0, gateway))
    assert ran(program("node"), tmp_path / "follow.mjs").endswith("\nend 28.end\n")


def test_the_mcp_client_starts_a_run_answers_its_questions_and_shows_its_answer() -> None:
    app = gateway_app(FixtureHost(), dialects="mcp", org_id="9", upstream_requests_per_minute=100_000)
    with processes.served(app) as url:
        printed = ran(sys.executable, EXAMPLES / "mcp_client.py", url, "alice", "ask 2", text="Blue\nGreen\n")
    *_, last = printed.splitlines()
    assert "Question 0? Question 1? " in printed
    assert last == "completed: Thank you."


def test_the_mcp_client_says_what_went_wrong(gateway: str) -> None:
    command = [sys.executable, str(EXAMPLES / "mcp_client.py"), gateway, "sandbox-bob", " "]
    done = completed(command)
    assert (done.returncode, done.stderr) == (1, "validation_error: prompt: must not be empty.\n")


# -- pages of another origin ------------------------------------------------------------------------------------------

NO_MODULES = """
const loaded = {};
function require(name) {
  if (loaded[name]) return loaded[name].exports;
  const asked = new XMLHttpRequest(), module = (loaded[name] = { exports: {} });
  asked.open("GET", `/node_modules/${name.split("/")[0]}/cjs/${name.replace("/", "-")}.production.js`, false);
  asked.send();
  new Function("module", "exports", "require", "process", asked.responseText)(module, module.exports, require, {});
  return module.exports;
}
"""
"""React has no file that a browser can load by itself."""

REACT = f"""
<!doctype html><title>React</title><main></main>
<script>{NO_MODULES}globalThis.React = require("react"); globalThis.client = require("react-dom/client");</script>
<script type="importmap">{{"imports": {{"react": "/react.js"}}}}</script>
<script type="module">
import {{ useAgentRun }} from "/useAgentRun.js";
const given = new URLSearchParams(location.search);
function Run() {{
  const seen = useAgentRun(given.get("gateway"), given.get("token"), given.get("run"));
  globalThis.seen = seen;
  return React.createElement("p", null, [seen.state, seen.run?.run_status, seen.entries.length, seen.error].join(" "));
}}
const twice = React.createElement(React.StrictMode, null, React.createElement(Run));
client.createRoot(document.querySelector("main")).render(twice);
</script>
"""


USE_CHAT = (EXAMPLES / "useChat.html").read_text()
IMPORT_MAP = re.compile('(?<=<script type="importmap">).*?(?=</script>)', re.DOTALL)
BUNDLE = """
export { createElement, useState } from "react";
export { createRoot } from "react-dom/client";
export { useChat } from "@ai-sdk/react";
export { DefaultChatTransport } from "ai";
"""


def imports() -> dict[str, str]:
    """What the page with ``useChat`` imports, and from where."""
    (found,) = IMPORT_MAP.findall(USE_CHAT)
    return dict(json.loads(found)["imports"])


def bundled(file: Path) -> str:
    """An import map for the page by which all that it imports is in one file."""
    options = ["--bundle", "--format=esm", '--define:process.env.NODE_ENV="production"', f"--outfile={file}"]
    ran(MODULES / ".bin/esbuild", *options, text=BUNDLE, cwd=MODULES.parent)
    return json.dumps({"imports": dict.fromkeys(imports(), f"/{file.name}")})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the pages are: another origin than the gateway's."""
    if not (MODULES / "react").exists():
        pytest.skip("React is not there: npm ci --prefix tests/javascript --ignore-scripts")
    site = tmp_path_factory.mktemp("site")
    for name in ("eventsource.html", "useAgentRun.js", "follow.js"):
        shutil.copy(EXAMPLES / name, site)
    (site / "node_modules").symlink_to(MODULES)
    (site / "react.html").write_text(REACT)
    (site / "react.js").write_text("export const { useEffect, useRef, useState } = globalThis.React;")
    (site / "useChat.html").write_text(IMPORT_MAP.sub(bundled(site / "bundle.js"), USE_CHAT))
    with pages(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_the_hook_is_short_and_needs_nothing_but_react() -> None:
    text = (EXAMPLES / "useAgentRun.js").read_text()
    assert len(text.splitlines()) <= 80
    assert re.findall(r'from "([^"]+)"', text) == ["react"]


@pytest.mark.wire("position-continues", "resumed-streams-on")
def test_the_hook_has_the_whole_log_through_every_cut_and_goes_on_after_a_resume(
    elsewhere: str, restless: str, browser: Tab
) -> None:
    run = create(restless, speed=4)
    browser.go(f"{elsewhere}/react.html?gateway={restless}&token=sandbox-bob&run={run}")
    browser.until("document.body.innerText.includes('ended completed 12')")
    positions = "seen.entries.map(({ position }) => position).join()"
    assert browser.evaluate(positions) == ",".join(map(str, range(1, 13)))
    headers, body = {"Authorization": "Bearer sandbox-bob"}, {"prompt": "And now in French"}
    WATCH.sent(headers, body)
    assert requests.post(f"{restless}/agent-runs/{run}/resume", json=body, headers=headers, timeout=30).ok
    browser.evaluate("seen.watch()")
    browser.until("document.body.innerText.includes('ended completed 24')")
    assert browser.evaluate(positions) == ",".join(map(str, range(1, 25)))


@pytest.mark.wire("ticket-stream")
def test_the_page_with_event_source_shows_a_run(elsewhere: str, restless: str, browser: Tab) -> None:
    run = create(restless, speed=4)
    browser.go(f"{elsewhere}/eventsource.html?gateway={restless}&token=sandbox-bob&run={run}")
    browser.shows("completed, 12 entries")
    shown = browser.evaluate("[...document.querySelectorAll('li')].map((item) => item.textContent)")
    assert len(shown) == 12
    assert shown[-1] == "FINAL_ANSWER"


SHOWN = "document.querySelector('main').innerText"


def test_the_page_with_use_chat_loses_nothing_by_cuts_a_reload_and_a_second_tab(
    elsewhere: str, restless: str, browser: Tab
) -> None:
    page = f"{elsewhere}/useChat.html?gateway={restless}&token=sandbox-bob#{uuid.uuid4()}"
    browser.go(page)
    browser.until(SHOWN)
    browser.evaluate(FASTER.replace("speed: 10", "speed: 3"))
    WATCH.secret("a message", "Prune the pear tree")
    browser.fill("input", "Prune the pear tree")
    browser.click("button", "Send")
    browser.until("document.querySelector('details')")
    browser.go(page)
    with browser.another() as tab:
        tab.go(page)
        for each in browser, tab:
            each.until(f"{SHOWN}.includes('ready') && document.querySelector('button').disabled === false")

        def complete() -> list[dict[str, Any]]:
            """The parts of all messages, once the last one is there."""
            answer = requests.get(
                f"{restless}/ui/chat/{page.rpartition('#')[2]}",
                headers={"Authorization": "Bearer sandbox-bob"},
                timeout=30,
            ).json()
            parts = [part for message in answer["messages"] for part in message["parts"]]
            return parts if parts[-1].get("text", "").startswith("I did what you asked") else []

        parts = eventually(complete)
        said = [part["text"] for part in parts if part.get("text")]
        tools = sum(part["type"] == "dynamic-tool" for part in parts)
        shown = "[...document.querySelectorAll('article p')].map((said) => said.textContent)"
        for each in browser, tab:
            each.until(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(said)})")
            assert each.evaluate("[...document.querySelectorAll('summary')].length") == tools
    assert browser.complaints == []


def test_the_page_with_use_chat_takes_versions_that_it_is_tested_with() -> None:
    tested = json.loads((MODULES.parent / "package.json").read_text())
    versions = {**tested["dependencies"], **tested["devDependencies"]}
    versions["ai"] = versions["ai7"].removeprefix("npm:ai@")
    assert set(imports()) == set(re.findall(r'from "(.*)"', BUNDLE)) == set(re.findall(r'from "(.*)";', USE_CHAT))
    for address in imports().values():
        name, major = re.fullmatch(r"https://esm\.sh/(.+?)@(\d+)(?:/.*|\?.*)?", address).groups()  # type: ignore[union-attr]
        assert versions[name].split(".")[0] == major


# the shortest way of README, in a scope of its own: a page has other names
ASK = """(async () => {{
  globalThis.got = [];
  const ended = new Promise((over) => (globalThis.over = over));
  try {{
    {shown}
    source.addEventListener("end", over);
    source.onerror = () => source.readyState === EventSource.CLOSED && over();
    await ended;
    return String(got.length);
  }} catch (error) {{
    return error.name;
  }}
}})()"""
TICKETED = """new Promise((over) => {{
  const source = new EventSource("{url}");
  source.addEventListener("end", () => (source.close(), over("let in")));
  source.onerror = () => source.readyState === EventSource.CLOSED && over("refused");
}})"""


@pytest.mark.wire("cors-origins", "cors-every-answer")
def test_a_page_of_another_origin_is_let_in_where_it_is_configured_and_refused_where_not(
    elsewhere: str, browser: Tab
) -> None:
    with processes.sandbox() as host:
        for settings, fetched, followed in ({"cors_origins": elsewhere}, "28", "let in"), ({}, "TypeError", "refused"):
            with processes.gateway(host, secret_key="0123456789abcdef" * 2, **settings) as server:
                browser.go(f"{elsewhere}/follow.js")
                shown = shortest("javascript", 1, server.url).replace("console.log(", "got.push(")
                assert browser.evaluate(ASK.format(shown=shown)) == fetched
                ticket = server.request("POST", "/agent-runs/12345/logs/stream-ticket").json()["url"]
                assert browser.evaluate(TICKETED.format(url=server.url + ticket)) == followed


@pytest.mark.wire("cors-origins", "cors-headers")
def test_the_page_shows_a_run_live(gateway: str, tmp_path: Path) -> None:
    with pages() as address, chromium(tmp_path) as tab:
        evaluate = tab.evaluate
        evaluate(f"location.href = {json.dumps(address + '/browser.html')}")
        eventually(lambda: evaluate("document.readyState === 'complete' && document.title === 'A run, live'"))
        evaluate(FASTER)
        for field, value in {"base": gateway, "token": "sandbox-bob", "prompt": "Write a haiku"}.items():
            evaluate(f"document.querySelector('[name={field}]').value = {json.dumps(value)}")
        evaluate("document.querySelector('button').click()")
        status = "document.querySelector('#status').textContent"
        eventually(lambda: evaluate(status) == "running")
        assert eventually(lambda: "," in evaluate(status) and evaluate(status)) == "completed, 12 entries"
        shown = evaluate("[...document.querySelectorAll('li')].map((item) => item.textContent)")
        assert len(shown) == 12
        assert shown[-1].startswith("FINAL_ANSWER")
