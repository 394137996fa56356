"""What must not change a bit of the fused loops of a diagonal A: padding, neighbours, threads, layout, queries."""

import pytest
import torch

from ctlssl.kernels import thread_pool
from tests.contracts import generator, same_bits
from tests.diagonal_cases import (
    FORMS,
    NAMES,
    PARTS,
    ROWS,
    SERIES,
    arguments,
    assert_same,
    cast,
    changed,
    mapped,
    results,
)


@pytest.fixture
def many_threads(monkeypatch):
    """Threads for the smallest work, and torch's own number of them afterwards."""
    monkeypatch.setattr(thread_pool, "_WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


BOTH = pytest.mark.parametrize("form", FORMS)
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@PRECISIONS
@BOTH
def test_no_bit_depends_on_the_content_of_padding(form, dtype):
    given = cast(arguments(generator("padding", form), form, "linear", "exact", 3, 70, 7, 5), dtype)
    padded = given[3] == 0
    spoiled = changed(given, u=given[0].clone(), gaps=given[2].clone())
    spoiled[0][padded], spoiled[2][padded] = float("nan"), float("inf")
    assert_same(results(form, spoiled), results(form, given))


@PRECISIONS
@BOTH
def test_no_bit_depends_on_neighbours_in_the_batch(form, dtype):
    """Alone, among others, and beside a series that is not a number."""
    given = cast(arguments(generator("neighbours", form), form, "linear", "exact", 40, 70, 7, 5), dtype)
    together = results(form, given)
    spoiled = changed(given, u=given[0].clone())
    spoiled[0][2, :, -1], spoiled[0][3] = float("inf"), float("nan")
    beside = results(form, spoiled)
    for b in (0, 4, 35):
        alone = results(form, mapped(given, SERIES, lambda v, b=b: v[b : b + 1]))
        for k, name in enumerate(PARTS):
            if name in (*SERIES, "y", "last"):
                assert same_bits(alone[k], together[k][b : b + 1])
                assert same_bits(alone[k], beside[k][b : b + 1])


@pytest.mark.parametrize("hold", ["linear", "impulse"])
@PRECISIONS
@BOTH
def test_no_bit_depends_on_rows_added_at_the_end(form, dtype, hold):
    """Padding and queries after the last observation, on both sides of a checkpoint."""
    rng = generator("added rows", form, hold)
    for length in (9, 62):
        given = cast(arguments(rng, form, hold, "exact", 2, length, 7, 5), dtype)
        more = cast(arguments(rng, form, hold, "exact", 2, 3, 7, 5), dtype)
        more[3] = torch.tensor([0, 2, 2], dtype=torch.uint8).expand(2, 3)
        longer = [torch.cat([a, b], dim=1) if k < 9 and NAMES[k] in ROWS else a
                  for k, (a, b) in enumerate(zip(given, more, strict=True))]  # fmt: skip
        expected, found = results(form, given), results(form, longer, length)
        for k, name in enumerate(PARTS):
            assert same_bits(found[k][:, :length] if name in (*ROWS, "y") else found[k], expected[k])


@PRECISIONS
@BOTH
def test_no_bit_depends_on_the_number_of_threads(form, dtype, many_threads):
    given = cast(arguments(generator("threads", form), form, "linear", "exact", 37, 70, 7, 5), dtype)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(results(form, given))
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize(("hold", "rule"), [("linear", "exact"), ("impulse", "exact"), ("previous", "gbt(0.5)")])
@BOTH
def test_queries_never_disturb(form, hold, rule):
    given = cast(arguments(generator("queries", form, hold), form, hold, rule, 3, 70, 7, 5), torch.float32)
    y, last = FORMS[form](*given)
    without, end = FORMS[form](*changed(given, kinds=torch.where(given[3] == 2, 0, given[3])))
    committed = given[3] == 1
    assert same_bits(y[committed], without[committed]) and same_bits(last, end)
    assert (y[given[3] == 2] != 0).any() and not y[given[3] == 0].any()


@pytest.mark.parametrize(("hold", "rule"), [("linear", "exact"), ("impulse", "exact"), ("previous", "gbt(0.5)")])
@BOTH
def test_in_chunks_to_the_last_bit(form, hold, rule):
    """The last state and the last committed input of one call start the next."""
    given = cast(arguments(generator("chunks", form, hold), form, hold, rule, 2, 100, 7, 3), torch.float32)
    given[3][:, 36] = 1
    whole, end = FORMS[form](*given)
    first, x = FORMS[form](*mapped(given, ROWS, lambda v: v[:, :37]))
    later = changed(mapped(given, ROWS, lambda v: v[:, 37:]), x=x, start=given[0][:, 36])
    second, last = FORMS[form](*later)
    assert same_bits(torch.cat([first, second], dim=1), whole) and same_bits(last, end)


def spread(v):
    """The same numbers, every other one in memory."""
    return v.repeat_interleave(2, dim=-1)[..., ::2]


def turned(v):
    """The same numbers, the last axis outermost in memory."""
    return v.movedim(-1, 0).contiguous().movedim(0, -1)


@pytest.mark.parametrize("layout", [spread, turned])
@BOTH
def test_strided_and_expanded_inputs(form, layout):
    given = arguments(generator("strides", form, layout.__name__), form, "linear", "exact", 3, 6)
    given = mapped(given, SERIES, lambda v: v[:1].expand(3, *v.shape[1:]))
    plain = FORMS[form](*mapped(given, NAMES, torch.Tensor.contiguous))
    assert_same(FORMS[form](*given), plain)
    assert_same(FORMS[form](*mapped(given, NAMES, layout)), plain)
