"""Write asas.nc from the two files of the ASAS training set of Richards et al. (2012).

python datasets/asas/prepare.py asas_training_set.tar.gz asas_training_set_classes.dat [asas.nc]
"""

import csv
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd

from ctlssl.preparation import place_for, run_script, write_prepared
from ctlssl.tables import from_arrays

SHA256 = {
    "light curves": "6c66c4435b03576a3b20416fac9b7b9453d2a9189e1af745733816a0715e08fd",
    "classes": "572f628cccf3ce529326c085034ed310c79503fba3a9ac2447e2959ae540d85f",
}


def verified(path, part):
    """The bytes of a file, with its checksum verified."""
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[part]:
        raise ValueError(f"{path}: the {part} have SHA-256 {found}, expected {SHA256[part]}; README.md names the file.")
    return content


def read_curves(archive):
    """The light curve of each star, (rows, 3): time, magnitude, error; nothing is unpacked to the disk."""
    curves = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            if member.isfile() and member.name.endswith(".dat"):
                text = members.extractfile(member).read().decode("ascii")
                curves[int(Path(member.name).stem)] = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    return curves


def read_classes(text):
    """The class of each star."""
    return {int(row["filename"]): row["class"] for row in csv.DictReader(io.StringIO(text.decode("ascii")))}


def build(curves, classes):
    """The light curves in the one schema, in the order of the list of classes."""
    absent = sorted(set(classes) - set(curves))
    if absent:
        raise ValueError(f"stars {absent[:5]} have a class and no light curve; both files belong to one release.")
    stars, names = list(classes), sorted(set(classes.values()))
    ds = from_arrays(
        [curves[star][:, 0] for star in stars],
        [curves[star][:, 1:] for star in stars],
        ids=stars,
        variables=["magnitude", "error"],
        labels=pd.DataFrame({"star_class": [names.index(classes[star]) for star in stars]}, index=stars),
        unit="d",
        units={"magnitude": "mag", "error": "mag"},
    )
    ds["time"].attrs["long_name"] = "heliocentric Julian date - 2450000"
    ds["series"].attrs["long_name"] = "number of the star in the list of classes"
    ds["magnitude"].attrs["long_name"] = "V magnitude"
    ds["error"].attrs["long_name"] = "standard error of the magnitude"
    ds["star_class"].attrs["long_name"] = "class of variability"
    ds["star_class"].attrs["flag_values"] = np.arange(len(names))
    ds["star_class"].attrs["flag_meanings"] = " ".join(names)
    ds.attrs["title"] = f"V-band light curves of {len(stars)} variable stars of the All Sky Automated Survey"
    ds.attrs["source"] = "ASAS training set of Richards et al. (2012): asas_training_set.tar.gz and its list of classes"
    ds.attrs["license"] = "none stated; public survey data"
    ds.attrs["references"] = "Richards et al. (2012), Astrophysical Journal Supplement 203, 32"
    return ds


def counts(ds):
    """The numbers that the README beside this file states."""
    stars = np.bincount(ds["star_class"].values)
    return {
        "stars": ds.sizes["series"],
        "rows": ds.sizes["obs"],
        "classes": len(stars),
        "classes of 27 stars or more": int((stars >= 27).sum()),
        "stars of these classes": int(stars[stars >= 27].sum()),
    }


def main(archive, classes, target=None):
    """Read, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    ds = build(read_curves(verified(archive, "light curves")), read_classes(verified(classes, "classes")))
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(main, __doc__, archive="asas_training_set.tar.gz", classes="asas_training_set_classes.dat")
