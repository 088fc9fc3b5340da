"""All that a report says, for programs."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from primenet_lightning import paper
from primenet_lightning.reproduction._results import PARTS, Result, Results
from primenet_lightning.reproduction.report._finding import ERRORS
from primenet_lightning.reproduction.report._measurements import Measured
from primenet_lightning.reproduction.report._remarks import findings, remarks
from primenet_lightning.reproduction.report._tables import tables
from primenet_lightning.reproduction.report.verdicts import judge

LEFT_OUT = ("name", "seed", "curves")


def as_data(results: Results) -> dict[str, Any]:
    """Gather what ``results.json`` holds."""
    hidden = {"losses"}
    if results.dataset == paper.SUBSET:
        hidden |= {*ERRORS}
    numbers: dict[str, Any] = _finite(
        {
            "settings": asdict(results.settings),
            "remarks": remarks(results),
            "findings": findings(results),
            "parts": {part: _part(results.of(part), hidden) for part in filter(results.of, PARTS)},
            "tables": list(map(asdict, tables(results))),
            "verdicts": list(map(asdict, judge(results))),
            "paper": {
                "test_errors": paper.TEST_ERRORS,
                "splits": {name: asdict(split) for name, split in paper.SPLITS.items()},
                "costs": [asdict(paper.PRIMENET_COST), asdict(paper.RESNET50_COST)],
                "quoted_errors": list(map(asdict, paper.QUOTED_ERRORS)),
                "quoted_costs": list(map(asdict, paper.QUOTED_COSTS)),
            },
        }
    )
    return numbers


def _part(results: list[Result], hidden: set[str]) -> dict[str, Any]:
    """Every number of a part over its seeds, without those whose name has a hidden word."""
    values: dict[str, list[Any]] = {}
    for result in results:
        fields = {name: value for name, value in asdict(result).items() if name not in LEFT_OUT}
        for key, value in _flat(fields).items():
            if hidden.isdisjoint(key.split("/")):
                values.setdefault(key, []).append(value)
    numbers = {key: _over_seeds(of_seeds) for key, of_seeds in values.items()}
    return {"seeds": [result.seed for result in results], **numbers}


def _over_seeds(values: list[Any]) -> Any:
    """Mean, spread and values of numbers; of what is no number, the one value that all seeds have, or all of them."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        number = Measured(tuple(map(float, values)))
        return {"mean": number.mean, "spread": number.spread, "n": len(values), "values": values}
    return values[0] if values.count(values[0]) == len(values) else values


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Put nested mappings into one, with keys like ``"extra/routings/vote"``; curves by their settings."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "exits" and isinstance(inner, list):
            inner = {f"threshold {leave['threshold']:g}": leave for leave in inner}
        if key == "curve" and isinstance(inner, list):
            inner = {f"setting {point['setting']:g}": point for point in inner}
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{before}{key}/")
        else:
            flat[f"{before}{key}"] = inner
    return flat


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
