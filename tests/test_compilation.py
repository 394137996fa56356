"""Compiled code on disk: kept once, never stale, and no folder or file can stop a program.

The decorator's own file is copied beside small sources, so that a process does not load torch to compile two lines.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "ctlssl" / "kernels" / "compilation.py"

TOYS = {
    "compiled_part.py": """
from compilation import compiled

@compiled(inline=True)
def part(x):
    return 2.0 * x
""",
    "compiled_whole.py": """
from compiled_part import part
from compilation import compiled

@compiled
def whole(x):
    return part(x) + 1.0

@compiled
def total(x):
    s = 0.0
    for value in x:
        s += value
    return s
""",
}
RUN = """
import numpy, compiled_whole
print(compiled_whole.whole(3.0), compiled_whole.total(numpy.ones(5)))
print(sum(map(sum, (f.stats.cache_hits.values() for f in (compiled_whole.whole, compiled_whole.total)))))
"""


def written(folder):
    """The folder with the sources in it, one of which imports another."""
    folder.mkdir()
    for name, text in TOYS.items():
        (folder / name).write_text(text)
    shutil.copy(SOURCE, folder)
    return folder


@pytest.fixture
def toys(tmp_path):
    """Sources of one test alone."""
    return written(tmp_path / "toys")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Sources that many tests share, their code on disk, and what the process that compiled them said."""
    place = tmp_path_factory.mktemp("compiled")
    folder = written(place / "toys")
    return folder, place / "cache", finished(folder, place / "cache")


@pytest.fixture
def warm(compiled_once, tmp_path):
    """(sources, a copy of their code on disk)."""
    folder, cache, _ = compiled_once
    shutil.copytree(cache, tmp_path / "cache")
    return folder, tmp_path / "cache"


def environment(folder, cache, **more):
    given = {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **given, **more}


def finished(folder, cache, code=RUN, **more):
    """(words of the first line, code loaded from disk, lines of stderr) of one process."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(folder, cache, **more), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result, hits = done.stdout.splitlines()
    return result.split(), int(hits), done.stderr.splitlines()


def kept(cache):
    return sorted(cache.rglob("*.nbc"))


def test_compiled_once_and_said_once(compiled_once):
    """Two functions, one line; the next process loads both and says nothing."""
    folder, cache, (result, hits, lines) = compiled_once
    assert (result, hits) == (["7.0", "5.0"], 0)
    assert len(lines) == 1 and lines[0].startswith("ctlssl: compiling") and str(cache) in lines[0]
    assert len(kept(cache)) == 2  # what is inlined is kept in its callers
    assert finished(folder, cache) == (["7.0", "5.0"], 2, [])


def test_logging_silences_it(toys, tmp_path):
    quiet = "import logging\nlogging.getLogger('ctlssl').setLevel(logging.ERROR)\n" + RUN
    assert finished(toys, tmp_path / "cache", quiet) == (["7.0", "5.0"], 0, [])


def test_an_edit_of_an_imported_source_is_noticed(toys, tmp_path):
    """numba's own index looks at the file of the function alone."""
    cache, part = tmp_path / "cache", toys / "compiled_part.py"
    finished(toys, cache)
    part.write_text(part.read_text().replace("2.0", "5.0"))
    result, hits, lines = finished(toys, cache)
    assert (result[0], hits, len(lines)) == ("16.0", 0, 1)
    part.write_text(TOYS["compiled_part.py"])
    assert finished(toys, cache) == (["7.0", "5.0"], 2, [])  # back and forth between versions


@pytest.mark.slow
def test_old_versions_go(toys, tmp_path):
    cache, part = tmp_path / "cache", toys / "compiled_part.py"
    for factor in range(6):
        part.write_text(TOYS["compiled_part.py"].replace("2.0", f"{factor}.0"))
        assert finished(toys, cache)[0][0] == f"{3 * factor + 1}.0"
    assert len({path.parent for path in kept(cache)}) == 4


def middle_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty", marks=pytest.mark.slow),
        pytest.param(lambda content: content[: len(content) // 2], id="cut"),
        pytest.param(middle_bit, id="one bit"),
        pytest.param(lambda content: b"x" * 4096, id="foreign", marks=pytest.mark.slow),
    ],
)
def test_damaged_files_are_compiled_again(warm, damage):
    for path in kept(warm[1]):
        path.write_bytes(damage(path.read_bytes()))
    assert finished(*warm)[:2] == (["7.0", "5.0"], 0)
    assert finished(*warm)[:2] == (["7.0", "5.0"], 2)


def test_the_code_of_another_function_is_not_run(warm):
    first, second = kept(warm[1])
    shutil.copy(first, second)
    assert finished(*warm)[:2] == (["7.0", "5.0"], 1)


def test_a_folder_in_place_of_a_file(warm):
    for path in kept(warm[1]):
        path.unlink()
        path.mkdir()
    result, hits, lines = finished(*warm)
    assert (result, hits) == (["7.0", "5.0"], 0)
    assert len(lines) == 2 and "could not be kept" in lines[1]


def test_no_folder_can_be_written(toys, tmp_path):
    """The cache path, the home and __pycache__ are files: what read-only folders are, for root too."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    (toys / "__pycache__").write_text("")
    nowhere = {"HOME": str(blocked), "XDG_CACHE_HOME": str(blocked)}
    result, hits, lines = finished(toys, blocked / "cache", **nowhere)
    assert (result, hits) == (["7.0", "5.0"], 0)
    assert len(lines) == 1 and "no folder can be written" in lines[0]


def test_a_cache_folder_that_cannot_be_written_gives_way_to_the_next(toys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    finished(toys, blocked / "cache")
    assert len(kept(toys / "__pycache__")) == 2
    assert finished(toys, blocked / "cache")[1:] == (2, [])


FULL = """
import errno, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
"""


def test_a_full_place(toys, tmp_path):
    """Empty files can be made, contents cannot be written: nothing half written stays."""
    cache = tmp_path / "cache"
    result, hits, lines = finished(toys, cache, FULL + RUN)
    assert (result, hits) == (["7.0", "5.0"], 0)
    assert len(lines) == 2 and "could not be kept" in lines[1]
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_two_processes_at_once(toys, tmp_path):
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", RUN]
    both = [
        subprocess.Popen(command, env=environment(toys, cache), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].split()[:2] for process in both] == [["7.0", "5.0"]] * 2
    assert finished(toys, cache) == (["7.0", "5.0"], 2, [])


FORK = """
import os, sys, threading, time
from compiled_whole import whole
from compilation import global_compiler_lock

def hold():
    with global_compiler_lock:
        held.set()
        time.sleep(1)

held = threading.Event()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if not child:
    os._exit(0 if whole(3.0) == 7.0 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(0)
"""


def test_a_child_of_a_process_that_compiles_can_compile(toys, tmp_path):
    """The compiler's lock, held by a thread that the child does not have, is not held in the child."""
    assert finished(toys, tmp_path / "cache", FORK)[0] == ["0"]
