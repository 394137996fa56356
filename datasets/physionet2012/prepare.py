"""Write physionet2012.nc from the archives of the PhysioNet / Computing in Cardiology Challenge 2012.

python datasets/physionet2012/prepare.py set-a.tar.gz Outcomes-a.txt set-b.tar.gz Outcomes-b.txt [physionet2012.nc]
"""

import csv
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ctlssl.preparation import place_for, run_script, write_prepared
from ctlssl.schema import channels
from ctlssl.tables import from_long

# Of what is inside, so that it does not matter how an archive is compressed: see `digest_of_records`.
RECORDS = {
    "a": "44370f3fdae48fa253a14c6aa93cef8fd6e4b018a1e342e53a178d4f9f5a3229",
    "b": "ceed6cdb14213788e650d10cad29ffdfdbacf187babfc95633e750c9a6a53610",
}
OUTCOMES = {
    "a": "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
    "b": "1305f29734da374a809483229a99f33a9230aa8d4fa74b1a2d6ad788136423d5",
}
LARGEST = 2**20  # bytes of a record; the largest of the challenge has a fiftieth of it

# Parameter: channel, unit, what it is.
CHANNELS = {
    "ALP": ("alkaline_phosphatase", "U/L", "alkaline phosphatase"),
    "ALT": ("alanine_aminotransferase", "U/L", "alanine aminotransferase"),
    "AST": ("aspartate_aminotransferase", "U/L", "aspartate aminotransferase"),
    "Albumin": ("albumin", "g/dL", "albumin"),
    "BUN": ("blood_urea_nitrogen", "mg/dL", "blood urea nitrogen"),
    "Bilirubin": ("bilirubin", "mg/dL", "bilirubin"),
    "Cholesterol": ("cholesterol", "mg/dL", "cholesterol"),
    "Creatinine": ("creatinine", "mg/dL", "serum creatinine"),
    "DiasABP": ("diastolic_pressure", "mmHg", "invasive diastolic arterial blood pressure"),
    "FiO2": ("inspired_oxygen", "1", "fraction of oxygen in the inspired air"),
    "GCS": ("glasgow_coma_score", "1", "Glasgow coma score, 3 to 15"),
    "Glucose": ("glucose", "mg/dL", "serum glucose"),
    "HCO3": ("bicarbonate", "mmol/L", "serum bicarbonate"),
    "HCT": ("hematocrit", "%", "hematocrit"),
    "HR": ("heart_rate", "1/min", "heart rate"),
    "K": ("potassium", "mmol/L", "serum potassium"),
    "Lactate": ("lactate", "mmol/L", "lactate"),
    "MAP": ("mean_pressure", "mmHg", "invasive mean arterial blood pressure"),
    "MechVent": ("mechanical_ventilation", "1", "mechanical ventilation, 1 wherever it is noted"),
    "Mg": ("magnesium", "mmol/L", "serum magnesium"),
    "NIDiasABP": ("cuff_diastolic_pressure", "mmHg", "non-invasive diastolic arterial blood pressure"),
    "NIMAP": ("cuff_mean_pressure", "mmHg", "non-invasive mean arterial blood pressure"),
    "NISysABP": ("cuff_systolic_pressure", "mmHg", "non-invasive systolic arterial blood pressure"),
    "Na": ("sodium", "mmol/L", "serum sodium"),
    "PaCO2": ("arterial_carbon_dioxide", "mmHg", "partial pressure of arterial carbon dioxide"),
    "PaO2": ("arterial_oxygen", "mmHg", "partial pressure of arterial oxygen"),
    "Platelets": ("platelets", "1e9/L", "platelets"),
    "RespRate": ("respiration_rate", "1/min", "respiration rate"),
    "SaO2": ("oxygen_saturation", "%", "oxygen saturation of haemoglobin"),
    "SysABP": ("systolic_pressure", "mmHg", "invasive systolic arterial blood pressure"),
    "Temp": ("temperature", "degC", "temperature"),
    "TroponinI": ("troponin_i", "ug/L", "troponin I"),
    "TroponinT": ("troponin_t", "ug/L", "troponin T"),
    "Urine": ("urine", "mL", "urine output since the last note"),
    "WBC": ("white_cell_count", "1e9/L", "white blood cell count"),
    "Weight": ("weight", "kg", "weight"),
    "pH": ("arterial_ph", "1", "arterial pH"),
}
# Descriptor at 00:00: covariate, unit, what it is. -1 means unknown.
DESCRIPTORS = {
    "Age": ("age", "year", "age"),
    "Gender": ("gender", None, "0 female, 1 male"),
    "Height": ("height", "cm", "height"),
    "ICUType": ("icu_type", None, "1 coronary care, 2 cardiac surgery recovery, 3 medical, 4 surgical"),
    "Weight": ("admission_weight", "kg", "weight on admission"),
}
LABELS = {"In-hospital_death": ("in_hospital_death", None, "1 died in hospital")}
CONTEXT = {
    "SAPS-I": ("saps_1", "1", "simplified acute physiology score I"),
    "SOFA": ("sofa", "1", "sequential organ failure assessment score"),
    "Length_of_stay": ("length_of_stay", "d", "length of the stay in hospital"),
    "Survival": ("survival", "d", "days from admission to death, -1 where none is known of"),
}
REFERENCES = (
    "Silva, Moody, Scott, Celi, Mark (2012), Computing in Cardiology 39, 245-248; "
    "Goldberger et al. (2000), Circulation 101, e215-e220"
)


