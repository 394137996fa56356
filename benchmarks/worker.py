"""One row in a process of its own: `python -m benchmarks.worker NAME FILE [--quick]` writes its measures as JSON."""

import dataclasses
import json
import sys
from pathlib import Path

from benchmarks.rows import ROWS
from benchmarks.surroundings import hold_threads


def main() -> None:
    name, answer = sys.argv[1:3]
    hold_threads()
    measures = ROWS[name].run(ROWS[name], "--quick" in sys.argv)
    Path(answer).write_text(json.dumps([dataclasses.asdict(measure) for measure in measures]), encoding="utf8")


if __name__ == "__main__":
    main()
