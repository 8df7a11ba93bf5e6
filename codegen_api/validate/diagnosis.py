"""What the doctor finds, as text and JSON. ``remedies.toml`` has the lines of configuration that mend each kind of
finding.
"""

import tomllib
from dataclasses import dataclass, field
from importlib.resources import files

from .options import Object

KINDS = {"nginx": "nginx", "caddy": "Caddy", "envoy": "Envoy", "balancer": "load balancer", "gateway": "gateway"}
"""Where a remedy belongs: its name in ``remedies.toml``, and its name for people."""
REMEDIES: dict[str, dict[str, str]] = tomllib.loads((files(__package__) / "remedies.toml").read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Ailment:
    """Something that is wrong: its name in ``remedies.toml``, and what the doctor saw."""

    name: str
    seen: str

    def to_json(self) -> Object:
        return {"name": self.name, "seen": self.seen, "remedies": REMEDIES[self.name]}

    def __str__(self) -> str:
        lines = [f"    {KINDS[kind] + ':':<15} {line}" for kind, line in REMEDIES[self.name].items()]
        return "\n".join([f"* {self.seen}", *lines, ""])


@dataclass(slots=True)
class Diagnosis:
    """What was found, what was not looked at, and for how many seconds a live log was watched, None if none was."""

    found: list[Ailment] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    watched: float | None = None

    @property
    def status(self) -> int:
        return 1 if self.found else 3 if self.watched is None else 0

    def to_json(self, url: str) -> Object:
        return {
            "url": url,
            "ok": self.status == 0,
            "findings": [each.to_json() for each in self.found],
            "not_looked_at": self.unseen,
            "watched_seconds": self.watched,
        }

    def to_text(self, url: str) -> str:
        count = f"{len(self.found)} finding{'s' * (len(self.found) > 1)}" if self.found else "nothing wrong"
        watched = "" if self.watched is None else f"; a live log was watched for {self.watched:g} s"
        unseen = [f"Not looked at: {each}." for each in self.unseen]
        return "\n".join([*map(str, self.found), f"{url}: {count}{watched}", *unseen])
