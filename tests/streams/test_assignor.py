"""Faust's assignor, on which owners and standbys rest: every partition has one owner and its standbys, whoever comes and goes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

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
        self.members = {name: (frozenset(each.actives), frozenset(each.standbys)) for name, each in given.items()}

    def check(self) -> None:
        owners = Counter(number for actives, _ in self.members.values() for number in actives)
        assert owners == dict.fromkeys(range(self.partitions), 1)
        followers = Counter(number for _, standbys in self.members.values() for number in standbys)
        copies = min(self.replicas, len(self.members) - 1)
        assert followers == (dict.fromkeys(range(self.partitions), copies) if copies else {})
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


def test_a_dead_owners_partitions_go_to_those_who_stand_by_for_them() -> None:
    group = Group(12, replicas=1)
    group.members = dict.fromkeys(("one", "two"), (frozenset(), frozenset()))
    group.rebalance()
    dead, heir = group.members.pop("one"), group.members["two"]
    assert heir[1] == dead[0], "of two workers each stands by for the other"
    group.rebalance()
    assert group.members["two"][0] == frozenset(range(12))
