"""A model that does what the last prompt says, as OpenAI and Gemini would: every host of the tests asks it.

The words may be put together, "steps 2 ask slow 3"; they take effect in this order:

- ``think``: the first answer has a thought before it
- ``steps N``: N calls of a shell, ``echo step 0`` and so on, each with the text ``step 0`` before it
- ``ask``: a call of a shell, ``date``, for which the host is set up to want a person's approval
- ``question``: a call of a tool that puts a question to a person
- ``delegate TEXT``: a call of a tool that runs another agent, to which it says TEXT, which is the rest of the prompt
- ``boom``: the model refuses, with 400
- ``hold``: it says nothing more until ``release()``
- ``slow S``: it answers a word each quarter of a second, for S seconds
- ``say TEXT``: its answer is TEXT, which is the rest of the prompt; else it is ``The answer after N calls``
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHELLS = ("bash", "terminal", "run_shell_command", "shell")
QUESTIONS = ("question", "ask_user")
PACE = 0.25

Said = tuple[str, str]
"""Who said it (``user``, ``tool`` or somebody else), and what."""


@dataclass(frozen=True)
class Turn:
    """What the model does next: it calls a tool, or it answers."""

    thought: str = ""
    text: str = ""
    tool: str = ""
    arguments: Mapping[str, object] | None = None
    slow: float = 0.0
    hold: bool = False
    refuses: bool = False


def next_turn(said: list[Said], tools: Mapping[str, Mapping[str, Any]]) -> Turn:
    """``tools``: the JSON schema of what each one takes."""
    last = max((index for index, (who, _) in enumerate(said) if who == "user"), default=0)
    prompt = said[last][1] if said else ""
    calls = sum(who == "tool" for who, _ in said[last:])
    words, _, to_say = prompt.partition("say ")
    shell = next((name for name in SHELLS if name in tools), "")
    if not tools:  # it is asked for a title, or a summary
        return Turn(text="A title")

    def number(word: str) -> float:
        found = re.search(rf"\b{word} ([\d.]+)", words)
        return float(found[1]) if found else 0.0

    def has(word: str) -> bool:
        return re.search(rf"\b{word}\b", words) is not None

    thought = "Let me think" if has("think") and not calls else ""
    steps = int(number("steps"))
    if shell and calls < steps:
        return Turn(thought, f"step {calls}", shell, run(f"echo step {calls}", "LOW", tools[shell]))
    calls -= steps
    if shell and has("ask"):
        if calls == 0:
            return Turn(thought, "may I?", shell, run("date", "HIGH", tools[shell]))
        calls -= 1
    question = next((name for name in QUESTIONS if name in tools), "")
    if question and has("question") and calls == 0:
        options = [{"label": label, "description": label} for label in ("A", "B")]
        asked = {"question": "Which one?", "header": "Which", "options": options}
        return Turn(thought, "a question", question, {"questions": [asked]})
    _, delegates, task = prompt.partition("delegate ")
    agent = next((name for name in tools if name.endswith("run_agent")), "")
    if agent and delegates and calls == 0:
        return Turn(thought, "somebody else does it", agent, {"prompt": task})
    text = to_say.strip() or f"The answer after {sum(who == 'tool' for who, _ in said[last:])} calls"
    return Turn(thought, text, slow=number("slow"), hold=has("hold"), refuses=has("boom"))


def run(command: str, risk: str, schema: Mapping[str, Any]) -> dict[str, object]:
    """What a shell is called with, as far as its ``schema`` knows it."""
    arguments = {"command": command, "description": command, "security_risk": risk}
    return {name: value for name, value in arguments.items() if name in schema.get("properties", {})}


def text_of(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"text": content}]
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


class Model(ThreadingHTTPServer):
    """``url`` is where it serves both: OpenAI's API is at ``/v1`` below."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[dict[str, Any]] = []
        """The body of each request."""
        self._released = threading.Event()

    def release(self) -> None:
        """Let everybody go on who is held now."""
        released, self._released = self._released, threading.Event()
        released.set()

    def pieces(self, turn: Turn) -> Iterator[str]:
        """The text, a word at a time. What is empty only shows whether somebody still listens."""
        released = self._released
        while turn.hold and not released.wait(PACE):
            yield ""
        if turn.slow:
            for index in range(int(turn.slow / PACE)):
                time.sleep(PACE)
                yield f"word {index} "
        yield turn.text

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._json(200, {"object": "list", "data": [{"id": "fake", "object": "model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        with suppress(ConnectionError):  # whoever asked has gone
            if self.path.endswith("/chat/completions"):
                self._openai(asked)
            else:
                self._gemini(asked, stream=":streamGenerateContent" in self.path)

    def _json(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, chunks: Iterator[object], last: bytes = b"") -> None:
        """What is None only shows whether somebody still listens."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b": wait\n\n" if chunk is None else b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(last)

    def _openai(self, asked: dict[str, Any]) -> None:
        said = [(each["role"], text_of(each.get("content"))) for each in asked["messages"]]
        offered = [each["function"] for each in asked.get("tools") or []]
        turn = next_turn(said, {each["name"]: each["parameters"] for each in offered})
        if turn.refuses:
            return self._json(400, {"error": {"message": "told to fail", "type": "invalid_request_error"}})
        whole = {"id": f"chat-{time.time_ns()}", "created": int(time.time()), "model": asked.get("model", "fake")}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        finish = "tool_calls" if turn.tool else "stop"
        call = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
        called = {"index": 0, "id": f"call_{time.time_ns()}", "type": "function", "function": call}
        calls = [called] if turn.tool else []

        def chunk(delta: Mapping[str, object], finish: str | None = None) -> dict[str, object]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return {**whole, "object": "chat.completion.chunk", "choices": [choice]}

        def chunks() -> Iterator[object]:
            yield chunk({"role": "assistant", "content": ""})
            if turn.thought:
                yield chunk({"reasoning_content": turn.thought})
            for piece in self.server.pieces(turn):
                yield chunk({"content": piece}) if piece else None
            if calls:
                yield chunk({"tool_calls": calls})
            yield {**chunk({}, finish), "usage": usage}

        if asked.get("stream"):
            return self._stream(chunks(), b"data: [DONE]\n\n")
        message: dict[str, object] = {"role": "assistant", "content": "".join(self.server.pieces(turn))}
        message |= {"tool_calls": calls} if calls else {}
        message |= {"reasoning_content": turn.thought} if turn.thought else {}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return self._json(200, {**whole, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _gemini(self, asked: dict[str, Any], *, stream: bool) -> None:
        turns = [(each["role"], each["parts"]) for each in asked["contents"]]
        said = [("tool" if "functionResponse" in parts[0] else who, text_of(parts)) for who, parts in turns]
        offered = [each for tool in asked.get("tools") or [] for each in tool.get("functionDeclarations", [])]
        turn = next_turn(said, {each["name"]: each.get("parametersJsonSchema", {}) for each in offered})
        if turn.refuses:
            return self._json(400, {"error": {"code": 400, "message": "told to fail", "status": "INVALID_ARGUMENT"}})
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}

        def answer(*parts: object, **more: object) -> dict[str, object]:
            candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **more}
            return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "fake"}

        thought: list[object] = [{"text": turn.thought, "thought": True}] if turn.thought else []
        calls: list[object] = [{"functionCall": {"name": turn.tool, "args": turn.arguments}}] if turn.tool else []

        def chunks() -> Iterator[object]:
            for piece in self.server.pieces(turn):
                yield answer({"text": piece}) if piece else None
            yield answer(*thought, *(calls or [{"text": ""}]), finishReason="STOP")

        if stream:
            return self._stream(chunks())
        text = "".join(self.server.pieces(turn))
        return self._json(200, answer(*thought, {"text": text}, *calls, finishReason="STOP"))


@contextmanager
def model() -> Iterator[Model]:
    """One that serves, in a thread of its own."""
    with Model() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield serving
        finally:
            serving.release()
            serving.shutdown()
            thread.join()
