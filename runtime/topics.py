"""Makes the topics, and writes the genesis that says whose they are."""

import os
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from billing.facts import GenesisApplied
from billing.records import Genesis
from runtime.errors import CommandError, TopicsDiffer
from runtime.ledger_log import last_value, whole_records
from runtime.logs import explained, range_of, read
from schemas.codec import encode
from schemas.ledger import position_in
from schemas.topics import LEDGER, TOPICS, USAGE_EVENTS, Topic

__all__ = ["create_topics", "operator_key"]

_TIMEOUT_S = 15.0
_IN_SYNC_MIN = 2
"""Replicas that must have a record before it is acknowledged, where there are three."""


def create_topics(bootstrap_servers: str, partitions: int, replication: int, operator_public_key: bytes) -> list[str]:
    """Make what is missing; the names of the topics that were made.

    Raises TopicsDiffer when one exists with other settings. Where `usage-events` was made anew and the ledger has facts, the
    genesis continues that deployment with the next incarnation; raises CommandError where that cannot be. It goes to all
    partitions of `usage-events` in one transaction: killed before its commit, it never happened, and the next call writes
    it.
    """
    with explained(bootstrap_servers):
        return _create_topics(bootstrap_servers, partitions, replication, operator_public_key)


def operator_key(path: Path) -> Ed25519PrivateKey:
    """The operator's key, made on first use with mode 0600."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            message = f"{path} holds a key of another kind; the operator's must be Ed25519"
            raise CommandError(message) from None
        return key
    made = Ed25519PrivateKey.generate()
    with os.fdopen(descriptor, "wb") as file:
        file.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _create_topics(bootstrap_servers: str, partitions: int, replication: int, operator_public_key: bytes) -> list[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    found = [topic for topic in TOPICS if topic.name in existing]
    _check_existing(admin, found, {t.name: len(existing[t.name].partitions) for t in found}, partitions)
    missing = [topic for topic in TOPICS if topic.name not in existing]
    _create(admin, missing, partitions, replication)
    _write_genesis(bootstrap_servers, partitions, operator_public_key)
    return [topic.name for topic in missing]


def _create(admin: AdminClient, topics: list[Topic], partitions: int, replication: int) -> None:
    if not topics:
        return
    in_sync = {"min.insync.replicas": str(_IN_SYNC_MIN)} if replication > _IN_SYNC_MIN else {}
    never_unclean = {"unclean.leader.election.enable": "false"}
    made = admin.create_topics(
        [
            NewTopic(t.name, _partitions(t, partitions), replication, config={**t.settings, **in_sync, **never_unclean})
            for t in topics
        ]
    )
    for name, future in made.items():
        try:
            future.result(_TIMEOUT_S)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another `topics create` was faster; its settings are the same declaration
            message = f"topic {name} cannot be created: {exc.args[0].str()}"
            raise CommandError(message) from exc


def _check_existing(admin: AdminClient, topics: list[Topic], counts: dict[str, int], partitions: int) -> None:
    """Every difference at once, naming what is and what should be."""
    wrong = [
        f"{t.name} has {counts[t.name]} partitions, not {_partitions(t, partitions)}"
        for t in topics
        if counts[t.name] != _partitions(t, partitions)
    ]
    if topics:
        described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, t.name) for t in topics])
        actual = {resource.name: future.result(_TIMEOUT_S) for resource, future in described.items()}
        for topic in topics:
            for name, value in topic.settings.items():
                is_now = actual[topic.name][name].value
                if sorted(is_now.split(",")) != sorted(value.split(",")):
                    wrong.append(f"{topic.name} has {name}={is_now}, not {value}")
    if wrong:
        raise TopicsDiffer("; ".join(wrong) + "; set them so, or use another cluster")


def _partitions(topic: Topic, partitions: int) -> int:
    return 1 if topic.single_partition else partitions


def _genesis(bootstrap_servers: str, partitions: int, operator_public_key: bytes) -> Genesis:
    """A new deployment's, or that of the next incarnation where the ledger has the facts of one before."""
    folded = {p: f for p in range(partitions) if (f := _folded(bootstrap_servers, p)) is not None}
    if not folded:
        return Genesis(uuid4().hex, 1, partitions, operator_public_key)
    (first, _), *others = folded.values()
    incarnation = max(each for _, each in folded.values())
    behind = [partition for partition, (_, each) in folded.items() if each < incarnation]
    if any(each.deployment_id != first.deployment_id for each, _ in others):
        refusal = "its partitions belong to several deployments"
    elif behind:
        refusal = (
            f"partitions {behind} never folded incarnation {incarnation}, whose records would be left out for ever"
        )
    elif first.partition_count != partitions:
        refusal = f"it was made with {first.partition_count} partitions, not {partitions}; the count is fixed"
    elif first.operator_public_key != operator_public_key:
        refusal = "it names another operator's key; put that key's file where METERLOG_OPERATOR_KEY_FILE says"
    else:
        return Genesis(first.deployment_id, incarnation + 1, partitions, operator_public_key)
    message = f"{USAGE_EVENTS} is new, and cannot continue what {LEDGER} holds: {refusal}"
    raise CommandError(message)


def _folded(bootstrap_servers: str, partition: int) -> tuple[GenesisApplied, int] | None:
    """What the partition's ledger begins with, and the last incarnation that it has facts of; None where it has none."""
    held = range_of(bootstrap_servers, LEDGER, partition)
    with closing(read(bootstrap_servers, LEDGER, partition, held.start)) as records:
        first = next(records, None)
    if first is None:
        return None
    assert first.value is not None, "a ledger record has a value"
    told = next(whole_records([first]), None)
    fact = told.facts[0] if told is not None and len(told.facts) == 1 else None
    if not isinstance(fact, GenesisApplied):
        message = (
            f"{USAGE_EVENTS} is new, and cannot continue what {LEDGER} holds: partition {partition} does not begin with a "
            "genesis; restore the ledger whole, or use another cluster"
        )
        raise CommandError(message)
    return fact, position_in(last_value(bootstrap_servers, partition) or first.value).incarnation


def _write_genesis(bootstrap_servers: str, partitions: int, operator_public_key: bytes) -> None:
    if not _unbegun(bootstrap_servers, partitions):
        return
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "transactional.id": "meterlog-genesis", "log_level": 0}
    )
    producer.init_transactions(_TIMEOUT_S)  # what was begun before, and killed, has ended now, one way or the other
    unbegun = _unbegun(bootstrap_servers, partitions)
    if not unbegun:
        return
    if len(unbegun) < partitions:
        message = (
            f"{USAGE_EVENTS} has records on some partitions and never had any on {unbegun}: it was not made by meterlog"
        )
        raise CommandError(message)
    genesis = encode(_genesis(bootstrap_servers, partitions, operator_public_key))
    producer.begin_transaction()
    for partition in range(partitions):
        producer.produce(USAGE_EVENTS, genesis, partition=partition)
    producer.commit_transaction(_TIMEOUT_S)


def _unbegun(bootstrap_servers: str, partitions: int) -> list[int]:
    """The partitions of `usage-events` that never had a record. A genesis that was not committed takes offsets, and is none."""
    return [partition for partition in range(partitions) if not _has_begun(bootstrap_servers, partition)]


def _has_begun(bootstrap_servers: str, partition: int) -> bool:
    held = range_of(bootstrap_servers, USAGE_EVENTS, partition)
    if held.start or not held.end:
        return held.start > 0
    with closing(read(bootstrap_servers, USAGE_EVENTS, partition)) as records:
        return next(records, None) is not None
