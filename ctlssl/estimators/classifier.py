"""Classes of irregular records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from ctlssl.estimators.answers import answers_of, in_order, weighted_examples
from ctlssl.estimators.base import SeriesEstimator
from ctlssl.estimators.leaks import warn_of_length
from ctlssl.examples import Examples

__all__ = ["LSSLClassifier"]


class LSSLClassifier(ClassifierMixin, SeriesEstimator):
    """The class of each of a number of irregular records.

    Args:
        model: see `SeriesEstimator`.
        width: see `SeriesEstimator`.
        class_weight: None; "balanced", by which every class counts as much as another; or a weight of each class.
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
        >>> ds = ctlssl.load_dataset("covid19")
        >>> clf = LSSLClassifier(window=24.0, epochs=1).fit(ds, "outcome")
        >>> clf.predict_proba(ds).shape, clf.classes_
        ((375, 2), array([0, 1]))
    """

    kind = "classification"

    def __init__(
        self,
        model: str = "lssl",
        width: int = 32,
        *,
        class_weight: str | Mapping[Any, float] | None = None,
        epochs: int = 40,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        patience: int = 8,
        validation: float = 0.2,
        window: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(
            model,
            width,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            validation=validation,
            window=window,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: np.ndarray | None = None) -> LSSLClassifier:
        """Learn.

        Args:
            X: n records, see `SeriesEstimator`.
            y: n classes in the order of the series, or indexed by their names; or the name of the label among the
                variables of a Dataset.
            sample_weight: n numbers >= 0, what the series count, or None.

        Raises:
            ValueError: no series, fewer than two classes, or answers that do not belong to the records.
        """
        ds = self._read(X, reset=True, y=y)
        answers = column_or_1d(answers_of(y, ds, X), warn=True)
        check_consistent_length(ds["row_size"].values, answers)
        check_classification_targets(answers)
        self.classes_, labels = np.unique(answers, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs two classes, found {len(self.classes_)} class: {self.classes_}.")
        warn_of_length(ds, labels)
        weights = None if self.class_weight is None else compute_sample_weight(self.class_weight, answers)
        if sample_weight is not None:
            weights = np.asarray(in_order(sample_weight, ds, X)) * (1.0 if weights is None else weights)
        series = self._series(ds)
        examples = Examples(series, np.asarray(ds["series"].values), labels=torch.from_numpy(labels.astype(np.int64)))
        self._train(weighted_examples(examples, weights), labels)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (n, classes), in the order of `classes_`.

        Args:
            X: n records of the channels of the training; one that is lacking is taken as not observed.
        """
        return torch.softmax(self._answer(self._read_fitted(X)).logits.double(), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each record, (n,)."""
        likely = self.predict_proba(X).argmax(axis=1)  # (n,)
        return self.classes_[likely]

    def score(self, X: Any, y: Any, sample_weight: np.ndarray | None = None) -> float:
        """The share of the records whose class is predicted.

        Args:
            X: records.
            y: as of `fit`.
            sample_weight: what the records count, or None.
        """
        return super().score(X, answers_of(y, self._read_fitted(X), X), sample_weight)

    def _outputs(self) -> int:
        return len(self.classes_)
