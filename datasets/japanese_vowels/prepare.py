"""Write japanese_vowels.nc from the two .ts files of the data set, as the wheel aeon 1.6.0 carries them.

python datasets/japanese_vowels/prepare.py aeon-1.6.0-py3-none-any.whl [japanese_vowels.nc]
"""

import hashlib

import numpy as np
import pandas as pd

from ctlssl.preparation import member_of, place_for, run_script, write_prepared
from ctlssl.tables import from_arrays

FOLDER = "aeon/datasets/data/JapaneseVowels/"
SHA256 = {
    "JapaneseVowels_TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "JapaneseVowels_TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}
COEFFICIENTS = [f"cepstrum_{k}" for k in range(1, 13)]
FRAME = 6.4  # ms from one frame to the next


def read_parts(wheel):
    """The text of both files, out of the wheel, with their checksums verified."""
    texts = {}
    for name, expected in SHA256.items():
        content = member_of(wheel, FOLDER + name)
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ValueError(f"{wheel}: {name} has SHA-256 {found}, expected {expected}; use aeon 1.6.0.")
        texts[name] = content.decode("utf8")
    return texts["JapaneseVowels_TRAIN.ts"], texts["JapaneseVowels_TEST.ts"]


def utterances(text):
    """Values (frames, 12) of each utterance of a .ts file, and who speaks, from 1."""
    lines = text.split("@data", 1)[1].split()
    values, speakers = [], []
    for line in lines:
        *channels, speaker = line.split(":")
        values.append(np.array([channel.split(",") for channel in channels], dtype=np.float32).T)
        speakers.append(int(speaker))
    return values, speakers


def build(train, test):
    """Both parts in the one schema, the training part first."""
    values, speakers, parts = [], [], []
    for name, text in {"train": train, "test": test}.items():
        more, who = utterances(text)
        values, speakers, parts = values + more, speakers + who, parts + [name] * len(more)
    ds = from_arrays(
        [FRAME * np.arange(len(part)) for part in values],
        values,
        variables=COEFFICIENTS,
        labels=pd.DataFrame({"speaker": np.array(speakers) - 1}),
        unit="ms",
        units=dict.fromkeys(COEFFICIENTS, "1"),
    )
    for k, name in enumerate(COEFFICIENTS, start=1):
        ds[name] = ds[name].astype(np.float32)
        ds[name].attrs["long_name"] = f"cepstral coefficient {k} of linear prediction"
    ds["part"] = ("series", np.array(parts), {"role": "context", "long_name": "published part"})
    ds["time"].attrs["long_name"] = "time since the first frame"
    ds["series"].attrs["long_name"] = "utterance, the published training part first"
    ds["speaker"].attrs |= {"flag_values": np.arange(9), "flag_meanings": " ".join(map(str, range(1, 10)))}
    ds.attrs["title"] = "Two Japanese vowels spoken by nine men, as cepstral coefficients"
    ds.attrs["source"] = f"PyPI wheel aeon 1.6.0, {FOLDER}"
    ds.attrs["license"] = "CC BY 4.0"
    ds.attrs["references"] = "Kudo, Toyama, Shimbo (1999), Pattern Recognition Letters 20, 1103-1111"
    return ds


def counts(ds):
    """The numbers that the README beside this file states."""
    sizes, part = ds["row_size"].values, ds["part"].values
    return {
        "utterances": ds.sizes["series"],
        "utterances to train on": int((part == "train").sum()),
        "utterances to test on": int((part == "test").sum()),
        "speakers": len(np.unique(ds["speaker"].values)),
        "rows": ds.sizes["obs"],
        "fewest frames": int(sizes.min()),
        "most frames": int(sizes.max()),
    }


def main(wheel, target=None):
    """Read, convert, write, and say what is in the file."""
    path = place_for(target, __file__)
    ds = build(*read_parts(wheel))
    write_prepared(ds, path, counts(ds))


if __name__ == "__main__":
    run_script(main, __doc__, wheel="aeon-1.6.0-py3-none-any.whl")
