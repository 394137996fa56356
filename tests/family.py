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
    "liquid": Case("liquid"),
    "liquid, backward Euler": Case("liquid", {"method": "backward_euler"}),
    "liquid, exact rule": Case("liquid", {"method": "zoh", "measure": "lin"}),
    "liquid, exact": Case("liquid", {"form": "exact"}),
    "liquid, degree 3": Case("liquid", {"degree": 3}),
    "liquid, exact, degree 2": Case("liquid", {"form": "exact", "degree": 2, "measure": "lin"}),
    "liquid, large steps": Case("liquid", {"step_range": (2.0, 8.0)}),  # the guard is at work in most rows
    "liquid, exact, large steps": Case("liquid", {"form": "exact", "step_range": (2.0, 8.0)}),
    "liquid kernel, kb": Case("liquid_kernel", {"degree": 3}, frozenset()),
    "liquid kernel, pb": Case("liquid_kernel", {"kernel": "pb", "degree": 3, "lags": 3, "method": "zoh"}, frozenset()),
    "liquid kernel, degree 1": Case("liquid_kernel", {"degree": 1}, frozenset()),
    "almost linear": Case("almost_linear"),
    "almost linear, no rectifier": Case("almost_linear", {"relus": 0}),
    "householder": Case("householder"),
    "householder, two steps and heads": Case("householder", {"reflections": 2, "heads": 2, "values": 3}),
    "householder, two reflections": Case("householder", {"reflections": 2}),
    "householder, positive": Case("householder", {"signed": False, "decays": False}),
    "linoss": Case("linoss"),
    "linoss, exact": Case("linoss", {"method": "exact"}),
    "linoss, implicit-explicit": Case("linoss", {"method": "implicit_explicit"}, frozenset({6, 8}), "may grow"),
    "linoss, damped": Case("linoss", {"damped": True}),
    "linoss, damped and implicit-explicit": Case(
        "linoss", {"method": "implicit_explicit", "damped": True}, frozenset({6, 8}), "may grow"
    ),
    "linoss, damped and exact": Case("linoss", {"method": "exact", "damped": True}),
    "robust": Case("robust"),
    "robust, squared": Case("robust", {"loss": "squared"}),
    "robust, squared, kept": Case("robust", {"loss": "squared", "retention": "none"}),
    "robust, elements clipped, elastic": Case("robust", {"loss": "huber_elementwise", "retention": "elastic"}),
    "robust, lp, heads": Case("robust", {"loss": {"name": "lp", "power": 1.2}, "heads": 2, "threshold": 0.3}),
    "robust, threshold learned": Case(
        "robust",
        {"learn_threshold": True, "threshold": 0.5, "retention": {"name": "elastic", "sparsity": 0.1}, "heads": 2},
    ),
    "selective": Case("selective"),
    "selective, trapezoid": Case("selective", {"method": "trapezoid"}),
    "signed": Case("signed"),
    "signed, positive": Case("signed", {"signed": False}),
    "signed, without decay": Case("signed", {"decays": False}),
}
EVERY_CASE = [pytest.param(case, id=name) for name, case in CASES.items()]
