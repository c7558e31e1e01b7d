"""Latency tables: the fit, the file, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import random
import zlib
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.errors import HwpruneError, TableError
from hwprune.graph import ChannelGraph, Channels, Group, Layer, ParameterShape
from hwprune.latency.anchors import anchors
from hwprune.latency.kernels import Kernel
from hwprune.latency.samples import Moment, Network, Sample
from hwprune.latency.surface import Surface, typical_ms
from hwprune.latency.table import LatencyTable
from hwprune.latency.table_file import append

G = Channels(0, (("g", 1),))
GRAPH = ChannelGraph(
    groups=(Group("g", 32, ()),),
    unprunable={},
    layers=(Layer("conv", "conv.weight", "conv", Channels(3), G, 9.0),),
    parameters=(ParameterShape("conv.weight", G, Channels(3), 9),),
)
NETWORK = Network(
    GRAPH.fingerprint,
    (Kernel("conv", "Conv", Channels(3), G), Kernel("add", "Add é", Channels(fixed=1), G)),
    scale=2.0,
    offset_ms=-0.25,
    ms_per_mparam=100.0,
    dense_ms=1.5,
    held_out=((1.0, 1.1), (2.0, 1.9)),
    fitted=((1.0, 1.0),),
)


def samples() -> list[Sample]:
    """``0.1 + 0.01 a b`` for Conv and a constant for Add, in steps of 8."""
    conv = [
        Sample("Conv", 3, width, (0.1 + 0.01 * width / 8, 9.0), "n/0") for width in (8, 16, 24, 32)
    ]
    return [*conv, Sample("Add é", 1, 8, (0.5,), "n/0")]


def table() -> LatencyTable:
    return LatencyTable(
        "fake:step=8", {"device": "by hand"}, 8, samples(), {GRAPH.fingerprint: NETWORK}
    )


@pytest.fixture
def path(tmp_path):
    table().save(tmp_path / "table.jsonl")
    return tmp_path / "table.jsonl"


def test_a_prediction_by_hand() -> None:
    # Conv 0.1 + 0.01 * 1 * 3, Add 0.5; twice that, less 0.25, and 100 ms for 20 * 3 * 9 / 1e6
    assert table().predict_ms(GRAPH, {"g": 20}) == pytest.approx(2 * 0.63 - 0.25 + 0.054)


def test_widths_between_steps_cost_as_much_as_the_step() -> None:
    ms = [table().predict_ms(GRAPH, {"g": width}) for width in (17, 20, 24)]
    weights = [100.0 * width * 27 / 1e6 for width in (17, 20, 24)]
    assert len({round(m - w, 9) for m, w in zip(ms, weights, strict=True)}) == 1


def test_errors_of_a_network_are_relative_to_what_was_measured() -> None:
    assert NETWORK.errors == pytest.approx(sorted((0.1 / 1.1, 0.1 / 1.9)))


def test_adding_samples_changes_the_surfaces() -> None:
    made = table()
    before = made.predict_ms(GRAPH, {"g": 32})
    assert "new" not in made.surfaces
    made.add(samples=[Sample("new", 1, 8, (1.0,), "n/1"), Sample("Add é", 1, 32, (3.0,), "n/1")])
    assert "new" in made.surfaces
    assert made.predict_ms(GRAPH, {"g": 32}) > before + 1


def test_a_network_that_is_not_there() -> None:
    other = ChannelGraph((), {}, ())
    with pytest.raises(TableError, match=f"no network with fingerprint {other.fingerprint}.*prof"):
        table().predict_ms(other, {})


def test_a_network_without_samples_of_a_kind_is_refused() -> None:
    made = table()
    made.samples = [s for s in made.samples if s.kind == "Conv"]
    with pytest.raises(TableError, match="no sample of 'Add é'"):
        made.network(GRAPH)
    with pytest.raises(TableError, match="hwprune profile"):
        made.predict_ms(GRAPH, {"g": 8})


def test_the_typical_time_is_the_mean_of_the_faster_half() -> None:
    assert typical_ms((9.0, 1.0, 2.0, 8.0)) == 1.5
    assert typical_ms((3.0, 1.0, 2.0)) == 1.0
    assert typical_ms((4.0,)) == 4.0


@given(st.integers(1, 2048), st.sampled_from([1, 4, 8, 16, 32]))
def test_anchors_lie_on_the_step_and_reach_the_width(width, step) -> None:
    found = anchors(width, step)
    assert found == tuple(sorted(set(found)))
    assert found[-1] == width
    assert len(found) <= 6
    assert all(a % step == 0 or a == width for a in found)
    assert found[0] >= min(width, step)
    assert found[0] <= max(step, math.ceil(width / 8) + step)


places = st.lists(
    st.tuples(st.integers(1, 256), st.integers(1, 256), st.floats(1e-4, 50)),
    min_size=1,
    max_size=25,
)


@given(places, st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_surface_never_falls_when_channels_are_added(points, seed) -> None:
    made = LatencyTable("t", {}, 8, [Sample("k", a, b, (ms,), "n/0") for a, b, ms in points])
    surface = made.surfaces["k"]
    assert min(surface.overhead, surface.input, surface.output, surface.pair) >= 0
    assert all(slope > 0 for _, slope in surface.spills)
    draw = random.Random(seed)
    for _ in range(20):
        a, b = draw.randrange(40), draw.randrange(40)
        assert surface.ms(a, b) >= 0
        assert surface.ms(a + draw.randrange(5), b + draw.randrange(5)) >= surface.ms(a, b)


def test_a_surface_finds_the_truth_that_it_can_express() -> None:
    truth = Surface(0.2, 0.01, 0.03, 0.002)
    made = LatencyTable("t", {}, 8)
    for a, b in itertools.product((1, 3, 5, 8), repeat=2):
        made.add(samples=[Sample("k", 8 * a, 8 * b, (truth.ms(a, b),), "n/0")])
    for a, b in itertools.product(range(1, 9), repeat=2):
        assert made.surfaces["k"].ms(a, b) == pytest.approx(truth.ms(a, b), rel=1e-3)


def test_a_surface_follows_weights_that_outgrow_a_cache() -> None:
    def truth(a: int, b: int) -> float:
        return 0.1 + 0.002 * a * b + 0.004 * max(0, a * b - 30)

    made = LatencyTable("t", {}, 1)
    for a, b in itertools.product((1, 3, 5, 7, 9), repeat=2):
        made.add(samples=[Sample("k", a, b, (truth(a, b),), "n/0")])
    for a, b in itertools.product((2, 4, 6, 8), repeat=2):
        assert made.surfaces["k"].ms(a, b) == pytest.approx(truth(a, b), rel=0.1)


def test_a_scaled_surface() -> None:
    surface = Surface(1.0, 2.0, 3.0, 4.0, ((2.0, 0.5),))
    assert surface.scaled(3.0).ms(5, 7) == pytest.approx(3 * surface.ms(5, 7))


def test_a_file_gives_back_what_was_saved(path) -> None:
    assert LatencyTable.load(path) == table()
    assert LatencyTable.load(path).networks[GRAPH.fingerprint] == NETWORK


def test_a_torn_last_line_is_dropped_and_repaired(path) -> None:
    whole = path.read_bytes()
    extra = Sample("Conv", 3, 40, (0.15,), "n/1")
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last, last + 1, last + 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert LatencyTable.load(path).networks == {}
        append(path, samples=[extra], network=NETWORK)
        repaired = LatencyTable.load(path)
        assert repaired.samples == [*samples(), extra]
        assert repaired.networks == table().networks


def test_every_flipped_byte_is_refused_with_its_line(path) -> None:
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in range(len(whole) - 1):  # without the last newline the line is torn, not changed
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(TableError, match=rf"table\.jsonl, line {line}, is damaged"):
            LatencyTable.load(path)


def test_a_lost_line_end_or_line_in_the_middle_is_refused(path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1] + lines[2], *lines[3:]]))
    with pytest.raises(TableError, match="line 2"):
        LatencyTable.load(path)
    path.write_bytes(b"\n".join([lines[0], b"", *lines[1:]]))
    with pytest.raises(TableError, match="line 2"):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no latency table"),
        (b"no newline", "holds no latency table"),
        (b"device,ms\nmine,3\n", "line 1, is damaged or is no line of a latency table"),
        (b"{}\n", "line 1"),
        (b"\xff\xfe\n", "line 1"),
        (b'{"version":1,"crc32":3421846044}\n', "line 1"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, words) -> None:
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(content)
    with pytest.raises(TableError, match=words):
        LatencyTable.load(path)
    assert path.read_bytes() == content


def test_another_version_is_refused(tmp_path) -> None:
    text = '{"version":2,"target":"fake"}'
    line = f'{text[:-1]},"crc32":{zlib.crc32(text.encode())}}}\n'
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(TableError, match="has version 2; this hwprune reads 1"):
        LatencyTable.load(tmp_path / "t.jsonl")


def test_whole_lines_of_something_else_are_refused(tmp_path) -> None:
    """What a later version 1 would have to be if it broke its promise."""
    made = table()
    made.samples[0] = Sample("Conv", 3, 8, None, "n/0")
    made.save(tmp_path / "t.jsonl")
    with pytest.raises(TableError, match="holds no latency table of version 1"):
        LatencyTable.load(tmp_path / "t.jsonl")


@pytest.mark.parametrize("wrong", [{"scale": -1.0}, {"ms_per_mparam": -0.1}])
def test_a_calibration_in_which_latency_falls_is_refused(tmp_path, wrong) -> None:
    made = table()
    fits = Network("0", (), 1.0, 0.0, 0.0, 1.0)
    for network, refused in ((fits, False), (replace(fits, **wrong), True)):
        made.networks = {"0": network}
        made.save(tmp_path / "t.jsonl")
        with pytest.raises(TableError, match="latency falls") if refused else nullcontext():
            LatencyTable.load(tmp_path / "t.jsonl")


@pytest.mark.parametrize("times_ms", [((1.0,), ()), ((1.0,),)])
def test_a_moment_that_lacks_times_is_refused(tmp_path, times_ms) -> None:
    made = table()
    made.add(moment=Moment("0", times_ms, (0, 1)))
    made.save(tmp_path / "t.jsonl")
    with pytest.raises(TableError, match="lacks times"):
        LatencyTable.load(tmp_path / "t.jsonl")


def test_a_calibration_of_samples_that_are_read_otherwise_now_is_told() -> None:
    made = table()
    ms = made.predict_ms(GRAPH, GRAPH.widths)
    for predicted, alike in ((ms, True), (1.01 * ms, True), (1.2 * ms, False)):
        made.networks = {GRAPH.fingerprint: replace(NETWORK, fitted=((predicted, 1.0),))}
        assert made.is_calibration_current(GRAPH, "quiet") is alike
        assert not made.is_calibration_current(GRAPH, "typical")


def test_a_missing_file_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(TableError, match="hwprune profile"):
        LatencyTable.load(tmp_path / "none.jsonl")
    with pytest.raises(TableError, match="cannot be read"):
        LatencyTable.load(tmp_path)


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path) -> None:
    with pytest.raises(HwpruneError, match="Could not write"):
        append(tmp_path / "none" / "table.jsonl", samples=samples())


def line(row: str) -> str:
    return f'{row[:-1]},"crc32":{zlib.crc32(row.encode())}}}\n'


@pytest.mark.parametrize("bend", [0.0, 0.1])
def test_a_bent_calibration_of_an_older_version_is_fitted_anew(path, bend) -> None:
    """Without a bend the calibration is used as it is."""
    lines = path.read_text().splitlines(keepends=True)
    row = json.loads(lines[-1])
    del row["crc32"]
    row["network"]["bend"] = bend
    path.write_text("".join([*lines[:-1], line(json.dumps(row))]))
    made = LatencyTable.load(path)
    assert made.samples == samples()
    if not bend:
        assert made == table()
        return
    with pytest.raises(TableError, match=r"older hwprune.*`hwprune profile` with the same"):
        made.predict_ms(GRAPH, GRAPH.widths)
    append(path, network=NETWORK)
    assert LatencyTable.load(path) == table()
