-- The tables that the sink keeps, and the views that people and programs read; only the views are a contract.
-- Version 1. {database} is the database's name. A changed statement is a new version, with its migration.
--
-- Every table replaces: a row that is written again lands on itself. What its row is identified by lies in ORDER BY, and what
-- PARTITION BY takes follows from that, so that a repeat never lands in another partition, where nothing would replace it.
-- The partition is the month of *log* time: events of the past 34 days arrive together, and would open a part for each
-- of their months in every insert.
-- fsync_*: a position must never survive a power failure that its rows do not. Measured: 8 ms an insert.

CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic;

CREATE TABLE IF NOT EXISTS {database}.schema_version
(
    version UInt32,
    made_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY version;

-- One row for each event and meter that it counted on.
CREATE TABLE IF NOT EXISTS {database}.usage_events
(
    org LowCardinality(String),
    customer_id String,
    meter LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    event_id String,
    incarnation UInt16,
    partition UInt32,
    offset UInt64,
    quantity Decimal(38, 9),
    feature LowCardinality(String) COMMENT 'the label it is totalled under: ~other past the cap on pairs',
    model LowCardinality(String) COMMENT 'the label it is totalled under: ~other past the cap on pairs',
    hour DateTime('UTC'),
    billing_start DateTime('UTC'),
    booking_day Date,
    accepted_at DateTime64(3, 'UTC') COMMENT 'log time',
    stripe_customer String,
    stripe_event_name LowCardinality(String) COMMENT 'empty: Stripe gets nothing of it',
    payload_digest FixedString(16),
    event_type LowCardinality(String) COMMENT 'as the producer sent it, as are all that follow',
    status LowCardinality(String),
    feature_sent LowCardinality(String),
    model_sent LowCardinality(String),
    tags Array(String),
    properties Map(String, String),
    input_tokens Nullable(Int64),
    output_tokens Nullable(Int64),
    cached_tokens Nullable(Int64),
    reasoning_tokens Nullable(Int64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(booking_day)
ORDER BY (org, customer_id, meter, occurred_at, event_id, incarnation, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Events that were not counted, failed calls among them, each with its reason.
CREATE TABLE IF NOT EXISTS {database}.usage_rejected
(
    org LowCardinality(String) COMMENT 'empty where the key names none',
    customer_id String,
    accepted_at DateTime64(3, 'UTC') COMMENT 'log time',
    incarnation UInt16,
    partition UInt32,
    offset UInt64,
    reason LowCardinality(String),
    field LowCardinality(String) COMMENT 'the field at fault, empty where none is',
    message String,
    event_id String,
    occurred_at Nullable(DateTime64(6, 'UTC')) COMMENT 'null where it cannot be read, or lies outside the years 1900 to 2299',
    meter String COMMENT 'as the producer sent it, as are all that follow; empty where it cannot be read',
    quantity String,
    event_type String,
    status String,
    feature_sent String,
    model_sent String,
    tags Array(String),
    properties Map(String, String),
    input_tokens Nullable(Int64),
    output_tokens Nullable(Int64),
    cached_tokens Nullable(Int64),
    reasoning_tokens Nullable(Int64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org, customer_id, accepted_at, incarnation, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Repeats of an event that was met before, at first_offset of the same partition: bitAnd(first_offset, 281474976710655) in
-- incarnation bitShiftRight(first_offset, 48) + 1, so that in a log that was never made anew it is the offset itself.
CREATE TABLE IF NOT EXISTS {database}.usage_duplicates
(
    org LowCardinality(String),
    customer_id String,
    accepted_at DateTime64(3, 'UTC') COMMENT 'log time of the repeat',
    incarnation UInt16,
    partition UInt32,
    offset UInt64,
    event_id String,
    first_offset UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org, customer_id, accepted_at, incarnation, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Hour totals, absolute: of the rows with one key the highest version is the total.
CREATE TABLE IF NOT EXISTS {database}.usage_hourly
(
    org LowCardinality(String),
    customer_id String,
    billing_start DateTime('UTC'),
    meter LowCardinality(String),
    feature LowCardinality(String),
    model LowCardinality(String),
    hour DateTime('UTC'),
    booking_day Date,
    quantity Decimal(38, 9),
    event_count UInt64,
    digest UInt128 COMMENT 'sum mod 2^128 of the digests of the events in it',
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(booking_day)
ORDER BY (org, customer_id, billing_start, meter, feature, model, hour, booking_day)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How far each partition of each topic is in the tables above, and where a start begins again.
CREATE TABLE IF NOT EXISTS {database}.sink_positions
(
    topic LowCardinality(String),
    partition UInt32,
    next_offset UInt64,
    source_offset Int64 COMMENT 'ledger: offset of the last record of usage-events before next_offset; -1: none',
    log_ms Int64,
    rewind_next_offset UInt64,
    rewind_source_offset Int64,
    rewind_log_ms Int64
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (topic, partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Usage by hour: what customers are billed for. Filters on the grouped columns reach the table's index.
CREATE VIEW IF NOT EXISTS {database}.usage AS
SELECT
    org, customer_id, meter, feature, model, hour, billing_start,
    sum(quantity) AS quantity,
    sum(event_count) AS event_count,
    sum(digest) AS digest
FROM {database}.usage_hourly FINAL
GROUP BY org, customer_id, meter, feature, model, hour, billing_start
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- The events under the usage. The sum of their digests is the total's digest: reckoned here from the row itself, so that it
-- proves what the row says.
CREATE VIEW IF NOT EXISTS {database}.events AS
SELECT
    *,
    reinterpretAsUInt128(substring(SHA256(concat(
        toString(length(event_id)), ':', event_id,
        toString(length(meter)), ':', meter,
        toString(length(toString(quantity))), ':', toString(quantity),
        toString(length(toString(toUnixTimestamp64Micro(occurred_at)))), ':', toString(toUnixTimestamp64Micro(occurred_at))
    )), 1, 16)) AS digest
FROM {database}.usage_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.rejected AS
SELECT * FROM {database}.usage_rejected FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.duplicates AS
SELECT * FROM {database}.usage_duplicates FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- What each answer reflects: everything before next_offset of the topic's partition, up to as_of.
CREATE VIEW IF NOT EXISTS {database}.positions AS
SELECT
    topic, partition,
    max(sink_positions.next_offset) AS next_offset,
    argMax(sink_positions.log_ms, sink_positions.next_offset) AS log_ms,
    fromUnixTimestamp64Milli(log_ms, 'UTC') AS as_of
FROM {database}.sink_positions
GROUP BY topic, partition;

INSERT INTO {database}.schema_version (version) VALUES (1);
