"""The simulated world: one broker, a group of workers on their disks, clocks, and a plan that happens to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

import msgspec

from billing.behaviours import BEHAVIOURS, Behaviours, Rules
from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog
from billing.facts import EventRejected, Fact
from billing.orders.fold import is_aside
from billing.records import Logged, Position
from billing.state import State
from billing.step import JUMP_MS_MAX
from schemas.codec import encode
from schemas.rows import POSITION_KEY, PositionRow, decode_position
from streams import usage
from streams.errors import PositionUnfit, StateForeign, StreamsError
from streams.options import TopicNames
from streams.port import Fold, Stop, StopKind
from streams.usage import UsageFold
from tests.simulation import checks, model
from tests.simulation.disk import Disk
from tests.simulation.edges import SimReader
from tests.simulation.group import Group
from tests.simulation.log import Broker, BrokerError, Entry, PartitionLog, Txn
from tests.simulation.loop import NothingLeft, VirtualLoop
from tests.simulation.plan import LOST_MARKERS, POISONS, START_MS, Plan, genesis_of, order_record
from tests.simulation.process import Process, end_task, own_tasks
from tests.simulation.steps import (
    Away,
    BrokerClock,
    Compact,
    CutOff,
    Fault,
    ForeignTxn,
    ForgetGroup,
    Join,
    Leap,
    Pause,
    Rebalance,
    Record,
    Send,
    Step,
    WorkerClock,
)
from tests.simulation.worker import SESSION_S, TRANSACTION_S, Worker

__all__ = ["Outcome", "World", "play"]

TOPICS = TopicNames()
_DAY_MS = 86_400_000
_SETTLE_S = 600.0
"""After the last step nothing goes wrong any more: by then everything must have been folded."""
_QUIET_S = 1.5
_RETENTION_MS = 35 * _DAY_MS
_TOMBSTONES_MS = 14 * _DAY_MS
_STEP_S = 0.25
_DELAY_COUNT = 1_009
_OPERATOR_S = 0.5
_FOREIGN = "foreign-"
_WAITED_FOR_MS = 100 * _DAY_MS


@dataclass
class Outcome:
    """What came of one history."""

    differences: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Figures: records, kills, answers, and so on."""
    reached: Counter[str] = field(default_factory=Counter)
    """How often each kind of point was passed."""
    told: list[str] = field(default_factory=list)
    """What happened beside the plan, in order."""


MakeFold = Callable[[Behaviours], Fold]


class Node:
    """A machine: its disk and its clock outlive its workers."""

    def __init__(self, number: int, world: World) -> None:
        self.number = number
        self.disk = Disk()
        self.skew_ms = 0
        self.worker: Worker | None = None
        self.life_count = 0
        self.stays_away = True
        self._world = world

    def now_ms(self) -> int:
        return self._world.wall_ms() + self.skew_ms


