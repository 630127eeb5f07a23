"""Signals: a training ends or is queued again where it stands, and goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.multiprocessing.spawn import ProcessExitedException

from lightning_distill.callbacks import SaveOnSignal
from lightning_distill.clipping import AdaGC, AutoClip, ZClip
from tests.builders import Notebook, make_data, make_trainer, weights_of
from tests.cli.conftest import small_config, write_project
from tests.module.test_reproducible import Kill, KilledError
from tests.processes import needs_fork, run_apart
from tests.reliability.counts import NIGHTLY, times
from tests.reliability.resuming import Case, Result, train
from tests.reliability.running import command, fork_command

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1

HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
)
"""Of a training, where a signal may come."""

CASES = {
    "plain": Case(),
    "accumulating": Case(accumulate=3, rule=partial(ZClip, warmup=2)),
    "validating often": Case(trainer={"val_check_interval": 2}, rule=AutoClip),
    "validating seldom": Case(trainer={"check_val_every_n_epoch": 2}),
    "one batch an epoch": Case(
        trainer={"limit_train_batches": 1, "check_val_every_n_epoch": 3, "max_epochs": 8}
    ),
    "counting steps": Case(trainer={"max_steps": 9, "max_epochs": -1}, rule=partial(AdaGC, warmup=3)),
    "counting to an end": Case(trainer={"max_steps": 8, "max_epochs": -1, "val_check_interval": 2}),
}

MOMENTS = (
    ("plain", "on_before_optimizer_step", 5),
    ("plain", "on_train_epoch_end", 0),
    ("accumulating", "on_after_backward", 4),
    ("accumulating", "on_validation_batch_end", 1),
    ("validating often", "on_validation_end", 0),
    ("validating seldom", "on_save_checkpoint", 0),
    ("one batch an epoch", "on_train_batch_end", 3),
    ("counting steps", "on_train_batch_start", 4),
)
"""For every change; at night others are drawn."""


class Inject(Callback):
    """Sends this process a signal when a hook is called; keeps at which steps it was sent and obeyed.

    Args:
        hook: Its name.
        time: How often it was called before, not counting the sanity check.
        number: The signal.
        sanity: Count the sanity check too.
    """

    def __init__(self, hook: str, time: int, number: signal.Signals = TERM, sanity: bool = False) -> None:
        self.time, self.number, self.sanity = time, number, sanity
        self.calls = 0
        self.sent_at: int | None = None
        self.left_at: int | None = None
        setattr(self, hook, self._hook)

    def _hook(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.sanity_checking and not self.sanity:
            return
        if self.calls == self.time:
            self.sent_at = trainer.global_step
            os.kill(os.getpid(), self.number)
        self.calls += 1

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.left_at = trainer.global_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """What a case comes to if nobody disturbs it."""
    found: dict[str, Result] = {}

    def get(name: str) -> Result:
        if name not in found:
            found[name] = train(tmp_path_factory.mktemp("whole") / "run", CASES[name])
        return found[name]

    return get


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every training gives back the handlers it has found."""
    before = {number: signal.getsignal(number) for number in (TERM, INT, USR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


def attempt(folder: Path, case: Case, *own: Callback) -> tuple[int, Result | None]:
    """The exit code of a training, and what it came to if it was over; it goes on from `last.ckpt`."""
    saver = SaveOnSignal(folder / "checkpoints")
    last = folder / "checkpoints" / "last.ckpt"
    case = Case(
        **(vars(case) | {"callbacks": [*(partial(_same, c) for c in (saver, *own)), *case.callbacks]})
    )
    code, result = 0, None
    try:
        result = train(folder, case, resume=last if last.exists() else None)
    except SystemExit as stop:
        code = stop.code
    assert code == (saver.exit_code if result is None else 0)
    return saver.exit_code, result


def _same(callback: Callback) -> Callback:
    return callback


def drawn() -> list[tuple[str, str, int]]:
    """Moments: the literal ones, and at night more of them."""
    more = times(len(MOMENTS), 50) - len(MOMENTS)
    rng = random.Random(8)
    return [
        *MOMENTS,
        *(
            (rng.choice(list(CASES)), rng.choice(HOOKS), rng.choice((0, 0, 1, 2, 3, 5, 8)))
            for _ in range(more)
        ),
    ]


# -- P1 -----------------------------------------------------------------------------------------------------


@pytest.mark.row("P1")
@pytest.mark.parametrize(("name", "hook", "time"), drawn())
def test_a_run_ended_by_sigterm_goes_on_as_if_it_had_not(
    tmp_path: Path, whole: Callable[[str], Result], name: str, hook: str, time: int
) -> None:
    inject = Inject(hook, time)
    code, result = attempt(tmp_path / "run", CASES[name], inject)
    assert code == (143 if inject.sent_at is not None else 0)
    if result is None:
        assert inject.sent_at is not None
        assert inject.left_at is not None
        assert inject.left_at - inject.sent_at <= 1
        code, result = attempt(tmp_path / "run", CASES[name])
        assert code == 0
    assert result is not None
    assert result.differs(whole(name)) == []


@pytest.mark.row("P1")
@pytest.mark.parametrize("name", list(CASES) if NIGHTLY else ["validating often"])
def test_a_run_that_is_ended_again_and_again_comes_to_the_same(
    tmp_path: Path, whole: Callable[[str], Result], name: str
) -> None:
    """After every batch."""
    result, sessions = None, 0
    while result is None:
        sessions += 1
        inject = Inject("on_train_batch_end", 0)
        code, result = attempt(tmp_path / "run", CASES[name], inject)
        assert code == (0 if inject.sent_at is None else 143)
        assert sessions < 40
    assert sessions > 6
    assert result.differs(whole(name)) == []


@pytest.mark.row("P1")
@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_validation_batch_start", "on_train_start"])
def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path, hook: str) -> None:
    inject = Inject(hook, 0, sanity=True)
    case = Case(trainer={"num_sanity_val_steps": 2})
    assert attempt(tmp_path / "run", case, inject) == (143, None)
    assert (inject.sent_at, inject.left_at) == (0, 0)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.row("P1")
def test_a_run_that_went_on_and_is_ended_at_once_keeps_its_checkpoint(tmp_path: Path) -> None:
    assert attempt(tmp_path / "run", Case(), Inject("on_train_batch_end", 5))[0] == 143
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = (last.read_bytes(), last.stat().st_mtime_ns)
    assert attempt(tmp_path / "run", Case(), Inject("on_train_start", 0)) == (143, None)
    assert (last.read_bytes(), last.stat().st_mtime_ns) == before


@pytest.mark.row("P1")
def test_a_signal_after_the_last_step_finds_a_finished_run(
    tmp_path: Path, whole: Callable[[str], Result]
) -> None:
    """Also where a validation is still due: a run that has all its steps would not come back to it."""
    inject = Inject("on_validation_start", 3)
    code, result = attempt(tmp_path / "run", CASES["counting to an end"], inject)
    assert inject.sent_at == 8
    assert (code, inject.left_at) == (143, None)
    assert result is not None
    assert result.differs(whole("counting to an end")) == []


class Plain(LightningModule):
    """A module that knows nothing of this library; it keeps what it logs, and counts its hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(6, 3)
        self.register_buffer("ended", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self.layer(batch["inputs"]["a"]), batch["target"])
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("validation", self.layer(batch["inputs"]["a"]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByHand(Plain):
    """It takes a step every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
        return loss


PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "validating often": {"val_check_interval": 2},
    "accumulating": {"accumulate_grad_batches": 2},
    "not validating": {"limit_val_batches": 0},
    "one batch an epoch": {"limit_train_batches": 1, "limit_val_batches": 0, "max_epochs": 6},
    "counting steps": {"max_steps": 10, "max_epochs": -1},
    "counting steps, not validating": {"max_steps": 10, "max_epochs": -1, "limit_val_batches": 0},
}


