"""The linear state-space layer with a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl import hippo
from ctlssl.discretization import Discretization, Rule, named_method
from ctlssl.layers.formation import form_system, half_lives, per_state
from ctlssl.layers.inputs import (
    check_inputs,
    check_lengths,
    check_queries,
    check_state,
    full_precision,
    one_column,
    read_gaps,
)
from ctlssl.layers.kept_system import KeptSystem
from ctlssl.layers.options import check_options, described, structure_name
from ctlssl.layers.packed import run_packed
from ctlssl.layers.quick_step import quick_step
from ctlssl.layers.reversal import run_reversed
from ctlssl.layers.single_rows import check_one_row, own_state, peek_rows
from ctlssl.layers.step_gate import StepGate, clocked_run
from ctlssl.layers.view_choice import VIEWS, ViewChoice, choose_view, one_gap_for_all
from ctlssl.state_matrices import Diagonal, StateMatrix
from ctlssl.state_space import StateSpace
from ctlssl.step_size import StepSize, initial_log_steps, named_step_size
from ctlssl.views import Integration, Response, State, integration
from ctlssl.views.kept_response import KeptResponse

__all__ = ["LSSL"]


class LSSL(nn.Module):
    r"""Linear state-space layer: x' = A x + B u, y = C x + D u, stepped with the real gap times a learned step size.

    A is in the structure's stable class and shared by the channels; B, C, D and the step size are each channel's own
    (`multi_input=True`: one system reads all channels). Coefficients are formed in float64 from the float32
    parameters, so that phases at large gaps are right. The layer is the linear map alone.

    Args:
        channels: inputs H.
        state_size: real state dimensions N of each system.
        structure: "dense", "diagonal", "dplr" or "quasiseparable", or the class.
        measure: HiPPO measure of the start: "legs", "legt", "lagt", "fourier"; diagonal also "lin", "inv", "real".
        method: name, rule or `Discretization`.
        heads: outputs a channel M.
        step_range: smallest and largest initial step size.
        learn: which of "A", "B", "step" are trained (C and D always are). With none of them, LSSL-fixed, the
            convolution keeps what it can of its kernel from call to call.
        multi_input: one system with H inputs and outputs; the step size is then one a conjugate pair for a diagonal A
            and one in all for the others.
        bidirectional: a second pass over each series reversed, with its own C; outputs are summed.
        step_size: what has a step size of its own, and which other factors a gap is multiplied by: a name
            ("plain", "per_layer", "per_state", "gated", "gated_per_channel", "without_gap", "without_rate"), a
            `StepSize`, or its fields as a dictionary.
        per_channel: each channel of a bank has an A of its own.
        blocks: of a diagonal A with multi_input: J starts of size N / J side by side, S5's block-diagonal HiPPO-N. B
            starts random as it does for one block: S5 turns a random B into the basis of the blocks, and a turned
            Gaussian is one.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H * M) and the state.

    Raises:
        ValueError: unknown names, or options that exclude one another.

    References:
        Gu, Johnson, Goel, Saab, Dao, Rudra, Re (2021), Combining recurrent, convolutional, and continuous-time models
        with linear state-space layers. Smith, Warrington, Linderman (2023), S5, for multi_input and blocks.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = LSSL(channels=4, state_size=8)
        >>> u, dt = torch.randn(2, 10, 4), torch.rand(2, 10)
        >>> y, state = layer(u, dt)
        >>> first, state = layer(u[:, :6], dt[:, :6])
        >>> rest, state = layer(u[:, 6:], dt[:, 6:], state=state)
        >>> torch.allclose(torch.cat([first, rest], 1), y, atol=1e-5)
        True
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 64,
        structure: str | type[StateMatrix] = "quasiseparable",
        measure: str = "legs",
        method: str | Rule | Discretization = "bilinear",
        heads: int = 1,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        learn: Collection[str] = ("A", "B", "step"),
        multi_input: bool = False,
        bidirectional: bool = False,
        step_size: str | Mapping[str, Any] | StepSize = "plain",
        per_channel: bool = False,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        given = named_step_size(step_size)
        check_options(channels, heads, learn, multi_input, per_channel, given, blocks)
        self.channels, self.state_size, self.heads = channels, state_size, heads
        self.multi_input, self.bidirectional = multi_input, bidirectional
        self.method = named_method(method)
        self.learn = tuple(learn)
        name, self.blocks = structure_name(structure), blocks
        A, B = hippo.start(name, measure, state_size, blocks)
        self.step_size, self.per_channel = given.resolved(multi_input, isinstance(A, Diagonal)), per_channel
        self.structure, self.measure = name, measure
        self._matrix_class = type(A)
        self._matrix_names = tuple(free := A.free())
        for key, value in free.items():
            self._add(f"A_{key}", value.expand(channels, *value.shape) if per_channel else value, "A" in learn)
        N, H = state_size, channels
        log_step = initial_log_steps(self.step_size.shape(H, N, multi_input), step_range)
        B = torch.randn(N, H) * H**-0.5 if multi_input else B.expand(H, N)
        if self.method.hold.kick:  # a kick has no length: the start gives it the weight of one unit of time
            B = B * per_state(log_step.exp(), self.step_size.per, multi_input)
        self._add("log_step", log_step, "step" in learn)
        self._add("B", B, "B" in learn)
        outputs = (H, N) if multi_input else (H, heads, N)
        scale = N**-0.5 if multi_input else 1.0
        self.C = nn.Parameter(torch.randn(outputs) * scale)
        self.C_reverse = nn.Parameter(torch.randn(outputs) * scale) if bidirectional else None
        self.D = nn.Parameter(torch.randn(outputs[:-1]))
        gates = {None: 0, "row": 1, "channel": H}[self.step_size.gate]
        self.gate = StepGate(H, gates) if gates else None
        self._kept_system, self._kept_response = KeptSystem(), KeptResponse()

    def forward(
        self,
        u: Tensor,
        dt: Tensor | float | None = None,
        lengths: Tensor | None = None,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
        view: str | Integration = "auto",
    ) -> tuple[Tensor, State | None]:
        """Outputs at every row, and the state after the last observation.

        Args:
            u: inputs, (B, L, H); the content of padding is never read.
            dt: time since the previous observation, in units of the clock: None (= 1), a number, (L,) or (B, L).
                Of a query: time since the last observation before it.
            lengths: rows of each series, (B,); L if None.
            state: what an earlier call returned; zeros if None.
            is_query: rows that are answered but leave the state untouched, (B, L) or (L,), boolean.
            rate: factor of all gaps, a number or one a series (B,).
            view: "auto" (see `chosen_view`), "recurrence", "convolution", "integration", or an `Integration` with its
                tolerances.

        Returns:
            y (B, L, H * M), zeros in the padding, and the state (None if bidirectional).

        Raises:
            ValueError: shapes, gaps or lengths that cannot be; a view that cannot serve the grid.
        """
        response = self.simulate(u, dt, lengths, state, is_query, rate, view)
        return response.y, None if self.bidirectional else response.state

    def simulate(
        self,
        u: Tensor,
        dt: Tensor | float | None = None,
        lengths: Tensor | None = None,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
        view: str | Integration = "auto",
    ) -> Response:
        """The same as `forward`, as the view's own `Response`, which counts the evaluations of a solver."""
        u = check_inputs(u, self.channels, self.C.dtype)
        lengths, is_query = check_lengths(lengths, u), check_queries(is_query, u)
        dt, rate = self._heard(dt, rate, u, lengths)
        gaps = read_gaps(dt, rate, u, lengths)
        if self.bidirectional and state is not None:
            raise ValueError("a bidirectional layer reads the whole series: it takes no state")
        state = check_state(state, u.shape[0], self._state_shape(), (self.channels,))
        run = partial(clocked_run, self._runner(self._choice(u, dt, is_query, rate, view), view))
        with full_precision(u.device.type):
            gates = None if self.gate is None else self.gate(u, lengths)
            response = run(self._current_system(), self.method, u, gaps, state, lengths, is_query, gates)
            if not self.bidirectional:
                return response
            one_gap = not self.step_size.gap or one_gap_for_all(dt, rate, is_query)
            run = partial(run, self._formed(reverse=True), self.method)
            back = run_reversed(run, u, gaps, one_gap, lengths, is_query, gates)
            return Response(response.y + back.y, response.state, response.evaluations + back.evaluations)

    def chosen_view(
        self,
        u: Tensor,
        dt: Tensor | float | None = None,
        *,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
        view: str | Integration = "auto",
    ) -> ViewChoice:
        """The view that `forward` runs on these arguments, and why; nothing is computed.

        "auto" convolves where one gap serves all rows, no row may be a query, and the record is long enough for the
        convolution to be the faster. What gaps and inputs hold is never looked at, only what kind of thing they are.

        Args:
            u: inputs, (B, L, H).
            dt: as in `forward`.
            is_query: as in `forward`.
            rate: as in `forward`.
            view: as in `forward`.

        Raises:
            ValueError: shapes that cannot be; a view that does not exist.

        Example:
            >>> layer, u = LSSL(channels=4, state_size=8), torch.ones(2, 4000, 4)
            >>> layer.chosen_view(u, dt=0.1).name
            'convolution'
            >>> print(layer.chosen_view(u, dt=torch.full((4000,), 0.1)).reason)
            dt has a gap a row (shape (4000,)), equal or not, and only the recurrence serves any grid
        """
        u = check_inputs(u, self.channels, self.C.dtype)
        none = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        read_gaps(dt, rate, u, none)  # shapes alone
        dt, rate = self.step_size.heard(dt, rate)
        return self._choice(u, dt, check_queries(is_query, u), rate, view)

    def step(self, u: Tensor, dt: Tensor | float | None, state: State) -> tuple[Tensor, State]:
        """One observation: y_k (B, H * M) and the new state.

        Args:
            u: input, (B, H).
            dt: time since the previous observation, None (= 1), a number or (B,).
            state: the state before it.

        Raises:
            ValueError: a bidirectional layer, or shapes that do not fit.
        """
        self._refuse_bidirectional("step")
        check_one_row(u, self.channels, state, self._own_state)
        plain = self.step_size.plain and self.gate is None and type(self).forward is LSSL.forward
        found = quick_step(self, u, dt, state) if plain else None
        if found is not None:
            return found
        y, state = self(u[:, None], one_column(dt, u.shape[0]), state=state, view="recurrence")
        return y[:, 0], state

    def peek(self, state: State, dt: Tensor | float, u: Tensor | None = None) -> Tensor:
        """Outputs a time after the last observation, the state left as it is.

        Args:
            state: the state after the last observation.
            dt: time since it, a number, (B,), or (B, Q) for several times a series.
            u: input at that time, (B, H) or (B, Q, H); None holds the last input (no kick where inputs are impulses).

        Returns:
            (B, H * M), or (B, Q, H * M) for several times.

        Raises:
            ValueError: a bidirectional layer, or shapes that do not fit.
        """
        self._refuse_bidirectional("peek")
        return peek_rows(self, self._own_state(state), dt, u, held=not self.method.hold.kick)

    def packed(
        self,
        u: Tensor,
        dt: Tensor | float | None,
        lengths: Tensor,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
    ) -> tuple[Tensor, State | None]:
        """What `forward` gives for series one after another, without padding: u (T, H) -> y (T, H * M) and the state.

        See `ctlssl.layers.packed.run_packed`.
        """
        return run_packed(self, u, dt, lengths, state, is_query, rate)

    def initial_state(self, batch: int) -> State:
        """The zero state of a number of series."""
        self._refuse_bidirectional("initial_state")
        return State(self.C.new_zeros(batch, *self._state_shape()), self.C.new_zeros(batch, self.channels))

    def system(self, reverse: bool = False) -> StateSpace:
        """The continuous system in clock units, float64: A' = step A and B' = step B (B' = B for impulses).

        Args:
            reverse: with the output map of the reversed pass of a bidirectional layer.

        Raises:
            ValueError: step sizes that depend on the input, which make another system of each row.
        """
        if self.gate is not None:
            raise ValueError("input-dependent steps make another system of each row; build the layer without a gate")
        return self._formed(reverse)

    def timescales(self) -> Tensor:
        """Half-lives ln 2 / |Re lambda| of the modes of each system, (G, N) float64, in clock units, ascending.

        A gate counts as 1. Eigenvalues are those of float64 arithmetic: of a matrix far from normal (DPLR and LegS of
        32 states and more) the slow ones are right and the fast ones are not.

        Example:
            >>> layer = LSSL(1, 4, structure="diagonal", measure="lin", step_range=(0.1, 0.1))
            >>> layer.timescales()  # Re lambda = -1/2 times the step
            tensor([[13.8629, 13.8629, 13.8629, 13.8629]], dtype=torch.float64)
        """
        with torch.no_grad():
            system = self._formed()
            return half_lives(system.A, system.groups)

    def _formed(self, reverse: bool = False) -> StateSpace:
        free = {name: getattr(self, f"A_{name}").double() for name in self._matrix_names}
        A = self._matrix_class.from_free(free)
        C = self.C_reverse if reverse else self.C
        # The feed-through belongs to the forward pass alone: it would count twice in the sum.
        D = torch.zeros_like(self.D) if reverse else self.D
        maps, step = (self.B.double(), C.double(), D.double()), self.log_step.double().exp()
        return form_system(A, step, maps, self.method, self.step_size.per, self.multi_input)

    def _current_system(self) -> StateSpace:
        """The system at a gate of 1; the same object as before where no gradients are recorded and nothing changed."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._formed()
        names = (*(f"A_{name}" for name in self._matrix_names), "log_step", "B", "C", "D")
        return self._kept_system.of(self.method, [getattr(self, name) for name in names], self._formed)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return described(self)

    def _choice(
        self,
        u: Tensor,
        dt: Tensor | float | None,
        is_query: Tensor | None,
        rate: Tensor | float,
        view: str | Integration,
    ) -> ViewChoice:
        system = (self.structure, self.multi_input, self.C.device.type, self.method.rule.tabulated)
        return choose_view(view, dt, rate, is_query, u.shape[1], system, self.gate is not None, not self.learn)

    def _runner(self, choice: ViewChoice, view: str | Integration) -> Callable[..., Response]:
        if isinstance(view, Integration):
            return partial(integration, solver=view)
        if choice.name == "convolution" and not self.learn:
            return partial(VIEWS["convolution"], respond=self._kept_response.of)
        return VIEWS[choice.name]

    def _heard(
        self, dt: Tensor | float | None, rate: Tensor | float, u: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor | float | None, Tensor | float]:
        """Of gaps and rate what counts; what does not must be sound all the same."""
        if not self.step_size.plain:
            read_gaps(dt, rate, u, lengths)
        return self.step_size.heard(dt, rate)

    def _add(self, name: str, value: Tensor, learned: bool) -> None:
        value = value.detach().to(torch.get_default_dtype()).clone()
        self.register_parameter(name, nn.Parameter(value)) if learned else self.register_buffer(name, value)

    def _state_shape(self) -> tuple[int, int]:
        return (1 if self.multi_input else self.channels), self.state_size

    def _own_state(self, state: State) -> State:
        return own_state(state, self._state_shape(), (self.channels,))

    def _refuse_bidirectional(self, call: str) -> None:
        if self.bidirectional:
            raise ValueError(f"a bidirectional layer has no causal state: {call} needs bidirectional=False")
