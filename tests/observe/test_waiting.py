"""How long a record has waited, by nobody's clock but our own."""

from observe.waiting import Age, Waiting

PLACE = ("usage-events", 3)
NONE = Age(0.0, is_whole=True)


def test_a_record_ages_from_when_its_partition_was_seen_to_reach_it() -> None:
    waiting = Waiting()
    waiting.saw_end(PLACE, 10, 100.0)
    waiting.saw_end(PLACE, 12, 101.0)
    waiting.saw_end(PLACE, 20, 105.0)
    assert waiting.age(PLACE, 10, 106.0) == Age(5.0, is_whole=True)
    assert waiting.age(PLACE, 11, 107.0) == Age(6.0, is_whole=True)
    assert waiting.age(PLACE, 12, 107.0) == Age(2.0, is_whole=True)
    assert waiting.age(PLACE, 20, 107.0) == NONE


def test_what_was_there_before_we_looked_may_be_older() -> None:
    waiting = Waiting()
    waiting.saw_end(PLACE, 10, 100.0)
    assert waiting.age(PLACE, 9, 103.0) == Age(3.0, is_whole=False)


def test_a_partition_that_stands_ages_although_it_grows() -> None:
    waiting = Waiting()
    for second in range(2_000):
        waiting.saw_end(PLACE, 10 + second, float(second))
    assert waiting.age(PLACE, 10, 2_000.0) == Age(1_999.0, is_whole=True)


def test_marks_stay_few_and_ages_true_enough() -> None:
    waiting = Waiting()
    for second in range(100_000):
        waiting.saw_end(PLACE, second + 1, float(second))
    assert len(waiting._marks[PLACE]) <= 4_097
    age = waiting.age(PLACE, 50_000, 100_000.0).seconds
    assert 15_000 <= age <= 50_000, "shorter, and never longer"


def test_a_partition_made_anew_begins_anew() -> None:
    waiting = Waiting()
    waiting.saw_end(PLACE, 100, 0.0)
    waiting.saw_end(PLACE, 2, 50.0)
    assert waiting.age(PLACE, 1, 51.0) == Age(1.0, is_whole=False)


def test_a_partition_that_was_given_away_is_forgotten() -> None:
    waiting = Waiting()
    waiting.saw_end(PLACE, 100, 0.0)
    waiting.keep_only(set())
    assert waiting.age(PLACE, 1, 51.0) == NONE
