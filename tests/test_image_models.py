"""Images in front of models: what the convolutions compute, what is not read, and the door."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.image_models import IMAGE_MODELS, ImageModel
from ctlssl.model_names import models_by_name
from ctlssl.runs import RunSettings
from ctlssl.series import TimeSeries

SIDE, PIXELS = 8, 64


def problem(kind="forecasting", others=2):
    channels = PIXELS + others
    return Problem(kind, channels, channels if kind == "forecasting" else 2, time_scale=0.5, first_gap=0.5, horizon=8.0)


def batch(others=2, seed=0):
    """Three series with images at most rows, and queries."""
    print(f"seed {seed}")
    draw = torch.Generator().manual_seed(seed)
    times = torch.rand(3, 6, generator=draw, dtype=torch.float64).cumsum(1)
    observed = torch.rand(3, 6, PIXELS + others, generator=draw) < 0.7
    observed[:, ::3, :PIXELS] = False
    values = torch.rand(3, 6, PIXELS + others, generator=draw)
    return TimeSeries(values, times, observed, torch.tensor([6, 1, 4])), times[:, ::2] + 0.1


def build(of="lssl", kind="forecasting", **options):
    torch.default_generator.manual_seed(3)
    return ImageModel(problem(kind), width=8, of=of, image=(SIDE, SIDE), features=5, filters=3, **options).eval()


def convolution(images, layer, norm):
    """ReLU of a convolution with stride 2, by loops."""
    weight, bias = (part.detach().numpy() for part in (layer.weight, layer.bias))
    reach = weight.shape[2]
    padding = reach // 2
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = (images.shape[2] + 1) // 2, (images.shape[3] + 1) // 2
    out = np.zeros((len(images), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, 2 * i : 2 * i + reach, 2 * j : 2 * j + reach]
            out[:, :, i, j] = np.einsum("ncij,fcij->nf", window, weight) + bias
    return np.maximum(normalised(out, norm), 0)


def linear(inputs, layer):
    return inputs @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def normalised(out, norm):
    """Mean 0 and spread 1 over all that is said of each image, then the factor and the shift of each channel."""
    if isinstance(norm, torch.nn.Identity):
        return out
    flat = out.reshape(len(out), -1)
    flat = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + norm.eps)
    shape = (1, -1) + (1,) * (out.ndim - 2)
    weight, bias = (part.detach().numpy().reshape(shape) for part in (norm.weight, norm.bias))
    return flat.reshape(out.shape) * weight + bias


@pytest.mark.parametrize("norm", [True, False])
def test_the_features_of_an_image(norm):
    """Against loops in numpy, with what was not observed at 0; rows without an image have no features."""
    model, (series, _) = build(norm=norm).double(), batch()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    series = series.to(dtype=torch.float64)
    encoded = model._encoded(series)
    first, first_norm, _, second, second_norm, _, _, third, third_norm, _, last = model.encoder
    shown = np.where(series.observed[..., :PIXELS], series.values[..., :PIXELS], 0).reshape(-1, 1, SIDE, SIDE)
    hidden = convolution(convolution(shown, first, first_norm), second, second_norm).reshape(len(shown), -1)
    hidden = np.maximum(normalised(linear(hidden, third), third_norm), 0)
    wanted = linear(hidden, last).reshape(3, 6, 5)
    seen = (series.observed[..., :PIXELS].any(-1) & series.in_length).numpy()
    np.testing.assert_allclose(encoded.values[..., :5].detach().numpy()[seen], wanted[seen], rtol=1e-10)
    assert torch.equal(encoded.observed[..., :5].any(-1), torch.from_numpy(seen))
    assert torch.equal(encoded.values[..., 5:], series.values[..., PIXELS:])


@pytest.mark.parametrize("of", ["lssl", "gru", "s5"])
def test_a_pixel_that_is_not_there_is_not_read(of):
    model, (series, queries) = build(of), batch()
    hidden = ~series.observed | ~series.in_length.unsqueeze(-1)
    other = TimeSeries(
        torch.where(hidden, torch.nan, series.values), series.times, series.observed, series.lengths, series.static
    )
    found = [model(given, queries).mean for given in (series, other)]
    assert torch.equal(*found)
    before = found[0]
    values = series.values.clone()
    values[0, 1, :PIXELS] += 1.0
    moved = model(replace(series, values=values), queries).mean
    assert not torch.equal(moved[0], before[0]) and torch.equal(moved[1:], before[1:])


def test_forecasts_are_of_the_other_channels():
    model, (series, queries) = build(), batch()
    found, inner = model(series, queries), model.inner(model._encoded(series), queries)
    assert found.mean.shape == found.scale.shape == (3, 3, PIXELS + 2)
    assert torch.equal(found.mean[..., PIXELS:], inner.mean[..., 5:])
    assert torch.equal(found.scale[..., PIXELS:], inner.scale[..., 5:])
    assert bool((found.mean[..., :PIXELS] == 0).all()) and bool((found.scale[..., :PIXELS] == 1).all())
    assert build(scales=False)(series, queries).scale is None


def test_pixels_are_dropped_while_training():
    """Whole pixels, the others scaled up: an encoder that adds them up sees no more or less of them on average."""
    model, (series, _) = build(pixel_dropout=0.5), batch()
    model.encoder = torch.nn.Flatten()
    model.features = PIXELS
    seen = series.observed[..., :PIXELS].any(-1) & series.in_length
    plain = model._encoded(series).values[seen][:, :PIXELS]
    dropped = model.train()._encoded(series).values[seen][:, :PIXELS]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])
    assert 0.35 < float(kept[plain != 0].float().mean()) < 0.65


def test_the_state_goes_on():
    """Rows in two chunks answer as all at once."""
    model, (series, _) = build(), batch()
    series = series.select([0])
    queries = series.times[:, -1:] + 0.25
    whole = model(series, queries).mean
    first, second = (
        TimeSeries(series.values[:, cut], series.times[:, cut], series.observed[:, cut], torch.tensor([3]))
        for cut in (slice(0, 3), slice(3, 6))
    )
    state = model(first, queries).state
    torch.testing.assert_close(model(second, queries, state).mean, whole, rtol=1e-5, atol=1e-6)


def test_classes_and_gradients():
    model, (series, _) = build("gru", "classification"), batch()
    model(series).logits.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.encoder.parameters())
    nothing = replace(series, observed=torch.zeros_like(series.observed))
    assert torch.isfinite(model(nothing).logits).all()


def test_the_door():
    with pytest.raises(ValueError, match="no model 'nonsense'"):
        ImageModel(problem(), of="nonsense", image=(SIDE, SIDE))
    with pytest.raises(ValueError, match=r"images of \(9, 9\) pixels are not in the 66 channels"):
        ImageModel(problem(), of="gru", image=(9, 9))
    with pytest.raises(ValueError, match="the series have 65 channels, the model was built for 66"):
        build()(batch(others=1)[0], batch()[1])


def test_they_are_found_by_name():
    text = "image_gru:image=[8,8]:layers=2"
    model = models_by_name(text)[text](problem(), width=4)
    assert isinstance(model, ImageModel) and len(model.inner.units) == 2
    assert "image_s5" in IMAGE_MODELS and not set(IMAGE_MODELS) & set(models_by_name("all"))
    settings = RunSettings("pendulum/angles", "image_s5", 4, {"image": [8, 8]})
    assert isinstance(settings.build(problem()), ImageModel)
    with pytest.raises(ValueError, match="options of image_gru"):
        RunSettings("pendulum/angles", "image_gru", 4, {"image": [8, 8], "nonsense": 1}).build(problem())


def test_quantiles_of_pixels_are_nothing_and_the_others_those_of_the_model():
    levels = (0.1, 0.5, 0.9)
    model = ImageModel(replace(problem(), quantiles=levels), width=8, of="lssl", image=(SIDE, SIDE), features=5).eval()
    series, queries = batch()
    found, inner = model(series, queries), model.inner(model._encoded(series), queries)
    assert found.quantiles.shape == (3, 3, PIXELS + 2, 3) and not found.quantiles[..., :PIXELS, :].any()
    assert torch.equal(found.quantiles[..., PIXELS:, :], inner.quantiles[..., 5:, :]) and found.scale is None
