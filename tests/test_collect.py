"""Calibration's own bookkeeping: blocks of samples, statistics of several workers put together, limits of memory."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from graphs import Builder
from octavo.algorithms import adaround
from octavo.calibrate import blocks as cut
from octavo.calibrate import run
from octavo.calibrate.blocks import Block, blocks
from octavo.calibrate.data import InputSpec
from octavo.calibrate.halves import Halves
from octavo.calibrate.loops import can_step
from octavo.calibrate.observers import ChannelBounds, MinMax
from octavo.calibrate.run import Needs, collect
from octavo.errors import RunError
from octavo.graph import DType, Program, Tensor
from test_passes import looping

X = np.random.default_rng(3).normal(size=(24, 1, 6)).astype(np.float32)


def dense() -> Program:
    b = Builder()
    return b.program(b.unary("ABS", b.dense(b.input("x", (1, 6)), "dense", 5), "out"))


def all_needs(program: Program) -> Needs:
    ops = tuple(op for op in program.ops() if op.code == "FULLY_CONNECTED")
    return Needs(True, ops, frozenset(ops), frozenset(ops), dict.fromkeys(ops, 64), channels=True)


class TestBlocks:
    SPEC = (InputSpec("x", (1, 6), np.dtype(np.float32)),)

    def test_of_samples_in_memory(self) -> None:
        made = list(blocks(X, self.SPEC))
        assert [(block.first, block.count) for block in made] == [(0, 16), (16, 8)]
        assert [block.nbytes for block in made] == [16 * 24, 8 * 24]
        assert [block.place(3) for block in made] == ["sample 3", "sample 19"]
        rows = [sample["x"] for block in made for sample, anew in block.steps(self.SPEC) if anew]
        np.testing.assert_array_equal(rows, X)

    def test_of_large_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cut, "_BYTES", 50)  # two of 24 bytes are not enough, three are
        assert [block.count for block in blocks(X[:8], self.SPEC)] == [3, 3, 2]

    def test_a_run_of_samples_stays_together(self) -> None:
        """State goes on from one to the next, so no block begins within a sequence."""
        import octavo

        given = octavo.Sequences([X[:20], X[20:]])
        assert [(block.first, block.count) for block in blocks(given, self.SPEC)] == [(0, 20), (20, 4)]

    def test_of_nothing(self) -> None:
        assert list(cut._gathered(iter([]))) == []


class TestWorkers:
    def test_statistics_put_together_are_those_of_all(self) -> None:
        """As worker processes do it: a copy of the work each, and what they found sent back as bytes."""
        program = dense()
        needs = all_needs(program)
        whole = collect(program, X, needs=needs)
        home = run._Pass(program, None, needs)
        state = home.start()
        for block in blocks(X, home.window.specs):
            away = pickle.loads(pickle.dumps(home))
            assert away.program is not program
            found = away.start()
            away.add(found, pickle.loads(pickle.dumps(block)))
            home.merge(state, pickle.loads(pickle.dumps(away.pack(found))))
        assert state.found.bounds == whole.bounds and set(whole.bounds) == state.reached
        op = program.main.ops[0]
        np.testing.assert_array_equal(state.found.moments[op].second(), whole.moments[op].second())
        np.testing.assert_array_equal(state.found.moments[op].high, whole.moments[op].high)
        assert state.found.moments[op].samples == len(X)
        for tensor, bounds in whole.channels.items():
            mine = state.found.channels[tensor]
            np.testing.assert_array_equal(mine.known, bounds.known)

    def test_what_only_one_worker_found_is_kept(self) -> None:
        program = dense()
        home = run._Pass(program, None, Needs())
        found = home.start()
        home.add(found, next(blocks(X, home.window.specs)))
        packed = home.pack(found)
        empty = run._Seen(run.Statistics())
        home.merge(empty, packed)
        assert empty.found.bounds == found.found.bounds and empty.reached == found.reached

    def test_a_failing_sample_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        home = run._Pass(dense(), None, Needs())
        block = Block(7, 2, [({"x": X[0]}, True), ({"x": X[1]}, True)])
        runs = home.window.runs

        def fail_second(arrays: Any, anew: bool, views: bool) -> Any:
            if arrays[0] is X[1] or np.array_equal(arrays[0], X[1]):
                raise RunError("LiteRT can't run it")
            return runs(arrays, anew)

        monkeypatch.setattr(home.window, "runs", fail_second)
        with pytest.raises(RunError, match=r"^sample 8: LiteRT can't run it$"):
            home.add(home.start(), block)

    def test_gram_matrices_count_as_memory_where_they_are_kept(self) -> None:
        program = dense()
        weights = 4 * (5 * 6 + 5)
        assert run._Pass(program, None, Needs()).nbytes == weights
        assert run._Pass(program, None, all_needs(program)).nbytes == weights + run.GRAM_BYTES


class TestLimits:
    @pytest.mark.parametrize(
        ("memory", "block"),
        [(1 << 30, 2048), (12 << 20, 512), ((12 << 20) - 1, 256), (3 << 20, 128), ((3 << 20) - 1, 64)],
    )
    def test_gram_matrices_shrink_to_the_memory_for_them(
        self, memory: int, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One layer of 1,500 features: two halves of one matrix of 1,500, or of 3 blocks of 512, or of 12 of 128."""
        monkeypatch.setattr(run, "GRAM_BYTES", memory)
        b = Builder()
        b.dense(b.input("x", (1, 1500)), "dense", 2)
        assert run._block_size(b.graph.ops) == block

    def test_a_part_of_large_tensors_is_looked_at_and_all_channels(self) -> None:
        """The step through the values has no divisor in common with the channels."""
        array = np.broadcast_to(np.arange(12.0), (10_000, 12))
        some = run._some(array, np.random.default_rng(0))
        assert run._VALUES / 2 < some.size <= run._VALUES
        counts = np.bincount(some.astype(int), minlength=12)
        assert counts.min() > 0.9 * counts.max()
        small = np.ones((4, 12))
        assert run._some(small, np.random.default_rng(0)).size == 48


