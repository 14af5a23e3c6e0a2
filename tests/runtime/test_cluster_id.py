"""A cluster's id survives Kafka's own command line."""

import uuid

from runtime.embedded.kafka import spell_cluster_id


def test_an_id_never_begins_with_a_dash() -> None:
    dashed = uuid.UUID(bytes=b"\xfb" + bytes(15))
    assert spell_cluster_id(dashed)[0] != "-"
    assert len(spell_cluster_id(dashed)) == 22


def test_any_other_id_is_its_uuid() -> None:
    assert spell_cluster_id(uuid.UUID(int=0)) == "A" * 22
