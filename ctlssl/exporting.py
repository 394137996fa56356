"""Models and layers as programs of tensor operations, which run without this library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction
from ctlssl.layers import LSSL
from ctlssl.series import TimeSeries
from ctlssl.training.batches import modes_restored
from ctlssl.views import State

__all__ = ["export_model", "export_step"]

_MOST = 65536  # series of a batch


def export_model(model: Model, rows: int, queries: int = 0) -> torch.export.ExportedProgram:
    """The model as a program of torch operations for padded batches of any number of series.

    It takes ``values`` (B, L, D), ``times`` (B, L) float64, ``observed`` (B, L, D) bool, ``lengths`` (B,) int64, then
    ``static`` (B, S) where the problem has covariates and ``query_times`` (B, Q) float64 where it forecasts, and gives
    logits (B, K), or mean and scale. Values are those that the model reads: in normal scores. The loops of the kernels
    are traced as plain torch, so nothing of this library is needed where it runs; what is in the tensors is not
    checked there. ``torch.export.save(program, path)`` writes it.

    Args:
        model: an `LSSLModel`, of one answer a series or of forecasts; it is exported in evaluation mode. Baselines that
            move observations together before they walk over them look at the data, and torch refuses to export them.
        rows: L, to which batches are padded.
        queries: Q, for forecasts and labels of rows.

    Raises:
        ValueError: a number of rows or queries that cannot be, or a model that torch cannot export.

    Example:
        >>> from ctlssl.contract import Problem
        >>> from ctlssl.models import LSSLModel
        >>> model = LSSLModel(Problem("classification", channels=2, outputs=3), width=4)
        >>> program = export_model(model, rows=4)
        >>> batch = torch.zeros(5, 4, 2), torch.arange(4.0).double().expand(5, 4).contiguous()
        >>> seen, lengths = torch.ones(5, 4, 2, dtype=torch.bool), torch.tensor([4, 4, 3, 2, 1])
        >>> program.module()(*batch, seen, lengths).shape
        torch.Size([5, 3])
    """
    problem = model.problem
    forecasts = problem.asks_queries
    if rows < 1 or (forecasts and queries < 1):
        raise ValueError(f"a program reads one row at least, and a forecast one query; found {rows} and {queries}.")
    like = next(model.parameters())
    times = torch.arange(rows, dtype=torch.float64).expand(3, rows).contiguous()
    arguments = [like.new_zeros(3, rows, problem.channels), times, torch.ones(3, rows, problem.channels).bool()]
    arguments.append(torch.full((3,), rows))
    arguments += [like.new_zeros(3, problem.static)] if problem.static else []
    arguments += [rows + torch.zeros(3, queries, dtype=torch.float64)] if forecasts else []
    program = _Whole(model, bool(problem.static), forecasts)
    return _exported(program, tuple(part.detach() for part in arguments))


def export_step(layer: LSSL) -> torch.export.ExportedProgram:
    """One observation of a layer as a program: the gap is an input, the state goes in and comes out.

    It takes ``u`` (B, H), ``dt`` (B,) float64 and the two tensors of the state, and gives ``y`` (B, H heads) and the
    two tensors of the next one.

    Args:
        layer: of a diagonal structure, with a state.

    Raises:
        ValueError: a layer of another structure, a bidirectional one, which keeps no state, or a gated one.

    Example:
        >>> layer = LSSL(2, state_size=4, structure="diagonal", method="zoh")
        >>> step = export_step(layer).module()
        >>> y, *state = step(torch.ones(1, 2), torch.ones(1, dtype=torch.float64), *layer.initial_state(1))
        >>> torch.allclose(y, layer.step(torch.ones(1, 2), 1.0, layer.initial_state(1))[0])
        True
    """
    if layer.structure != "diagonal" or layer.bidirectional:
        raise ValueError(f"a step is exported of a causal layer of structure 'diagonal'; found {layer.structure!r}.")
    state = layer.initial_state(3)
    u, dt = torch.zeros_like(state.u), torch.ones(3, dtype=torch.float64)
    return _exported(_Step(layer), (u, dt, state.x.detach(), state.u.detach()))


def _exported(program: nn.Module, arguments: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    series = torch.export.Dim("series", min=1, max=_MOST)
    with modes_restored(program), torch.no_grad():
        program.eval()
        shapes = (tuple({0: series} for _ in arguments),)
        try:
            return torch.export.export(program, arguments, dynamic_shapes=shapes)
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"torch cannot export this model ({why}); steps that look at the data stand in its way: those of "
                "structures other than diagonal, of gated step sizes, and of baselines that compact their rows."
            ) from error


class _Whole(nn.Module):
    """A model on the tensors of a batch."""

    def __init__(self, model: Model, static: bool, forecasts: bool) -> None:
        super().__init__()
        self.model, self.static, self.forecasts = model, static, forecasts

    def forward(self, *parts: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tensors of the prediction that are not None."""
        values, times, observed, lengths, *rest = parts
        static = rest.pop(0) if self.static else None
        found = self.model(TimeSeries(values, times, observed, lengths, static), rest[0] if self.forecasts else None)
        return _answers(found)


class _Step(nn.Module):
    """One row of a layer."""

    def __init__(self, layer: LSSL) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output and the next state."""
        u, dt, x, held = parts
        y, state = self.layer.step(u, dt, State(x, held))
        return y, state.x, state.u


def _answers(found: Prediction) -> Tensor | tuple[Tensor, ...]:
    given = tuple(part for part in (found.logits, found.mean, found.scale, found.quantiles) if part is not None)
    return given[0] if len(given) == 1 else given
