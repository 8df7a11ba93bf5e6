"""The AI SDK's `useChat`, in the three versions that people have, in front of a gateway that serves."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import WAIT, Sandbox, Server, eventually, gateway, kill, program
from tests.end_to_end.sdk import PAUSES, QUICK, prompts, run_of
from tests.leaks import WATCH

JAVASCRIPT = Path(__file__).parents[1] / "javascript"
TOKEN = "sandbox-alice"
SETTINGS: dict[str, Any] = {
    "dialects": "native,ai_sdk",
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
}
WORKS = {"metadata": {"scenario": "default"}}
"""A run of a second or two, with thoughts, tools of which some answer late, one that fails, and an answer."""

ENDLESS = {"scenario": "endless", "speed": 0.5}
"""Metadata of a run with four entries a second."""

VERSIONS = pytest.mark.parametrize("version", ["ai5", "ai6", "ai7"])


@pytest.fixture(scope="module")
def site(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        yield server


class Page:
    """A page with the hook."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def do(self, command: str, **given: Any) -> Any:
        """What the page shows when this is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"command": command, **given}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the page has broken down"
        return json.loads(line)

    def say(self, text: str, **more: Any) -> None:
        WATCH.secret("a message", text)
        self.do("send", message={"text": text}, **more)

    def done(self) -> Any:
        """What it shows when nothing comes any more, which is right."""
        shown = self.do("idle")
        assert (shown["status"], shown.get("error")) == ("ready", None), shown
        assert shown["called"] == [], "the page thinks that it is to run a tool"
        return shown["messages"]


@contextmanager
def page(site: Server, version: str, chat: str) -> Iterator[Page]:
    if not (JAVASCRIPT / "node_modules" / version).is_dir():
        pytest.skip("npm ci --prefix tests/javascript installs this client")
    command = [program("node"), str(JAVASCRIPT / "use_chat.mjs"), version, site.url, TOKEN, chat]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=JAVASCRIPT)
    try:
        yield Page(process)
    finally:
        process.kill()
        process.wait(WAIT)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def kept(site: Server, chat: str) -> list[Any]:
    """The messages of a chat, as the gateway has them."""
    answer = site.get(f"/ui/chat/{chat}")
    assert answer.status_code == 200, answer.text
    messages: list[Any] = answer.json()["messages"]
    return messages


def plain(messages: list[Any]) -> list[Any]:
    """Messages, but for what the versions of the client call differently, and for how their older parts came."""
    return [(message["id"], message["role"], _plain(message["parts"])) for message in messages]


def _plain(parts: list[Any]) -> list[Any]:
    names = ("type", "text", "toolName", "toolCallId", "input", "output", "errorText", "data", "mediaType", "url")
    return [
        {name: part[name] for name in names if part.get(name) is not None}
        for given in parts
        for part in (given["data"]["parts"] if given["type"] == "data-codegen-earlier" else [given])
    ]


@VERSIONS
def test_a_chat_goes_on_over_turns_and_shows_what_the_gateway_has(site: Server, swift: Sandbox, version: str) -> None:
    chat = f"turns-{version}"
    with page(site, version, chat) as tab:
        tab.say("Mend the gate of the garden", body=WORKS)
        tab.do("parts", count=2)
        first = tab.done()
        assert [part["type"] for part in first[1]["parts"]][-1] == "text"
        assert {part.get("state") for part in first[1]["parts"] if part["type"] == "dynamic-tool"} == {
            "output-available",
            "output-error",
        }
        assert plain(first) == plain(kept(site, chat))
        tab.say("And now paint it green")
        assert plain(tab.done()) == plain(kept(site, chat))
        tab.do("regenerate")
        again = tab.done()
        assert len(again) == 4
        assert plain(again) == plain(kept(site, chat))
        assert prompts(swift, run_of(swift, "Mend the gate of the garden")) == [
            "Mend the gate of the garden",
            "And now paint it green",
        ]


@VERSIONS
def test_a_reload_and_a_second_tab_in_the_middle_show_the_same(site: Server, version: str) -> None:
    chat = f"reload-{version}"
    with page(site, version, chat) as tab, page(site, version, chat) as other:
        tab.say("Count the apples in the cellar", body={"metadata": ENDLESS})
        tab.do("parts", count=3)
        other.do("load", messages=kept(site, chat))
        other.do("resume")
        tab.do("leave")
        with page(site, version, chat) as reloaded:
            reloaded.do("load", messages=kept(site, chat)[:1])  # as a page that kept only what its user said
            reloaded.do("resume")
            reloaded.do("parts", count=5)
            assert site.request("POST", f"/ui/chat/{chat}/stop").json() == {"stopped": True}
            shown = plain(reloaded.done())
        assert shown == plain(other.done()) == plain(kept(site, chat))
        assert len(shown) == 2
        other.do("resume")  # nothing goes on
        assert plain(other.done()) == shown


@VERSIONS
def test_a_gateway_that_is_killed_and_comes_back_loses_nothing(swift: Sandbox, version: str, tmp_path: Path) -> None:
    chat, text = f"killed-{version}", f"Carry the harp upstairs, {version}"
    settings = {**SETTINGS, "data_dir": str(tmp_path)}
    with gateway(swift, **settings) as first, page(first, version, chat) as tab:
        tab.say(text, body={"metadata": ENDLESS})
        tab.do("parts", count=4)
        kill(first.pid)
        broken = tab.do("idle")
        assert broken["status"] == "error", "it took what it had for the whole"
        with gateway(swift, **settings) as second:
            tab.do("move", url=second.url)
            tab.do("resume")
            before = len(broken["messages"][1]["parts"])
            tab.do("parts", count=before + 2)
            assert second.request("POST", f"/ui/chat/{chat}/stop").json() == {"stopped": True}
            assert plain(tab.done()) == plain(kept(second, chat))
            assert prompts(swift, run_of(swift, text)) == [text]


@VERSIONS
def test_what_goes_wrong_is_a_sentence_on_the_page(site: Server, version: str) -> None:
    chat = f"wrong-{version}"
    with page(site, version, chat) as tab, page(site, version, chat) as other:
        tab.say("Sing until I say stop", body={"metadata": ENDLESS})
        tab.do("parts", count=1)
        other.say("Sing something else", body={"metadata": QUICK})
        assert other.do("idle")["error"].startswith("A turn of this conversation is under way")
        eventually(lambda: site.request("POST", f"/ui/chat/{chat}/stop").status_code, (200).__eq__)
        assert tab.done()[1]["metadata"]["codegen_api"]["status"] == "cancelled"


@VERSIONS
def test_an_agent_that_asks_is_answered_by_the_next_message(site: Server, swift: Sandbox, version: str) -> None:
    chat, text = f"asks-{version}", f"Choose a colour for the boat, {version}"
    with page(site, version, chat) as tab:
        tab.say(text, body={"metadata": PAUSES})
        asked = tab.done()
        assert asked[1]["metadata"]["codegen_api"]["status"] == "waiting"
        assert asked[1]["parts"][-1]["type"] == "data-codegen-waiting"
        tab.say("Blue, like the last one")
        assert plain(tab.done()) == plain(kept(site, chat))
        assert prompts(swift, run_of(swift, text)) == [text, "Blue, like the last one"]
