"""Run 12345, there from the start: a finished piece of work whose log is worth reading.

It is two hours old at the sandbox's start, belongs to alice and organization 323, and has 28 entries.
"""

from .script import (
    Fields,
    Listed,
    PullRequest,
    Script,
    Turn,
    action,
    answer,
    error,
    plan,
    user_message,
)

EXAMPLE_ID = 12345

EXAMPLE_AGE = 7200.0
"""Seconds between its creation and the start of the sandbox."""

EXAMPLE_PROMPT = "Uploads over 10 MB fail with a 500. Find out why and fix it, with a test."

_URL = "https://github.com/example/files/pull/218"

_RESULT = f"""Large uploads no longer fail.

**Cause.** `store_upload` read the whole body into memory and checked the limit afterwards; the worker was killed
before it could answer.

**Fix.** The body is now copied in pieces of 64 KiB, and the limit is checked while copying. A body over the limit
is answered with 413.

**Tests.** Two new ones, 117 pass in all. See [pull request 218]({_URL})."""

_BRANCH = "codegen/stream-large-uploads"


def example_script() -> Script:
    """What happened in run 12345."""
    offsets = tuple(offset for offset, _ in _STEPS)
    entries = tuple(fields for _, fields in _STEPS)
    pull_request = PullRequest(218, "Copy uploads in pieces", _URL, _BRANCH)
    summary = "Uploads are copied in pieces; a body over the limit is answered with 413."
    turn = Turn(offsets[-1] + 2.5, "COMPLETE", _RESULT, summary, (pull_request,))
    return Script(Listed(offsets), entries.__getitem__, (turn,))


