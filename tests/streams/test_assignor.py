"""The assignor, on which owners and standbys rest: every partition has one owner and its standbys, whoever comes and goes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from faust.assignor.client_assignment import ClientAssignment, CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

from streams.app import build_app
from streams.assignor import level
from streams.options import Options
from tests.streams.toy import ToyFold

TOPICS = {"source", "changelog"}


class Group:
    """Members and what each was last given, as they tell it when they join again."""

    def __init__(self, partitions: int, replicas: int) -> None:
        self.partitions, self.replicas = partitions, replicas
        self.members: dict[str, tuple[frozenset[int], frozenset[int]]] = {}

    def rebalance(self) -> None:
        told = {
            name: CopartitionedAssignment(set(actives), set(standbys), TOPICS)
            for name, (actives, standbys) in self.members.items()
        }
        given = CopartitionedAssignor(TOPICS, told, self.partitions, self.replicas).get_assignment()
        members = {name: ClientAssignment(actives={}, standbys={}) for name in given}
        for name, each in given.items():
            members[name].add_copartitioned_assignment(each)
        level(members)
        self.members = {name: self._told(member) for name, member in members.items()}

    @staticmethod
    def _told(member: ClientAssignment) -> tuple[frozenset[int], frozenset[int]]:
        (actives,) = {frozenset(numbers) for numbers in member.actives.values()}
        (standbys,) = {frozenset(numbers) for numbers in member.standbys.values()}
        return actives, standbys

    def check(self) -> None:
        owners = Counter(number for actives, _ in self.members.values() for number in actives)
        assert owners == dict.fromkeys(range(self.partitions), 1)
        followers = Counter(number for _, standbys in self.members.values() for number in standbys)
        copies = min(self.replicas, len(self.members) - 1)
        assert followers == (dict.fromkeys(range(self.partitions), copies) if copies else {})
        counts = [len(actives) for actives, _ in self.members.values()]
        assert max(counts) - min(counts) <= 1, "nobody is left without work that others have"
        assert all(not actives & standbys for actives, standbys in self.members.values()), "nobody stands by for itself"


@pytest.mark.parametrize("replicas", [0, 1, 2])
@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_members_come_and_go(partitions: int, replicas: int, rng: random.Random) -> None:
    group, names = Group(partitions, replicas), iter(range(1_000_000))
    for _ in range(300):
        for name in rng.sample(sorted(group.members), k=rng.randrange(len(group.members) + 1)):
            if rng.random() < 0.5:
                del group.members[name]
            else:
                group.members[name] = (frozenset(), frozenset())  # restarted: it remembers nothing
        for _ in range(rng.randrange(3) + (not group.members)):
            if len(group.members) < 6:
                group.members[f"worker-{next(names)}"] = (frozenset(), frozenset())
        group.rebalance()
        group.check()


@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_a_lone_worker_is_given_everything_whatever_standbys_are_asked_for(partitions: int) -> None:
    group = Group(partitions, replicas=1)
    group.members = {"one": (frozenset(), frozenset())}
    group.rebalance()
    assert group.members == {"one": (frozenset(range(partitions)), frozenset())}


def test_without_levelling_the_last_of_three_workers_has_none_of_four_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.streams.test_assignor.level", lambda _: None)
    group = Group(4, replicas=1)
    for name in ("one", "two", "three"):
        group.members[name] = (frozenset(), frozenset())
        group.rebalance()
    with pytest.raises(AssertionError, match="without work"):
        group.check()


def test_a_dead_owners_partitions_go_to_those_who_stand_by_for_them() -> None:
    group = Group(12, replicas=1)
    group.members = dict.fromkeys(("one", "two"), (frozenset(), frozenset()))
    group.rebalance()
    dead, heir = group.members.pop("one"), group.members["two"]
    assert heir[1] == dead[0], "of two workers each stands by for the other"
    group.rebalance()
    assert group.members["two"][0] == frozenset(range(12))


async def _assigned_by_a_worker(folder: Path) -> list[tuple[str, list[int]]]:
    """What the assignor of a worker as it is built sends to three members that join at once."""
    app = build_app(Options("127.0.0.1:1", folder), ToyFold(), 4)
    topics = {app.engine.options.topics.source, *app.engine.options.topics.changelogs.values()}
    cluster = SimpleNamespace(partitions_for_topic=lambda _: {0, 1, 2, 3})
    members = {name: app.assignor.metadata(topics) for name in ("one", "two", "three")}
    given = app.assignor._perform_assignment(cluster, members)
    return [item for each in given.values() for item in each.assignment if item[0] == app.engine.options.topics.source]


def test_a_worker_is_built_with_it(tmp_path: Path) -> None:
    source = asyncio.run(_assigned_by_a_worker(tmp_path))
    assert sorted(len(numbers) for _, numbers in source) == [1, 1, 2]
    assert sorted(number for _, numbers in source for number in numbers) == [0, 1, 2, 3]
