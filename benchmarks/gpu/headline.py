"""`python -m benchmarks.gpu.headline`: a 65B-shaped base in NF4 trains under a cap of 48 GB, and what 80 GB hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

from benchmarks.flops import step_flops
from benchmarks.gpu.attempt import OUT_OF_MEMORY, WHY_NOT, attempt, told, why_not
from benchmarks.gpu.claim import Claim, held
from benchmarks.gpu.device import capped, timed, total_bytes
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import SIXTY_FIVE_B, llama_config, random_trainee
from benchmarks.gpu.roofline import Peaks, step_floor_s
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.tables import megabytes, table
from raylora.model.base.dtype import compute_dtype
from raylora.train.memory import PeakMemory
from raylora.train.prediction.estimate import Estimate, estimate

CAP_BYTES, WIDER_BYTES = 48 * 10**9, 80 * 10**9
TOKENS = 512
MOST_ROWS_OF_TOKENS = 128
"""The longest sequence that is looked for is so many times `TOKENS`."""
SHARE = 0.97
"""Of a cap that a prediction may fill: the allocator leaves gaps."""
TRIES, LESS = 3, 15 / 16
"""Where a prediction was too bold: how often less is tried, and how much of it."""
CLOSE = 0.05
"""A prediction may be off by this part."""
HEADLINE, LONGEST, LARGEST = "QLoRA's headline", "longest sequence", "largest base"


@dataclass(frozen=True)
class Case:
    """What is trained under which cap.

    Args:
        layers: Blocks of the base.
        tokens: Of the one row.
        cap_bytes: What torch may take.
    """

    layers: int
    tokens: int
    cap_bytes: int


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """QLoRA's headline, then the longest sequence and the largest base: by prediction, and less where that fails."""
    layers, wider = setting.layers, WIDER_BYTES
    if setting.device.type == "cuda":
        wider = min(wider, total_bytes(setting.device))
    peaks = Peaks.of(setting.device, compute_dtype(run_spec(setting, 1, TOKENS), setting.device.type))
    results: dict[str, Any] = {"close": CLOSE, "peaks": peaks.told_as, "cases": {}}

    def fits(layers: int, tokens: int) -> bool:
        return _predicted(setting, layers, tokens).peak_bytes <= SHARE * wider

    def longest() -> Iterator[Case]:
        times = _most(lambda times: fits(layers, TOKENS * times), MOST_ROWS_OF_TOKENS)
        return (Case(layers, TOKENS * less, wider) for less in _less_and_less(times))

    def largest() -> Iterator[Case]:
        number = _most(lambda number: fits(number, TOKENS), 4 * layers)
        return (Case(less, TOKENS, wider) for less in _less_and_less(number))

    sought: dict[str, Callable[[], Iterable[Case]]] = {
        HEADLINE: lambda: [Case(layers, TOKENS, CAP_BYTES)],
        LONGEST: longest,
        LARGEST: largest,
    }
    for name, cases in sought.items():
        results["cases"][name] = _first_that_fits(setting, peaks, name, cases)
        yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each case."""
    head = (
        *("", "layers", "values, 10^9", "tokens", "cap, MB", "predicted, MB", "measured, MB", "off by"),
        *("s a step", "tokens/s", "of the floor's speed"),
    )
    rows = [
        (
            name,
            told(case, "layers"),
            told(case, "parameters", lambda number: f"{number / 1e9:.1f}"),
            told(case, "tokens"),
            told(case, "cap_bytes", megabytes),
            told(case, "predicted_bytes", megabytes),
            told(case, "peak_bytes", megabytes) or why_not(case),
            f"{_off(case):+.1%}" if "peak_bytes" in case else "",
            f"{case['step_s']:.2f}" if "step_s" in case else "",
            f"{case['tokens'] / case['step_s']:.0f}" if "step_s" in case else "",
            f"{case['floor_s'] / case['step_s']:.0%}" if "step_s" in case else "",
        )
        for name, case in results["cases"].items()
    ]
    return (
        "LoRA r=16 on all linear layers, torch's AdamW, batch 1. The peak is that of loading and training, and is to "
        f"be within {results['close']:.0%} of what was predicted; on a CPU nothing is capped. "
        f"{Peaks.told(results).words}\n\n{table(head, rows)}"
    )


def _trains(results: Mapping[str, Any]) -> str | None:
    case = results["cases"].get(HEADLINE, {})
    if "peak_bytes" in case:
        return held(True, f"{megabytes(case['peak_bytes'])} MB at its peak")
    return held(False, OUT_OF_MEMORY) if case.get(WHY_NOT) == OUT_OF_MEMORY else None


def _off(case: Mapping[str, Any]) -> float:
    return float(case["peak_bytes"] / case["predicted_bytes"] - 1)


def _is_predicted(results: Mapping[str, Any]) -> str | None:
    cases = {name: case for name, case in results["cases"].items() if "peak_bytes" in case}
    if not cases:
        return None
    worst = max((_off(case) for case in cases.values()), key=abs)
    return held(abs(worst) <= results["close"], f"off by {worst:+.1%} at most, {len(cases)} cases")


def _found(name: str, key: str, words: str) -> Callable[[Mapping[str, Any]], str | None]:
    def found(results: Mapping[str, Any]) -> str | None:
        case = results["cases"].get(name, {})
        return words.format(case[key] / (10**9 if key == "parameters" else 1)) if "peak_bytes" in case else None

    return found


SCRIPT = Script(
    "headline",
    "A 65B-shaped base under 48 GB",
    "QLoRA's headline under a cap; then the longest sequence and the largest base that 80 GB hold",
    (
        Claim(
            "a 65B-shaped Llama in NF4 with double quantization trains r=16 on all linear layers under 48 GB: one row "
            "of 512 tokens, gradient checkpointing",
            _trains,
        ),
        Claim("the peak is within 5 % of what `raylora estimate` predicts, here and in the two below", _is_predicted),
        Claim("the longest sequence of that base that 80 GB hold", _found(LONGEST, "tokens", "{:.0f} tokens")),
        Claim(
            "the largest base that 80 GB hold, of that width, with one row of 512 tokens",
            _found(LARGEST, "parameters", "{:.0f} thousand million values"),
        ),
    ),
    measure,
    render,
    *SIXTY_FIVE_B,
    turns=2,
)


def _most(fits: Callable[[int], bool], at_most: int) -> int:
    """The largest number that fits, at least 1."""
    low, high = 1, at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _less_and_less(most: int) -> list[int]:
    """A number and a few smaller ones, at least 1."""
    return sorted({max(1, int(most * LESS**each)) for each in range(TRIES)}, reverse=True)


def _first_that_fits(setting: Setting, peaks: Peaks, name: str, cases: Callable[[], Iterable[Case]]) -> dict[str, Any]:
    """The first case that trains; the last one tried where none does."""
    found = attempt(setting, name, dict)
    for case in () if setting.is_late else cases():  # looking for the largest takes the host a minute or so
        found = _known(setting, case) | attempt(setting, f"{name}: {case}", partial(_train, setting, peaks, case))
        if found.get(WHY_NOT) != OUT_OF_MEMORY:
            break
    return found


@cache
def _predicted(setting: Setting, layers: int, tokens: int) -> Estimate:
    spec = run_spec(setting, 1, tokens)
    return estimate(spec, llama_config(setting.hidden, layers), setting.device.type)


def _known(setting: Setting, case: Case) -> dict[str, Any]:
    predicted = _predicted(setting, case.layers, case.tokens)
    return {
        "layers": case.layers,
        "tokens": case.tokens,
        "cap_bytes": case.cap_bytes,
        "predicted_bytes": predicted.peak_bytes,
        "parameters": predicted.base_parameters,
    }


def _train(setting: Setting, peaks: Peaks, case: Case) -> dict[str, Any]:
    """Make the base and take some steps under the cap, the first of which warms up."""
    config, spec = llama_config(setting.hidden, case.layers), run_spec(setting, 1, case.tokens)
    rows, seconds, told_losses = random_rows(case.tokens), [], []
    with capped(setting.device, case.cap_bytes), PeakMemory(setting.device) as memory:
        trainee = random_trainee(config, spec, setting.device)
        trainee.admit(0, spec)
        for turn in range(1 + setting.turns):
            step = shares_of(rows, 1, turn, 1)
            seconds.append(timed(setting.device, lambda step=step: told_losses.extend(losses(trainee, step))))
    return {
        "peak_bytes": memory.peak_bytes - memory.start_bytes,
        "step_s": median(seconds[1:]),
        "flops": step_flops(trainee, step),
        "floor_s": step_floor_s(peaks, trainee, step),
        "losses": told_losses,
    }


if __name__ == "__main__":
    SCRIPT.run()
