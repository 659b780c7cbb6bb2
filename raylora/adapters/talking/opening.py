"""A base loaded once, and stored adapters put into slots over it, or beside it in PEFT's own modules.

A base's folder and adapters enter; a `Session` leaves. Called by the commands that generate with stored adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from raylora.adapters.base import BasePlace
from raylora.adapters.layers import needs_peft
from raylora.adapters.slots import Seat, check_seat, seat_of
from raylora.adapters.stored import StoredAdapter
from raylora.adapters.talking.session import Session
from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.errors import ModelError, together
from raylora.log import get_logger
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.source.source import BaseFolder
from raylora.spec.run import RunSpec
from raylora.train.build import place_base
from raylora.train.prediction.estimate import device_of
from raylora.train.trainee import Trainee

if TYPE_CHECKING:
    from raylora.adapters.peft_seat import PeftSeat

log = get_logger(__name__)

GENERATION = "generation_config.json"


def open_session(
    base: BaseFolder,
    adapters: Mapping[str, StoredAdapter],
    fields: Mapping[str, Any],
    chat_template: str | None = None,
) -> Session:
    """Load a base once and give each adapter a slot over it, or a seat where it takes PEFT's own modules.

    Args:
        base: Every adapter's.
        adapters: By the names that they are asked by.
        fields: Of a run's configuration: how the base is held, and its `dtype`.
        chat_template: Jinja text in place of the base's own; what the adapters were trained with.

    Raises:
        ModelError: Some adapters, all of which are named, do not fit; or the base cannot be loaded.
    """
    spec = RunSpec.model_validate({"base_model": str(base.path), "datasets": [{"path": "none"}], **fields})
    seats = _seats(base, adapters, spec)
    tokenizer = load_tokenizer(base.path, chat_template)
    _warn_of_other_tokenizers(adapters, tokenizer_digest(tokenizer))
    told_ends = [_told_ends(base.path), tokenizer.eos_token_id]
    trainee = place_base(spec, base.path, (base.name, base.revision), torch.device(device_of(spec.distributed)))
    places = {name: _placed(trainee, base, adapters[name], seat, at) for at, (name, seat) in enumerate(seats.items())}
    log.info("%s: held as %s on this %s", base.name, spec.quantization, trainee.device.type)
    ends = _numbers(trainee.model.generation_config.eos_token_id, *told_ends)
    return Session(trainee, tokenizer, places, sorted(ends))


def _seats(base: BaseFolder, adapters: Mapping[str, StoredAdapter], spec: RunSpec) -> dict[str, Seat | None]:
    """Check the adapters against the base's layers before its weights are read; of one of PEFT's there is no more."""
    model = base_on_meta(read_config(base.path), spec, torch.float32)
    seats: dict[str, Seat | None] = {}
    errors = []
    for name, adapter in adapters.items():
        try:
            seats[name] = _seat(base, adapter, model)
        except ModelError as error:
            errors.append(error)
    if errors:
        raise together(errors)
    return seats


def _seat(base: BaseFolder, adapter: StoredAdapter, model: PreTrainedModel) -> Seat | None:
    if needs_peft(adapter):
        _in_peft(model, adapter, BaseWeights(model), torch.device("meta"))
        return None
    seat = seat_of(adapter, BasePlace(str(base.path)))
    check_seat(seat, model)
    return seat


def _placed(trainee: Trainee, base: BaseFolder, adapter: StoredAdapter, seat: Seat | None, slot: int) -> int | PeftSeat:
    if seat is None:
        weights = BaseWeights(trainee.model, base.path, trainee.device)
        return _in_peft(trainee.model, adapter, weights, trainee.device)
    trainee.bank.admit(slot, seat.settings, seat.targets)
    trainee.bank.load(slot, seat.tensors)
    return slot


def _in_peft(model: PreTrainedModel, adapter: StoredAdapter, weights: BaseWeights, device: torch.device) -> PeftSeat:
    from raylora.adapters.peft_seat import seat_in  # seconds of import that only these adapters need

    return seat_in(model, adapter, weights, device)


def _warn_of_other_tokenizers(adapters: Mapping[str, StoredAdapter], digest: str) -> None:
    for name, adapter in adapters.items():
        if adapter.about.get("tokenizer_digest") not in (None, digest):
            log.warning("%s was trained with another tokenizer or chat template than is used here", name)


def _told_ends(folder: Path) -> Any:
    """Tokens that end an answer, by a file of the base; some bases name more of them there than in their config."""
    path = folder / GENERATION
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"base_model: {path} is no JSON object ({error}). Copy the model's folder again") from error


def _numbers(*told: Any) -> set[int]:
    listed = [each for ids in told for each in (ids if isinstance(ids, list) else [ids])]
    return {each for each in listed if isinstance(each, int)}
