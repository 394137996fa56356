r"""Passes through time over coefficients that are there for every row: x_k = M_k x_{k-1} + b_k, and steps of any form.

Rows that are not committed, queries and padding, leave the state as it was; a query shows where its step would lead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.kernels import block_scan, linear_scan
from ctlssl.state_matrices.diagonal import multiply
from ctlssl.views.response import Rows

__all__ = ["block_pass", "committed_before", "elementwise_pass", "nested_pass", "stepwise_pass"]


def elementwise_pass(a: Tensor, b: Tensor, rows: Rows, x: Tensor) -> tuple[Tensor, Tensor]:
    """What each row shows of x_k = a_k x_{k-1} + b_k, elementwise, (B, L, ...), and the last committed state.

    Args:
        a: factors, (B, L, ...), real or complex.
        b: additions, (B, L, ...).
        rows: which rows are committed.
        x: state before the first row, (B, ...).
    """
    if rows.always_commits:
        states = linear_scan(a.expand_as(b), b, x)
        return states, states[:, -1] if states.shape[1] else x
    commits = rows.commits.reshape(*rows.commits.shape, *[1] * (b.ndim - 2))  # (B, L, 1, ...)
    states = linear_scan(torch.where(commits, a, 1), torch.where(commits, b, 0), x)
    return torch.where(commits, states, multiply(a, _before(x, states)) + b), states[:, -1] if states.shape[1] else x


def nested_pass(decay: Tensor, passed: Tensor, drive: Tensor, rows: Rows, x: Tensor) -> tuple[Tensor, Tensor]:
    """What each row shows of the sum of z^p, (B, L, ...), and the last committed z, (B, P, ...).

    z^1_k = decay_k z^1_{k-1} + drive_k and z^p_k = decay_k z^p_{k-1} + passed_k z^{p-1}_{k-1}, elementwise.

    Args:
        decay: factors, (B, L, ...).
        passed: what goes on from each to the next, likewise.
        drive: additions, likewise.
        rows: which rows are committed.
        x: z before the first row, (B, P, ...).
    """
    commits = rows.commits.expand(drive.shape[:2]).reshape(*drive.shape[:2], *[1] * (drive.ndim - 2))
    kept, total, last = torch.where(commits, decay, 1), torch.zeros_like(drive), []
    for order in range(x.shape[1]):
        first = x[:, order]
        states = linear_scan(kept, torch.where(commits, drive, 0), first)
        before = _before(first, states)
        total = total + torch.where(commits, states, multiply(decay, before) + drive)
        last.append(states[:, -1] if drive.shape[1] else first)
        drive = multiply(passed, before)
    return total, torch.stack(last, dim=1)


def committed_before(values: Tensor, rows: Rows, first: Tensor) -> tuple[Tensor, Tensor]:
    """The value of the last committed row before each one, (B, L, ...), and of the last in all, (B, ...).

    Args:
        values: of all rows, (B, L, ...).
        rows: which rows are committed.
        first: the value before the first row, (B, ...).
    """
    L = values.shape[1]
    every = torch.cat([first[:, None], values], dim=1)  # (B, 1 + L, ...)
    if rows.always_commits:
        return every[:, :L], every[:, L]
    place = torch.where(rows.commits, torch.arange(1, L + 1, device=values.device), 0)
    place = torch.nn.functional.pad(place.cummax(1).values, (1, 0))  # (B, 1 + L), 0 is the value handed in
    found = every.gather(1, place.reshape(*place.shape, *[1] * (values.ndim - 2)).expand_as(every))
    return found[:, :L], found[:, L]


def block_pass(M: Tensor, b: Tensor, rows: Rows, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same with matrices of 2 x 2 in place of factors.

    Args:
        M: matrices, (B, L, ..., 2, 2).
        b: additions, (B, L, ..., 2).
        rows: which rows are committed.
        x: state before the first row, (B, ..., 2).
    """
    if rows.always_commits:
        states = block_scan(M, b, x)
        return states, states[:, -1] if states.shape[1] else x
    commits = rows.commits.reshape(*rows.commits.shape, *[1] * (b.ndim - 2))  # (B, L, 1, ..., 1)
    eye = torch.eye(2, dtype=M.dtype, device=M.device)
    states = block_scan(torch.where(commits[..., None], M, eye), torch.where(commits, b, 0), x)
    step = (M * _before(x, states)[..., None, :]).sum(-1) + b
    return torch.where(commits, states, step), states[:, -1] if states.shape[1] else x


def _before(x: Tensor, states: Tensor) -> Tensor:
    """The committed state before each row, (B, L, ...)."""
    return torch.cat([x[:, None], states[:, :-1]], dim=1)[:, : states.shape[1]]


def stepwise_pass(
    advance: Callable[..., Tensor], coefficients: tuple[Tensor, ...], rows: Rows, x: Tensor
) -> tuple[Tensor, Tensor]:
    """What each row shows of x_k = advance(x_{k-1}, ...), (B, L, ...), and the last committed state.

    Args:
        advance: from the state (B, ...) and the row's coefficients, (B, ...) each, to the next state.
        coefficients: of all rows, (B, L, ...) each.
        rows: which rows are committed.
        x: state before the first row, (B, ...).
    """
    shown, commits = [], None if rows.always_commits else rows.commits
    for k in range(rows.u.shape[1]):
        seen = advance(x, *(part[:, k] for part in coefficients))
        x = seen if commits is None else torch.where(commits[:, k].reshape(-1, *[1] * (x.ndim - 1)), seen, x)
        shown.append(seen)
    return (torch.stack(shown, dim=1) if shown else x.new_zeros(len(x), 0, *x.shape[1:])), x
