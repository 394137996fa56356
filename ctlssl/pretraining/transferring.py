"""From a pre-trained model to one with another question: the weights of all but the head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ctlssl.contract import Model

__all__ = ["Transferred", "transfer"]

_HEAD = "head."
_CLOCK = ("channels", "time_scale", "first_gap", "horizon")


@dataclass(frozen=True)
class Transferred:
    """What a transfer did, by the names of tensors.

    Args:
        taken: those that the model has now from the pre-trained one.
        left: of the pre-trained one, those of its head, which were not taken.
        kept: of the model, those of its own head, which are as they were.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    kept: tuple[str, ...]


def transfer(pretrained: Model, model: Model) -> Transferred:
    """Give a model the encoder and the layers of a pre-trained one; each keeps its own head.

    Args:
        pretrained: what `pretrain` trained, or any other trained model.
        model: of the same class, size and options, built for the same channels and clock and any question.

    Returns:
        the names of the tensors that were taken and that were not.

    Raises:
        ValueError: models that do not fit, naming where they differ; nothing was taken then.

    Example:
        >>> from ctlssl import LSSLModel, Problem
        >>> pretrained = LSSLModel(Problem("forecasting", channels=2, outputs=2), width=4)
        >>> model = LSSLModel(Problem("classification", channels=2, outputs=2), width=4)
        >>> done = transfer(pretrained, model)
        >>> done.taken[:2], done.left[0], done.kept[0]
        (('encoder.unseen', 'encoder.linear.weight'), 'head.body.1.weight', 'head.body.1.weight')
    """
    if type(pretrained) is not type(model):
        raise ValueError(
            f"weights of a {type(pretrained).__name__} do not fit a {type(model).__name__}; build both of one class"
        )
    for name in _CLOCK:
        ours, theirs = (getattr(part.problem, name) for part in (model, pretrained))
        if ours != theirs:
            raise ValueError(
                f"the problems differ in {name}: {theirs!r} in the pre-trained model, {ours!r} in the other; the "
                "layers would read other data than they were trained on"
            )
    given, own = _body(pretrained), _body(model)
    for name in sorted(given.keys() | own.keys()):
        if given.get(name) != own.get(name):
            raise ValueError(
                f"the models differ in {name!r}: {given.get(name, 'nothing')} in the pre-trained one, "
                f"{own.get(name, 'nothing')} in the other; build both with the same options"
            )
    tensors = pretrained.state_dict()
    taken = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)}
    model.load_state_dict(taken, strict=False)
    kept = (name for name in model.state_dict() if name.startswith(_HEAD))
    return Transferred(tuple(taken), tuple(name for name in tensors if name not in taken), tuple(kept))


def _body(model: Model) -> dict[str, str]:
    """The options of every module and the shape of every tensor outside the head, by name."""
    modules = {
        name: f"{type(module).__name__}({module.extra_repr()})"
        for name, module in model.named_modules()
        if name and not f"{name}.".startswith(_HEAD) and not isinstance(module, nn.Dropout)
    }
    shapes = {name: str(tuple(part.shape)) for name, part in model.state_dict().items() if not name.startswith(_HEAD)}
    return modules | shapes
