"""Linear attention written as the recurrence that it is: h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import elu

from ctlssl.kernels import linear_scan
from ctlssl.layers.inputs import check_inputs, found_shape, read_gaps
from ctlssl.layers.linear_form import LinearForm

__all__ = ["linear_attention_form"]


def linear_attention_form(
    u: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dt: Tensor | float | None = None,
    decay: float = 0.0,
    normalised: bool = True,
) -> LinearForm:
    r"""Causal attention with the feature map phi(x) = elu(x) + 1, as a recurrence of the matrix S of values by keys.

        S_i = e^{-a h_i} S_{i-1} + v_i phi(k_i)^T
        z_i = e^{-a h_i} z_{i-1} + phi(k_i)                y_i = S_i phi(q_i) / z_i^T phi(q_i)

    which is the same as the sum over all rows up to its own,

        y_i = sum_j w_ij v_j / sum_j w_ij,   w_ij = e^{-a (t_i - t_j)} phi(q_i)^T phi(k_j)

    with k, q and v linear in u. The normaliser makes y_i a ratio of two states; here S alone is the state, and the
    read-out C_i = phi(q_i) / z_i^T phi(q_i) holds the other, which depends on no value. Softmax would need a phi of
    infinitely many features.

    Args:
        u: inputs, (B, L, H).
        query: W_q, (K, H).
        key: W_k, (K, H).
        value: W_v, (V, H).
        dt: time since the previous row, None (= 1), a number, (L,) or (B, L); without decay it has no part.
        decay: rate a at which what was written fades, per unit of dt; the original has none.
        normalised: whether the weights are divided by their sum.

    Returns:
        the form, with a state of V K numbers and outputs (B, L, V).

    Raises:
        ValueError: shapes or gaps that cannot be, or a negative decay.

    References:
        Katharopoulos, Vyas, Pappas, Fleuret (2020), Transformers are RNNs, arXiv:2006.16236.

    Example:
        >>> u, weight = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.zeros(2, 1)
        >>> form = linear_attention_form(u, query=weight, key=weight, value=torch.ones(1, 1))
        >>> form.run(u).flatten()  # keys that are all alike: the mean so far
        tensor([1., 2., 3.])
    """
    _check_weights(u, query, key, value)
    if not decay >= 0:
        raise ValueError(f"decay needs to be at least 0; found {decay}")
    u = check_inputs(u, key.shape[1], key.dtype)
    keep = torch.exp(-decay * read_gaps(dt, 1.0, u, None)).to(u.dtype)  # (B, L)
    (B, L), (K, V), dtype = u.shape[:2], (len(key), len(value)), u.dtype
    keys, queries = (elu(u @ weight.to(dtype).mT) + 1 for weight in (key, query))  # (B, L, K)
    if normalised:
        z = linear_scan(keep[..., None].expand_as(keys), keys, keys.new_zeros(B, K))  # (B, L, K)
        queries = queries / (z * queries).sum(-1, keepdim=True)
    eye = torch.eye(V, dtype=dtype, device=u.device)
    return LinearForm(
        transition=keep[..., None, None] * torch.eye(V * K, dtype=dtype, device=u.device),
        drive=torch.einsum("blk,vh->blvkh", keys, value.to(dtype)).flatten(2, 3),  # (B, L, V K, H)
        read=torch.einsum("blk,ov->blovk", queries, eye).flatten(3, 4),  # (B, L, V, V K)
        feed=u.new_zeros(B, L, V, u.shape[2]),
        start=u.new_zeros(B, V * K),
    )


def _check_weights(u: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = [found_shape(weight) for weight in (query, key, value)]
    if not all(isinstance(weight, Tensor) and weight.ndim == 2 for weight in (query, key, value)) or not (
        query.shape == key.shape and key.shape[1] == value.shape[1]
    ):
        raise ValueError(
            f"query and key need shape (K, H) and value (V, H); found {', '.join(shapes)} for u of {found_shape(u)}"
        )
