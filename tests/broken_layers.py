"""Layers and models that break one line of the clock contract each, and layers that have few of its doors."""

import torch
from torch import nn

from ctlssl.contract import Model
from ctlssl.discretization import METHODS, exact
from ctlssl.layers.lssl import LSSL
from ctlssl.series import TimeSeries
from ctlssl.state_space import StateSpace
from ctlssl.views import recurrence


class Rewritten(LSSL):
    """A layer whose steps go through `forward`, which subclasses break; the quick step of the layer would not."""

    def step(self, u, dt, state):
        y, state = self(u[:, None], dt[:, None], state=state)
        return y[:, 0], state


class GapIgnoredByInput(Rewritten):
    """The decay knows the gap; the input enters with the weight of one unit of time, whatever the gap."""

    def forward(self, u, dt=None, lengths=None, state=None, is_query=None, rate=1.0):
        pace = torch.as_tensor(rate, dtype=torch.float64).reshape(-1, 1)
        dt = dt * pace if lengths is None else torch.where(torch.arange(u.shape[1]) < lengths[:, None], dt * pace, 0)
        zoh = self.system()
        _, held, _ = exact.matrices(zoh.A.to_dense(), torch.ones((), dtype=torch.float64))
        # The zoh weight of a gap of 1, given to the hold that adds B u whatever the gap.
        system = StateSpace(zoh.A, (held @ zoh.B[..., None])[..., 0], zoh.C, zoh.D)
        response = recurrence(system, METHODS["impulse"], u, dt, state, lengths, is_query)
        return response.y, response.state

    def peek(self, state, dt, u):
        return self.step(u, dt, state)[0]


class PaddingLeaks(Rewritten):
    """Outputs in the padding are blanked, but the padding has gone through the state."""

    def forward(self, u, dt=None, lengths=None, **keywords):
        y, state = super().forward(u.nan_to_num(posinf=0.0, neginf=0.0).clamp(-9, 9), dt.nan_to_num().abs(), **keywords)
        if lengths is not None:
            y = torch.where((torch.arange(u.shape[1]) < lengths[:, None])[..., None], y, 0)
        return y, state


class QueryCommits(Rewritten):
    """A query is answered, and stays."""

    def forward(self, u, dt=None, is_query=None, **keywords):
        return super().forward(u, dt, **keywords)


class SharedStep(Rewritten):
    """Every series is given the mean gap of the batch."""

    def forward(self, u, dt=None, rate=1.0, **keywords):
        if torch.is_tensor(dt) and dt.ndim == 2:
            pace = torch.as_tensor(rate, dtype=torch.float64)
            dt = dt * (pace[:, None] if pace.ndim else pace)
            return super().forward(u, dt.nanmean(0, keepdim=True).abs().expand_as(dt), **keywords)
        return super().forward(u, dt, rate=rate, **keywords)


class Float32Gaps(Rewritten):
    """Gaps are cast to float32 before anything is made of them."""

    def forward(self, u, dt=None, rate=1.0, **keywords):
        if not torch.is_tensor(dt):
            return super().forward(u, dt, rate=rate, **keywords)
        pace = torch.as_tensor(rate, dtype=torch.float64)
        dt = dt * (pace[:, None] if pace.ndim else pace)
        return super().forward(u, dt.float(), **keywords)


class Float32Times(Rewritten):
    """Gaps are summed to times in the dtype of the parameters, and differenced again."""

    def forward(self, u, dt=None, rate=1.0, **keywords):
        if not torch.is_tensor(dt) or dt.ndim != 2:
            return super().forward(u, dt, rate=rate, **keywords)
        times = dt.nan_to_num().to(self.C.dtype).cumsum(1)
        return super().forward(u, times.diff(dim=1, prepend=torch.zeros_like(times[:, :1])), rate=rate, **keywords)


class LooksAhead(Rewritten):
    """Inputs are centred by the mean over the whole record."""

    def forward(self, u, dt=None, lengths=None, **keywords):
        inside = torch.ones(u.shape[:2], dtype=torch.bool)
        if lengths is not None:
            inside = torch.arange(u.shape[1]) < lengths[:, None]
        u = torch.where(inside[..., None], u, 0)
        count = inside.sum(1).clamp(min=1)[:, None, None]
        return super().forward(u - u.sum(1, keepdim=True) / count, dt, lengths=lengths, **keywords)


