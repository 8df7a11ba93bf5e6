"""A tab of a real Chromium, driven over its own protocol: what it shows, what it asks for, and what it complains of."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.end_to_end.processes import WAIT, eventually, program

KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "End": 35, "Home": 36, "j": 74, "k": 75}
CONTROL, SHIFT = 2, 8


class Tab:
    """One page. ``complaints`` are errors in its console, whatever wrote them; ``asked`` the URLs that it asked for."""

    def __init__(self, devtools: Connection, url: str) -> None:
        self._devtools = devtools
        self._url = url
        self._last = 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.received = 0
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        self._last += 1
        self._devtools.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._devtools.recv(timeout=WAIT))
            if message.get("id") == self._last:
                return message.get("result", {})
            self._note(message["method"], message["params"])

    def _note(self, event: str, said: Any) -> None:
        match event:
            # that a request was refused is no fault of the page
            case "Log.entryAdded" if said["entry"]["level"] == "error" and said["entry"]["source"] != "network":
                self.complaints.append(said["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(said["args"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialog: {said['message']}")
                self._devtools.send(json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {}}))
            case "Network.requestWillBeSent":
                self.asked.append(said["request"]["url"])
            case "Network.loadingFinished":
                self.received += said["encodedDataLength"]

    def evaluate(self, expression: str) -> Any:
        """What the expression is worth; None while one page makes way for another."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer.get("result", {}).get("value")

    def until(self, expression: str, within: float = WAIT) -> Any:
        """What the expression is worth once that is something; of an element, that there is one."""
        known = f"((found) => found instanceof Element || found)({expression})"
        return eventually(lambda: self.evaluate(known), within=within)

    def go(self, url: str) -> None:
        """Load a page anew, even if only what is behind ``#`` is another."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.until("location.protocol !== 'about:' && document.readyState === 'complete'")

    def text(self, selector: str = "body") -> str:
        return str(self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def shows(self, text: str) -> None:
        """Wait until this is on the page."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})")

    def click(self, selector: str, text: str = "") -> None:
        """Click what has this text, once it is there and can be clicked."""
        found = f"[...document.querySelectorAll({selector!r})].find((each) => each.innerText.includes({text!r}))"
        self.until(f"(({found})?.disabled === false || ({found})?.href) && (({found}).click(), true)")

    def fill(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.until(f"document.querySelector({selector!r}) && (document.querySelector({selector!r}).focus(), true)")
        self.send("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        code = KEYS[key]
        named = {"key": key, "code": f"Key{key.upper()}" if len(key) == 1 else key, "windowsVirtualKeyCode": code}
        typed = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, **named, **typed)
        self.send("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **named)

    def tab_to(self, name: str) -> None:
        """Press the tab key until what has this text or label has the focus."""
        focused = (
            "((focused) => focused === document.body ? '' : focused.innerText?.trim() || focused.ariaLabel"
            " || focused.labels?.[0]?.innerText)(document.activeElement)"
        )
        for _ in range(60):
            if name in str(self.evaluate(focused)):
                return
            self.press("Tab")
        raise AssertionError(f"no way to {name!r} by the tab key")

    @contextmanager
    def another(self) -> Iterator["Tab"]:
        """A second tab of the same browser."""
        opened = self.send("Target.createTarget", url="about:blank")["targetId"]
        url = f"{self._url.rpartition('/')[0]}/{opened}"
        with connect(url, max_size=None, proxy=None) as devtools:
            yield Tab(devtools, url)
        self.send("Target.closeTarget", targetId=opened)

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 800) -> None:
        """Colours and size of the window."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    port_file = profile / "DevToolsActivePort"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    process = subprocess.Popen(
        [program("chromium"), *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: port_file.exists() and port_file.read_text().count("\n"))
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as response:
            page = next(target for target in json.load(response) if target["type"] == "page")
        url = page["webSocketDebuggerUrl"]
        with connect(url, max_size=None, proxy=None) as devtools:
            yield Tab(devtools, url)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
