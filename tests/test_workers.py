"""The directory that workers share: one for each start, ours alone, gone with the last of them."""

import multiprocessing
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from codegen_api import workers
from codegen_api.workers import SharedDirectory


def test_the_directory_is_ours_alone_and_goes_with_the_last_who_leaves(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    one, other = SharedDirectory(path), SharedDirectory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "file").touch()
    one.leave()
    assert (path / "file").exists()
    other.leave()
    assert not path.exists()


def test_whoever_comes_after_the_last_one_left_finds_it_empty(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    one = SharedDirectory(path)
    (path / "file").touch()
    one.leave()
    other = SharedDirectory(path)
    assert list(path.iterdir()) == []
    other.leave()


def test_nobody_loses_the_directory_while_others_come_and_go(tmp_path: Path) -> None:
    def come_and_go(number: int) -> None:
        for _ in range(100):
            shared = SharedDirectory(tmp_path / "shared")
            (shared.path / str(number)).touch()
            assert (shared.path / str(number)).exists()
            shared.leave()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(come_and_go, number) for number in range(6)]:
            done.result(60)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    context = multiprocessing.get_context("spawn")
    joined = context.Event()
    dying = context.Process(target=_join_and_wait, args=(path, joined))
    dying.start()
    try:
        assert joined.wait(30)
        survivor = SharedDirectory(path)
    finally:
        dying.kill()
        dying.join(30)
    survivor.leave()
    assert not path.exists()


def _join_and_wait(path: Path, joined: Event) -> None:
    shared = SharedDirectory(path)
    joined.set()
    joined.wait(60)
    multiprocessing.Event().wait(60)
    shared.leave()


def _open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def _a_link(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


@pytest.mark.parametrize("prepare", [_open_to_others, _a_link, Path.touch])
def test_what_is_not_ours_alone_is_not_taken(prepare: object, tmp_path: Path) -> None:
    path = tmp_path / "shared"
    prepare(path)  # type: ignore[operator]
    held = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(OSError, match="shared"):
        SharedDirectory(path)
    assert (len(os.listdir("/proc/self/fd")) if held else 0) == held


def test_where_nothing_can_be_made_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SharedDirectory(tmp_path / "missing" / "shared")


def _name(answer: "multiprocessing.SimpleQueue[str]") -> None:
    shared = workers.join()
    answer.put(shared.path.name)
    shared.leave()


def test_it_is_among_the_temporary_files() -> None:
    shared = workers.join()
    assert shared.path.parent == Path(tempfile.gettempdir())
    shared.leave()
    assert not shared.path.exists()


def test_workers_of_one_parent_find_the_same_and_its_name_tells_nothing_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    worker_count = [context.Process(target=_name, args=(answer,)) for _ in range(2)]
    for worker in worker_count:
        worker.start()
    for worker in worker_count:
        worker.join(60)
    names = {answer.get(), answer.get()}
    assert len(names) == 1
    assert bytes(multiprocessing.current_process().authkey).hex() not in names.pop()
    assert list(tmp_path.iterdir()) == []
