"""Numbers that belong to irregular records."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length

from ctlssl.estimators.base import SeriesEstimator, answers_of, weighted_examples, without
from ctlssl.examples import Examples

__all__ = ["LSSLRegressor"]


class LSSLRegressor(RegressorMixin, SeriesEstimator):
    """Numbers, one or several, that belong to each of a number of irregular records.

    Targets are standardised by the mean and spread of the training series, and predictions taken back.

    Args:
        model: see `SeriesEstimator`.
        width: see `SeriesEstimator`.
        epochs: see `SeriesEstimator`.
        batch_size: see `SeriesEstimator`.
        learning_rate: see `SeriesEstimator`.
        patience: see `SeriesEstimator`.
        validation: see `SeriesEstimator`.
        window: see `SeriesEstimator`.
        random_state: see `SeriesEstimator`.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985.

    Example:
        >>> import ctlssl
        >>> ds = ctlssl.synthetic.drug_kinetics.generate(series=40, seed=0)
        >>> LSSLRegressor(epochs=1).fit(ds, np.log(ds["clearance"].values)).predict(ds).shape
        (40,)
    """

    kind = "regression"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: np.ndarray | None = None) -> LSSLRegressor:
        """Learn.

        Args:
            X: n records, see `SeriesEstimator`.
            y: n numbers, or (n, T), or names of variables over series of a Dataset.
            sample_weight: n numbers >= 0, what the series count, or None.

        Raises:
            ValueError: no series, or answers that are not finite or do not belong to the records.
        """
        ds = self._read(X, reset=True)
        answers = check_array(answers_of(y, ds), ensure_2d=False, dtype=np.float64, input_name="y")
        ds = without(ds, y)
        check_consistent_length(ds["row_size"].values, answers)
        self.single_ = answers.ndim == 1
        targets = answers[:, None] if self.single_ else answers  # (n, T)
        self.target_mean_ = targets.mean(axis=0)
        spread = targets.std(axis=0)
        self.target_scale_ = np.where(spread > 0, spread, 1.0)
        scaled = torch.from_numpy((targets - self.target_mean_) / self.target_scale_).float()  # (n, T)
        examples = Examples(self._series(ds), np.asarray(ds["series"].values), labels=scaled)
        self._train(weighted_examples(examples, sample_weight))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The expected numbers of each record, (n,) or (n, T) as the targets were.

        Args:
            X: n records of the channels of the training; one that is lacking is taken as not observed.
        """
        mean = self._answer(self._read_fitted(X)).mean.double().numpy() * self.target_scale_ + self.target_mean_
        return mean[:, 0] if self.single_ else mean

    def _outputs(self) -> int:
        return len(self.target_mean_)
