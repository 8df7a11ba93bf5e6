"""What the host is told to do, and how an order that comes again is known: by its key."""

import hashlib
import uuid
from collections.abc import Sequence

from codegen_api.runs import Json
from codegen_api.upstreams.over_http import Object

KEY = "codegen_gateway_key"
"""The key of a host run's metadata under which the digest of its order's key is kept."""


def thread_of(key: str | None) -> str:
    """The id of a new thread: the same for each repeat of the order that makes it."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"codegen_gateway thread {key}"))


def said(prompt: str, images: tuple[str, ...] | None, key: str | None) -> Object:
    """The input of a graph with messages. One that comes again with the same id takes the place of the first."""
    pictures: list[Json] = [{"type": "image_url", "image_url": {"url": image}} for image in images or ()]
    content: Json = [{"type": "text", "text": prompt}, *pictures] if pictures else prompt
    name = {} if key is None else {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"codegen_gateway message {key}"))}
    return {"messages": [{"role": "user", "content": content, **name}]}


def marked_by(key: str | None) -> Object:
    """Metadata of a run, by which ``has`` knows it. In its config, because Aegra keeps no other."""
    return {} if key is None else {KEY: hashlib.sha256(key.encode()).hexdigest()[:32]}


def has(runs: Sequence[Object], key: str | None) -> bool:
    """Whether one of these runs was started by the order with this key."""
    places = [place for run in runs for place in (run, run.get("config")) if isinstance(place, dict)]
    kept = [place["metadata"] for place in places if isinstance(place.get("metadata"), dict)]
    return key is not None and any(metadata.get(KEY) == marked_by(key)[KEY] for metadata in kept)
