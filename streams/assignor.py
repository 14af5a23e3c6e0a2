"""Who owns and who follows which partition: Faust's assignor, and then nobody has two partitions more than another."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor

__all__ = ["LevelAssignor", "level"]


class LevelAssignor(PartitionAssignor):
    """With standbys, Faust fills workers up to ceil(partitions / workers): of three, the last gets none of four partitions."""

    def _global_table_standby_assignments(
        self, assignments: MutableMapping[str, ClientAssignment], partitions_by_topic: Mapping[str, int]
    ) -> MutableMapping[str, ClientAssignment]:
        """Overrides PartitionAssignor: the step between the assignment and its being sent."""
        level(assignments)
        given: MutableMapping[str, ClientAssignment] = super()._global_table_standby_assignments(
            assignments, partitions_by_topic
        )
        return given


def level(members: Mapping[str, ClientAssignment]) -> None:
    """Move partitions from the member with the most to the one with the fewest, rather one that it stands by for: then the
    two change places.

    All topics are co-partitioned, so that a partition is moved in each of them.
    """
    while True:
        ranked = sorted(members, key=lambda name: (len(_owned(members[name])), name))
        poor, rich = members[ranked[0]], members[ranked[-1]]
        if len(_owned(rich)) - len(_owned(poor)) <= 1:
            return
        numbers = sorted(_owned(rich))
        _move(next((number for number in numbers if number in _followed(poor)), numbers[-1]), rich, poor)


def _owned(member: ClientAssignment) -> set[int]:
    return set().union(*member.actives.values())


def _followed(member: ClientAssignment) -> set[int]:
    return set().union(*member.standbys.values())


def _move(number: int, rich: ClientAssignment, poor: ClientAssignment) -> None:
    for topic in rich.actives:
        rich.actives[topic].remove(number)
        poor.actives[topic].append(number)
        if number in poor.standbys[topic]:
            poor.standbys[topic].remove(number)
            rich.standbys[topic].append(number)
