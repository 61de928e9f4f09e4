"""The loop: a batch, a step (step.py), and now and then something logged, an evaluation, a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrm_lab.best import Best
from hrm_lab.config import FINAL, FINAL_BEST, PRUNERS, TRAIN_MEAN, Config
from hrm_lab.data.format import Dataset
from hrm_lab.data.sampler import Sampler, exploration_draws
from hrm_lab.decision import Decision
from hrm_lab.errors import RunError
from hrm_lab.model.act import Carry, Exploration
from hrm_lab.model.hrm import HRM
from hrm_lab.model.interop import load_into, load_weights
from hrm_lab.optim.adam_atan2 import build_adam_atan2
from hrm_lab.optim.schedule import cosine_with_warmup
from hrm_lab.training.batches import Batches
from hrm_lab.training.checkpoint import Checkpoints, Rows, newest_step
from hrm_lab.training.distributed import Agreement, Ranks
from hrm_lab.training.divergence import Damage
from hrm_lab.training.evaluation import Evaluation, evaluate, part_of
from hrm_lab.training.profile import Profile
from hrm_lab.training.protocols import Control, Leave, Left, Recorder, Stopper
from hrm_lab.training.step import TrainStep
from hrm_lab.training.throughput import Throughput
from hrm_lab.training.window import Window
from hrm_lab.validation import check_execution, check_gpu_budget, check_metric, check_steps, check_world_size, watched

COMPILED = "compiled"  # in paths.outputs: what torch has compiled, for all runs there


@dataclass
class Outcome:
    """How a run ended: after which step, its best evaluation, and why it stopped early if it did."""

    step: int
    best_value: float | None
    best_step: int | None
    stopped: str | None


class Pace:
    """Steps and seconds of training since the pace was last asked for; evaluations and checkpoints do not count."""

    def __init__(self) -> None:
        self.steps, self.seconds, self._since = 0, 0.0, time.perf_counter()

    def lap(self, training: bool) -> float:
        """Seconds since the last lap; they count for the pace if they were spent training."""
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed if training else 0.0
        return elapsed

    def since_lap(self) -> float:
        """Seconds since the last lap."""
        return time.perf_counter() - self._since

    def steps_per_second(self) -> float:
        """The pace since the last call."""
        pace = self.steps / max(self.seconds, 1e-9)
        self.steps, self.seconds = 0, 0.0
        return pace


class Trainer:
    """Trains one HRM on one dataset, from the beginning or from the newest checkpoint in `folder`.

    Args:
        config: a validated config.
        dataset: opened.
        folder: the run's own; checkpoints and weights are written there by the main process.
        recorder, stopper, control: see protocols.py.
        ranks: from distributed.connect.

    Raises:
        ConfigError: when the dataset, the processes or the device do not fit the config.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        folder: Path,
        recorder: Recorder,
        stopper: Stopper,
        ranks: Ranks,
        control: Control,
    ) -> None:
        training = config.training
        check_steps(dataset.train.num_groups, training)
        check_world_size(training, ranks.world_size)
        check_metric(config.stopping, dataset.test)
        check_gpu_budget(config.stopping, ranks.device.type)
        check_execution(training, ranks.device.type)
        self.config, self.folder, self.recorder, self.stopper, self.ranks = config, folder, recorder, stopper, ranks
        self.control, self.agreement = control, Agreement(ranks)
        self._cpu_group = ranks.new_cpu_group()
        self._gpus = ranks.world_size if ranks.device.type == "cuda" else 0
        self.checkpoints = Checkpoints(folder, training, ranks, control.check)
        self.batches = Batches(dataset, ranks, config.data, config.seed)
        self.sampler = Sampler(
            self.batches.puzzles(dataset.train),
            training.epochs,
            training.eval_interval,
            training.global_batch_size,
            config.seed,
        )
        self.eval_batch_size = training.eval_batch_size or training.global_batch_size
        info = dataset.info
        generator = torch.Generator().manual_seed(config.seed)
        model = HRM(config.model, info.vocab_size, info.seq_len, self.batches.num_puzzle_identifiers, generator)
        self.model = model.to(ranks.device)
        self.optimizer = build_adam_atan2(self.model.parameters(), config.optim, ranks.device)
        self.throughput = Throughput(config, info.seq_len, ranks)
        empty = self.batches.empty(training.global_batch_size // ranks.world_size)
        execution = training.execution
        if execution == "auto":
            execution = "captured" if ranks.device.type == "cuda" else "eager"
        cache = Path(config.paths.outputs) / COMPILED
        self.compute = TrainStep(config, self.model, self.optimizer, ranks, empty, execution, cache)
        self.vitals = self.compute.vitals

        # All that changes from step to step, and so all that a checkpoint holds besides weights and optimizer.
        self.step = 0
        self.carry = self.compute.carry
        self.window = Window(ranks, training.global_batch_size)  # since the last logged step
        self.iteration = Window(ranks, training.global_batch_size)  # since the last evaluation
        self.best = Best(config.stopping.mode)
        self.stopped: str | None = None
        self.is_cut = False  # a comparison with its siblings has stopped it
        self.evaluation_is_due = False  # an iteration is trained, and left before it was evaluated
        self.judged_whole: dict[str, int] = {}  # what was judged on whole test sets at the end, and at which step
        self.seconds = 0.0  # of all attempts together, but for what a kill has lost, and
        self.train_seconds = 0.0  # those of them that were spent on training steps
        self.gpu_seconds = 0.0  # seconds times GPUs, of all attempts
        self._high_water: int | None = None  # of the recorder, in the checkpoint that training goes on from
        self._save_is_due = False
        self._budget_is_spent = False
        self._profile: Profile | None = None
        self._pace = Pace()

    # ------------------------------------------------------------------------------------------- the loop

    def fit(self, last_step: int | None = None) -> Outcome:
        """Train to the end, or until the stopper says why not.

        Args:
            last_step: train no further than this, for a trial that is to be short.

        Raises:
            Left: when the control, on any process, has asked for it.
        """
        try:
            self._resume()
            outcome = self._fit(last_step)
            self.agreement.close()
            self._refuse_damage()
            self.checkpoints.wait()
            if self._save_is_due:
                self.save()
            if self.ranks.is_main:
                self.checkpoints.keep_weights(self.model.state_dict(), self.folder / "last.safetensors")
            self.checkpoints.wait()
            return outcome
        finally:
            try:
                if self._profile is not None:
                    self._profile.close()
            finally:
                self.checkpoints.close()

    def _fit(self, last_step: int | None) -> Outcome:
        training = self.config.training
        last_step = self.sampler.total_steps if last_step is None else last_step
        if self.ranks.is_main:
            self.recorder.start(self.step, self.sampler.total_steps, self._high_water)
        if self.stopped is not None:
            self._revive()
        if self.step == 0 and training.eval_first:
            evaluation = self._evaluate()
            self._record(evaluation.metrics)
            self._record_arrays(evaluation)
        if training.profile and self.ranks.is_main:
            on_cuda = self.ranks.device.type == "cuda"
            self._profile = Profile(self.folder, on_cuda, self.control.check, self._record_file)
        self._pace = Pace()
        if self.evaluation_is_due:
            self._end_iteration()
        while self.step < last_step and self.stopped is None:
            self.train_step()
            self._pace.steps += 1
            if self._profile is not None:
                self._profile.after(self.step)
            if self.ranks.is_main:
                self.recorder.tick(self.step)
            if self.step % training.log_interval == 0:
                self._log_window()
            if self.step % self.sampler.steps_per_iteration == 0:
                self.evaluation_is_due = True
                self._end_iteration()
            elif training.checkpoint_interval and self.step % training.checkpoint_interval == 0:
                self._save_is_due = True
            written = self._agree_to_stay()
            # Steps are counted alike everywhere; that its time is up is agreed on.
            spent = self._budget_is_spent or self.step == self.config.stopping.max_steps
            if spent and self.step % self.sampler.steps_per_iteration and self.stopped is None:  # not just evaluated
                self.evaluation_is_due = True
                self._end_iteration()
            # While one is being written no other is begun: it is taken at the first step that finds the disk free.
            if self._save_is_due and written == self.checkpoints.begun:
                self.save()
        self._judge_whole()
        return Outcome(self.step, self.best.value, self.best.step, self.stopped)

    def _agree_to_stay(self) -> int:
        """Leave if any process wants to; the number of checkpoints that all of them have seen written."""
        wish, written = self.agreement.reach(self._wish(), self.checkpoints.written)
        self._budget_is_spent = wish == Leave.AFTER_EVALUATING
        if wish <= Leave.AFTER_EVALUATING:
            return written
        self.agreement.close()
        self.model.train()  # an evaluation may have been left
        if wish == Leave.AFTER_SAVING:
            self.save()
            self.checkpoints.wait()
        raise Left(self.step, saved=wish == Leave.AFTER_SAVING)

    def _wish(self) -> Leave:
        wish = self.control.wish()
        if wish == Leave.NO and self.ranks.is_main:
            since = self._pace.since_lap()
            gpu_since = since * self._gpus
            if self.stopper.is_spent(self.step, self.seconds + since, self.gpu_seconds + gpu_since):
                return Leave.AFTER_EVALUATING
        return wish

    def train_step(self) -> None:
        """One optimizer step: every slot takes one ACT segment."""
        number, optim = self.step + 1, self.config.optim
        batch, exploration = self.batches.train(self.sampler, self.step), self._exploration()
        # The rate is that of the step's number, counted from 1, as published.
        rates = self.lr(optim.lr, number), self.lr(optim.puzzle_emb_lr, number)
        sums = self.compute(number, batch, exploration, *rates)
        self.window.add(sums)
        self.iteration.add(sums)
        self.step = number

    def lr(self, base_lr: float, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        optim = self.config.optim
        return cosine_with_warmup(step, base_lr, optim.lr_warmup_steps, self.sampler.schedule_steps, optim.lr_min_ratio)

    def _exploration(self) -> Exploration | None:
        model, training = self.config.model, self.config.training
        if model.halt_max_steps == 1:
            return None
        draws = exploration_draws(self.config.seed, self.step, training.global_batch_size, model.halt_max_steps)
        share = self.ranks.share(training.global_batch_size)
        return Exploration(*(torch.from_numpy(draw[share]) for draw in draws))

    # ---------------------------------------------------------------------------------- looking and saving

    def _log_window(self) -> None:
        """Record the means over the steps since the last call."""
        self._refuse(self.vitals.damage())
        named = {f"train/{key}": value for key, value in self.window.close().items()}
        named["train/lr"] = self.lr(self.config.optim.lr, self.step)
        self._take_time(training=True)
        self._record(named | self.throughput.values(self._pace.steps_per_second()))

    def _end_iteration(self) -> None:
        """Evaluate, keep the weights if they are the best so far, ask the stopper; a save is due then."""
        self._take_time(training=True)
        self._refuse_damage()
        evaluation = self._evaluate(self._agree_to_stay)
        self.evaluation_is_due = False
        self._take_time(training=False)
        if not math.isfinite(evaluation.metrics.get("eval/lm_loss", 0.0)):
            self._refuse(Damage(self.step, "eval/lm_loss"))
        means = {f"{TRAIN_MEAN}{key}": value for key, value in self.iteration.close().items()}
        metrics = evaluation.metrics | {key: means[key] for key in means if key in watched(self.config.stopping)}
        self._keep_best(metrics)
        samples = self.step * self.config.training.global_batch_size
        perf = {"perf/wall_s": self.seconds, "perf/mean_samples_per_s": samples / self.train_seconds}
        if self.gpu_seconds:
            perf["perf/gpu_s"] = self.gpu_seconds
        self._record(metrics | perf)  # before it is decided upon: siblings may be asked about each other
        self._record_arrays(evaluation)
        self._decide(metrics | perf)
        self._save_is_due = True

    def _decide(self, values: dict[str, float]) -> None:
        """Ask the stopper; all processes do as the main one says."""
        is_last = self.step == self.sampler.total_steps
        asked = self.stopper.update(self.step, values, is_last) if self.ranks.is_main else []
        decisions, state = self.ranks.broadcast((asked, self.stopper.state_dict()), self._cpu_group)
        self.stopper.load_state_dict(state)
        for decision in decisions:
            self._record_decision(decision)
            if decision.stops and self.stopped is None:
                self.stopped, self.is_cut = decision.reason, decision.rule in PRUNERS

    def _revive(self) -> None:
        """Go on with a run that was stopped, if the stopper says so."""
        asked = self.stopper.revive(self.step) if self.ranks.is_main else None
        decision = self.ranks.broadcast(asked, self._cpu_group)
        if decision is not None:
            self._record_decision(decision)
            self.stopped, self.is_cut = None, False

    def _refuse_damage(self) -> None:
        """No weights are kept, and no checkpoint written, that cannot be trained on."""
        self._refuse(self.vitals.damage() or self.vitals.damaged_weights(self.step))

    def _refuse(self, damage: Damage | None) -> None:
        """End the run on a loss, gradient or weight that is no number. All processes have found the same."""
        if damage is None:
            return
        self.agreement.close()
        self.checkpoints.wait()  # one that is being written is good
        last_good = self.ranks.broadcast(newest_step(self.checkpoints.folder), self._cpu_group)
        self._record_decision(damage.decision(self.step, last_good))
        raise damage.error(last_good, self.config.optim.lr)

    def _evaluate(self, after_batch: Callable[[], object] = lambda: None) -> Evaluation:
        training = self.config.training
        return evaluate(
            self.model, self.batches, self.eval_batch_size, after_batch, training.shown_puzzles, training.eval_puzzles
        )

    def _judge_whole(self) -> None:
        """At the end, where evaluations saw a part of the test sets: judge the last and the best weights on all.

        What a comparison has cut is not worth it.
        """
        is_over = self.step == self.sampler.total_steps or (self.stopped is not None and not self.is_cut)
        parts = [part_of(split, self.config.training.eval_puzzles) for split in self.batches.dataset.test.values()]
        if not is_over or all(part is None for part in parts):
            return
        evaluation = None
        for prefix, of_step in ((FINAL, self.step), (FINAL_BEST, self.best.step)):
            if of_step is None or self.judged_whole.get(prefix) == self.step:
                continue
            if self._save_is_due:
                self.save()  # whoever is killed from here on does not do again what is done
            if evaluation is None or of_step != self.step:
                model = self.model if of_step == self.step else self._best_model()
                evaluation = evaluate(model, self.batches, self.eval_batch_size, self._agree_to_stay)
            self._take_time(training=False)
            self._record({f"{prefix}{key.removeprefix('eval/')}": value for key, value in evaluation.metrics.items()})
            self._record_arrays(evaluation, prefix.rstrip("/"))
            self.judged_whole[prefix], self._save_is_due = self.step, True

    def _best_model(self) -> HRM:
        """A model with the weights of the best evaluation."""
        self.checkpoints.wait()
        self.ranks.wait()  # the main process has written them
        info, path = self.batches.dataset.info, self.folder / "best.safetensors"
        model = HRM(self.config.model, info.vocab_size, info.seq_len, self.batches.num_puzzle_identifiers)
        load_into(model, load_weights(path), path)
        return model.to(self.ranks.device)

    def _keep_best(self, metrics: dict[str, float]) -> None:
        value = metrics.get(self.config.stopping.metric, math.nan)
        if self.best.take(self.step, value) and self.ranks.is_main:
            self.checkpoints.keep_weights(self.model.state_dict(), self.folder / "best.safetensors")

    def _record(self, values: dict[str, float]) -> None:
        if self.ranks.is_main:
            self.control.check()
            self.recorder.metrics(self.step, values)

    def _record_arrays(self, evaluation: Evaluation, name: str = "evaluations") -> None:
        if self.ranks.is_main:
            self.control.check()
            self.recorder.arrays(self.step, name, evaluation.arrays)

    def _record_file(self, step: int, place: str) -> None:
        self.control.check()
        self.recorder.file(step, place)

    def _record_decision(self, decision: Decision) -> None:
        if self.ranks.is_main:
            self.control.check()
            self.recorder.decision(decision)

    def _take_time(self, training: bool) -> None:
        seconds = self._pace.lap(training)
        self.seconds += seconds
        self.train_seconds += seconds if training else 0.0
        self.gpu_seconds += seconds * self._gpus

    # ---------------------------------------------------------------------------------------------- state

    def save(self) -> None:
        """Have all that the next step needs written, and go on as soon as it is copied."""
        self._refuse_damage()
        state = self.state_dict()
        self.checkpoints.save(self.step, self.best.step, state, self.recorder.sync)
        self._save_is_due = False

    def state_dict(self) -> dict[str, Any]:
        """The whole state: the same on every process, but for what is its own of the carry and of the sums."""
        return {
            "fingerprint": self.batches.dataset.info.fingerprint,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "carry": {name: Rows(tensor) for name, tensor in _named(self.carry).items()},
            "window": self.window.state_dict(),
            "iteration": self.iteration.state_dict(),
            "best": self.best.state_dict(),
            "stopped": self.stopped,
            "evaluation_is_due": self.evaluation_is_due,
            "is_cut": self.is_cut,
            "judged_whole": dict(self.judged_whole),
            "stopper": self.stopper.state_dict(),
            "high_water": self.recorder.high_water() if self.ranks.is_main else None,
            "seconds": {"all": self.seconds, "training": self.train_seconds, "gpu": self.gpu_seconds},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state as Checkpoints.load returns it, whatever the number of processes that wrote it."""
        share = self.ranks.share(self.config.training.global_batch_size)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        # Cut by example: another number of processes takes other rows of the same slots.
        rows = {name: whole[share] for name, whole in state["carry"].items()}
        for name, own in _named(self.carry).items():
            own.copy_(rows[name])
        self.window.load_state_dict(state["window"])
        self.iteration.load_state_dict(state["iteration"])
        self.best.load_state_dict(state["best"])
        self.stopped, self.evaluation_is_due = state["stopped"], state["evaluation_is_due"]
        self.is_cut, self.judged_whole = state["is_cut"], state["judged_whole"]
        self.stopper.load_state_dict(state["stopper"])
        self._high_water = state["high_water"]
        seconds = state["seconds"]
        self.seconds, self.train_seconds, self.gpu_seconds = seconds["all"], seconds["training"], seconds["gpu"]

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        written, present = state["fingerprint"], self.batches.dataset.info.fingerprint
        if written != present:
            raise RunError(
                f"{self.folder}: its checkpoint was trained on data with fingerprint {written[:12]}, this dataset has "
                f"{present[:12]}\n  way out: bring the old data back, or delete the folder to start the run afresh"
            )
        self.load_state_dict(state)


def _named(carry: Carry) -> dict[str, Tensor]:
    rest = {"steps": carry.steps, "halted": carry.halted}
    return carry.latents._asdict() | carry.data._asdict() | rest
