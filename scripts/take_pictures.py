"""Take the pictures of the console that README shows, in the sandbox: python -m scripts.take_pictures

Needs chromium. Look at them before you commit them.
"""

import base64
import tempfile
from pathlib import Path

from tests.end_to_end.chromium import chromium
from tests.end_to_end.processes import ALICE, eventually, gateway

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROMPT = "Find out why uploads over 10 MB fail, and fix it"
WIDTH, HEIGHT = 1000, 640


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, gateway(None, "--sandbox") as server, chromium(Path(profile)) as tab:
        metadata = {"source": "console", "prompt": PROMPT, "speed": 20}
        body = {"prompt": PROMPT, "metadata": metadata}
        run = server.request("POST", "/agent-runs", json=body, headers=ALICE).json()["id"]
        eventually(lambda: server.get(f"/agent-runs/{run}", ALICE).json()["ended"])
        tab.look(width=WIDTH, height=HEIGHT)
        tab.go(f"{server.url}/console/")
        tab.click(".people button", "alice")
        tab.until("document.querySelector('.runs')")
        tab.evaluate(f"location.hash = '#/runs/{run}'")
        tab.until("document.querySelector('.markdown li')")
        for colours in ("light", "dark"):
            tab.look(dark=colours == "dark", width=WIDTH, height=HEIGHT)
            # what is on the page has been drawn in the new colours by the second frame
            tab.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            taken = tab.send("Page.captureScreenshot", format="png")["data"]
            path = PICTURES / f"console-{colours}.png"
            path.write_bytes(base64.b64decode(taken))
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
