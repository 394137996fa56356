"""Tensors and texts as bytes: a safetensors file in memory with a digest over all of it, read without trust."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

__all__ = ["digest_of_weights", "format_of", "pack", "read_json", "structure_of", "unpack"]

_BLANK = "0" * 64
_LARGEST_HEADER = 100_000_000  # of safetensors


def pack(tensors: dict[str, Tensor], about: dict[str, str], kind: str) -> bytes:
    """Tensors and texts as the bytes of a safetensors file; the same content gives the same bytes.

    Args:
        tensors: by name.
        about: texts by name.
        kind: what the bytes are and the version of that, such as "stream 2".

    >>> tensors, about = unpack(pack({"x": torch.ones(2)}, {"late": "refuse"}, "stream 2"), "stream 2")
    >>> tensors["x"], about["late"]
    (tensor([1., 1.]), 'refuse')
    """
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    # one text, since the order of several in the file is that of a hash table
    described = json.dumps({"format": f"ctlssl {kind}", **about}, sort_keys=True)
    blank = save(held, {"ctlssl": f"{_BLANK} {described}"})
    return blank.replace(_BLANK.encode(), _digest(blank), 1)


def unpack(data: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `pack` was given; nothing of the content is run, and nothing is believed before the digest fits.

    Args:
        data: from `pack`.
        kind: that `pack` was given.

    Raises:
        TypeError: no bytes.
        ValueError: bytes that `pack` did not write, or that were changed since.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a {_what(kind)} is loaded from the bytes that it was saved as, found {type(data).__name__}")
    data = bytes(data)
    try:
        tensors = load(data)
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        text = json.loads(header)["__metadata__"]["ctlssl"]
        digest, described = text.split(" ", 1)
        about = read_json(described)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"these bytes are no saved {_what(kind)}, or a part of one ({error})") from error
    expected = f"ctlssl {kind}"
    if about.get("format") != expected or not all(isinstance(item, str) for item in about.values()):
        raise ValueError(f"these bytes are of the format {about.get('format')!r}; this version reads {expected!r}")
    if len(digest) != 64 or _digest(data.replace(digest.encode(), _BLANK.encode(), 1)) != digest.encode():
        raise ValueError(f"the bytes were changed since the {_what(kind)} was saved: the digest does not fit")
    # a flag is a byte, and a byte other than 0 and 1 would be a third truth value
    flags = {name: tensor.view(torch.uint8) != 0 for name, tensor in tensors.items() if tensor.dtype == torch.bool}
    return {name: tensor.clone() for name, tensor in (tensors | flags).items()}, about


def format_of(path: str | os.PathLike) -> str | None:
    """What a file says it is, such as "ctlssl stream 2"; None of one that `pack` did not write.

    Args:
        path: a file, of which the header alone is read.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, _LARGEST_HEADER))
    try:
        return read_json(json.loads(header)["__metadata__"]["ctlssl"].split(" ", 1)[1])["format"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def read_json(text: str) -> dict:
    """The dictionary that a text of JSON holds.

    Raises:
        ValueError: anything else.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected names and values, found {type(found).__name__}")
    return found


def digest_of_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights and buffers of a model."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def structure_of(model: nn.Module) -> str:
    r"""What a model computes beside its weights: a line for each module, with its class and options.

    >>> structure_of(nn.Sequential(nn.LeakyReLU(0.1), nn.Dropout(0.2)))
    'Sequential()\n0: LeakyReLU(negative_slope=0.1)\n1: Dropout()'
    """
    lines = []
    for name, module in model.named_modules():
        # streams run in evaluation mode, in which the rate of a dropout means nothing
        options = "" if isinstance(module, nn.Dropout) else module.extra_repr()
        lines.append(f"{name}: " * bool(name) + f"{type(module).__name__}({' '.join(options.split())})")
    return "\n".join(lines)


def _what(kind: str) -> str:
    return kind.rsplit(" ", 1)[0]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
