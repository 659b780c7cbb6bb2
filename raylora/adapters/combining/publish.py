"""What an adapter does becomes a folder of it, with a manifest that says where it comes from.

Layers and the adapters that they were made of enter; a published adapter leaves, or nothing. Called by the command
`combine`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from raylora import __version__
from raylora.adapters.combining.recipe import SPARSE, Recipe
from raylora.adapters.delta import Layers, tensors_of
from raylora.adapters.new_folder import free_place, new_folder
from raylora.adapters.stored import StoredAdapter, local_folder, place_of
from raylora.errors import ExistingObjectError, InputError
from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import adapter_config
from raylora.model.adapter.slot import Slot
from raylora.model.export import adapter_files
from raylora.store.blob import open_store
from raylora.store.manifest import discard, publish

NARROWED = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Fields of PEFT's that take some of the layers back that `target_modules` names."""

AGREED = ("quantization", "dtype", "tokenizer_digest")
"""What is said of the result where it is said of all it was made of."""


def as_adapter(layers: Layers, parents: Sequence[StoredAdapter]) -> Adapter:
    """Write layers in PEFT's format, with a scale of 1 everywhere and a rank of its own for each layer that needs one.

    Args:
        layers: At least one.
        parents: What they were made of.
    """
    ranks = {module: delta.r for module, delta in layers.items()}
    r = max(ranks.values())
    scaled = {module: replace(delta, a_RI=delta.a_RI * delta.scale, scale=1.0) for module, delta in layers.items()}
    origin = _origin(parents)
    base_name = (origin.base_name or "", origin.base_revision)
    config = adapter_config(Slot(r, r, 0.0, 0), _target_modules(layers, parents), base_name)
    if pattern := _patterns(ranks, r):
        config |= {"rank_pattern": pattern, "alpha_pattern": pattern}
    return Adapter(tensors_of(scaled), config)


def lineage_of(
    parents: Sequence[StoredAdapter], recipe: Recipe, evaluation: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Where a combined adapter comes from, for its manifest; the places of its parents are not in it.

    Args:
        parents: What it was made of.
        recipe: How.
        evaluation: Its losses and theirs, as JSON; ``None`` where nothing was evaluated.
    """
    origin = _origin(parents)
    agreed = {name: {parent.about.get(name) for parent in parents} for name in AGREED}
    return {
        "base_model": origin.base_name,
        "base_revision": origin.base_revision,
        "base_digest": origin.base_digest,
        **{name: values.pop() for name, values in agreed.items() if len(values) == 1 and None not in values},
        "adapter": "lora",
        "combined_from": [{"run_id": parent.about.get("run_id"), "digest": parent.digest} for parent in parents],
        "method": recipe.method,
        "weights": list(recipe.weights),
        "density": recipe.kept if recipe.method in SPARSE else None,
        "max_rank": recipe.max_rank,
        "seed": recipe.seed,
        "evaluation": evaluation,
        "raylora": __version__,
    }


def check_free(uri: str) -> None:
    """Find out that an adapter can be published at a place.

    Args:
        uri: Of its folder, local or in a bucket.

    Raises:
        InputError: There is something already, or it is no place of a folder.
        StoreError: Nothing can be written there.
    """
    store, name = place_of(uri)
    if (folder := local_folder(uri)) is not None:
        free_place(folder)
    elif store.exists(name) or store.keys(name):
        raise InputError(f"--out {uri}: something is there already. Allowed: a new or empty folder. Name another")
    store.check_writable()


def publish_at(uri: str, adapter: Adapter, about: Mapping[str, Any]) -> str:
    """Publish an adapter as a folder, or leave none.

    Args:
        uri: Of the folder; it is looked at again, since what is published may have taken long to make.
        adapter: What to write.
        about: Lineage, kept in the manifest.

    Returns:
        The whole URI of the folder.

    Raises:
        RunFailedError: The adapter is broken.
        InputError: There is something by now.
        StoreError: The store refused.
    """
    files = adapter_files(adapter)
    check_free(uri)
    if (folder := local_folder(uri)) is not None:
        place = free_place(folder)
        with new_folder(place) as partial:
            publish(open_store(str(partial.parent)), partial.name, files, about)
        return str(place)
    store, name = place_of(uri)
    with ExitStack() as undo:
        undo.callback(discard, store, name)
        try:
            published = publish(store, name, files, about)
        except ExistingObjectError:
            undo.pop_all()  # what is there is another writer's
            raise
        undo.pop_all()
    return published


def _origin(parents: Sequence[StoredAdapter]) -> StoredAdapter:
    """The one that knows its base best."""
    return next((parent for parent in parents if parent.base_digest is not None), parents[0])


def _target_modules(layers: Layers, parents: Sequence[StoredAdapter]) -> list[str]:
    """The parents' words together, where they are names; servers such as vLLM want short ones."""
    words = [parent.config.get("target_modules") for parent in parents]
    is_narrowed = any(parent.config.get(field) not in (None, []) for parent in parents for field in NARROWED)
    if is_narrowed or not all(isinstance(names, list) for names in words):
        return sorted(layers)
    return sorted({str(name) for names in words for name in names or ()})


def _patterns(ranks: Mapping[str, int], r: int) -> dict[str, int]:
    """Keys for the layers whose rank is another than `r`: by last name where all of that name are alike."""
    by_leaf: dict[str, set[int]] = {}
    for module, rank in ranks.items():
        by_leaf.setdefault(_leaf(module), set()).add(rank)
    return {
        re.escape(_leaf(module)) if len(by_leaf[_leaf(module)]) == 1 else f"^{re.escape(module)}": rank
        for module, rank in ranks.items()
        if rank != r
    }


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]
