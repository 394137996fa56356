"""Run the benchmark: `python -m benchmarks [--list] [--only NAME ...] [--quick] [--out FILE]`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.measures import Measure
from benchmarks.rows import ROWS
from benchmarks.surroundings import environment, machine


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Speed and memory against peers, as ratios.")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ROWS), default=list(ROWS), help="these rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether the rows run, not how fast")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report there")
    return parser.parse_args(given)


def measured(name: str, quick: bool) -> list[Measure]:
    """The measures of a row, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "measures.json")
        command = [sys.executable, "-m", "benchmarks.worker", name, str(answer), *(["--quick"] if quick else [])]
        done = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"row {name} failed:\n{done.stderr[-3000:]}")
        return [Measure.from_plain(plain) for plain in json.loads(answer.read_text(encoding="utf8"))]


def main() -> int:
    options = arguments()
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:16}{row.title}")
        return 0
    print("\n".join(machine()), flush=True)
    found, failed = {}, []
    for name in options.only:
        begin = time.perf_counter()
        try:
            found[name] = measured(name, options.quick)
        except RuntimeError as error:
            failed.append(name)
            print(f"\n{error}", file=sys.stderr, flush=True)
            continue
        print(f"\n{report.section(ROWS[name], found[name], not options.quick)}")
        print(f"\n({time.perf_counter() - begin:.0f} s)", flush=True)
    if options.out:
        command = " ".join(["python -m benchmarks", *sys.argv[1:]])
        text = report.document(ROWS, found, machine(), command, not options.quick)
        options.out.write_text(text, encoding="utf8")
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
