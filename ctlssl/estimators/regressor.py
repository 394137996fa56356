"""Numbers that belong to irregular records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length

from ctlssl.estimators.answers import answers_of, in_order, weighted_examples
from ctlssl.estimators.base import SeriesEstimator
from ctlssl.examples import Examples
from ctlssl.target_scale import TargetScale

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
            y: n numbers, or (n, T), in the order of the series or indexed by their names; or names of variables over
                series of a Dataset.
            sample_weight: n numbers >= 0, what the series count, or None.

        Raises:
            ValueError: no series, or answers that are not finite or do not belong to the records.
        """
        ds = self._read(X, reset=True, y=y)
        answers = check_array(answers_of(y, ds, X), ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(ds["row_size"].values, answers)
        self.single_ = answers.ndim == 1
        targets = answers[:, None] if self.single_ else answers  # (n, T)
        labels = torch.tensor(targets)
        examples = Examples(self._series(ds), np.asarray(ds["series"].values), labels=labels)
        self._train(weighted_examples(examples, in_order(sample_weight, ds, X)))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The expected numbers of each record, (n,) or (n, T) as the targets were.

        Args:
            X: n records of the channels of the training; one that is lacking is taken as not observed.
        """
        found = self._answer(self._read_fitted(X))
        mean = self.targets_.inverse(found).mean.numpy()  # (n, T)
        return mean[:, 0] if self.single_ else mean

    def score(self, X: Any, y: Any, sample_weight: np.ndarray | None = None) -> float:
        """The share of the variance that is explained, R^2.

        Args:
            X: records.
            y: as of `fit`.
            sample_weight: what the records count, or None.
        """
        return super().score(X, answers_of(y, self._read_fitted(X), X), sample_weight)

    def _encode(self, train: Examples, valid: Examples) -> tuple[Examples, Examples]:
        self.targets_ = TargetScale.fit(train.labels)
        train, valid = (self.targets_.apply(part) for part in (train, valid))
        return replace(train, labels=train.labels.float()), replace(valid, labels=valid.labels.float())

    def _outputs(self) -> int:
        return len(self.targets_.mean)
