"""The scripts a run can be asked to play with `metadata.scenario`.

    default    plans, calls tools, one fails, one answers late, then a pull request: COMPLETE after 13.2 s
    quick      COMPLETE after 0.8 s
    fails      ERROR after 4 s
    pauses     PAUSED after 3 s until it is resumed; then COMPLETE 3 s later
    empty      COMPLETE after 1 s with no log at all
    long       5,000 entries within a second, then COMPLETE
    endless    an entry a second until it is banned
    bursts     350 entries at each full second, 3,500 in all, then COMPLETE after 10.5 s

All at speed 1. A name that is not listed plays `default`. Two further names are refused on creation, see REFUSED.
Every script begins with the user's message. A resumed run plays its scenario again, with the new prompt, from
the moment the host's status has caught up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .errors import Refusal, no_repos, out_of_runs
from .script import (
    Amendment,
    Fields,
    Listed,
    Paced,
    PullRequest,
    Script,
    Turn,
    action,
    answer,
    error,
    plan,
    user_message,
)

ECHOED = 160
"""How many characters of a prompt the agent repeats in its plan and answer."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What a scenario is told before it is played.

    `delay` is how long, in seconds at speed 1, the status still shows the past; 0 for a new run. `segment` counts
    from 0: it is the number of times the run was started before.
    """

    run_id: int
    prompt: str
    images: int = 0
    delay: float = 0.0
    segment: int = 0

    @property
    def echo(self) -> str:
        """The prompt on one line, shortened."""
        line = " ".join(self.prompt.split())
        return line if len(line) <= ECHOED else f"{line[: ECHOED - 1]}…"

    @property
    def opening(self) -> float:
        """When the user's message appears: at once in a run that is already there."""
        return 0.2 if self.segment == 0 else 0.0

    def begin(self) -> tuple[Turn, ...]:
        """The turn to ACTIVE; a new run is born with it."""
        return (Turn(self.delay, "ACTIVE"),)


Scenario = Callable[[Cue], Script]


def _play(
    cue: Cue,
    steps: list[tuple[float, Fields]],
    *turns: Turn,
    amendments: Mapping[int, tuple[Amendment, ...]] | None = None,
) -> Script:
    """The user's message, then `steps` and `turns`, all put off by the cue's delay."""
    entries = (user_message(cue.prompt, cue.images), *(fields for _, fields in steps))
    offsets = (cue.opening, *(offset + cue.delay for offset, _ in steps))
    late = tuple(
        Turn(turn.offset + cue.delay, turn.status, turn.result, turn.summary, turn.pull_requests) for turn in turns
    )
    shifted = {
        index: tuple(Amendment(each.offset + cue.delay, each.fields) for each in several)
        for index, several in (amendments or {}).items()
    }
    return Script(Listed(offsets), entries.__getitem__, cue.begin() + late, shifted)


def default(cue: Cue) -> Script:
    """An agent at work, with everything that makes its log hard to follow."""
    number = cue.run_id % 1000 + cue.segment
    branch = f"codegen/run-{cue.run_id}-{cue.segment + 1}"
    pull_request = PullRequest(
        id=cue.run_id * 10 + cue.segment,
        title=f"Do what was asked: {cue.echo[:60]}",
        url=f"https://github.com/example/workshop/pull/{number}",
        head_branch_name=branch,
    )
    result = (
        f"I did what you asked:\n\n> {cue.echo}\n\n"
        "- read the configuration and its callers\n- changed `config.py`\n- all 42 tests pass\n\n"
        f"The change is in [pull request {number}]({pull_request.url})."
    )
    tests: Fields = {"command": "pytest -q", "timeout": 120}
    steps: list[tuple[float, Fields]] = [
        (
            1.0,
            plan(f"The task: {cue.echo}\n\n1. find the code\n2. change it\n3. test\n4. open a pull request"),
        ),
        (
            2.2,
            action(
                "ripgrep_search",
                {"query": "load_config", "file_extensions": [".py"]},
                {"matches": 3, "files": ["app/config.py", "app/main.py", "tests/test_config.py"]},
                thought="First I look for the place where the configuration is read.",
                observation={"status": "success", "results": ["app/config.py:12", "app/main.py:4"]},
            ),
        ),
        (
            3.4,
            action(
                "view_file",
                {"path": "app/config.py", "start_line": 1, "end_line": 40},
                {"lines": 40, "truncated": False},
                observation="def load_config(path):\n    with open(path) as file:\n        return parse(file)\n",
            ),
        ),
        # This one is shown before it is done: its output arrives at 8.4 s, four entries later.
        (4.6, action("run_command", tests, None, thought="The tests take a while; I start them now.")),
        (
            5.8,
            plan("While the tests run: the loader must fall back to the defaults when the file is absent."),
        ),
        (
            6.8,
            error(
                {
                    "status": "error",
                    "message": "edit_file: the text to replace occurs 2 times in app/config.py",
                },
                tool_name="edit_file",
            ),
        ),
        (
            7.8,
            action(
                "edit_file",
                {
                    "path": "app/config.py",
                    "old": "open(path)",
                    "new": "open(path or DEFAULT)",
                    "occurrence": 1,
                },
                {"status": "success", "changed_lines": 1},
                thought="The text was ambiguous, so I name the first occurrence.",
            ),
        ),
        (
            9.2,
            action(
                "run_command",
                tests,
                {"exit_code": 0, "stdout": "42 passed in 0.61s"},
                observation="42 passed",
            ),
        ),
        (
            10.4,
            action(
                "create_pull_request",
                {"title": pull_request.title, "head": branch, "base": "main"},
                {"number": number, "url": pull_request.url},
                observation={"status": "success", "state": "open"},
            ),
        ),
        (11.6, plan("Everything asked for is done and tested.")),
        (12.6, answer(result)),
    ]
    done: Fields = {
        "tool_output": {"exit_code": 1, "stdout": "1 failed, 41 passed in 3.52s"},
        "observation": "tests/test_config.py::test_missing_file failed, as expected before the change",
    }
    finish = Turn(13.2, "COMPLETE", result, "Changed the loader and opened a pull request.", (pull_request,))
    return _play(cue, steps, finish, amendments={4: (Amendment(8.4, done),)})