def members(path):
    """Name and content of every record in a tar or zip archive; nothing is written to disk."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = [(item.filename, item.file_size, item) for item in archive.infolist() if not item.is_dir()]
            return _read(path, found, archive.read)
    if not tarfile.is_tarfile(path):
        raise ValueError(f"{path} is no tar or zip archive, or a damaged one; README.md beside the script names it.")
    with tarfile.open(path) as archive:
        found = [(item.name, item.size, item) for item in archive if item.isfile()]
        return _read(path, found, lambda item: archive.extractfile(item).read())


def _read(path, found, content):
    records = {}
    for name, size, item in found:
        name = PurePosixPath(name)
        if name.suffix != ".txt" or not name.stem.isdigit():
            continue
        if size > LARGEST or name.stem in records:
            raise ValueError(f"{path}: {name} is larger than a record can be, or is there twice; it is not the archive")
        records[name.stem] = content(item)
    return dict(sorted(records.items()))


def digest_of_records(records):
    """SHA-256 over the names and contents of the records in the order of their names, and their sizes."""
    total = hashlib.sha256()
    for name, content in records.items():
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def verified(records, outcomes, which):
    """The records and outcomes of a set, if they are those of the challenge.

    Raises:
        ValueError: other contents.
    """
    pairs = {"records": (digest_of_records(records), RECORDS), "outcomes": (_sha256(outcomes), OUTCOMES)}
    for name, (found, known) in pairs.items():
        if found != known[which]:
            raise ValueError(f"the {name} of set {which} have SHA-256 {found}, expected {known[which]}; load them anew")
    return records, outcomes


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def read_record(name, content):
    """Descriptors of a stay, and its values as (hours, parameter, value)."""
    rows = list(csv.reader(io.StringIO(content.decode("ascii"))))
    if rows[0] != ["Time", "Parameter", "Value"] or rows[1] != ["00:00", "RecordID", name]:
        raise ValueError(f"record {name} does not begin as the records of the challenge do")
    descriptors, values = {}, []
    for time, parameter, text in rows[2:]:
        value = float(text)
        # Weight is both: its first line at 00:00 is the descriptor
        if time == "00:00" and parameter in DESCRIPTORS and parameter not in descriptors:
            descriptors[parameter] = value
        elif parameter not in CHANNELS:
            raise ValueError(f"record {name} has a parameter {parameter!r} at {time}")
        else:
            hours, minutes = time.split(":")
            values.append((int(hours) + int(minutes) / 60, parameter, value))
    return descriptors, values


def build(sets):
    """The sets, name -> (records, outcomes), in the one schema."""
    stays, ids, rows = {}, [], []
    tables = []
    for which, (records, outcomes) in sets.items():
        tables.append(pd.read_csv(io.BytesIO(outcomes)).set_index("RecordID").assign(set=which))
        for name, content in records.items():
            stays[int(name)], values = read_record(name, content)
            ids += [int(name)] * len(values)
            rows += values
    stays, outcomes = pd.DataFrame.from_dict(stays, orient="index"), pd.concat(tables)
    if set(stays.index) != set(outcomes.index):
        raise ValueError("records and outcomes are not of the same stays")
    hours, parameters, values = zip(*rows, strict=True)
    names = {parameter: channel for parameter, (channel, *_) in CHANNELS.items()}
    table = pd.DataFrame({"id": ids, "time": hours, "variable": parameters, "value": values})
    table["variable"] = table["variable"].map(names)
    known = {**CHANNELS, **DESCRIPTORS, **LABELS, **CONTEXT}
    ds = from_long(
        table,
        **{"id": "id", "time": "time", "variable": "variable", "value": "value"},
        static=stays[list(DESCRIPTORS)].rename(columns={name: item[0] for name, item in DESCRIPTORS.items()}),
        labels=outcomes[list(LABELS)].rename(columns={name: item[0] for name, item in LABELS.items()}),
        unit="h",
        duplicates="mean",
    )
    outcomes = outcomes.loc[ds["series"].values]
    for name, (variable, _, _) in CONTEXT.items():
        ds[variable] = ("series", outcomes[name].to_numpy(), {"role": "context"})
    ds["set"] = ("series", outcomes["set"].to_numpy().astype("U1"), {"role": "context", "long_name": "set a or b"})
    for variable, unit, title in known.values():
        if variable in ds:
            ds[variable].attrs |= {"long_name": title} | ({} if unit is None else {"units": unit})
    ds["time"].attrs["long_name"] = "time since admission to intensive care"
    ds["series"].attrs["long_name"] = "stay"
    return ds.assign_attrs(
        title="The first 48 hours of intensive-care stays, Challenge 2012, sets a and b",
        source="PhysioNet / Computing in Cardiology Challenge 2012",
        license="ODC-By-1.0",
        references=REFERENCES,
    )


def counts(ds):
    """The numbers that the README beside this file states."""
    seen = {name: int(np.isfinite(ds[name].values).sum()) for name in channels(ds)}
    died, sets = ds["in_hospital_death"].values, ds["set"].values
    return {
        "stays": ds.sizes["series"],
        "stays of set a": int((sets == "a").sum()),
        "died of set a": int(died[sets == "a"].sum()),
        "died of set b": int(died[sets == "b"].sum()),
        "stays without a value": int((ds["row_size"].values == 0).sum()),
        "rows": ds.sizes["obs"],
        "values": sum(seen.values()),
        "channels": len(seen),
    }


def main(archive_a, outcomes_a, archive_b, outcomes_b, target=None):
    """Read, verify, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    given = {"a": (archive_a, outcomes_a), "b": (archive_b, outcomes_b)}
    sets = {
        which: verified(members(archive), Path(outcomes).read_bytes(), which)
        for which, (archive, outcomes) in given.items()
    }
    ds = build(sets)
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(
        main,
        __doc__,
        archive_a="set-a.tar.gz",
        outcomes_a="Outcomes-a.txt",
        archive_b="set-b.tar.gz",
        outcomes_b="Outcomes-b.txt",
    )