def plainly(folder: Path, options: dict[str, Any], make: type[Plain], *own: Callback) -> list[Any] | None:
    """What a plain module comes to; None if it was ended by a signal."""
    notes, last, module = Notebook(), folder / "last.ckpt", make()
    saver = SaveOnSignal(folder)
    trainer = make_trainer(
        folder,
        logger=notes,
        callbacks=[saver, *own],
        **({"max_epochs": 3, "enable_checkpointing": True} | options),
    )
    rows = folder / "rows.yaml"
    code = None
    try:
        trainer.fit(module, make_data(), ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit as stop:
        code = stop.code
    assert code in (None, 143)
    before = yaml.safe_load(rows.read_text()) if rows.exists() else []
    rows.write_text(yaml.safe_dump([*before, *([step, row] for step, row in notes.rows)]))
    if code is not None:
        return None
    state = [*weights_of(module).values(), *trainer.optimizers[0].state_dict()["state"].values()]
    epochs = trainer.fit_loop.epoch_progress.current.processed
    return [str(state), trainer.global_step, epochs, *yaml.safe_load(rows.read_text())]


@pytest.mark.row("P1")
@pytest.mark.parametrize("name", PLAIN if NIGHTLY else ["validating often", "counting steps, not validating"])
def test_any_module_goes_on_as_if_nothing_had_been(tmp_path: Path, name: str) -> None:
    """Ended after every batch; what is logged is logged once, and hooks run once a batch."""
    (tmp_path / "whole").mkdir()
    expected = plainly(tmp_path / "whole", PLAIN[name], Plain)
    (tmp_path / "parts").mkdir()
    found, sessions = None, 0
    while found is None:
        sessions += 1
        assert sessions < 40
        found = plainly(tmp_path / "parts", PLAIN[name], Plain, Inject("on_train_batch_end", 0))
    assert sessions > 4
    assert found == expected


@pytest.mark.row("P1")
@pytest.mark.parametrize(
    ("hook", "calls"),
    [
        ("on_validation_batch_start", (1, 0, 1)),
        ("on_validation_end", (1, 0, 1)),
        ("on_train_epoch_end", (0, 0)),
    ],
)
def test_any_module_is_validated_as_often(tmp_path: Path, hook: str, calls: tuple[int, ...]) -> None:
    options = {"val_check_interval": 2}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    expected = plainly(tmp_path / "whole", options, Plain)
    for call in calls:
        assert plainly(tmp_path / "parts", options, Plain, Inject(hook, call)) is None
    assert plainly(tmp_path / "parts", options, Plain) == expected


class Counted(Callback):
    """Keeps what Lightning counts when a validation ends: what other checkpoints hold."""

    def __init__(self) -> None:
        self.found: dict[int, Any] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        self.found[trainer.global_step] = progress.state_dict()


def test_checkpoints_after_a_validation_that_was_done_again_are_as_without(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options, whole, parts = {"val_check_interval": 2}, Counted(), Counted()
    plainly(tmp_path / "whole", options, Plain, whole)
    assert plainly(tmp_path / "parts", options, Plain, Inject("on_validation_batch_start", 1)) is None
    assert plainly(tmp_path / "parts", options, Plain, parts) is not None
    assert parts.found == whole.found


@pytest.mark.row("P1")
def test_a_module_that_steps_by_itself_is_left_after_a_step(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    expected = plainly(tmp_path / "whole", {}, ByHand)
    inject = Inject("on_train_batch_end", 2)  # between the halves of the second step
    assert plainly(tmp_path / "parts", {}, ByHand, inject) is None
    assert (inject.sent_at, inject.left_at) == (1, 2)
    assert plainly(tmp_path / "parts", {}, ByHand) == expected


# -- P2 -----------------------------------------------------------------------------------------------------


@pytest.mark.row("P2")
def test_one_sigint_saves_and_ends(tmp_path: Path, whole: Callable[[str], Result], capfd: Any) -> None:
    code, _ = attempt(tmp_path / "run", Case(), Inject("on_after_backward", 5, INT))
    assert code == 130
    assert "press Ctrl+C again to stop at once" in capfd.readouterr().err
    code, result = attempt(tmp_path / "run", Case())
    assert result is not None
    assert result.differs(whole("plain")) == []


@pytest.mark.row("P2")
def test_two_sigints_end_at_once(tmp_path: Path, whole: Callable[[str], Result]) -> None:
    """In the middle of a step; the checkpoint of the epoch before stays."""
    saver = SaveOnSignal(tmp_path / "run" / "checkpoints")
    twice = (Inject("on_before_backward", 5, INT), Inject("on_after_backward", 5, INT))
    with pytest.raises(SystemExit):
        train(tmp_path / "run", Case(callbacks=[partial(_same, c) for c in (saver, *twice)]))
    assert saver.exit_code == 130
    assert twice[1].left_at == 5
    saved = torch.load(saver.dirpath / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    _, result = attempt(tmp_path / "run", Case())
    assert result is not None
    assert result.differs(whole("plain")) == []


# -- P3 -----------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts this process into a job, with an `scontrol` of that exit code; the file of what it was told."""

    def job(code: int | None = 0, **more: str) -> Path:
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        values = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_ID": "71", "PROCID": "0", "LOCALID": "0"}
        values |= {"NODEID": "0", "JOB_NAME": "train", "NODELIST": "localhost"} | more
        for name, value in values.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv("PATH", str(folder))
        if code is not None:
            script = f'#!/bin/sh\necho "$@" >> "{folder}/asked"\nexit {code}\n'
            (folder / "scontrol").write_text(script)
            (folder / "scontrol").chmod(0o755)
        return folder / "asked"

    return job


@pytest.mark.row("P3")
def test_slurms_signal_saves_and_queues_the_job_again(
    tmp_path: Path, whole: Callable[[str], Result], slurm: Callable[..., Path]
) -> None:
    """Training goes on until SLURM ends it, and the job that follows goes on from there."""
    asked = slurm()
    end = Inject("on_train_batch_start", 7)
    assert attempt(tmp_path / "run", Case(), Inject("on_after_backward", 4, USR1), end) == (143, None)
    assert asked.read_text() == "requeue 71\n"
    assert end.left_at == 8
    _, result = attempt(tmp_path / "run", Case())
    assert result is not None
    assert result.differs(whole("plain")) == []


@pytest.mark.row("P3")
def test_what_is_saved_then_is_enough(
    tmp_path: Path, whole: Callable[[str], Result], slurm: Callable[..., Path]
) -> None:
    """Of a job in an array, in a validation, that is killed soon after."""
    asked = slurm(ARRAY_JOB_ID="70", ARRAY_TASK_ID="3")
    name = "validating often"
    with pytest.raises(KilledError):
        attempt(tmp_path / "run", CASES[name], Inject("on_validation_batch_start", 3, USR1), Kill(5))
    assert asked.read_text() == "requeue 70_3\n"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    _, result = attempt(tmp_path / "run", CASES[name])
    assert result is not None
    assert result.differs(whole(name)) == []


@pytest.mark.row("P3")
@pytest.mark.parametrize("code", [None, 1])
def test_without_scontrol_it_is_said_what_to_do(
    tmp_path: Path, whole: Callable[[str], Result], slurm: Callable[..., Path], code: int | None
) -> None:
    slurm(code)
    with pytest.warns(UserWarning, match="to do so by hand: scontrol requeue 71"):
        found, result = attempt(tmp_path / "run", Case(), Inject("on_after_backward", 4, USR1))
    assert found == 0
    assert result is not None
    assert result.differs(whole("plain")) == []


@pytest.mark.row("P3")
def test_only_slurms_signal_asks_for_it(tmp_path: Path, slurm: Callable[..., Path]) -> None:
    """Another one, where the user has chosen it; none where requeueing is off."""
    asked = slurm()
    other = Case(trainer={"plugins": [SLURMEnvironment(requeue_signal=signal.SIGUSR2)], "max_epochs": 1})
    assert attempt(tmp_path / "a", other, Inject("on_after_backward", 1, signal.SIGUSR2))[0] == 0
    assert asked.read_text() == "requeue 71\n"
    heard: list[int] = []
    before = signal.signal(USR1, lambda number, frame: heard.append(number))
    try:
        off = Case(trainer={"plugins": [SLURMEnvironment(auto_requeue=False)], "max_epochs": 1})
        assert attempt(tmp_path / "b", off, Inject("on_after_backward", 1, USR1))[0] == 0
    finally:
        signal.signal(USR1, before)
    assert heard == [USR1]
    assert asked.read_text() == "requeue 71\n"


# -- threads and processes ----------------------------------------------------------------------------------


def test_in_a_thread_it_does_nothing_and_says_so(tmp_path: Path) -> None:
    seen: list[Any] = []

    class See(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(signal.getsignal(TERM))

    before = signal.getsignal(TERM)
    with ThreadPoolExecutor(1) as pool, pytest.warns(UserWarning, match="SaveOnSignal does nothing"):
        pool.submit(attempt, tmp_path / "run", Case(), See()).result()
    assert seen == [before] * 12


class OnRank(Inject):
    """On one of the processes only."""

    def __init__(self, rank: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rank = rank

    def _hook(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_rank == self.rank:
            super()._hook(trainer)


class Told(Callback):
    """Writes for each process how many steps it has taken, and what it has come to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        (self.folder / f"steps{trainer.global_rank}").write_text(str(trainer.global_step))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(weights_of(pl_module), self.folder / f"end{trainer.global_rank}.pt")


def on_two(folder: Path, batch_size: int, *own: Callback) -> int:
    """Trains on two processes; the exit code of the first that ends."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    last = folder / "last.ckpt"
    options = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2}
    trainer = make_trainer(folder, callbacks=[SaveOnSignal(folder), *own, Told(folder)], **options)
    resume = last if last.exists() else None
    try:
        trainer.fit(Plain(), make_data(batch_size=batch_size), ckpt_path=resume, weights_only=True)
    except ProcessExitedException as stop:
        return int(stop.exit_code)
    return 0


def compare_on_two(folder: Path, batch_size: int, hook: str, time: int, left: int) -> None:
    assert on_two(folder / "whole", batch_size) == 0
    assert on_two(folder / "parts", batch_size, OnRank(1, hook, time)) == 143
    for rank in (0, 1):
        assert (folder / "parts" / f"steps{rank}").read_text() == str(left)
    assert torch.load(folder / "parts" / "last.ckpt", weights_only=True)["global_step"] == left
    assert on_two(folder / "parts", batch_size) == 0
    for rank in (0, 1):
        a, b = (torch.load(folder / part / f"end{rank}.pt") for part in ("whole", "parts"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@needs_fork
@pytest.mark.row("P1")
@pytest.mark.parametrize(
    ("batch_size", "hook", "time", "left"),
    [
        # 13 samples one at a time: the other process has a batch more, and must not wait in it.
        (1, "on_validation_batch_end", 5, 14),
        *([(7, "on_after_backward", 1, 2), (1, "on_validation_start", 0, 14)] if NIGHTLY else []),
    ],
)
def test_a_signal_to_one_process_is_obeyed_by_both(
    tmp_path: Path, batch_size: int, hook: str, time: int, left: int
) -> None:
    run_apart(compare_on_two, tmp_path, batch_size, hook, time, left, seconds=120)


# -- the command line ---------------------------------------------------------------------------------------

EPOCHS = 25


def project(folder: Path, workers: int) -> None:
    """A run of a second or two."""
    folder.mkdir()
    write_project(folder)
    config = small_config()
    config["trainer"]["max_epochs"] = EPOCHS
    config["data"]["init_args"]["num_workers"] = workers
    config["early_stopping"] = {"patience": 10 * EPOCHS}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))


def outcome(folder: Path) -> list[Any]:
    """What a run has come to, to the last digit."""
    found: list[Any] = [(folder / "metrics.csv").read_text()]
    for name in ("best", "last"):
        saved = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        states = [*saved["state_dict"].values(), *saved["optimizer_states"][0]["state"].values()]
        found += [saved["global_step"], *(str(torch.as_tensor(x).tolist()) for x in flat(states))]
    return found


def flat(states: list[Any]) -> list[Any]:
    return [x for state in states for x in (state.values() if isinstance(state, dict) else [state])]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("cli") / "whole"
    project(folder, 0)
    with fork_command(folder, "fit", "--config", "small.yaml", "--run", "a") as run:
        assert run.end().code == 0, run.said
    return outcome(folder / "a")


def steps_of(folder: Path) -> int:
    """Rows of the history so far."""
    history = folder / "a" / "metrics.csv"
    return len(history.read_text().splitlines()) if history.exists() else 0


def _beyond(folder: Path, rows: int) -> bool:
    return steps_of(folder) > rows


@needs_fork
@pytest.mark.row("P1")
@pytest.mark.parametrize("number", range(times(1, 15)))
def test_the_command_line_at_random_times(tmp_path: Path, undisturbed: list[Any], number: int) -> None:
    """Every other time with workers, and the signal goes to them too, as schedulers send it."""
    rng = random.Random(number)
    folder, workers = tmp_path / "b", 2 * (1 - number % 2)
    rows = rng.randrange(2, 4 * EPOCHS)
    project(folder, workers)
    with fork_command(folder, "fit", "--config", "small.yaml", "--run", "a") as run:
        run.wait_for(partial(_beyond, folder, rows))
        time.sleep(rng.uniform(0, 0.02))
        steps = steps_of(folder)
        run.signal(TERM, whole_group=bool(workers))
        run.wait_for("SIGTERM: saved step", 10)
        ended = run.end()
    assert ended.code == 143, ended.err
    assert "Traceback" not in ended.err
    saved = torch.load(folder / "a" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert saved * (1 + 1 / 4) >= steps - 1 - 1  # a row a step, one a validation, and the head
    with fork_command(folder, "fit", "--run", "a", "--resume", "auto") as run:
        assert run.end().code == 0, run.said
    assert outcome(folder / "a") == undisturbed


@pytest.mark.row("P1")
@pytest.mark.skipif(not NIGHTLY, reason="starts many processes, so at night only")
@pytest.mark.parametrize(("strategy", "whole_group"), [("ddp", True), ("ddp", False), ("ddp_fork", False)])
def test_two_processes_on_the_command_line(tmp_path: Path, strategy: str, whole_group: bool) -> None:
    """The signal goes to the first process, or to both."""
    words = ["--config", "small.yaml", "--trainer.devices", "2", "--trainer.strategy", strategy]
    words += ["--trainer.max_epochs", "10"]
    for name in ("whole", "parts"):
        project(tmp_path / name, 0)
    with command(tmp_path / "parts", "fit", "--run", "a", *words) as run:
        run.wait_for(partial(_beyond, tmp_path / "parts", 8), 120)
        run.signal(TERM, whole_group=whole_group)
        run.wait_for("SIGTERM: saved step", 10)
        assert run.end(240).code == 143, run.said
    for name, rest in (("whole", words), ("parts", ["--resume", "auto"])):
        with command(tmp_path / name, "fit", "--run", "a", *rest) as run:
            assert run.end(240).code == 0, run.said
    assert outcome(tmp_path / "whole" / "a") == outcome(tmp_path / "parts" / "a")


@needs_fork
@pytest.mark.row("P2")
def test_ctrl_c_on_the_command_line(tmp_path: Path) -> None:
    """Once ends with 130 and a checkpoint."""
    folder = tmp_path / "b"
    project(folder, 0)
    words = ["--trainer.max_epochs", "1000"]
    with fork_command(folder, "fit", "--config", "small.yaml", "--run", "a", *words) as run:
        run.wait_for(folder / "a" / "metrics.csv")
        run.signal(INT, whole_group=True)
        run.wait_for("SIGINT: saved step", 10)
        ended = run.end()
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert (folder / "a" / "checkpoints" / "last.ckpt").is_file()