def quick(cue: Cue) -> Script:
    """Over before one has looked."""
    result = f"Done: {cue.echo}"
    look = action("list_files", {"path": "."}, {"files": ["README.md", "app"]}, thought="A look is enough.")
    return _play(cue, [(0.3, look), (0.6, answer(result))], Turn(0.8, "COMPLETE", result))


def fails(cue: Cue) -> Script:
    """A run that gives up."""
    steps = [
        (0.8, plan(f"The task: {cue.echo}")),
        (
            1.6,
            action(
                "run_command",
                {"command": "make build"},
                {"exit_code": 2, "stderr": "make: *** No rule to make target 'build'."},
            ),
        ),
        (2.6, error("The build cannot be started: there is no rule for it.", tool_name="run_command")),
        (3.4, error({"status": "error", "message": "Giving up after 2 attempts."})),
    ]
    return _play(cue, steps, Turn(4.0, "ERROR"))


def pauses(cue: Cue) -> Script:
    """A run that waits for its user, once."""
    if cue.segment == 0:
        steps = [
            (0.8, plan(f"The task: {cue.echo}")),
            (1.6, action("list_files", {"path": "deploy"}, {"files": ["staging.yaml", "production.yaml"]})),
            (2.4, plan("Two targets are possible. I need to know which one is meant before I go on.")),
        ]
        return _play(cue, steps, Turn(3.0, "PAUSED"))
    result = f"Thank you. With your answer I finished: {cue.echo}"
    steps = [
        (0.8, plan(f"The answer: {cue.echo}")),
        (1.6, action("run_command", {"command": "make deploy"}, {"exit_code": 0}, observation="deployed")),
        (2.4, answer(result)),
    ]
    return _play(cue, steps, Turn(3.0, "COMPLETE", result))


def empty(cue: Cue) -> Script:
    """A run that leaves no trace but its result; when resumed, no trace but the user's message."""
    finish = Turn(cue.delay + 1.0, "COMPLETE", "There was nothing to do.")
    if cue.segment:
        return _play(cue, [], Turn(1.0, "COMPLETE", "There was nothing to do."))
    return Script(Listed(()), _step, (*cue.begin(), finish))


def _stream(cue: Cue, every: float, batch: int, total: int | None, ends: float, *, first: float) -> Script:
    """Many small entries in an even rhythm; with a `total`, the last one is the answer."""
    opening = user_message(cue.prompt, cue.images)
    result = f"Done after {total} entries: {cue.echo}"
    closing = answer(result)
    first += cue.delay

    def entry(index: int) -> Fields:
        if index == 0:
            return opening
        return closing if index + 1 == total else _step(index)

    if total is None:
        return Script(Paced(cue.opening, first, every, batch), entry, cue.begin())
    finish = Turn(cue.delay + ends, "COMPLETE", result)
    return Script(Paced(cue.opening, first, every, batch, total), entry, (*cue.begin(), finish))


def _step(index: int) -> Fields:
    """The entry with this index in a log that nobody reads closely."""
    if index % 10 == 0:
        return plan(f"Step {index}: so far so good.")
    return action(
        "view_file",
        {"path": f"src/module_{index % 97}.py", "start_line": index},
        {"lines": index % 50 + 1},
        observation=f"step {index}",
    )


SCENARIOS: Mapping[str, Scenario] = {
    "default": default,
    "quick": quick,
    "fails": fails,
    "pauses": pauses,
    "empty": empty,
    "long": partial(_stream, every=0.01, batch=50, total=5000, ends=1.5, first=0.25),
    "endless": partial(_stream, every=1.0, batch=1, total=None, ends=0.0, first=1.0),
    "bursts": partial(_stream, every=1.0, batch=350, total=3500, ends=10.5, first=1.0),
}

REFUSED: Mapping[str, Callable[[], Refusal]] = {"quota": out_of_runs, "no_repos": no_repos}
"""Scenario names that make the creation of a run fail: 402 and 404."""


def scenario(name: object) -> Scenario:
    """The scenario called `name`, which may be anything a client put into its metadata."""
    return SCENARIOS.get(name, default) if isinstance(name, str) else default