_STEPS: tuple[tuple[float, Fields], ...] = (
    (0.4, user_message(EXAMPLE_PROMPT)),
    (
        3.1,
        plan(
            "A 500 instead of a 413 suggests that the limit is checked too late, or not at all.\n\n"
            "1. find where uploads are received\n2. reproduce the failure in a test\n3. fix\n4. open a pull request"
        ),
    ),
    (
        6.8,
        action(
            "ripgrep_search",
            {"query": "def .*upload", "file_extensions": [".py"]},
            {"matches": 4, "files": ["files/store.py", "files/routes.py", "tests/test_store.py"]},
            thought="Where are uploads received?",
            observation={"status": "success", "results": ["files/store.py:41", "files/routes.py:88"]},
        ),
    ),
    (
        10.2,
        action(
            "view_file",
            {"path": "files/routes.py", "start_line": 80, "end_line": 110},
            {"lines": 31, "truncated": False},
            observation='@router.post("/files")\nasync def upload(request):\n    return await store_upload(request)\n',
        ),
    ),
    (
        13.9,
        action(
            "view_file",
            {"path": "files/store.py", "start_line": 30, "end_line": 75},
            {"lines": 46, "truncated": False},
            observation="async def store_upload(request):\n    body = await request.body()\n    check_size(body)\n",
        ),
    ),
    (
        17.5,
        plan("`store_upload` holds the whole body before `check_size` looks at it. I will reproduce that."),
    ),
    (
        24.0,
        action(
            "create_file",
            {
                "path": "tests/test_large_upload.py",
                "content": "def test_a_large_upload_is_refused(client): ...",
            },
            {"status": "success", "bytes": 612},
            thought="A test that sends 12 MB and expects 413.",
        ),
    ),
    (
        41.7,
        action(
            "run_command",
            {"command": "pytest tests/test_large_upload.py -q", "timeout": 120},
            {"exit_code": 1, "stdout": "1 failed in 8.93s", "stderr": ""},
            observation="FAILED tests/test_large_upload.py::test_a_large_upload_is_refused - assert 500 == 413",
        ),
    ),
    (
        45.3,
        action(
            "run_command",
            {"command": "grep -n Killed logs/worker.log | tail -1"},
            {"exit_code": 0, "stdout": "2041:worker 3 Killed (out of memory)"},
            observation={"status": "success", "lines": ["2041:worker 3 Killed (out of memory)"]},
        ),
    ),
    (49.0, plan("Confirmed: the worker runs out of memory. The body has to be copied in pieces.")),
    (
        53.6,
        action(
            "view_file",
            {"path": "files/limits.py"},
            {"lines": 18, "truncated": False},
            observation="MAX_UPLOAD = 10 * 1024 * 1024\n\n\ndef check_size(body):\n    ...\n",
        ),
    ),
    (
        58.1,
        action(
            "ripgrep_search",
            {"query": "check_size", "file_extensions": [".py"]},
            {"matches": 2, "files": ["files/limits.py", "files/store.py"]},
            observation={"status": "success", "results": ["files/limits.py:4", "files/store.py:43"]},
        ),
    ),
    (
        66.9,
        action(
            "edit_file",
            {"path": "files/store.py", "old": "body = await request.body()", "new": "async for piece in ..."},
            {"status": "success", "changed_lines": 14},
            thought="Copy in pieces of 64 KiB and count while copying.",
        ),
    ),
    (
        70.2,
        error(
            {"status": "error", "message": "edit_file: 'check_size(body)' was not found in files/store.py"},
            tool_name="edit_file",
        ),
    ),
    (
        73.8,
        action(
            "view_file",
            {"path": "files/store.py", "start_line": 38, "end_line": 62},
            {"lines": 25, "truncated": False},
            thought="My first edit has already removed that line. I look again before going on.",
            observation="async def store_upload(request):\n    size = 0\n    async for piece in request.stream():\n",
        ),
    ),
    (
        80.5,
        action(
            "edit_file",
            {"path": "files/limits.py", "old": "def check_size(body):", "new": "def check_size(size: int):"},
            {"status": "success", "changed_lines": 3},
        ),
    ),
    (
        98.4,
        action(
            "run_command",
            {"command": "pytest tests/test_large_upload.py -q", "timeout": 120},
            {"exit_code": 0, "stdout": "1 passed in 0.74s", "stderr": ""},
            observation="1 passed",
        ),
    ),
    (
        102.0,
        plan("It passes. A body of exactly 10 MB must still be accepted; that deserves a test of its own."),
    ),
    (
        108.7,
        action(
            "edit_file",
            {
                "path": "tests/test_large_upload.py",
                "new": "def test_a_body_of_exactly_the_limit_is_kept(client): ...",
            },
            {"status": "success", "changed_lines": 9},
        ),
    ),
    (
        127.3,
        action(
            "run_command",
            {"command": "pytest -q", "timeout": 300},
            {"exit_code": 0, "stdout": "117 passed in 14.20s", "stderr": ""},
            observation="117 passed",
        ),
    ),
    (
        131.6,
        action(
            "run_command",
            {"command": "ruff check files tests"},
            {"exit_code": 1, "stdout": "files/store.py:3:1: F401 `io` imported but unused"},
            observation="files/store.py:3:1: F401 `io` imported but unused",
        ),
    ),
    (
        135.0,
        action(
            "edit_file",
            {"path": "files/store.py", "old": "import io\n", "new": ""},
            {"status": "success", "changed_lines": 1},
        ),
    ),
    (
        138.2,
        action(
            "run_command",
            {"command": "ruff check files tests"},
            {"exit_code": 0, "stdout": "All checks passed!"},
            observation="All checks passed!",
        ),
    ),
    (141.9, plan("Code, tests and style are in order. I open the pull request.")),
    (
        146.3,
        action(
            "git_commit",
            {"message": "Copy uploads in pieces", "branch": _BRANCH},
            {"status": "success", "commit": "9f3c1e7", "files": 3},
        ),
    ),
    (
        151.8,
        action(
            "create_pull_request",
            {"title": "Copy uploads in pieces", "head": _BRANCH, "base": "main"},
            {"number": 218, "url": _URL},
            observation={"status": "success", "state": "open"},
        ),
    ),
    (155.4, plan("Everything asked for is done: cause found, fixed, tested.")),
    (160.0, answer(_RESULT)),
)
