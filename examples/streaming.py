"""A ward of beds: observations as they come, results that come late, and a restart in the middle.

A model with a state needs no history: what it knows of a patient is a few hundred numbers, moved by every observation.
Run it:

    python examples/streaming.py
"""

import torch

import ctlssl

WINDOW = 12.0  # hours for which a late result is put where it belongs


def main(epochs: int = 2) -> dict[str, float]:
    """Print what the ward's day looks like, and return how far its forecasts are from those of the whole record."""
    # A forecaster of 74 laboratory values; times are hours after admission, values normal scores of the training part.
    split = ctlssl.prepare("covid19/forecast", seed=0)
    model = ctlssl.LSSLModel(split.problem, width=16)
    ctlssl.fit(model, split.train, split.valid, ctlssl.Training(epochs=epochs))

    # One stream a bed. What is seen at a bed goes through `split.normalizer` first; here that has been done.
    ward = split.test.series
    beds = model.stream(ward.batch, static=ward.static, late="replay", window=WINDOW)

    # Every third row takes up to six hours in the laboratory before it is known: rows come out of order.
    draw = torch.Generator().manual_seed(0)
    delay = 6 * torch.rand(ward.times.shape, generator=draw) * (torch.rand(ward.times.shape, generator=draw) < 1 / 3)
    known = torch.where(ward.in_length, ward.times + delay, torch.inf)  # (B, L)
    arrivals = known.flatten().argsort()[: int(ward.lengths.sum())]
    late, shown = 0, False
    for number, place in enumerate(arrivals.tolist()):
        bed, row = divmod(place, ward.length)
        time, values, observed = ward.times[bed, row], ward.values[bed, row], ward.observed[bed, row]
        late += bool(time < beds.last_time[bed])
        beds.observe(time, values, observed, series=bed)
        if number == len(arrivals) // 2:  # the machine is restarted: no history is read again, and no bit is lost
            saved = beds.save()
            beds = ctlssl.Stream.load(model, saved)
            shown = bool((beds.predict(100.0).mean == ctlssl.Stream.load(model, saved).predict(100.0).mean).all())

    # Older than the window: the message says which bed, what time, and what can be done.
    try:
        beds.observe(beds.last_time[3] - 20.0, torch.zeros(ward.channels), series=3)
    except ValueError as error:
        print(f"refused: {error}\n")

    # Forecasts for all beds at once, a list of times each, against the model given every record as a whole.
    asked = split.test.query_times  # (B, Q)
    soon = beds.predict(asked)
    with torch.no_grad():
        whole = model.eval()(ward, asked)
    difference = (soon.mean - whole.mean).abs().max().item()
    print(f"{len(arrivals)} observations in {ward.batch} beds, {late} of them late; saved in {len(saved)} bytes")
    print(f"forecasts {tuple(soon.mean.shape)}, largest difference from the whole records {difference:.1e}")
    return {"difference": difference, "late": late, "restored": float(shown)}


if __name__ == "__main__":
    main()
