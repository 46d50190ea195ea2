"""In which order waiting jobs go on: fair share and age.

Each job has a *fair factor* from 0 to 1, as in Slurm's classic fair share: 2^(−use/share). Share is the project's (its
grants among those of all that use or wait for the resource class) times the person's within the project (all alike).
Use is the person's own plus their share of what the rest of the project used, as fractions of what all used; decayed
by the half-life, with what runs now at its full hold. It also counts what of theirs stands before the job, so that of
a thousand jobs only the first have the factor of somebody who used nothing.
(https://slurm.schedmd.com/classic_fair_share.html)

The order is that of `submitted_at − factor × horizon`. As the factor is at most 1, nobody is overtaken by a job
submitted more than one horizon later: a finite number of jobs stands before each, and nobody waits for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting jobs, column by column. `project` and `person` are whatever tells them apart; `cost_s` is the hold."""

    ids: Sequence[UUID]
    project: Sequence[tuple[int, int]]
    person: Sequence[tuple[int, int, int]]
    submitted_s: Floats
    cost_s: Floats


@dataclass(frozen=True, slots=True)
class Ledgered:
    """What was used, by (project, class) and by (project, class, person); and each project's share of the class."""

    by_project: dict[tuple[int, int], float]
    by_person: dict[tuple[int, int, int], float]
    granted: dict[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order, and for each waiting job (in the order given) the figures that it comes from."""

    order: Indices
    factor: Floats
    project_share: Floats
    project_use: Floats
    person_share: Floats
    person_use: Floats


def rank(waiting: Waiting, used: Ledgered, *, horizon_s: float) -> Ranking:
    """Order waiting jobs. Pure: arrays in, arrays out."""
    persons, person = _number(waiting.person)
    projects, project = _number(waiting.project)
    arrival = np.lexsort((np.arange(len(person)), waiting.submitted_s))
    person_use, person_share = _person_figures(persons, used)
    project_use, project_share = _project_figures(projects, used)
    class_total = _class_totals(projects, used)
    # Everything that waits is part of the whole, so that fractions say something when nothing was used yet.
    class_of_project = np.array([key[1] for key in projects])
    waiting_of_class = {
        code: float(waiting.cost_s[class_of_project[project] == code].sum()) for code in set(class_of_project.tolist())
    }
    whole = np.array([class_total[key[1]] + waiting_of_class[key[1]] for key in projects])
    whole = np.maximum(whole, 1.0)
    place = {key: number for number, key in enumerate(projects)}
    first_project = np.array([place[key[:2]] for key in persons])

    own_before = person_use[person] + _before(person, waiting.cost_s, arrival)
    # Within the project its people take turns; what stands before a job there is the project's.
    turns = np.lexsort((waiting.submitted_s, own_before))
    all_before = project_use[project] + _before(project, waiting.cost_s, turns)
    effective = (own_before + (all_before - own_before) * person_share[person]) / whole[project]
    factor = np.exp2(-effective / (project_share[project] * person_share[person]))
    due = waiting.submitted_s - factor * horizon_s
    return Ranking(
        order=np.lexsort((np.arange(len(due)), waiting.submitted_s, due)),
        factor=factor,
        project_share=project_share[project],
        project_use=(project_use / whole)[project],
        person_share=person_share[person],
        person_use=(person_use / whole[first_project])[person],
    )


def _before(group: Indices, cost: Floats, sequence: Indices) -> Floats:
    """For each job the cost of those of its group that come earlier in `sequence`."""
    place = np.empty(len(sequence), dtype=np.int64)
    place[sequence] = np.arange(len(sequence))
    by_group = np.lexsort((place, group))
    costs = cost[by_group]
    running = np.cumsum(costs) - costs
    groups = group[by_group]
    is_first = np.ones(len(groups), dtype=bool)
    is_first[1:] = groups[1:] != groups[:-1]
    starts = running[is_first][np.cumsum(is_first) - 1]
    result = np.empty(len(cost))
    result[by_group] = running - starts
    return result


def _number(keys: Sequence[Any]) -> tuple[list[Any], Indices]:
    """Distinct keys, and for each given one its number among them."""
    known: dict[Any, int] = {}
    numbers = np.fromiter((known.setdefault(key, len(known)) for key in keys), dtype=np.int64, count=len(keys))
    return list(known), numbers


def _person_figures(persons: list[tuple[int, int, int]], used: Ledgered) -> tuple[Floats, Floats]:
    """Use and share of each person: those who used or wait in a project share it evenly."""
    members: dict[tuple[int, int], set[int]] = {}
    for project, resource_class, user in {*persons, *used.by_person}:
        members.setdefault((project, resource_class), set()).add(user)
    use = np.array([used.by_person.get(person, 0.0) for person in persons])
    share = np.array([1 / len(members[person[0], person[1]]) for person in persons])
    return use, share


def _project_figures(projects: list[tuple[int, int]], used: Ledgered) -> tuple[Floats, Floats]:
    """Use and share of each project: its grants among those of all projects that used or wait."""
    active = {*projects, *used.by_project}
    granted: dict[int, float] = {}
    for project, resource_class in active:
        granted[resource_class] = granted.get(resource_class, 0.0) + used.granted.get((project, resource_class), 0.0)
    use = np.array([used.by_project.get(key, 0.0) for key in projects])
    # A hundredth of a per cent is left to who has no grant now, so that none divides by nothing.
    share = np.array([max(used.granted.get(key, 0.0) / (granted[key[1]] or 1.0), 1e-4) for key in projects])
    return use, share


def _class_totals(projects: list[tuple[int, int]], used: Ledgered) -> dict[int, float]:
    totals = {resource_class: 0.0 for _, resource_class in projects}
    for (_, resource_class), use in used.by_project.items():
        if resource_class in totals:
            totals[resource_class] += use
    return totals
