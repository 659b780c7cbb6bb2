"""EVA: A starts as the directions in which its layer's inputs are largest, over the rows of a run's first steps.

Rows of slots that are about to take their first step enter; their A leaves, and B stays zero. What trains beside them
is not touched: passes are without adapters, gradients and dropout. Called by the step on every rank, as a sharded base
runs no pass on one alone. A run that goes on from a checkpoint has its A from there.

What is kept of the inputs is a sum over tokens, so that the number of ranks and the order of rows change no more than
its rounding, and takes a few columns a layer however many tokens there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from raylora.data.collate import Batch
from raylora.data.flat import one_text_a_line
from raylora.model.rows.route import NOBODY, Span
from raylora.model.rows.seed import stable_seed
from raylora.train.forward import Piece, idle_losses, not_training, scores_of
from raylora.train.trainee import Trainee

NUM_STEPS = 4
"""Steps whose rows are looked at."""

ROUNDS = 2
"""How often: the second time begins with the directions that the first one found."""

SPARE_COLUMNS = 8
"""Columns of a sketch beyond twice the rank."""

LEAST = 1e-12
"""Of the largest eigenvalue: one below is rounding."""

A = ".lora_A"


def start_bytes(matrices: Iterable[Tensor], num_tokens: int) -> int:
    """Most that the start of one slot holds beside a forward pass: all sketches, and the inputs of one layer.

    Args:
        matrices: Each A of the slot, on any device.
        num_tokens: Of a micro-batch.
    """
    shapes = [a_RI.shape for a_RI in matrices]
    sketches = sum(2 * num_inputs * _num_columns(rank, num_inputs) for rank, num_inputs in shapes)
    # As float64, and once more where what is not finite is taken out.
    inputs = 2 * num_tokens * max(num_inputs for _, num_inputs in shapes)
    return torch.float64.itemsize * (sketches + inputs)


def start_from_inputs(trainee: Trainee, rows: Mapping[int, Sequence[Batch]], num_passes: int) -> None:
    """Put the right singular vectors of the layers' inputs into each slot's A; a collective call.

    All layers keep one rank: none of it is moved to those whose inputs vary more, as the paper does for a rho above 1.
    Unlike in PEFT, the inputs' mean is not taken off, since products with A have it too, and all tokens of rows count.

    Args:
        trainee: The base and its slots; whether it trains is left as it was.
        rows: By slot this rank's micro-batches; equally many on every rank that shares the slot.
        num_passes: Micro-batches of the rank that has most of them, where ranks gather the base together.

    Source: EVA, https://arxiv.org/abs/2410.07170.
    """
    if not num_passes:
        return
    with not_training(trainee):
        for slot, batches in rows.items():
            _start(trainee, slot, batches)
        for _ in range(ROUNDS * (num_passes - sum(len(batches) for batches in rows.values()))):
            idle_losses(trainee)


def _start(trainee: Trainee, slot: int, batches: Sequence[Batch]) -> None:
    parameters = trainee.bank.parameters(slot)
    matrices = {name.removesuffix(A): a_RI for name, a_RI in parameters.items() if name.endswith(A)}
    sketches = {name: _Sketch(name, a_RI) for name, a_RI in matrices.items()}
    for _ in range(ROUNDS):
        for sketch in sketches.values():
            sketch.begin()
        for batch in batches:
            _look(trainee, sketches, batch)
        for sketch in sketches.values():
            trainee.slot_ranks.sum(sketch.sum_IK)
    for name, sketch in sketches.items():
        if sketch.sum_IK.any():  # else no token came to the layer, and A stays at random
            found_RI = sketch.directions(len(matrices[name]))
            matrices[name][: len(found_RI)] = found_RI
    trainee.steppers[slot].load_state({})  # an engine steps a copy of its own


def _look(trainee: Trainee, sketches: Mapping[str, _Sketch], batch: Batch) -> None:
    """One pass in which each sketch takes in its layer's inputs; padding does not count."""
    if trainee.sees_both_sides:
        batch = one_text_a_line(batch)  # as the pass has it
    is_token_N = None if trainee.why_padded is None else (batch.segment_ids_BT > 0).flatten().to(trainee.device)
    with ExitStack() as hooks:
        for name, sketch in sketches.items() if batch.num_tokens else ():
            layer = trainee.model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(partial(_take, sketch, is_token_N)))
        scores_of(trainee, [Piece(Span(NOBODY), batch)])


def _take(sketch: _Sketch, is_token_N: Tensor | None, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    x_NI = args[0].reshape(-1, args[0].shape[-1])
    # A layer that the model sends some of the tokens cannot be told which of them are padding.
    is_whole = is_token_N is not None and len(is_token_N) == len(x_NI)
    sketch.add(x_NI[is_token_N] if is_whole else x_NI)


def _num_columns(rank: int, num_inputs: int) -> int:
    return min(num_inputs, 2 * rank + SPARE_COLUMNS)


class _Sketch:
    """G Q of a layer, where G is the sum of x x^T over its inputs x, and Q some orthonormal columns.

    Args:
        name: Dotted name of the layer; seeds the first columns.
        a_RI: What is to start.

    Shapes:
        sum_IK: (I, K), float64, K the columns.
    """

    def __init__(self, name: str, a_RI: Tensor) -> None:
        rank, num_inputs = a_RI.shape
        num_columns = _num_columns(rank, num_inputs)
        generator = torch.Generator().manual_seed(stable_seed("eva", name))
        random_IK = torch.randn(num_inputs, num_columns, generator=generator, dtype=torch.float64)
        self.sum_IK = self._columns_IK = random_IK.to(a_RI.device)

    def begin(self) -> None:
        """Take inputs in anew, with columns that span what the sum did."""
        self._columns_IK = torch.linalg.qr(self.sum_IK).Q
        self.sum_IK = torch.zeros_like(self.sum_IK)

    def add(self, x_NI: Tensor) -> None:
        """Take inputs in; one that is not finite is passed over, and ends the run in the step that trains on it."""
        x_NI = x_NI.double()
        x_NI = x_NI.masked_fill(~x_NI.isfinite().all(1, keepdim=True), 0.0)
        self.sum_IK.addmm_(x_NI.t(), x_NI @ self._columns_IK)

    def directions(self, most: int) -> Tensor:
        """Right singular vectors of the inputs from the largest singular value on, each with a positive largest part.

        Args:
            most: How many.

        Shapes:
            Returns (R, I), float32; R is ``most``, or fewer where the inputs span fewer.

        Source: Nystrom's approximation of G by G Q (Q^T G Q)^-1 (G Q)^T, https://arxiv.org/abs/1706.05736.
        """
        small_KK = self._columns_IK.t() @ self.sum_IK
        values_K, vectors_KK = torch.linalg.eigh((small_KK + small_KK.t()) / 2)
        is_kept_K = values_K > LEAST * values_K[-1]
        root_IK = self.sum_IK @ (vectors_KK[:, is_kept_K] / values_K[is_kept_K].sqrt())
        v_IR: Tensor = torch.linalg.svd(root_IK, full_matrices=False).U[:, :most]
        signs_R = v_IR.gather(0, v_IR.abs().argmax(0, keepdim=True)).sign()
        return (v_IR * signs_R).t().float()
