"""``opencode serve``. Its session database is below ``home``; the agent works in ``project``.

A shell command other than ``echo`` wants permission.
"""

import base64
import json
import os
import subprocess
from collections.abc import Mapping

from tests.commands import completed
from tests.end_to_end.processes import STARTING
from tests.upstreams.hosts.running import RealHost


class OpenCode(RealHost):
    name = "opencode"
    program = "opencode/node_modules/.bin/opencode"
    health = "/global/health"
    token = "opencode-password-of-tests"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"opencode:{self.token}".encode()).decode()}

    def prepare(self) -> None:
        self.project = self.directory / "project"
        self.project.mkdir()
        options = {"baseURL": f"{self.model.url}/v1", "apiKey": "none"}
        models = {"fake": {"tool_call": True, "reasoning": True, "limit": {"context": 100_000, "output": 4_000}}}
        settings = {
            "autoupdate": False,
            "share": "disabled",
            "model": "fake/fake",
            "small_model": "fake/fake",
            "permission": {"bash": {"*": "ask", "echo *": "allow"}},
            "provider": {"fake": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models}},
        }
        (self.directory / "models.json").write_text("{}")
        (self.project / "opencode.json").write_text(json.dumps(settings))

    def ready(self) -> bool:
        # a prompt that comes before the folder's models are known is taken, and then never looked at again
        with self.client(timeout=30) as client:
            models = client.get("/api/model", params={"location[directory]": str(self.project)})
        return models.is_success and any(each["providerID"] == "fake" for each in models.json()["data"])

    def command(self) -> list[str]:
        return [str(self.found()), "serve", "--hostname", "127.0.0.1", "--port", str(self.port)]

    def run(self, prompt: str, servers: Mapping[str, object]) -> str:
        """What ``opencode run`` prints for a prompt, which ends by itself, and has tools of these MCP servers."""
        self.home.mkdir()
        self.prepare()
        file = self.project / "opencode.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "mcp": servers}))
        done = completed(
            [str(self.found()), "run", *prompt.split()],  # it puts quotes around what has several words
            cwd=self.project,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **self.environment()},
            stdin=subprocess.DEVNULL,
            timeout=STARTING,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def environment(self) -> Mapping[str, str]:
        places = {f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
        return {
            **places,
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_MODELS_PATH": str(self.directory / "models.json"),  # instead of thousands, which take it seconds
            "OPENCODE_SERVER_PASSWORD": self.token,
        }
