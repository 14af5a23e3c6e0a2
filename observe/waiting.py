"""For how long a record has waited, by the clock of who waits: no other clock is asked, so none can make it look well."""

from collections.abc import Hashable
from typing import Final, NamedTuple

__all__ = ["Age", "Waiting"]

_MARKS_MAX: Final = 4_096
"""Of one partition: after so many measurements every second one is forgotten, which makes ages of a backlog a little shorter."""


class Age(NamedTuple):
    """How long something is known to have waited."""

    seconds: float
    is_whole: bool
    """False: it was there when the watch began, and may have waited for longer."""


class _Mark(NamedTuple):
    end_offset: int
    seen_s: float
    is_first: bool


class Waiting:
    """Remembers when each partition was first seen to reach an offset. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self._marks: dict[Hashable, list[_Mark]] = {}

    def saw_end(self, place: Hashable, end_offset: int, now_s: float) -> None:
        """The partition now ends before `end_offset`. One that ends earlier than before was made anew."""
        marks = self._marks.setdefault(place, [])
        if marks and end_offset < marks[-1].end_offset:
            marks.clear()
        if not marks or end_offset > marks[-1].end_offset:
            marks.append(_Mark(end_offset, now_s, not marks))
        if len(marks) > _MARKS_MAX:
            del marks[2:-1:2]

    def age(self, place: Hashable, offset: int, now_s: float) -> Age:
        """How long the record at `offset` has been there; nothing, where the partition was not seen to reach it.

        Offsets before it are not asked for any more.
        """
        marks = self._marks.get(place, [])
        while len(marks) > 1 and marks[0].end_offset <= offset:
            marks.pop(0)  # the last stays: it says from where on growth is new
        if not marks or marks[0].end_offset <= offset:
            return Age(0.0, is_whole=True)
        return Age(max(0.0, now_s - marks[0].seen_s), is_whole=not marks[0].is_first)

    def keep_only(self, places: set[Hashable]) -> None:
        """Forget the others: whoever owns them waits there."""
        for place in self._marks.keys() - places:
            del self._marks[place]
