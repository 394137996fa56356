"""Models at the bedside: observations arrive one at a time, for thousands of series at once."""

from ctlssl.streaming.stream import Stream

__all__ = ["Stream"]
