"""The layers of the family under contract: a new member brings an entry here and inherits all of `test_family`."""

import zlib
from dataclasses import dataclass, field

import pytest
import torch

from ctlssl.layers import FAMILY


@dataclass(frozen=True)
class Case:
    """A layer under contract.

    Args:
        layer: its name in FAMILY.
        options: of its constructor.
        not_applicable: lines of the clock contract that do not apply to it, with those of every member (10).
        why: the reason, where a line beyond 6 and 10 does not apply; it stands in the docstring of the class too.
    """

    layer: str
    options: dict = field(default_factory=dict)
    not_applicable: frozenset[int] = frozenset({6})
    why: str = ""

    def build(self, channels=3, **changes):
        """The layer, the same in every run, with parameters moved away from their start."""
        options = {"state_size": 4, "step_range": (0.1, 1.0)} | self.options | changes
        torch.default_generator.manual_seed(zlib.crc32(repr((self.layer, sorted(options.items()))).encode()))
        layer = FAMILY[self.layer](channels, **options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return layer


CASES = {
    "signed": Case("signed"),
    "signed, positive": Case("signed", {"signed": False}),
    "signed, without decay": Case("signed", {"decays": False}),
    "almost linear": Case("almost_linear"),
    "almost linear, without a rectified state": Case("almost_linear", {"relus": 0}),
}
EVERY_CASE = [pytest.param(case, id=name) for name, case in CASES.items()]
