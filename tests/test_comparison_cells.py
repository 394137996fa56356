"""Cells on disk: killed at any moment and started again, shared by processes, damaged, and of other plans."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ctlssl.comparison import claims, groups, keys
from ctlssl.comparison.cells import Cell, CellFiles
from ctlssl.comparison.claims import Claims
from ctlssl.training import Training
from tests import toys
from tests.comparison_worker import comparison, metrics, noted

ROOT = Path(__file__).resolve().parent.parent
MOMENTS = [("link", 3), ("after:link", 5), ("fsync", 1), ("fsync", 8), ("replace", 4), ("after:replace", 9), ("fit", 6)]


def started(folder, log, *moment):
    """A comparison in a process of its own."""
    program = "import sys; from tests.comparison_worker import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", program, folder, log, *moment]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, env=surroundings, stderr=subprocess.PIPE, text=True
    )


def finished_cells(folder):
    return sorted(path.name for path in folder.glob("*.json"))


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The comparison that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, metrics(comparison(folder))


def killed_and_started_again(folder, log, moment, count):
    dying = started(folder, log, moment, count)
    _, told = dying.communicate(timeout=120)
    assert dying.returncode == -signal.SIGKILL, told
    return metrics(comparison(folder))


def test_killed_in_the_middle_and_started_again(tmp_path, whole):
    finished, results = whole
    folder, log = tmp_path / "cells", tmp_path / "log"
    done = killed_and_started_again(folder, log, "fsync", 10)  # two a cell: while the fifth is written
    assert done.identical(results)
    assert finished_cells(folder) == finished_cells(finished) and not left_over(folder)


def test_only_what_is_missing_is_run_again(tmp_path, whole, monkeypatch):
    finished, results = whole
    for path in finished.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lost = sorted(tmp_path.glob("trial*slow*"))[:2]
    for path in lost:
        path.unlink()
    log = tmp_path / "log"
    monkeypatch.setattr(groups, "try_settings", groups.try_settings)
    monkeypatch.setattr(groups, "fit_and_score", groups.fit_and_score)
    for name in ("try_settings", "fit_and_score"):
        noted(log, groups, name)
    assert metrics(comparison(tmp_path)).identical(results)
    assert [line.split()[1] for line in log.read_text().splitlines()] == 2 * ["try_settings"]
    assert all(path.exists() for path in lost)


@pytest.mark.slow
@pytest.mark.parametrize("moment, count", MOMENTS)
def test_killed_at_any_moment(moment, count, tmp_path, whole):
    finished, results = whole
    folder = tmp_path / "cells"
    assert killed_and_started_again(folder, tmp_path / "log", moment, count).identical(results)
    assert finished_cells(folder) == finished_cells(finished) and not left_over(folder)


@pytest.mark.slow
def test_two_processes_share_the_cells(tmp_path, whole):
    finished, results = whole
    folder, log = tmp_path / "cells", tmp_path / "log"
    workers = [started(folder, log) for _ in range(2)]
    for worker in workers:
        _, told = worker.communicate(timeout=120)
        assert worker.returncode == 0, told
    assert finished_cells(folder) == finished_cells(finished) and not left_over(folder)
    lines = log.read_text().splitlines()
    assert len(lines) == 12  # none twice
    assert {line.split()[0] for line in lines} == {str(worker.pid) for worker in workers}
    expected = json.dumps(results.to_dict())
    assert [path.read_text() == expected for path in tmp_path.glob("log.*")] == [True, True]


@pytest.mark.parametrize("damage", ["truncated", "a digit changed", "another's", "empty", "not of this world"])
def test_a_damaged_cell_is_run_again_and_told(damage, tmp_path, whole):
    finished, results = whole
    for path in finished.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim, other = sorted(tmp_path.glob("fit*"))[:2]
    text = victim.read_text(encoding="utf8")
    place = text.index('"log_loss": 0.') + len('"log_loss": 0.')
    wrong = {
        "truncated": text[: len(text) // 2],
        "a digit changed": text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :],
        "another's": other.read_text(encoding="utf8"),
        "empty": "",
        "not of this world": "[1, 2]",
    }
    victim.write_text(wrong[damage], encoding="utf8")
    with pytest.warns(UserWarning, match=f"{victim.name} is damaged and computed again") as told:
        assert metrics(comparison(tmp_path)).identical(results)
    assert len(told) == 1
    assert json.loads(victim.read_text(encoding="utf8"))["key"] == json.loads(text)["key"]


def test_any_change_of_what_decides_a_result_is_another_cell(tmp_path, whole):
    finished, results = whole
    for path in finished.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    kept = len(finished_cells(tmp_path))
    comparison(tmp_path, tune={"learning_rate": (1e-1, 1e-3)})  # the same settings in another order
    assert len(finished_cells(tmp_path)) == kept
    comparison(tmp_path, training=Training(epochs=1, batch_size=16), seeds=1)
    assert len(finished_cells(tmp_path)) == kept + 6
    comparison(tmp_path, seeds=[5], models={"plain": toys.Affine})
    assert len(finished_cells(tmp_path)) == kept + 9
    comparison(tmp_path, seeds=1, models={"plain": toys.Affine}, threads=2, tune=False)
    assert len(finished_cells(tmp_path)) == kept + 10
    assert metrics(comparison(tmp_path)).identical(results)


def test_a_failure_is_kept_with_its_reason(tmp_path):
    class Hungry(toys.Affine):
        def forward(self, series, query_times=None, state=None, rate=1.0):
            if series.batch > 2:
                torch.empty(2**60)
            return super().forward(series, query_times, state, rate)

    options = {"models": {"plain": toys.Affine, "hungry": Hungry}, "seeds": 1, "tune": False}
    with pytest.warns(UserWarning, match="hungry failed and counts as missing: out of memory"):
        results = comparison(tmp_path, **options)
    assert (
        "out of memory" in results.failure.sel(model="hungry").item()
        and results.failure.sel(model="plain").item() == ""
    )
    (path,) = tmp_path.glob("*hungry*")
    assert "out of memory" in json.loads(path.read_text(encoding="utf8"))["result"]["failure"]
    assert metrics(comparison(tmp_path, **options)).identical(metrics(results))  # not tried again, and no warning


def test_what_is_no_failure_of_a_cell_is_raised_and_leaves_no_claim(tmp_path):
    class Wrong(toys.Affine):
        def forward(self, series, query_times=None, state=None, rate=1.0):
            raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        comparison(tmp_path, models={"wrong": Wrong}, reference=None)
    assert list(tmp_path.iterdir()) == []


class TestClaims:
    def test_one_owner_at_a_time(self, tmp_path):
        with Claims(tmp_path) as one, Claims(tmp_path) as two:
            with one.claim("a") as first, two.claim("a") as second, two.claim("b") as other:
                assert (first, second, other) == (True, False, True)
            with two.claim("a") as again:
                assert again
        assert list(tmp_path.iterdir()) == []

    def test_a_dead_owner_is_followed_by_one_of_many(self, tmp_path):
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        draw, at_work, most, turns = random.Random(seed), [], [], []

        def contender(pause):
            with Claims(tmp_path) as mine:
                for _ in range(20):
                    with mine.claim("cell") as got:
                        if got:
                            at_work.append(1)
                            most.append(len(at_work))
                            turns.append(1)
                            threading.Event().wait(pause)
                            at_work.pop()

        gone = subprocess.Popen([sys.executable, "-c", ""])
        dead = claims._person(gone.pid)
        gone.wait()
        (tmp_path / ".claim-cell-000001").write_text(json.dumps(dead))
        (tmp_path / ".owner-dead").write_text(json.dumps(dead))
        threads = [threading.Thread(target=contender, args=(draw.uniform(0, 2e-3),)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert turns and set(most) == {1}
        assert list(tmp_path.iterdir()) == []

    def test_a_process_of_the_same_number_is_another_one(self, tmp_path):
        mine = claims._person(os.getpid())
        with Claims(tmp_path) as own:
            (tmp_path / ".claim-a-000004").write_text(json.dumps(mine | {"started": "long ago"}))
            (tmp_path / ".claim-b-000001").write_text(json.dumps(mine))
            with own.claim("a") as a, own.claim("b") as b:
                assert a and not b
                assert (tmp_path / ".claim-a-000005").exists()

    def test_an_owner_on_another_machine_lives_by_its_signs(self, tmp_path, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
        claim = tmp_path / ".claim-a-000001"
        claim.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "started": "then"}))
        with Claims(tmp_path) as own:

            def got():
                with own.claim("a") as mine:
                    return mine

            assert not got()
            now[0] += claims._SILENT - 1
            assert not got()
            os.utime(claim, ns=(1, 1))  # a sign, whatever that machine's clock says
            now[0] += 2
            assert not got()
            now[0] += claims._SILENT + 1
            assert got()


def test_no_temporary_file_stays_where_the_disk_is_full(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with Claims(tmp_path) as own:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            CellFiles(tmp_path, own).obtain(Cell("a", {"b": 1}), lambda: {"c": 2})
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(OSError, match="cells are claimed by hard links, which fail here .* choose another folder"):
        comparison(tmp_path)
    assert list(tmp_path.iterdir()) == []


class TestIdentity:
    def test_factories(self):
        from functools import partial

        from ctlssl.baselines import GRU

        assert keys.identity(GRU) == "ctlssl.baselines.gru.GRU"
        one, two = (keys.identity(partial(GRU, layers=number)) for number in (1, 2))
        assert one["of"] == two["of"] and one != two
        assert keys.identity(toys.Affine)["source"] != keys.identity(toys.series)["source"]
        first, second = lambda problem, width: GRU(problem), lambda problem, width: GRU(problem, layers=2)
        json.dumps([keys.identity(first), keys.identity(second), one])

    def test_data(self):
        from ctlssl.tasks import Split

        problem, examples = toys.classification(0)

        def digest(part):
            return keys.digest_of_split(Split(part, part, part, problem, None))

        same = digest(toys.classification(0)[1])
        assert digest(examples) == same
        examples.series.values[3, 0, 0] += 1e-6
        assert digest(examples) != same
