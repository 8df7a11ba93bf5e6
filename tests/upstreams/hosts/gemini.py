"""Gemini CLI's A2A server. Its tasks are in memory; the agent works in ``project``."""

from collections.abc import Mapping
from typing import Any

from tests.upstreams.hosts.running import RealHost


class Gemini(RealHost):
    name = "gemini"
    program = "gemini/node_modules/@google/gemini-cli-a2a-server/dist/a2a-server.mjs"
    health = "/.well-known/agent-card.json"
    keeps = False

    def agent_settings(self, *, asks: bool = False) -> dict[str, Any]:
        """The metadata that each message has to have. An agent that ``asks`` does so before each call of any tool."""
        return {"coderAgent": {"kind": "agent-settings", "workspacePath": str(self.project), "autoExecute": not asks}}

    def prepare(self) -> None:
        self.project = self.directory / "project"
        self.project.mkdir()
        ripgrep = self.home / ".gemini" / "tmp" / "bin" / "rg"
        ripgrep.parent.mkdir(parents=True)
        ripgrep.touch()  # else it looks for it on the Internet before it serves

    def command(self) -> list[str]:
        return ["node", str(self.found())]  # by the link in .bin it would do nothing

    def environment(self) -> Mapping[str, str]:
        return {
            "CODER_AGENT_PORT": str(self.port),
            "CODER_AGENT_WORKSPACE_PATH": str(self.project),
            "GEMINI_API_KEY": "none",
            "GOOGLE_GEMINI_BASE_URL": self.model.url,
        }
