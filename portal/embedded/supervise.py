"""Keep children running: start, notice deaths, restart with back-off, stop in order; all of it recorded in run.json."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from portal.embedded.errors import EmbeddedError, StopRequested
from portal.embedded.logs import MergedLog
from portal.embedded.postgres import POSTGRES_STOP
from portal.embedded.processes import ProcessSpec, StopStep, find_group_members, kill_orphans, spawn, stop_process
from portal.embedded.readiness import measure_log, pick_telling_line
from portal.embedded.state import Home, ProcessIdentity, Run, write_run
from portal.embedded.valkey import VALKEY_STOP

STOP_ORDER = ("beat", "web", "worker", "setup", "valkey", "postgres")  # the servers last: the others need them to end
STOP_STEPS: dict[str, tuple[StopStep, ...]] = {
    "beat": (StopStep(signal.SIGTERM, 10),),
    "web": (StopStep(signal.SIGTERM, 20),),  # gunicorn finishes requests for up to 10 s
    "worker": (StopStep(signal.SIGTERM, 30),),  # Celery's warm shutdown: tasks at work may finish
    "setup": (StopStep(signal.SIGTERM, 10),),
    "valkey": VALKEY_STOP,
    "postgres": POSTGRES_STOP,
}
BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
STEADY_AFTER_S = 10.0
TICK_S = 0.1
ROTATE_EVERY_S = 600.0


@dataclass
class Child:
    """One part under supervision."""

    spec: ProcessSpec
    process: "subprocess.Popen[bytes]"
    identity: ProcessIdentity | None
    started_at: float  # of the monotonic clock, as the other times here
    failures: int = 0
    restart_at: float | None = None  # set while it is down


class Supervisor:
    """Runs the parts of one home. One thread, no pipes: children write to files, a loop looks at both."""

    def __init__(self, home: Home, run: Run, log: MergedLog, *, backoff_s: tuple[float, ...] = BACKOFF_S) -> None:
        self.home = home
        self.run = run
        self.log = log
        self.backoff_s = backoff_s
        self.children: dict[str, Child] = {}
        self.stop_signals = 0
        self._next_rotation = time.monotonic() + ROTATE_EVERY_S

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Count SIGINT, SIGTERM and SIGHUP instead of dying of them: one asks to stop, a second one to hurry."""

        def note(_signal: int, _frame: FrameType | None) -> None:
            self.stop_signals += 1

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup sets that, and means it
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # -- starting ------------------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec) -> Child:
        """Start a part and show its log from here on."""
        self.log.follow(spec.name, offset=measure_log(spec.log))
        child = self._spawn(spec)
        self.children[spec.name] = child
        return child

    def run_once(self, spec: ProcessSpec, *, describe: str) -> None:
        """Run a command to its end. Raises EmbeddedError with its last words when it fails."""
        offset = measure_log(spec.log)
        child = self.start(spec)
        while child.process.poll() is None:
            self.tick()
        self._forget(spec.name)
        if child.process.returncode != 0:
            with spec.log.open("rb") as file:
                file.seek(offset)
                words = pick_telling_line(file.read())
            code = describe_exit(child.process.returncode)
            raise EmbeddedError(f"{describe} failed ({code}): {words}; see {spec.log}")

    def tick(self) -> None:
        """Wait a moment while the log flows. Raises StopRequested when a signal came."""
        self.log.pump()
        if self.stop_signals:
            raise StopRequested
        time.sleep(TICK_S)

    def is_running(self, part: str) -> bool:
        """Whether the part's process is alive now."""
        identity = self.children[part].identity
        return identity is not None and identity.is_alive()

    # -- watching ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Restart what dies until a signal asks to stop."""
        while not self.stop_signals:
            self.restart_dead_children()
            self.log.pump()
            if time.monotonic() >= self._next_rotation:
                self.log.rotate()
                self._next_rotation = time.monotonic() + ROTATE_EVERY_S
            time.sleep(TICK_S)

    def restart_dead_children(self) -> None:
        """Notice children that died and start those whose back-off is over."""
        for name, child in self.children.items():
            now = time.monotonic()
            if child.restart_at is None:
                if child.identity is not None and child.identity.is_alive():
                    continue
                self._note_death(name, child, now)
            if child.restart_at is not None and now >= child.restart_at:
                self._start_again(name, child, now)

    def _note_death(self, name: str, child: Child, now: float) -> None:
        # Before the corpse is collected its number is still taken, so this group can be nobody else's.
        leftovers = sum(member.send_signal(signal.SIGKILL) for member in find_group_members(child.process.pid))
        code = describe_exit(child.process.wait())
        if now - child.started_at >= STEADY_AFTER_S:
            child.failures = 0
        delay = self.backoff_s[min(child.failures, len(self.backoff_s) - 1)]
        child.failures += 1
        child.restart_at = now + delay
        self.log.pump()
        behind = f", {leftovers} of its processes killed" if leftovers else ""
        self.log.say(f"{name} ended ({code}{behind}); starting it again in {delay:g} s")

    def _start_again(self, name: str, child: Child, now: float) -> None:
        try:
            self.children[name] = self._spawn(child.spec, failures=child.failures)
        except OSError as error:  # no memory or process slot for it now
            child.restart_at = now + self.backoff_s[-1]
            self.log.say(f"{name} cannot be started ({error.strerror}); trying again in {self.backoff_s[-1]:g} s")
            return
        self.log.say(f"{name} started again (process {self.children[name].process.pid})")

    # -- stopping ------------------------------------------------------------------------------------------------------

    def stop_all(self) -> None:
        """Stop every part in STOP_ORDER; parts not listed there go first. A second signal shortens the waiting."""
        if not self.children:
            return
        self.run.phase = "stopping"
        self._record()
        signals_before = max(self.stop_signals, 1)
        for name in sorted(self.children, key=_stop_position):
            child = self.children[name]
            if child.identity is not None and child.identity.is_alive():
                self.log.say(f"stopping {name}")
                stop_process(
                    name,
                    child.identity,
                    child.spec.stop_steps,
                    say=self.log.say,
                    tick=self.log.pump,
                    is_hurried=lambda: self.stop_signals > signals_before,
                )
            if child.process.returncode is None:
                child.process.wait()
            self.log.pump()  # its last words before those of the next
            self._forget(name)
        self.log.pump()
        self.log.say("everything is stopped")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _spawn(self, spec: ProcessSpec, *, failures: int = 0) -> Child:
        process = spawn(spec)
        child = Child(spec, process, ProcessIdentity.of(process.pid), time.monotonic(), failures=failures)
        if child.identity is not None:
            self.run.parts[spec.name] = child.identity
        self._record()
        return child

    def _forget(self, name: str) -> None:
        del self.children[name]
        self.run.parts.pop(name, None)
        self._record()

    def _record(self) -> None:
        try:
            write_run(self.home, self.run)
        except OSError as error:  # a full disk must not take running parts down
            self.log.say(f"cannot write {self.home.run_file}: {error.strerror}")


def _stop_position(name: str) -> int:
    return STOP_ORDER.index(name) if name in STOP_ORDER else -1


def describe_exit(returncode: int) -> str:
    """ "exit code 1" or "signal SIGKILL"."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def stop_leftovers(home: Home, run: Run, *, say: Callable[[str], None]) -> int:
    """Stop the parts that a killed supervisor left, in order; returns how many still ran.

    A part whose number belongs to another process by now is left alone.
    """
    stopped = 0
    for name in sorted(run.parts, key=_stop_position):
        identity = run.parts[name]
        if identity.is_alive():
            say(f"stopping {name} (process {identity.pid}), which an earlier run left")
            stop_process(name, identity, STOP_STEPS.get(name, (StopStep(signal.SIGTERM, 10),)), say=say)
            stopped += 1
        elif killed := kill_orphans(identity.pid, home=home.path):
            say(f"killed {killed} processes that {name} of an earlier run left")
    return stopped
