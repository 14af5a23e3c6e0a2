"""Routing: Kafka's own partitioner, as three clients have it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given
from hypothesis import strategies as st

from billing.routing import partition_of

keys = st.binary(max_size=400) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
counts = st.integers(min_value=1, max_value=1_000)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_vectors_of_the_java_client(key: bytes, hashed: int) -> None:
    """The vectors of org.apache.kafka.common.utils.UtilsTest.testMurmur2, whose result is a signed int."""
    for partition_count in (1, 4, 12, 1_000_003, 1 << 31):
        assert partition_of(key, partition_count) == (hashed & 0x7FFFFFFF) % partition_count


@given(keys)
def test_aiokafka_hashes_alike(key: bytes) -> None:
    assert partition_of(key, 1 << 31) == murmur2(key) & 0x7FFFFFFF


@given(keys, counts)
def test_aiokafka_sends_to_the_same_partition(key: bytes, partition_count: int) -> None:
    every = list(range(partition_count))
    assert partition_of(key, partition_count) == DefaultPartitioner()(key, every, every)


@pytest.fixture(scope="module")
def librdkafka() -> ctypes.CDLL:
    """The library that confluent_kafka brings along: its partitioners are plain functions of it."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(folder.glob("librdkafka*"))
    if not found:
        pytest.skip(f"confluent_kafka brings no librdkafka along in {folder.name}: it was built from source")
    library = ctypes.CDLL(str(found[0]))
    for name in ("murmur2", "consistent"):
        partitioner = getattr(library, f"rd_kafka_msg_partitioner_{name}")
        partitioner.restype = ctypes.c_int32
        partitioner.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
    return library


@given(key=keys, partition_count=counts)
def test_librdkafkas_murmur2_sends_to_the_same_partition(
    librdkafka: ctypes.CDLL, key: bytes, partition_count: int
) -> None:
    sent_to = librdkafka.rd_kafka_msg_partitioner_murmur2(None, key, len(key), partition_count, None, None)
    assert partition_of(key, partition_count) == sent_to


def test_librdkafkas_default_sends_elsewhere(librdkafka: ctypes.CDLL) -> None:
    """Why a misrouted record's message names the producer's setting: the default hashes by CRC32."""
    keys = [f"acme/customer-{n}".encode() for n in range(100)]
    elsewhere = [
        key
        for key in keys
        if librdkafka.rd_kafka_msg_partitioner_consistent(None, key, len(key), 12, None, None) != partition_of(key, 12)
    ]
    assert len(elsewhere) > 80
