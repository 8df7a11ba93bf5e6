"""The examples do what they say, against a gateway and its sandbox in processes of their own."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from tests.dialects.documented import chapter
from tests.end_to_end import processes
from tests.leaks import WATCH
from tests.test_readme import blocks, section

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PACKAGES = {"node": "nodejs"}


def program(name: str) -> str:
    """Where a program is. Without it the test is skipped, but in CI it fails (see ``tests/conftest.py``)."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on PATH: apt-get install {PACKAGES.get(name, name)}")
    return path


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
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
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


@pytest.mark.wire("position-continues", "ndjson")
def test_the_python_reader_comes_back_after_every_cut(restless: str) -> None:
    assert_whole(ran(sys.executable, EXAMPLES / "follow.py", restless, "sandbox-bob", create(restless, speed=4)))


@pytest.mark.wire("position-continues")
def test_the_fetch_reader_comes_back_after_every_cut(restless: str) -> None:
    assert_whole(ran(program("node"), EXAMPLES / "follow.js", restless, "sandbox-bob", create(restless, speed=4)))


@pytest.mark.wire("end-known")
def test_the_fetch_reader_stops_where_the_end_is_known(gateway: str) -> None:
    assert ran(program("node"), EXAMPLES / "follow.js", gateway, "sandbox-bob", "12345", "28.end") == ""


def test_the_fetch_reader_gives_up_where_coming_back_does_not_help(gateway: str) -> None:
    done = subprocess.run(
        [program("node"), EXAMPLES / "follow.js", gateway, "sandbox-bob", "99"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert '"code":"not_found"' in done.stderr


@pytest.mark.parametrize("arguments", [(), ("http://127.0.0.1:8000",), ("--help",)])
@pytest.mark.parametrize("name", ["follow.py", "follow.js", "curl.sh"])
def test_an_example_that_is_told_too_little_says_how_it_is_used(name: str, arguments: tuple[str, ...]) -> None:
    if name == "curl.sh" and arguments != ("--help",):
        return  # it has defaults
    runner = {"follow.py": sys.executable, "follow.js": program("node"), "curl.sh": "sh"}[name]
    done = subprocess.run(
        [runner, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["follow.py", "follow.js"])
def test_an_example_that_is_refused_says_why_in_a_line(name: str, gateway: str) -> None:
    runner = {"follow.py": sys.executable, "follow.js": program("node")}[name]
    done = subprocess.run(
        [runner, EXAMPLES / name, gateway, "nobody", "12345"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "invalid_token"


def readme(language: str, number: int, gateway: str) -> str:
    text = blocks(section("Examples"), language)[number]
    return text.replace("http://127.0.0.1:8000", gateway).replace("sk-YOUR-TOKEN", "sandbox-alice")


def test_the_lines_of_the_first_minute_work_when_pasted(gateway: str) -> None:
    program("curl"), program("jq")
    lines = blocks(section("The first minute"), "sh")[1].replace("http://127.0.0.1:8000", gateway)
    printed = ran("sh", "-c", lines.replace('{"prompt"', '{"metadata":{"speed":10},"prompt"'))
    assert re.match(r"[0-9]+\n", printed)
    assert '"id":"12.end"' in printed
    assert re.search(r"event: log\ndata: .*\nid: 4\b.*\n\n", printed)


def test_the_curl_examples_of_the_readme_work(gateway: str) -> None:
    program("curl")
    printed = ran("sh", "-c", readme("sh", 0, gateway))
    assert '"metadata":{"priority":"high","source":"api"}' in printed
    assert '"size":10,' in printed
    assert printed.endswith("\nid: 28.end\n\n")


def test_the_python_example_of_the_readme_works(gateway: str) -> None:
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
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


@contextmanager
def browser(profile: Path) -> Iterator[Callable[[str], Any]]:
    """A page of a headless browser: a function that evaluates JavaScript in it."""
    port_file = profile / "DevToolsActivePort"
    process = subprocess.Popen(
        [
            program("chromium"),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: port_file.exists() and port_file.read_text().count("\n"))
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as response:
            page = next(target for target in json.load(response) if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as devtools:

            def evaluate(expression: str) -> Any:
                parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
                devtools.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": parameters}))
                answer = json.loads(devtools.recv(timeout=30))
                # there is no result while one page makes way for another
                return answer["result"]["result"].get("value") if "result" in answer else None

            yield evaluate
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


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


def test_the_fetch_example_of_the_readme_works_as_it_is_written(gateway: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(EXAMPLES / "follow.js", site)
    (example,) = blocks(section("Examples"), "html")
    page = example.replace("http://127.0.0.1:8000", gateway).replace("sk-YOUR-TOKEN", "sandbox-alice")
    quick = page.replace('source: "web_ui"', 'source: "web_ui", scenario: "quick"')
    (site / "page.html").write_text(f"<!doctype html>\n{RECORDING}\n{quick}")
    with pages(site) as address, browser(tmp_path) as evaluate:
        evaluate(f"location.href = {json.dumps(address + '/page.html')}")
        eventually(lambda: evaluate("globalThis.printed?.at(-1)?.startsWith('end')"))
        printed = evaluate("printed")
    assert printed[0] == "status running"
    assert [line for line in printed if line.startswith("log ")] == ["log 1", "log 2", "log 3"]


RECORDING = "<script>globalThis.printed = []; console.log = (...said) => printed.push(said.join(' '));</script>"


@pytest.mark.wire("cors-origins", "cors-headers")
def test_the_page_shows_a_run_live(gateway: str, tmp_path: Path) -> None:
    with pages() as address, browser(tmp_path) as evaluate:
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
