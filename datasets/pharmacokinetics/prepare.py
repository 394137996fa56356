"""Write pharmacokinetics.nc from three tables of R, as Rdatasets has them.

python datasets/pharmacokinetics/prepare.py Phenobarb.csv Quinidine.csv Theoph.csv [pharmacokinetics.nc]
"""

import hashlib
import io
from pathlib import Path

import pandas as pd

from ctlssl.preparation import place_for, run_script, write_prepared
from ctlssl.tables import from_wide

SHA256 = {
    "phenobarbital": "149533596beac8ef9b1248706aeffe8a2c3837d3aa53aaf61c6160b264634173",
    "quinidine": "c58e0bf13c80ddb04c2e4ec451c28cc7a47779b4131a42b3e10c3f4377704126",
    "theophylline": "f9b77033090644cf38c83056c25c8137bca71cf629d7c0159a72ef18095726b0",
}
DRUGS = tuple(SHA256)

# Variable: unit, meaning. Doses are as the sources give them.
CHANNELS = {
    "phenobarbital_dose": (None, "dose given; per kg by the source, which is doubtful"),
    "phenobarbital": (None, "concentration in serum"),
    "quinidine_dose": ("mg", "oral dose, as quinidine base"),
    "quinidine_interval": ("h", "interval of earlier doses, where they were given long enough for a steady state"),
    "quinidine": ("mg/L", "concentration in serum"),
    "glycoprotein": ("mg/dL", "alpha-1 acid glycoprotein, which binds quinidine"),
    "theophylline_dose": ("mg/kg", "oral dose per body weight"),
    "theophylline": ("mg/L", "concentration in serum"),
}
STATIC = {
    "weight": ("kg", "body weight, at birth of those given phenobarbital, at entry of the others"),
    "apgar": ("1", "Apgar score at 5 minutes, of those given phenobarbital"),
    "age": ("year", "age at entry, of those given quinidine"),
    "height": ("in", "height at entry, of those given quinidine"),
    "smokes": ("1", "0 no, 1 yes, at entry, of those given quinidine"),
    "heart_failure": ("1", "0 none or mild, 1 moderate, 2 severe, of those given quinidine"),
    "low_creatinine_clearance": ("1", "1 below 50 mg/min, at entry, of those given quinidine"),
}


def read_table(path, drug):
    """One table, with the checksum of its file verified."""
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[drug]:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {SHA256[drug]}; README.md says where the file is from.")
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])


def phenobarbital(table):
    """Doses and concentrations of the infants."""
    return table.rename(
        columns={"dose": "phenobarbital_dose", "conc": "phenobarbital", "Wt": "weight", "Apgar": "apgar"}
    )


def quinidine(table):
    """Doses and concentrations of the men; glycoprotein stands where it took a new value."""
    table = table.rename(
        columns={
            "dose": "quinidine_dose",
            "interval": "quinidine_interval",
            "conc": "quinidine",
            "Weight": "weight",
            "Age": "age",
            "Height": "height",
        }
    )
    changed = table["glyco"] != table.groupby("Subject")["glyco"].shift()
    table["glycoprotein"] = table["glyco"].where(changed)
    table["smokes"] = (table["Smoke"] == "yes").astype(float)
    table["heart_failure"] = table["Heart"].map({"No/Mild": 0.0, "Moderate": 1.0, "Severe": 2.0})
    table["low_creatinine_clearance"] = (table["Creatinine"] == "< 50").astype(float)
    return table


def theophylline(table):
    """Concentrations of the volunteers; the one dose is at time 0."""
    table = table.rename(columns={"Wt": "weight", "conc": "theophylline", "Time": "time"})
    table["theophylline_dose"] = table["Dose"].where(table["time"] == 0)
    return table


def build(tables):
    """The three tables in the one schema, a channel for each dose and concentration."""
    made = {"phenobarbital": phenobarbital, "quinidine": quinidine, "theophylline": theophylline}
    parts = []
    for drug in DRUGS:
        part = made[drug](tables[drug])
        part["id"] = [f"{drug}-{subject:03d}" for subject in part["Subject"]]
        parts.append(part.assign(drug=drug))
    table = pd.concat(parts, ignore_index=True)
    table = table.reindex(columns=["id", "drug", "time", *CHANNELS, *STATIC])
    subjects = table.groupby("id").first()
    ds = from_wide(
        table.drop(columns=["drug", *STATIC]),
        id="id",
        time="time",
        static=subjects[list(STATIC)],
        unit="h",
        units={name: unit for name, (unit, _) in {**CHANNELS, **STATIC}.items() if unit is not None},
    )
    for name, (_, meaning) in {**CHANNELS, **STATIC}.items():
        ds[name].attrs["long_name"] = meaning
    order = subjects.loc[ds["series"].values.tolist()]
    ds["drug"] = ("series", order["drug"].to_numpy(dtype="U"), {"role": "context", "long_name": "drug given"})
    ds["time"].attrs["long_name"] = "time since the first dose or entry"
    ds["series"].attrs["long_name"] = "drug and number of the subject"
    ds.attrs["title"] = "Doses and concentrations of phenobarbital, quinidine and theophylline"
    ds.attrs["source"] = "tables Phenobarb and Quinidine of the R package nlme, Theoph of R, as CSV from Rdatasets"
    ds.attrs["license"] = "GPL-2.0-or-later"
    ds.attrs["references"] = (
        "Grasela and Donn (1985); Verme et al. (1992), Clinical Pharmacokinetics 22, 468-480; "
        "Boeckmann, Sheiner and Beal (1994)"
    )
    return ds


def counts(ds):
    """The numbers that the README beside this file states."""
    found = {"subjects": ds.sizes["series"], "rows": ds.sizes["obs"]}
    for drug in DRUGS:
        found[f"subjects given {drug}"] = int((ds["drug"] == drug).sum())
        found[f"doses of {drug}"] = int(ds[f"{drug}_dose"].notnull().sum())
        found[f"concentrations of {drug}"] = int(ds[drug].notnull().sum())
    return found


def main(infants, men, volunteers, target=None):
    """Read, convert, write, and say what is in the file."""
    path, sources = place_for(target, __file__), (infants, men, volunteers)
    ds = build({drug: read_table(source, drug) for drug, source in zip(DRUGS, sources, strict=True)})
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(main, __doc__, infants="Phenobarb.csv", men="Quinidine.csv", volunteers="Theoph.csv")
