"""Combined adapters are those that PEFT makes of the same ones; what cannot be combined is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raylora.adapters.combining.combine import combine
from raylora.adapters.combining.fit import fitting_layers
from raylora.adapters.combining.recipe import FACTOR_WISE, METHODS, Recipe, read_weights
from raylora.adapters.delta import Layers
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.errors import InputError, ModelError
from raylora.model.adapter.slot import Slot
from raylora.model.rows.seed import stable_seed
from tests.unit.adapters.published_adapters import assert_same_updates, in_peft, lora_layers, peft_updates, save_adapter

FIRST, SECOND = ("q_proj", "v_proj", "down_proj"), ("v_proj", "down_proj", "o_proj")
"""Targets: each adapter has layers that the other lacks."""
ONE_RANK = (Slot(6, 12, 0.0, 1), Slot(6, 3, 0.0, 2, use_rslora=True))
SEVERAL = (Slot(6, 12, 0.0, 1), Slot(4, 3, 0.0, 2, use_rslora=True))
WEIGHTS = [(1.0, 1.0), (0.7, -0.4)]


def saved(folder: Path, slots: tuple[Slot, Slot]) -> list[str]:
    return [
        save_adapter(folder / name, targets, slot)
        for name, targets, slot in zip("ab", (FIRST, SECOND), slots, strict=True)
    ]


def layers_of(uris: list[str], method: str) -> list[Layers]:
    return fitting_layers([read_adapter(uri) for uri in uris], method)


def updates(layers: Layers) -> dict[str, Tensor]:
    return {module: delta.update() for module, delta in layers.items()}


def weighted_sum(parents: list[Layers], weights: tuple[float, ...]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for layers, weight in zip(parents, weights, strict=True):
        for module, update in updates(layers).items():
            total[module] = total.get(module, 0) + weight * update
    return total


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("method", ["linear", "cat", "svd", "ties"])
def test_a_method_is_pefts(tmp_path: Path, method: str, weights: tuple[float, float]):
    uris = saved(tmp_path, ONE_RANK if method in FACTOR_WISE else SEVERAL)
    density = 0.4 if method == "ties" else None
    found = combine(layers_of(uris, method), Recipe(method, weights, density))
    model = in_peft(*uris)
    model.add_weighted_adapter(["p0", "p1"], list(weights), "both", combination_type=method, density=density)
    assert_same_updates(updates(found), peft_updates(model, "both"))
    assert {delta.scale for delta in found.values()} == {1.0}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_values_are_dropped_as_peft_drops_them_under_the_layers_seed(
    tmp_path: Path, method: str, weights: tuple[float, float]
):
    uris = saved(tmp_path, ONE_RANK)
    found = combine(layers_of(uris, method), Recipe(method, weights, 0.6, seed=5))
    model, expected = in_peft(*uris), {}
    for module, layer in lora_layers(model).items():
        torch.manual_seed(stable_seed("combine", 5, module))
        a_RI, b_OR = model.base_model._generalized_task_arithmetic_weighted_adapter(
            method, ["p0", "p1"], list(weights), layer, 0.6, "total"
        )
        expected[module] = b_OR @ a_RI
    assert_same_updates(updates(found), expected)


def test_the_seed_decides_what_is_dropped(tmp_path: Path):
    layers = layers_of(saved(tmp_path, ONE_RANK), "dare_linear")
    before = torch.random.get_rng_state()
    first, again, other = (combine(layers, Recipe("dare_linear", (1.0, 1.0), 0.5, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for module, delta in first.items():
        assert torch.equal(delta.a_RI, again[module].a_RI)
        assert not torch.equal(delta.a_RI, other[module].a_RI)
    alone = next(module for module in first if module.endswith("q_proj"))  # of the first adapter only
    kept = first[alone].a_RI != 0
    assert 0.3 < kept.float().mean() < 0.7
    scaled = layers[0][alone].a_RI * layers[0][alone].scale ** 0.5 / 0.5
    torch.testing.assert_close(first[alone].a_RI[kept], scaled[kept])


@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_where_every_value_is_kept_dare_is_the_weighted_sum_of_factors(tmp_path: Path):
    layers = layers_of(saved(tmp_path, ONE_RANK), "linear")
    found = combine(layers, Recipe("dare_linear", (0.7, -0.4), 1.0))
    assert_same_updates(updates(found), updates(combine(layers, Recipe("linear", (0.7, -0.4)))))


@pytest.mark.parametrize("recipe", [Recipe("cat", (0.7, -0.4)), Recipe("svd", (0.7, -0.4), max_rank=10)])
def test_with_the_rank_of_all_nothing_is_lost(tmp_path: Path, recipe: Recipe):
    layers = layers_of(saved(tmp_path, SEVERAL), recipe.method)
    found = combine(layers, recipe)
    assert_same_updates(updates(found), weighted_sum(layers, recipe.weights))
    ranks = {module.rpartition(".")[2]: delta.r for module, delta in found.items()}
    assert ranks == {"q_proj": 6, "v_proj": 10, "down_proj": 10, "o_proj": 4}


def test_a_truncated_update_misses_the_smallest_singular_values(tmp_path: Path):
    layers = layers_of(saved(tmp_path, SEVERAL), "svd")
    found = combine(layers, Recipe("svd", (1.0, 1.0), max_rank=3))
    for module, whole in weighted_sum(layers, (1.0, 1.0)).items():
        missed = float(torch.linalg.matrix_norm(whole - found[module].update()))
        assert missed == pytest.approx(float(torch.linalg.svdvals(whole)[3:].norm()), rel=1e-4)
        assert found[module].r == 3


@pytest.mark.parametrize("method", METHODS)
def test_of_layers_that_one_adapter_has_the_other_takes_nothing(tmp_path: Path, method: str):
    targets = {"a": ["q_proj"], "b": ["o_proj"]}
    pairs = zip(targets.items(), ONE_RANK, strict=True)
    uris = [save_adapter(tmp_path / name, names, slot) for (name, names), slot in pairs]
    layers = layers_of(uris, method)
    recipe = Recipe(method, (1.0, 1.0), 0.999 if method in ("ties", "dare_linear", "dare_ties") else None)
    found = combine(layers, recipe)
    assert found.keys() == layers[0].keys() | layers[1].keys()
    if method in ("linear", "cat", "svd"):
        assert_same_updates(updates(found), weighted_sum(layers, (1.0, 1.0)))


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path):
    layers = layers_of(saved(tmp_path, ONE_RANK), "cat")
    with pytest.raises(ModelError, match=r"not finite at 8 layers, first .*smaller --weights"):
        combine(layers, Recipe("cat", (1e39, 1e39)))


def refusal(adapters: list[StoredAdapter], method: str) -> str:
    with pytest.raises(ModelError) as refused:
        fitting_layers(adapters, method)
    return str(refused.value)


def test_ranks_that_cannot_be_added_are_refused_by_those_methods_alone(tmp_path: Path):
    adapters = [read_adapter(uri) for uri in saved(tmp_path, SEVERAL)]
    for method in METHODS:
        if method in FACTOR_WISE:
            said = refusal(adapters, method)
            assert f"--method {method}: it adds factors of one rank, and 4 layers have several" in said
            assert f"6 in {adapters[0].uri}, 4 in {adapters[1].uri}. Use --method cat" in said
        else:
            assert len(fitting_layers(adapters, method)) == 2


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path):
    slots = Slot(6, 12, 0.0, 1), Slot(4, 4, 0.0, 2, use_dora=True)
    first, second = (read_adapter(uri) for uri in saved(tmp_path, slots))
    other = StoredAdapter(second.uri, second.tensors, second.config, {"base_digest": "c" * 64})
    lines = refusal([first, other], "linear").splitlines()
    assert [line.strip()[:40] for line in lines] == [
        "several problems",
        f"combine: {second.uri} is DoRA"[:40],
        "adapters: 2 adapters of 2 bases. Allowed: one base"[:40],
        f"{first.uri}: tiny/llama, digest {'b' * 12}"[:40],
        f"{second.uri}: tiny/llama, digest {'c' * 12}"[:40],
        "--method linear: it adds factors of one rank"[:40],
    ]
    assert lines[3].endswith(f"digest {'b' * 12}") and lines[4].endswith(f"digest {'c' * 12}")
    assert "Train it without use_dora" in lines[1]


def test_bases_of_other_names_are_refused_where_no_digest_is_known(tmp_path: Path):
    first, second = (read_adapter(uri) for uri in saved(tmp_path, ONE_RANK))
    plain = StoredAdapter(first.uri, first.tensors, first.config, {})
    other = StoredAdapter(second.uri, second.tensors, {**second.config, "base_model_name_or_path": "org/other"}, {})
    assert "2 adapters of 2 bases" in refusal([plain, other], "cat")


def test_an_adapter_that_belongs_to_a_quantized_base_is_refused(tmp_path: Path):
    first, second = (read_adapter(uri) for uri in saved(tmp_path, ONE_RANK))
    loftq = StoredAdapter(second.uri, second.tensors, second.config, {**second.about, "init_lora_weights": "loftq"})
    assert f"combine: {second.uri} started as LoftQ" in refusal([first, loftq], "cat")


def test_adalora_is_combined_with_lora(tmp_path: Path):
    plain = read_adapter(save_adapter(tmp_path / "a", FIRST, ONE_RANK[0]))
    tensors, values = {}, torch.tensor([[2.0], [0.0], [-1.0], [0.5], [1.0], [3.0]])
    for name, tensor in plain.tensors.items():
        tensors[name.removesuffix(".weight")] = tensor
        if "lora_A" in name:
            tensors[name.removesuffix("A.weight") + "E"] = values
    fields = {"peft_type": "ADALORA", "init_r": 6, "lora_alpha": 12, "base_model_name_or_path": "tiny/llama"}
    adalora = StoredAdapter("adalora", tensors, fields, plain.about)
    layers = fitting_layers([plain, adalora], "cat")
    found = updates(combine(layers, Recipe("cat", (1.0, 0.5))))
    for module, update in updates(layers[0]).items():
        a_RI, b_OR = (plain.tensors[f"base_model.model.{module}.{name}.weight"] for name in ("lora_A", "lora_B"))
        wanted = update + 0.5 * 12 / (6 + 1e-5) * (b_OR * values.T) @ a_RI
        torch.testing.assert_close(found[module], wanted, rtol=1e-4, atol=1e-4)


def test_layers_of_another_size_are_refused(tmp_path: Path):
    first, second = (read_adapter(uri) for uri in saved(tmp_path, ONE_RANK))
    longer = {name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in second.tensors.items()}
    other = StoredAdapter(second.uri, longer, second.config, {})
    assert "4 layers have another size in one adapter than in another, first" in refusal([first, other], "cat")


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path):
    first, second = (read_adapter(uri) for uri in saved(tmp_path, ONE_RANK))
    other = StoredAdapter(second.uri, second.tensors, {**second.config, "peft_type": "LOHA"}, second.about)
    assert "is 'LOHA'" in refusal([first, other], "cat")


GOOD = Recipe("ties", (1.0, 1.0), 0.5)


def said_of(recipe: Recipe, num_adapters: int = 2) -> list[str]:
    return [str(problem) for problem in recipe.problems(num_adapters)]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("mean", (1.0, 1.0)), "--method: got 'mean'; allowed: linear, cat, svd, ties, dare_linear, dare_ties"),
        (Recipe("ties", (1.0,)), "--weights: got 1 for 2 adapters; give one for each"),
        (Recipe("ties", (1.0, float("nan"))), "--weights: got 1, nan; allowed: finite numbers"),
        (Recipe("ties", (0.0, 0.0)), "--weights: all are 0"),
        (Recipe("ties", (1.0, 1.0), 0.0), "--density: got 0; allowed: above 0, up to 1"),
        (Recipe("ties", (1.0, 1.0), 1.5), "--density: got 1.5; allowed: above 0, up to 1"),
        (Recipe("ties", (1.0, 1.0), float("nan")), "--density: got nan"),
        (Recipe("cat", (1.0, 1.0), 0.5), "--density: cat keeps every value; leave it out"),
        (Recipe("svd", (1.0, 1.0), max_rank=0), "--max-rank: got 0; allowed: 1 or more"),
        (Recipe("cat", (1.0, 1.0), max_rank=4), "--max-rank: cat truncates nothing; leave it out, or use --method svd"),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: Recipe, words: str):
    (said,) = said_of(recipe)
    assert said.startswith(words)


def test_right_recipes_pass_and_all_of_a_wrong_one_is_told():
    assert [said_of(Recipe(method, (1.0, 0.0))) for method in METHODS] == [[]] * len(METHODS)
    assert said_of(GOOD) == said_of(Recipe("svd", (1.0, -1.0), max_rank=1)) == []
    said = said_of(Recipe("mean", (), 2.0, 0), 1)
    assert [line.partition(":")[0] for line in said] == ["combine", "--method", "--weights", "--density", "--max-rank"]


def test_weights_are_read():
    assert read_weights(None, 3) == (1.0, 1.0, 1.0)
    assert read_weights("1, -0.5,2e-1", 3) == (1.0, -0.5, 0.2)
    with pytest.raises(InputError, match=r"--weights: got '1;2'; allowed: a number for each adapter"):
        read_weights("1;2", 2)


def test_layers_are_those_of_the_parents(tmp_path: Path):
    found: Mapping[str, object] = combine(layers_of(saved(tmp_path, SEVERAL), "cat"), Recipe("cat", (1.0, 1.0)))
    assert list(found) == sorted(found)
    assert {module.rpartition(".")[2] for module in found} == {*FIRST, *SECOND}