class DetachedGaps(Rewritten):
    """No gradient reaches the gaps."""

    def forward(self, u, dt=None, **keywords):
        return super().forward(u, dt.detach() if torch.is_tensor(dt) else dt, **keywords)


class OtherConvolution(Rewritten):
    """The convolution runs on a clock of its own."""

    def forward(self, u, dt=None, view="auto", rate=1.0, **keywords):
        return super().forward(u, dt, view=view, rate=1.1 * rate if view == "convolution" else rate, **keywords)


class ForgetsLastInput(Rewritten):
    """The state handed over lacks the last input, which a linear hold goes on from."""

    def forward(self, u, dt=None, **keywords):
        y, state = super().forward(u, dt, **keywords)
        return y, state._replace(u=torch.zeros_like(state.u))


class Relaxation(nn.Module):
    """A layer of somebody else: x relaxes towards its input at one rate a channel; no lengths, queries or steps."""

    def __init__(self, channels):
        super().__init__()
        self.rate = nn.Parameter(torch.linspace(-1.0, 1.0, channels))

    def forward(self, u, dt, state=None):
        x, shown = torch.zeros_like(u[:, 0]) if state is None else state, []
        for k in range(u.shape[1]):
            kept = torch.exp(-dt[:, k, None] * self.rate.double().exp()).to(u.dtype)
            x = kept * x + (1 - kept) * u[:, k]
            shown.append(x)
        return torch.stack(shown, 1) if shown else u, x


class Wrapped(Model):
    """A model whose series are changed on the way in."""

    def __init__(self, model):
        super().__init__(model.problem)
        self.model = model

    def forward(self, series, query_times=None, state=None, rate=1.0):
        return self.model(self.change(series), query_times, state, rate)

    def change(self, series):
        return series


class Float32Clock(Wrapped):
    """Times are cast to float32 before they are differences."""

    def change(self, series):
        times = torch.where(series.in_length, series.times, 0).float().double()
        return TimeSeries(series.values, times, series.observed, series.lengths, series.static)


class ZeroForMissing(Wrapped):
    """What was not observed is a reading of zero, by a product with the flags."""

    def change(self, series):
        inside = series.in_length.unsqueeze(-1)
        values = torch.where(inside, series.values * series.observed, 0)
        values = values.nan_to_num(posinf=0.0, neginf=0.0)
        return TimeSeries(values, series.times, inside.expand_as(series.observed), series.lengths, series.static)


class MissingIsRead(Wrapped):
    """Values are centred by all that stands in a row, seen or not."""

    def change(self, series):
        values = torch.where(series.in_length.unsqueeze(-1), series.values, 0)
        values = values - values.nan_to_num(posinf=9.0).clamp(-9, 9).mean(-1, keepdim=True)
        values = torch.where(series.observed, values, 0)
        return TimeSeries(values, series.times, series.observed, series.lengths, series.static)


class BatchCentred(Wrapped):
    """Values are centred by the whole batch."""

    def change(self, series):
        seen = series.observed & series.in_length.unsqueeze(-1)
        values = torch.where(seen, series.values, 0)
        centred = torch.where(seen, values - values.sum() / seen.sum().clamp(min=1), 0)
        return TimeSeries(centred, series.times, series.observed, series.lengths, series.static)


class ClampedGaps(LSSL):
    """Gaps are held between a millionth and a million."""

    def forward(self, u, dt=None, **keywords):
        return super().forward(u, dt.clamp(1e-6, 1e6) if torch.is_tensor(dt) else dt, **keywords)


class RateForgotten(LSSL):
    """The rate counts only where no state is handed in."""

    def forward(self, u, dt=None, state=None, rate=1.0, **keywords):
        return super().forward(u, dt, state=state, rate=rate if state is None else 1.0, **keywords)


class EmptyResets(LSSL):
    """A series of length 0 begins anew."""

    def forward(self, u, dt=None, lengths=None, **keywords):
        y, state = super().forward(u, dt, lengths=lengths, **keywords)
        if lengths is not None:
            gone = torch.as_tensor(lengths) == 0
            state = type(state)(*(part.masked_fill(gone.view(-1, *[1] * (part.ndim - 1)), 0) for part in state))
        return y, state