class TestObservers:
    def test_nothing_tells_nothing(self) -> None:
        nothing = np.zeros((0, 3))
        seen, channels, halves = MinMax(), ChannelBounds(), Halves.empty(3, False)
        seen.update(nothing)
        channels.update(nothing)
        halves.bound(nothing)
        assert seen.range is None and channels.known is None and halves.low is None and halves.high is None

    def test_both_sets_together(self) -> None:
        one, other = MinMax(), MinMax()
        one.update(np.array([1.0, 2.0]))
        other.update(np.array([-1.0, 0.5]))
        assert one.merge(other) == MinMax(-1.0, 2.0) and one.merge(MinMax()) == one
        a, b = ChannelBounds(), ChannelBounds()
        a.update(np.array([[1.0, 2.0], [3.0, 0.0]]))
        b.update(np.array([[-1.0, 1.0]]))
        merged = a.merge(b)
        assert merged.known is not None and a.known is not None
        assert [end.tolist() for end in merged.known] == [[-1, 0], [3, 2]]
        assert [end.tolist() for end in a.known] == [[1, 0], [3, 2]]  # as it was
        again = a.merge(ChannelBounds())
        assert again.known is not None and [end.tolist() for end in again.known] == [[1, 0], [3, 2]]

    def test_channels_of_another_number_mean_nothing(self) -> None:
        seen = ChannelBounds()
        seen.update(np.ones((2, 3)))
        seen.update(np.ones((2, 4)))
        assert seen.known is not None
        assert [end.tolist() for end in seen.known] == [[-np.inf], [np.inf]]


class TestLoops:
    def test_what_can_be_stepped_through(self) -> None:
        program = looping()
        assert can_step(program, program.main.ops[0])

    def test_a_loop_over_text_cant(self) -> None:
        program = looping()
        op = program.main.ops[0]
        op.inputs[2] = Tensor("text", DType.STRING, (1,))
        assert not can_step(program, op)

    def test_a_loop_with_state_cant(self) -> None:
        program = looping()
        body = program.graphs[2]
        body.ops[0].code = "READ_VARIABLE"
        assert not can_step(program, program.main.ops[0])

    def test_a_subgraph_that_is_called_twice_is_looked_at_once(self) -> None:
        """Condition and body may be one."""
        program = looping()
        op = program.main.ops[0]
        op.options = {"condSubgraphIndex": 2, "bodySubgraphIndex": 2}
        assert can_step(program, op)

    def test_turns_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loop of three turns, of which only two are looked at."""
        program = looping()
        body = program.graphs[2]
        tanh = next(op for op in body.ops if op.code == "TANH").outputs[0]
        inner = next(op for op in body.ops if op.code == "FULLY_CONNECTED").outputs[0]
        x = np.full((1, 6), 0.5, np.float32)
        all_turns = collect(program, x).ranges
        monkeypatch.setattr("octavo.calibrate.loops.MOST_TURNS", 1)
        first = collect(program, x).ranges
        kernel = program.main.ops[0].inputs[2]
        assert kernel is not None
        made = x @ kernel.values.T
        np.testing.assert_allclose(first[inner], (made.min(), made.max()), rtol=1e-5)
        assert first[inner][0] >= all_turns[inner][0] and first[inner][1] <= all_turns[inner][1]
        assert first[tanh] == pytest.approx((np.tanh(made).min(), np.tanh(made).max()), rel=1e-4)


def test_rounding_is_learned_only_where_jax_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adaround.available()
    monkeypatch.setitem(sys.modules, "jax", None)
    assert not adaround.available()