class World:
    """One history. `fold` is the real one, unless a planted fault is to be found."""

    def __init__(self, plan: Plan, loop: VirtualLoop, make_fold: MakeFold) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self.differences = self.outcome.differences
        self._loop = loop
        self._rng = Random(plan.seed ^ 0x5EED)
        self._delays_s = [_delay_s(self._rng.random()) for _ in range(_DELAY_COUNT)]
        self._leap_ms = self._broker_skew_ms = 0
        self._faults = {
            (step.action.kind, step.action.nth): step.action for step in plan.steps if isinstance(step.action, Fault)
        }
        self._healed = self._over = False
        self._ordered: dict[tuple[int, int, StopKind], int] = {}
        self._fold = make_fold({1: self.rules()})
        self.decisions: dict[tuple[int, int], tuple[int, bytes]] = {}
        """Log time and facts of every record that anybody ever decided, by partition and offset."""
        self.broker = Broker(
            TOPICS.all, plan.partition_count, self.broker_ms, self._marker_delay_s, TRANSACTION_S, self._loses_markers
        )
        self.nodes = [Node(number, self) for number in range(plan.node_count)]
        self.group = Group(plan.partition_count, plan.seed, self._count_rebalance, self._expire)
        self.state_age_max_ms = 7 * _DAY_MS
        self._foreign_count = 0

    # Clocks

    def wall_ms(self) -> int:
        """True time, milliseconds since 1970."""
        return START_MS + int(self._loop.now_s * 1_000) + self._leap_ms

    def broker_ms(self) -> int:
        return self.wall_ms() + self._broker_skew_ms

    def delay_s(self, what: str, nth: int) -> float:
        """Mostly some milliseconds, now and then a second."""
        return self._delays_s[(crc32(what.encode()) + nth * 31) % _DELAY_COUNT]

    def _marker_delay_s(self, txn: Txn, log: PartitionLog) -> float:
        return self.delay_s(f"marker {log.tp}", txn.number)

    def _loses_markers(self, txn: Txn) -> bool:
        return not txn.name.startswith(_FOREIGN) and self.fault_at(LOST_MARKERS) is not None

    # What processes need

    def fault_at(self, kind: str) -> Fault | None:
        reached = self.outcome.reached
        reached[kind] += 1
        if self._healed:
            return None
        fault = self._faults.get((kind, reached[kind]))
        if fault is not None:
            self._tell(f"{fault}")
        return fault

    def cut_off(self, process: Process, seconds: float) -> None:
        assert isinstance(process, Worker)
        if process in self.group.members:
            self.outcome.counts["zombies"] += 1
            self.group.forget(process)
            self._loop.call_later(seconds, self._learn, process)

    def _learn(self, worker: Worker) -> None:
        """A member that was thrown out hears of it: it lets go, and joins again."""
        if worker.alive:
            worker.spawn(self._rejoin(worker))

    async def _rejoin(self, worker: Worker) -> None:
        await worker.revoked()
        if not self.node_of(worker).stays_away:
            self.group.join(worker)

    def node_of(self, worker: Process) -> Node:
        return next(node for node in self.nodes if worker.name.startswith(f"{node.number}."))

    def died(self, process: Process, doing: str, error: BaseException | None) -> None:
        assert isinstance(process, Worker)
        node = self.node_of(process)
        reason = f"{type(error).__name__}: {error}" if error is not None else doing
        self._tell(f"worker {process.name} ends: {reason}")
        if error is None:
            self.outcome.counts["leaves" if doing == "left" else "kills"] += 1
        elif isinstance(error, BrokerError | TimeoutError):
            self.outcome.counts["stops"] += 1
        elif isinstance(error, PositionUnfit | StateForeign) and process.was_replaced:
            self.outcome.counts["stops"] += (
                1  # a zombie compares what was read before it was replaced with what came later
            )
        else:
            kind = "refused" if isinstance(error, StreamsError) else "surprised"
            self.differences.append(f"worker {process.name} {kind} while {doing}: {reason}")
        if node.worker is process:
            node.worker = None
            if not node.stays_away:
                self._loop.call_later(0.1 + 5 * self.delay_s(process.name, 0), self._start, node)
        # A member that came back under its own name is known at once; another is missed after a while.
        comes_back_by_name = crc32(process.name.encode()) % 2
        self._loop.call_later(0.2 if comes_back_by_name else SESSION_S, self.group.forget, process)

    def rules(self) -> Rules:
        """The real ones, but for events that they raise on."""
        real = BEHAVIOURS[1]

        def decide(state: State, catalog: Catalog, logged: Logged, position: Position) -> list[Fact]:
            if self._raises_on(logged.record, POISONS[0]) and not is_aside(state, (logged.key or b"").decode()):
                message = "poisoned"
                raise ValueError(message)
            return real.decide(state, catalog, logged, position)

        def evolve(state: State, catalog: Catalog, fact: Fact, position: Position, log_ms: int) -> None:
            real.evolve(state, catalog, fact, position, log_ms)
            if self._raises_on(fact, POISONS[1]) and not (
                isinstance(fact, EventRejected) and fact.reason == "quarantined"
            ):
                message = "poisoned"
                raise ValueError(message)

        return Rules(decide, evolve, real.is_due)

    def _raises_on(self, thing: Any, prefix: str) -> bool:
        event_id = getattr(thing, "event_id", None) or ""
        return event_id.startswith(prefix)

    async def _operate(self) -> None:
        """The operator looks around now and then, and orders what is needed; a second time, what always helps."""
        while True:
            await asyncio.sleep(_OPERATOR_S)
            for node in self.nodes:
                if node.worker is not None and not node.worker.paused:
                    for number, stop in node.worker.engine.snapshot().stops.items():
                        self._order(number, stop)

    def _order(self, number: int, stop: Stop) -> None:
        key = number, stop.offset, stop.kind
        times = self._ordered[key] = self._ordered.get(key, 0) + 1
        patience = 6 if stop.kind is StopKind.AHEAD else 1
        if times != patience and times != patience + 8:
            return
        entry = next(e for e in self.broker.logs[TOPICS.source, number].entries if e.offset == stop.offset)
        choice = (self.plan.seed + stop.offset) % 6
        note = model.Order("quarantine_record", self.wall_ms(), number, stop.offset)
        if stop.kind is StopKind.AHEAD:
            # One that is ahead by less only waits: see "What is left out" in the README.
            is_waited_for = entry.timestamp - self.wall_ms() < _WAITED_FOR_MS
            if is_waited_for and entry.timestamp - self._log_ms_of(number) <= JUMP_MS_MAX:
                return
            last = stop.offset + choice
            note = model.Order("time", self.wall_ms(), number, stop.offset, last)
        elif times == patience and isinstance(entry.note, model.Poison) and choice in (1, 2):
            account = entry.note.event.account
            note = model.Order(
                "quarantine_account", self.wall_ms(), number, stop.offset, account=account, home=entry.note.event.home
            )
        elif times == patience and choice in (3, 4):
            note = model.Order("resume", self.wall_ms(), number, stop.offset)
        elif times == patience and choice == 5:
            note = model.Order("time", self.wall_ms(), number, stop.offset, stop.offset + 2)
        self.outcome.counts["orders"] += 1
        self._tell(f"the operator gives {note}, since partition {number} stands: {stop.kind}, {stop.message[:60]}")
        record = order_record(number, note)
        self.broker.append((TOPICS.source, number), (record.key, record.value), record.headers, record.note)

    def tap(self, step: Callable[..., list[Fact]]) -> Callable[..., list[Fact]]:
        """Every decision, whoever made it and whatever became of its worker, must be the only one of its record."""

        def tapped(state: State, *given: Any) -> list[Fact]:
            facts = step(state, *given)
            position: Position = given[5]
            key = (position.partition, position.offset)
            made = (state.log_ms, _encode(facts))
            self.outcome.counts["decisions"] += 1
            if self.decisions.setdefault(key, made) != made:
                self.differences.append(f"the record at {key} was decided as {self.decisions[key]} and as {made}")
            return facts

        return tapped

    # Steps

    async def live(self) -> None:
        """The plan, then peace, then the judgement."""
        group = self._loop.create_task(self.group.run())
        operator = self._loop.create_task(self._operate())
        self._begin_log()
        for step in self.plan.steps:
            if isinstance(step.action, Fault):
                continue
            if step.at_s > self._loop.now_s:
                await asyncio.sleep(step.at_s - self._loop.now_s)
            self._happen(step)
        if await self._settle():
            await self._stop_all()
            self.differences += await checks.differences(self)
        group.cancel()
        operator.cancel()
        for node in self.nodes:
            node.stays_away = True
            if node.worker is not None:
                node.worker.kill()

    def _begin_log(self) -> None:
        record, note = genesis_of(self.plan.partition_count)
        records = tuple(Record(number, None, encode(record), note) for number in range(self.plan.partition_count))
        self._foreign(ForeignTxn(records, "commit"))

    def _happen(self, step: Step) -> None:
        match step.action:
            case Send(record):
                self.outcome.counts["records"] += 1
                tp = TOPICS.source, record.partition
                self.broker.append(tp, (record.key, record.value), record.headers, record.note)
            case ForeignTxn():
                self._foreign(step.action)
            case Join(node):
                self.nodes[node].stays_away = False
                self._start(self.nodes[node])
            case Away():
                self._away(step.action)
            case Pause(node, seconds):
                self._pause(self.nodes[node], seconds)
            case CutOff(node, seconds):
                worker = self.nodes[node].worker
                if worker is not None:
                    self.cut_off(worker, seconds)
            case Rebalance():
                self.group.rebalance()
            case BrokerClock(ms):
                self._broker_skew_ms += ms
            case WorkerClock(node, ms):
                self.nodes[node].skew_ms += ms
            case Leap(ms):
                self._leap(ms)
            case Compact(share):
                self._compact(share)
            case ForgetGroup(reset):
                self._forget_group(reset=reset)
            case Fault():
                pass

    def _foreign(self, txn: ForeignTxn) -> None:
        self._foreign_count += 1
        name = f"{_FOREIGN}{self._foreign_count}"
        epoch = self.broker.take_id(name)
        for record in txn.records:
            self.outcome.counts["records"] += 1
            tp = TOPICS.source, record.partition
            self.broker.produce(name, epoch, tp, [(record.key, record.value)], [record.note])
        if txn.end != "abandon":
            self.broker.end(name, epoch, commit=txn.end == "commit")

    def _start(self, node: Node) -> None:
        if node.worker is not None or node.stays_away or self._over:
            return
        node.life_count += 1
        name = f"{node.number}.{node.life_count}"
        node.worker = Worker(name, self, self.broker, node.disk, self._fold, node.now_ms)
        node.worker.start()
        self.group.join(node.worker)

    def _away(self, away: Away) -> None:
        node = self.nodes[away.node]
        if node.stays_away:
            return
        node.stays_away = True
        worker = node.worker

        def back() -> None:
            node.stays_away = False
            self._start(node)

        self._loop.call_later(away.seconds, back)
        if away.how == "left":
            if worker is not None:
                worker.spawn(worker.leave())
            return
        if worker is not None:
            worker.kill()
        node.disk.lose(away.lost_batches)
        if away.wiped:
            node.disk.wipe()

    def _pause(self, node: Node, seconds: float) -> None:
        worker = node.worker
        if worker is None:
            return
        self.outcome.counts["pauses"] += 1
        worker.pause(seconds)
        if seconds > SESSION_S and worker in self.group.members:
            self._loop.call_later(SESSION_S, self._expire, worker)

    def _expire(self, worker: Worker) -> None:
        """The group missed the member for too long."""
        self.cut_off(worker, 0.01 + 40 * self.delay_s(worker.name, 1))

    def _leap(self, ms: int) -> None:
        self._leap_ms += ms
        for number in range(self.plan.partition_count):
            source = self.broker.logs[TOPICS.source, number]
            source.cut_head(min(self._young(source, _RETENTION_MS), self._folded_to(number)))
            folded_to = self._folded_to(number)
            if not any(entry.counts and entry.offset >= folded_to for entry in source.entries):
                # A record that waits is younger than its own retention, and so than that of the ids before it.
                self._cut_old(TOPICS.seen_changelog, number, 75 * _DAY_MS)
            self._cut_old(TOPICS.totals, number, 40 * _DAY_MS)
        if ms > _DAY_MS:
            self._compact(1.0)

    def _cut_old(self, topic: str, number: int, retention_ms: int) -> None:
        log = self.broker.logs[topic, number]
        log.cut_head(self._young(log, retention_ms))

    def _young(self, log: PartitionLog, retention_ms: int) -> int:
        """The first offset that retention leaves, were the broker's clock right."""
        now_ms = self.wall_ms()
        return next((entry.offset for entry in log.entries if entry.timestamp >= now_ms - retention_ms), log.end)

    def _folded_to(self, number: int) -> int:
        """Retention is far longer than any lag, so it never takes what was not folded."""
        row = self._position(number)
        return 0 if row is None else row.next_offset

    def _log_ms_of(self, number: int) -> int:
        row = self._position(number)
        return 0 if row is None else row.log_ms

    def _position(self, number: int) -> PositionRow | None:
        """What is committed."""
        log = self.broker.logs[TOPICS.accounts_changelog, number]
        rows = [entry.value for entry in log.ever_committed() if entry.key == POSITION_KEY]
        return decode_position(rows[-1]) if rows and rows[-1] is not None else None

    def _compact(self, share: float) -> None:
        # A leap takes no time here, so it may fall into the middle of a load. Kafka's own rule for whoever reads a compacted
        # log from its head is to be done before tombstones go, and no load takes 14 days.
        is_loading = any(node.worker is not None and node.worker.is_loading for node in self.nodes)
        tombstones_before_ms = 0 if is_loading else self.broker_ms() - _TOMBSTONES_MS
        for (topic, _), log in self.broker.logs.items():
            if topic in (TOPICS.accounts_changelog, TOPICS.seen_changelog, TOPICS.totals):
                log.compact(int(log.end * share), self.broker_ms(), tombstones_before_ms)

    def _forget_group(self, *, reset: bool) -> None:
        offsets = self.broker.group_offsets
        if reset:
            for tp in offsets:
                offsets[tp] = 0
        else:
            offsets.clear()

    # The end

    async def _settle(self) -> bool:
        """Nothing goes wrong any more: everyone comes back, and everything is folded. False: not in time."""
        self._healed = True
        self._broker_skew_ms = 0
        for node in self.nodes:
            node.skew_ms = 0
            node.stays_away = False
            self._start(node)
        deadline_s = self._loop.now_s + _SETTLE_S
        quiet_since_s = self._loop.now_s
        while self._loop.now_s < deadline_s:
            if self.differences:
                return False
            if not self._is_quiet():
                quiet_since_s = self._loop.now_s
            elif self._loop.now_s - quiet_since_s >= _QUIET_S:
                return True
            await asyncio.sleep(_STEP_S)
        behind = {
            number: (self._folded_to(number), self.broker.logs[TOPICS.source, number].end)
            for number in range(self.plan.partition_count)
        }
        self.differences.append(f"not everything is folded after {_SETTLE_S:.0f} s: {behind} (folded to, log's end)")
        return False

    def _is_quiet(self) -> bool:
        if not self.group.is_settled or any(node.worker is None or node.worker.paused for node in self.nodes):
            return False
        if any(node.worker not in self.group.members for node in self.nodes):
            return False
        for number in range(self.plan.partition_count):
            log = self.broker.logs[TOPICS.source, number]
            records = [entry for entry in log.entries if entry.counts]
            if log.open or (records and self._folded_to(number) <= records[-1].offset):
                return False
        return True

    async def _stop_all(self) -> None:
        self._over = True
        for node in self.nodes:
            node.stays_away = True
            worker = node.worker
            if worker is not None:
                await asyncio.wait([worker.spawn(worker.leave())])
        while any(log.open for log in self.broker.logs.values()):
            await asyncio.sleep(_STEP_S)  # markers of the last commits

    # Telling

    def _count_rebalance(self) -> None:
        self.outcome.counts["rebalances"] += 1

    def _tell(self, what: str) -> None:
        self.outcome.told.append(f"{self._loop.now_s:7.2f} s  {what}")

    def reader(self) -> Any:
        """A reader that nothing happens to."""
        return SimReader(Process("judge", self), self.broker)

    def source(self, number: int) -> list[Entry]:
        """Every record of the source that was to be folded, whatever retention has removed.

        That is all of them: only a tick that came after everything had settled may lie behind the position.
        """
        position = self._folded_to(number)
        return [entry for entry in self.broker.logs[TOPICS.source, number].ever_committed() if entry.offset < position]


def _delay_s(draw: float) -> float:
    if draw < 0.85:
        return draw * 0.01
    return draw * draw * (0.1 if draw < 0.97 else 1.5)


def _end_all(loop: VirtualLoop) -> None:
    """No task outlives its history."""
    for _ in range(5):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            end_task(task)
        if tasks:
            with contextlib.suppress(NothingLeft):
                loop.run_until_complete(asyncio.wait(tasks, timeout=0.001))
    loop.close()


def _real_fold(behaviours: Behaviours) -> Fold:
    return UsageFold(BUILTIN_CATALOG, behaviours)


_encode = msgspec.msgpack.Encoder().encode


def play(plan: Plan, make_fold: MakeFold = _real_fold) -> Outcome:
    """Let the plan happen, and judge it."""
    loop = VirtualLoop()
    loop.set_task_factory(own_tasks)
    world = World(plan, loop, make_fold)
    step = vars(usage)["step"]
    vars(usage)["step"] = world.tap(step)
    try:
        loop.run_until_complete(world.live())
    except NothingLeft as error:
        world.differences.append(f"the world stands still: {error}")
    finally:
        vars(usage)["step"] = step
        _end_all(loop)
    return world.outcome
