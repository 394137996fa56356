"""Tables in and out: long, wide, arrays, files and the shapes of other libraries to the one schema, and back."""

from ctlssl.tables.conversion import from_aeon, from_pypots, from_pyrregular, to_torchcde
from ctlssl.tables.pieces import convert_table
from ctlssl.tables.readers import from_arrays, from_long, from_wide, to_long, to_series
from ctlssl.tables.reading import SUFFIXES, read_table
from ctlssl.tables.screening import screen

__all__ = [
    "SUFFIXES",
    "convert_table",
    "from_aeon",
    "from_arrays",
    "from_long",
    "from_pypots",
    "from_pyrregular",
    "from_wide",
    "read_table",
    "screen",
    "to_long",
    "to_series",
    "to_torchcde",
]
