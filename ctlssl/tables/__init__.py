"""Tables in and out: long, wide or arrays to the one schema, and back."""

from ctlssl.tables.readers import from_arrays, from_long, from_wide, to_long, to_series

__all__ = ["from_arrays", "from_long", "from_wide", "to_long", "to_series"]
