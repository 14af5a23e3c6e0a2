"""A broker whose wall clock can be set, while it runs: one class of Kafka's is compiled anew and put before the others.

Everything in Kafka that asks for the time of day asks `org.apache.kafka.common.utils.SystemTime`; what measures durations is
left as it is, as a clock that somebody sets leaves it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from runtime.embedded.jars import fetch_jars
from runtime.embedded.kafka import EmbeddedKafka

__all__ = ["ClockedKafka", "NoCompiler"]

_SOURCE: Final = """
package org.apache.kafka.common.utils;
import java.nio.file.*;
import java.util.function.Supplier;
class SystemTime implements Time {
    private static final SystemTime SYSTEM_TIME = new SystemTime();
    private static final Path FILE = Path.of(System.getProperty("meterlog.clock.file"));
    private static volatile long offsetMs = 0;
    static {
        Thread looking = new Thread(() -> {
            while (true) {
                try { offsetMs = Long.parseLong(Files.readString(FILE).trim()); } catch (Exception e) { }
                try { Thread.sleep(20); } catch (InterruptedException e) { return; }
            }
        });
        looking.setDaemon(true);
        looking.start();
    }
    public static SystemTime getSystemTime() { return SYSTEM_TIME; }
    @Override public long milliseconds() { return System.currentTimeMillis() + offsetMs; }
    @Override public long nanoseconds() { return System.nanoTime(); }
    @Override public void sleep(long ms) { Utils.sleep(ms); }
    @Override public void waitObject(Object obj, Supplier<Boolean> condition, long deadlineMs) throws InterruptedException {
        synchronized (obj) {
            while (true) {
                if (condition.get()) return;
                long currentTimeMs = milliseconds();
                if (currentTimeMs >= deadlineMs)
                    throw new org.apache.kafka.common.errors.TimeoutException("Condition not satisfied before deadline");
                obj.wait(deadlineMs - currentTimeMs);
            }
        }
    }
    private SystemTime() { }
}
"""


class NoCompiler(Exception):
    """Raised where Java is there without its compiler."""


class ClockedKafka(EmbeddedKafka):
    """One broker."""

    def __init__(self, data_dir: Path) -> None:
        """Raises NoCompiler."""
        super().__init__(data_dir)
        self._classes = data_dir.absolute() / "classes"
        self._clock = data_dir.absolute() / "clock-offset-ms"
        data_dir.mkdir(parents=True, exist_ok=True)
        self.set_clock(0)
        _compile(self._classes)

    def set_clock(self, offset_ms: int) -> None:
        """How far ahead of the right time its clock is; known to it within some 20 ms."""
        self._clock.write_text(str(offset_ms))

    def command(self, index: int = 0) -> list[str]:
        """Our class before Kafka's; the archive of classes is of another class path, and not used."""
        words = super().command(index)
        at = words.index("-cp")
        path = f"{self._classes}:{words[at + 1]}"
        return [*words[:at], f"-Dmeterlog.clock.file={self._clock}", "-Xshare:off", "-cp", path, *words[at + 2 :]]


def _compile(classes: Path) -> None:
    compiler = shutil.which("javac")
    if compiler is None:
        message = "there is no javac here to make a broker with a clock of its own"
        raise NoCompiler(message)
    source = classes / "src" / "SystemTime.java"
    source.parent.mkdir(parents=True)
    source.write_text(_SOURCE)
    jars = f"{fetch_jars()}/*"
    subprocess.run([compiler, "-cp", jars, "-d", str(classes), str(source)], check=True, capture_output=True)
