"""Write pbc.nc from the table pbcseq of the R package survival, as Rdatasets has it.

python datasets/pbc/prepare.py pbcseq.csv [pbc.nc]
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd

from ctlssl.preparation import place_for, run_script, write_prepared
from ctlssl.tables import from_wide

SHA256 = "03aca2f2e449c388b14ec130383654a09d91240f85f935ce364d206c8e848aed"

# Column: variable, unit, meaning.
CHANNELS = {
    "ascites": ("ascites", "1", "presence of ascites, 0 or 1"),
    "hepato": ("hepatomegaly", "1", "presence of an enlarged liver, 0 or 1"),
    "spiders": ("spiders", "1", "malformations of blood vessels in the skin, 0 or 1"),
    "edema": ("edema", "1", "0 none, 0.5 untreated or successfully treated, 1 despite diuretics"),
    "bili": ("bilirubin", "mg/dL", "serum bilirubin"),
    "chol": ("cholesterol", "mg/dL", "serum cholesterol"),
    "albumin": ("albumin", "g/dL", "serum albumin"),
    "alk.phos": ("alkaline_phosphatase", "U/L", "alkaline phosphatase"),
    "ast": ("aspartate_aminotransferase", "U/mL", "aspartate aminotransferase"),
    "platelet": ("platelets", "1e9/L", "platelet count"),
    "protime": ("prothrombin_time", "s", "standardised blood clotting time"),
    "stage": ("stage", "1", "histologic stage of the disease, 1 to 4"),
}
ENDS = ("censored", "transplant", "died")


def read_table(path):
    """The table, with the checksum of the file verified."""
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {SHA256}; README.md says where the file is from.")
    return pd.read_csv(io.BytesIO(content))


def build(table):
    """The table in the one schema."""
    absent = sorted({"id", "day", "futime", "status", "trt", "age", "sex", *CHANNELS} - set(table.columns))
    if absent:
        raise ValueError(f"the table has no column {', '.join(absent)}; it is not pbcseq of the R package survival.")
    table = table.rename(columns={column: name for column, (name, _, _) in CHANNELS.items()})
    patients = table.groupby("id").first()
    static = pd.DataFrame({"age": patients["age"], "sex": (patients["sex"] == "f").astype(np.int64)})
    ds = from_wide(
        table,
        id="id",
        time="day",
        variables=[name for name, _, _ in CHANNELS.values()],
        static=static.assign(treatment=patients["trt"]),
        labels=patients["status"].rename("end"),
        unit="d",
        units={name: unit for name, unit, _ in CHANNELS.values()} | {"age": "year"},
    )
    for name, _, meaning in CHANNELS.values():
        ds[name].attrs["long_name"] = meaning
    followed = patients["futime"].to_numpy(np.float64)
    ds["followed"] = ("series", followed, {"role": "context", "units": "d"})
    ds["followed"].attrs["long_name"] = "enrolment to death, transplantation or the end of the study"
    ds["time"].attrs["long_name"] = "time since enrolment"
    ds["series"].attrs["long_name"] = "patient"
    for name, meanings in {"sex": ("male", "female"), "treatment": ("placebo", "D-penicillamine"), "end": ENDS}.items():
        ds[name].attrs |= {"flag_values": np.arange(len(meanings)), "flag_meanings": " ".join(meanings)}
    ds.attrs["title"] = "Visits of 312 patients with primary biliary cirrhosis, Mayo Clinic"
    ds.attrs["source"] = "table pbcseq of the R package survival, as CSV from Rdatasets"
    ds.attrs["license"] = "LGPL-2.0-or-later"
    ds.attrs["references"] = "Murtaugh et al. (1994), Hepatology 20, 126-134; Fleming and Harrington (1991)"
    return ds


def counts(ds):
    """The numbers that the README beside this file states."""
    values = np.stack([ds[name].values for name, _, _ in CHANNELS.values()])  # (D, obs)
    return {
        "patients": ds.sizes["series"],
        "rows": ds.sizes["obs"],
        "channels": len(values),
        "values": int((~np.isnan(values)).sum()),
        "died": int((ds["end"] == 2).sum()),
        "had a transplant": int((ds["end"] == 1).sum()),
    }


def main(source, target=None):
    """Read, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    ds = build(read_table(source))
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(main, __doc__, source="pbcseq.csv")
