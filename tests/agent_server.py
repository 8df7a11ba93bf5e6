"""An agent server that only says that it is well, or does what ``FAKE_HOST`` says:
``dies``, ``hangs``, ``drips``, ``is stubborn``."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOR_GOOD = 3600


class Handler(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        Handler.asked += 1
        if Handler.asked == 1:
            time.sleep(FOR_GOOD)  # as opencode does
        if self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        password = os.environ.get("OPENCODE_SERVER_PASSWORD")
        given = base64.b64decode(self.headers.get("Authorization", "").partition(" ")[2]).decode()
        self.send_response(200 if password is None or given == f"opencode:{password}" else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        while os.environ.get("FAKE_HOST") == "drips":
            self.wfile.write(b" ")
            time.sleep(0.05)
        self.wfile.write(json.dumps({"healthy": True, "version": "1", "data": [{"id": "model"}]}).encode())

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    told = {"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ), "pid": os.getpid()}
    how = os.environ.get("FAKE_HOST", "")
    if how == "is stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told["child"] = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOR_GOOD})"]).pid
    with Path("starts").open("a") as starts:
        starts.write(json.dumps(told) + "\n")
    print("the fake host begins", flush=True)
    if how == "dies":
        sys.exit("there is no such model")
    if how == "hangs":
        threading.Event().wait(FOR_GOOD)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def install(name: str, directory: Path) -> None:
    """Put it into a directory, as a program of that ``name``."""
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    program.chmod(0o755)


def starts(folder: Path) -> list[Mapping[str, object]]:
    """What each one was told that was started in that folder."""
    path = folder / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
