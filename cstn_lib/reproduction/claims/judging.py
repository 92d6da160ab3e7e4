"""All claims judged from the runs, and the verdicts as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cstn_lib.reproduction.claims.claim import (
    CLAIMS,
    DATASETS,
    NOT_TESTED,
    Finding,
    Measured,
    Verdict,
    interval_text,
)
from cstn_lib.reproduction.experiments import Experiment, seeded_experiments
from cstn_lib.reproduction.paper import STANDS_FOR
from cstn_lib.reproduction.runs import Run
from cstn_lib.support.errors import InputError, unknown_name


def claim_experiments(
    name: str, profile: str, *, dataset: str = "", seeds: int = 0
) -> dict[str, list[Experiment]]:
    """Every training that a claim needs, by data set, seed after seed of each.

    Args:
        name: a key of `CLAIMS`.
        profile: one of `cstn_lib.reproduction.experiments.PROFILES`.
        dataset: instead of the claim's own; after a comma, in ImageNet's place.
        seeds: how many; 0: as many as the profile has.

    Raises:
        InputError: a name is unknown, or there are more than two data sets.
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    claim, chosen = CLAIMS[name], dataset.split(",") if dataset else list(DATASETS)
    if len(chosen) > len(DATASETS):
        raise InputError(f"dataset {dataset!r}: expected at most two data sets")
    places = [chosen[min(DATASETS.index(own), len(chosen) - 1)] for own in claim.datasets]
    return {
        data: seeded_experiments(claim.experiments, data, profile, seeds=seeds)
        for data in dict.fromkeys(places)
    }


def judge(
    open_run: Callable[[Experiment], Run],
    profile: str,
    *,
    only: Sequence[str] = (),
    dataset: str = "",
    seeds: int = 0,
) -> list[Verdict]:
    """The verdict on each claim, on each of its data sets.

    Args:
        open_run: such as `cstn_lib.reproduction.runs.RunStore.open`, which leaves claims of
            unfinished runs *not tested*, or ``RunStore.run``, which trains what is missing.
        only: names of `CLAIMS`; empty: all.
        profile, dataset, seeds: see `claim_experiments`.

    Raises:
        InputError: a name is unknown.
    """
    opened: dict[Experiment, Run] = {}
    verdicts = []
    for name in only or CLAIMS:
        options = {"dataset": dataset, "seeds": seeds}
        for data, needed in claim_experiments(name, profile, **options).items():
            opened |= {e: open_run(e) for e in needed if e not in opened}
            missing = dict.fromkeys(e.name for e in needed if not opened[e].finished)
            if missing:
                finding = Finding((), NOT_TESTED, f"no finished run of {', '.join(missing)}")
            else:
                runs: dict[str, list[Run]] = {}
                for experiment in needed:
                    runs.setdefault(experiment.name, []).append(opened[experiment])
                finding = CLAIMS[name].decide(runs, STANDS_FOR.get(data, ""))
            verdicts.append(Verdict(name, CLAIMS[name], data, *finding))
    return verdicts


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per claim and data set, as text; numbers in percentage points with 95 % intervals."""
    rows = [
        {
            "id": verdict.id,
            "claim": verdict.claim.text,
            "data set": verdict.dataset,
            "place": verdict.claim.place,
            "rule": verdict.claim.rule,
            "paper": _listed(verdict, lambda m: "" if m.paper is None else f"{m.paper:+.1f}"),
            "here": _listed(verdict, lambda m: interval_text(m.here)),
            "verdict": verdict.verdict,
            "why": verdict.why,
            "condition": verdict.claim.condition,
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows).set_index("id")


def measured_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per number behind the verdicts: the fields of `Measured`, in points."""
    rows = {
        (verdict.claim.text, verdict.dataset, m.what): (
            *(round(end, 2) for end in m.here),
            np.nan if m.paper is None else round(m.paper, 2),
            np.nan if m.within is None else m.within,
        )
        for verdict in verdicts
        for m in verdict.measured
    }
    index = pd.MultiIndex.from_tuples(rows, names=["claim", "data set", "measured [points]"])
    columns = ["here", "low", "high", "paper", "within"]
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


def _listed(verdict: Verdict, text: Callable[[Measured], str]) -> str:
    """A text for each number; where there are several, behind its name."""
    several = len(verdict.measured) > 1
    texts = {m.what: text(m) for m in verdict.measured}
    return "; ".join(f"{what}: {said}" if several else said for what, said in texts.items() if said)
