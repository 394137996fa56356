"""Records of one's own: from two CSV files to predictions for new patients, with a report, in three commands.

The files are made here, from the bundled records, and look as an export of a laboratory does: a row for every value
(patient, hours, test, result), and a row for every patient with what became of him. Run it:

    python examples/own_table.py own-table

and read own-table/run/report.html. Predicting in Python, from the same run, is at the end.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

import ctlssl
from ctlssl.runs import RunFolder

COLUMNS = ["--id", "patient", "--time", "hours", "--variable", "test", "--value", "result"]


def write_tables(folder: Path, patients: int = 300) -> None:
    """records.csv and outcomes.csv of some patients, and records of others who are still there."""
    ds = ctlssl.load_dataset("covid19")
    known = np.isin(ds["series"], np.random.default_rng(0).permutation(ds["series"].values)[:patients])
    long = ctlssl.to_long(ds, id="patient", time="hours", variable="test", value="result")
    of_known = long["patient"].isin(ds["series"].values[known])
    long[of_known].to_csv(folder / "records.csv", index=False)
    long[~of_known].to_csv(folder / "new.csv", index=False)
    columns = {"patient": "series", "died": "outcome", "age": "age", "stay": "discharge"}
    outcomes = pd.DataFrame({name: ds[source].values for name, source in columns.items()})
    outcomes[known].to_csv(folder / "outcomes.csv", index=False)
    outcomes.loc[~known, ["patient", "age"]].to_csv(folder / "ages.csv", index=False)


def ctlssl_command(folder: Path, *words: str) -> str:
    """Run `ctlssl ...` in a folder; what it says."""
    print("$ ctlssl", *words)
    done = subprocess.run([sys.executable, "-m", "ctlssl", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main(out: str = "own-table", patients: int = 300, epochs: int = 40) -> dict[str, float]:
    """Print what the commands say, and return the score on the test part and the seconds of all three."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, patients)
    began = time.perf_counter()

    # First a look. Death is told by the length of a record alone, for records end with the stay: hence the landmark,
    # nothing after which is shown, and --end, by which patients who had left before it are not asked about.
    outcome = ["--labels", "outcomes.csv", "--label", "died"]
    said = ctlssl_command(folder, "inspect", "records.csv", *COLUMNS, *outcome, "--html", "look.html")
    print("\n".join(line for line in said.splitlines() if "alone" in line))

    landmark = ["--landmark", "24", "--end", "stay", "--static", "age"]
    run = ["--epochs", str(epochs), "--out", "run"]
    print(ctlssl_command(folder, "train", "records.csv", *COLUMNS, *outcome, *landmark, *run).splitlines()[-2])

    # New patients: columns are as in training; of the second table only the ages are read.
    print(ctlssl_command(folder, "predict", "run", "new.csv", "--labels", "ages.csv"))
    seconds = time.perf_counter() - began
    predictions = pd.read_csv(folder / "predictions.csv", index_col="series")
    print(predictions["class_1"].describe()[["count", "min", "50%", "max"]].to_string())

    # In Python it is one function for each command.
    trained = ctlssl.open_run(folder / "run")
    ages = pd.read_csv(folder / "ages.csv").set_index("patient")["age"]
    new = ctlssl.read_table(
        folder / "new.csv", id="patient", time="hours", variable="test", value="result", static=ages
    )
    again = trained.predict(new).set_index("series")["class_1"]
    difference = float((again - predictions["class_1"]).abs().max())
    auroc = RunFolder(folder / "run").read_json("report.json")["test"]["auroc"]
    print(f"\ntest AUROC {auroc:.3f}; three commands took {seconds:.0f} s; in Python within {difference:.0e} of them")
    return {"auroc": auroc, "seconds": seconds, "difference": difference, "predictions": len(predictions)}


if __name__ == "__main__":
    main(*sys.argv[1:2])
