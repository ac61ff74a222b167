"""The pipeline: load, measure, prune, recover, save, verify, evaluate."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from worker.engine.admit import admitted
from worker.engine.changed import Changed
from worker.engine.checkpoint import Checkpoints, Resumed, resumed
from worker.engine.config import (
    ApplyPlanConfig,
    CastConfig,
    FactorizeConfig,
    OnProgress,
    PruneConfig,
    PruningConfig,
    QuantizeConfig,
    ReconstructConfig,
    RecoveryConfig,
    Request,
    SearchConfig,
    StepConfig,
    TrainingConfig,
    TransformConfig,
)
from worker.engine.data import Rows
from worker.engine.deliver import Delivered, comparable, delivered, wanted
from worker.engine.difference import TOLERANCE, relative_error
from worker.engine.errors import (
    CountsDifferError,
    DataMismatchError,
    EngineError,
    OutputsDifferError,
    PromiseBrokenError,
)
from worker.engine.found import Found
from worker.engine.graph.counts import Counts, count, with_packed
from worker.engine.graph.coupling import Coupling, couple
from worker.engine.load import load_program
from worker.engine.measure.latency import Latency, latency
from worker.engine.measure.quality import quality
from worker.engine.measure.sparsity import sparsity
from worker.engine.program import Program
from worker.engine.prune.cut import cut
from worker.engine.prune.given import given
from worker.engine.prune.plan import Plan, Scored, decide
from worker.engine.prune.rounds import Steps, in_rounds, is_searching, origin_of
from worker.engine.prune.shift import shifted, stand_ins
from worker.engine.prune.sparsify import SparsePlan, check_zeros, decide_zeros, zeroed
from worker.engine.prune.verify import verify_cut
from worker.engine.readers import Source
from worker.engine.recovery.reconstruct import Reference
from worker.engine.recovery.recover import Sources
from worker.engine.recovery.remaining import Remaining
from worker.engine.recovery.setting import NoSnapshots, Setting
from worker.engine.reload import outputs_in_fresh_process, outputs_on_examples
from worker.engine.report import report_of
from worker.engine.safety import Promise, SafetyConfig, broken, judged, told, unmeasured
from worker.engine.save import save_program, save_sparse, save_weights
from worker.engine.search.latency import meet_latency
from worker.engine.search.run import search
from worker.engine.search.smallest import Tried
from worker.engine.search.stopwatch import Stopwatch
from worker.engine.search.workshop import Workshop, as_memory
from worker.engine.serve import Serving
from worker.engine.transform import NAMES, STAGES, recovered, transformed


def compress(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    """Do the whole recipe, and prove it.

    Writes ``model.pt2``, ``model.safetensors``, a plan for each step that removes channels and
    ``report.json`` into ``request.output_dir``.

    Returns:
        The report: what was measured on the file as saved.

    Raises:
        EngineError: The job cannot be done or its result is not right; nothing is delivered.
        PromiseBrokenError: More was lost than allowed; plans and the report are there all the same.
    """
    return _Run(request, on_progress).compress()


def make_plan(request: Request, *, on_progress: OnProgress) -> dict[str, Any]:
    """Decide the first prune step of the recipe without doing it; writes ``plan.json``."""
    run = _Run(request, on_progress)
    at, config = next(
        (at, step) for at, step in enumerate(request.recipe) if isinstance(step, PruneConfig)
    )
    program, _ = run.load()
    train = run.read("train", program)
    with pointing(f"/recipe/{at}"):
        decided = run.plan(program, config, "plan.json", train)
    return decided.as_json(request.model_sha256)


@dataclass
class _Run:
    """One run: what it was asked, what it found so far."""

    request: Request
    on_progress: OnProgress
    found: Found = field(default_factory=Found)
    reference: Reference | None = None
    """What layers gave before anything went that has not been trained since."""
    stage_began: tuple[str, float] | None = None

    def compress(self) -> dict[str, Any]:
        original, source = self.load()
        test = self.read("test", original)
        train = self.read("train", original)
        start = resumed(self.request) or self.begun(original, test)
        self.found = start.found
        if self.found.remaining is not None:
            self.reference = Reference(original, self.found.remaining)
        program = self.recipe_done(start, original, test, train)
        saved, counts = self.saved(program)
        after = self.measured(saved, original, test, counts, stage="evaluating")
        before = self.found.before
        before["file_bytes"] = self.request.model.stat().st_size
        timed = self.timed(original, saved)
        safety = self.judged(before, after)
        lost = self.lost(before, after)
        # What is not delivered is not written in other formats either.
        formats = [] if lost else self.delivered(saved, original, test, source)
        after["file_bytes"] = self.path(comparable(self.request, formats)).stat().st_size
        report = report_of(self.found, after, safety, timed, formats)
        self.write("report.json", report)
        if lost:
            raise PromiseBrokenError(
                f"{told(lost)}: no model is delivered, the report says all that was measured; "
                "remove less, recover for longer, or allow more in /safety/max_drop",
                report,
            )
        return report

    def begun(self, original: Program, test: Rows | None) -> Resumed:
        """Measure the original: where a run is that has done no step yet."""
        counts = count(couple(original))
        self.found.before = self.measured(original, original, test, counts, stage="baseline")
        self.check_promises(self.found.before)
        self.found.remaining = Remaining()
        # A copy: what trains changes its program in place, and the original is the yardstick.
        return Resumed(self.found, 0, original.copy(), None)

    def recipe_done(
        self, start: Resumed, original: Program, test: Rows | None, train: Rows | None
    ) -> Program:
        """Do the recipe, from where an attempt before this one was."""
        program, snapshot = replace(start.program, packed=self.found.packed), start.snapshot
        checkpoints = Checkpoints(self.request, self.found_now)
        steps = in_rounds(self.request.recipe)
        pruning = [at for at, (_, step) in enumerate(steps) if isinstance(step, PruningConfig)]
        for number in range(start.number, len(steps)):
            place, step = steps[number]
            # Anew for each: a run that goes on at this step draws the same numbers.
            torch.manual_seed(self.request.seed)
            with (
                pointing(self.pointer_to(place, step)),
                checkpoints.of_step(number, program, snapshot) as snapshots,
            ):
                setting = Setting(
                    seed=self.request.seed,
                    number=number,
                    sparse=frozenset(self.found.zeros),
                    warn=self.found.warn,
                    snapshots=snapshots,
                )
                if is_searching(step):
                    searched = _Searched(place, step, original, train, test)
                    program = self.searched(searched, program, setting, checkpoints)
                else:
                    todo = _Todo(place, step, original, train, test)
                    program = self.do(todo, steps, program, setting)
            snapshot = None
            if pruning[-1:] == [number] and not is_searching(step):
                assert self.found.planned is not None
                self.found.after_prune = self.measured(
                    program, original, test, self.found.planned, stage="pruning"
                )
            if self.can_go_on:
                checkpoints.leave(number + 1, program)
        return program

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt has all that this one has: no reference but the original."""
        return self.reference is None or self.found.remaining is not None

    def recover(
        self,
        program: Program,
        step: RecoveryConfig,
        rows: Rows,
        original: Program,
        setting: Setting,
    ) -> Program:
        """One recovery step; rows are held out if it keeps what is best on them."""
        if isinstance(step, TrainingConfig) and step.keep == "best":
            rows, held_out = rows.split(self.request.validation_fraction, seed=self.request.seed)
            setting = replace(setting, validation=held_out)
        sources = Sources(rows, original, self.reference)
        if step.trains:
            # What layers gave before is no measure for what they learn.
            self.reference = self.found.remaining = None
        unit = "layers" if isinstance(step, ReconstructConfig) else "batches"
        with self.stage("recovering", 1, unit) as progress:
            return recovered(program, step, sources, replace(setting, on_progress=progress))

    def searched(
        self, asked: "_Searched", program: Program, setting: Setting, checkpoints: Checkpoints
    ) -> Program:
        """Look for the smallest model that keeps its promise, and give it; else the original."""
        step = asked.step
        with self.stage("scoring", 1, "steps") as progress:
            coupling = couple(program, exclude=step.exclude, granularity=step.granularity)
            rows, validation = asked.split(self.request)
            scored = Scored.of(
                coupling, step, seed=self.request.seed, rows=rows, on_progress=progress
            )
        workshop = Workshop(
            scored=scored,
            recipe=[
                (each, partial(pointing, f"/recipe/{asked.place + 1 + at}"))
                for at, each in enumerate(step.recover)
            ],
            sources=Sources(rows, asked.original, self.reference),
            validation=validation,
            promise=asked.promise(self.request.safety),
            evaluation=self.request.evaluation,
            setting=replace(setting, snapshots=NoSnapshots()),
            validation_fraction=self.request.validation_fraction,
            watch=self.stopwatch(coupling) if asked.limits.minimize == "latency" else None,
            known=tuple(self.found.trials),
        )
        with self.stage("searching", asked.limits.trials, "trials") as progress:

            def on_tried(tried: Tried) -> None:
                progress(min(tried.number, asked.limits.trials), asked.limits.trials)
                memory = as_memory(tried)
                if memory in self.found.trials:
                    return
                self.found.trials.append(memory)
                if self.can_go_on:
                    checkpoints.leave(setting.number, program)

            found = search(workshop, asked.limits, asked.test, self.found.before, on_tried)
        self.found.trials = []
        self.found.search = found.report
        keep = coupling.everything() if found.delivered is None else found.delivered.keep
        decided = scored.whole_plan(keep, found.warnings)
        self.write("plan.json", decided.as_json(self.request.model_sha256))
        for warning in decided.warnings:
            self.found.warn(warning)
        self.found.planned = decided.predicted
        with self.stage("pruning", 1, "checks"):
            pruned = cut(coupling, keep)
            self.found.exactness.append(verify_cut(coupling, keep, pruned, seed=self.request.seed))
        self.found.after_prune = self.measured(
            pruned, asked.original, asked.test, decided.predicted, stage="pruning"
        )
        self.reference = self.found.remaining = None
        if found.made is None:
            return program
        for at, change, changed in found.made.changes:
            self.tell(replace(asked, place=asked.place + 1 + at), change, changed)
        return found.made.program

    def stopwatch(self, coupling: Coupling) -> Stopwatch:
        evaluation = self.request.evaluation
        return Stopwatch(
            coupling, batch_size=evaluation.latency_batch_size, mode=evaluation.latency_mode
        )

    def pointer_to(self, place: int, step: StepConfig) -> str:
        """Where in the spec a step is: in the recipe, or between the rounds of one that is."""
        asked = self.request.recipe[place]
        if isinstance(asked, PruneConfig) and step in asked.recover:
            return f"/recipe/{place}/recover/{asked.recover.index(step)}"
        return f"/recipe/{place}"

    def load(self) -> tuple[Program, Source]:
        with self.stage("loading", 1, "files"):
            program, source = admitted(self.request)
        for warning in source.warnings:
            self.found.warn(warning)
        return program, source

    def delivered(
        self, saved: Program, original: Program, test: Rows | None, source: Source
    ) -> list[Delivered]:
        """Write the model in the other formats that were asked for, and measure each."""
        names = wanted(self.request, source)
        if not names:
            return []
        with self.stage("exporting", len(names), "files") as progress:
            saved, original = saved.to("cpu"), original.to("cpu")
            before = self.found.before["quality"]
            serving = Serving(self.request, original, saved, source.origin, test, before)
            folder = self.request.output_dir
            found = delivered(
                names, saved, source.origin, folder, progress, measured=serving.measured
            )
        for each in found:
            if each.reason is not None:
                self.found.warn(f"no {each.format}: {each.reason}")
            if each.unmeasured is not None:
                self.found.warn(f"{each.format}: {each.unmeasured}")
        return found

    def read(self, role: str, program: Program) -> Rows | None:
        path = {"train": self.request.train, "test": self.request.test}[role]
        if path is None:
            return None
        return Rows.read(path, program, asked=self.request.objective, role=role)

    def do(self, todo: "_Todo", steps: Steps, program: Program, setting: Setting) -> Program:
        """One step of the recipe. What trains changes the program in place."""
        match step := todo.step:
            case FactorizeConfig() | QuantizeConfig() | CastConfig():
                return self.transformed(todo, step, program, setting)
            case PruneConfig() | ApplyPlanConfig():
                pruning = [
                    at for at, (_, each) in enumerate(steps) if isinstance(each, PruningConfig)
                ]
                number = setting.number
                name = f"plan-{pruning.index(number)}.json" if len(pruning) > 1 else "plan.json"
                if isinstance(step, PruneConfig) and step.rounds > 1:
                    place = steps[number][0]
                    if place not in self.found.origins:
                        self.found.origins[place] = origin_of(step, program)
                    step = replace(step, origin=self.found.origins[place])
                return self.prune(program, step, name, todo.train)
            case _:
                assert todo.train is not None, "the recipe was checked before"
                return self.recover(program, step, todo.train, todo.original, setting)

    def transformed(
        self, todo: "_Todo", step: TransformConfig, program: Program, setting: Setting
    ) -> Program:
        """A step that factorizes, quantizes or casts, and its lines in the report."""
        with self.stage(STAGES[type(step)], 1, "layers") as progress:
            told = replace(setting, on_progress=progress)
            changed = transformed(program, step, todo.train, told)
        # Layers are no more what they were, and nothing follows that looks at how they were.
        self.reference = self.found.remaining = None
        self.tell(todo, step, changed)
        return changed.program

    def tell(self, todo: "_Todo", step: TransformConfig, changed: Changed) -> None:
        """Measure what a step made, and put it down for the report."""
        for warning in changed.warnings:
            self.found.warn(warning)
        self.found.packed = changed.program.packed
        self.found.planned = self.counted(changed.program)
        stage = STAGES[type(step)]
        found = self.measured(
            changed.program, todo.original, todo.test, self.found.planned, stage=stage
        )
        timed = self.timed(todo.original, changed.program, stage=stage)
        self.found.steps.append(
            {
                "index": todo.place,
                "step": NAMES[type(step)],
                "counts": found["counts"],
                "quality": found["quality"],
                "latency": None if timed is None else timed.as_json(),
                "layers": [line.as_json() for line in changed.layers],
            }
        )

    def counted(self, program: Program) -> Counts:
        """Counts of a program; weights that it makes from codes are parameters still."""
        return with_packed(count(couple(program)), self.found.packed)

    def prune(
        self, program: Program, config: PruningConfig, name: str, train: Rows | None
    ) -> Program:
        decided = self.plan(program, config, name, train)
        with self.stage("pruning", 2, "checks") as progress:
            if isinstance(decided, SparsePlan):
                pruned = zeroed(program, decided.masks)
                progress(1, 2)
                check_zeros(program, pruned, decided)
                self.found.zeros |= decided.masks.keys()
                self.found.planned = decided.baseline
                return pruned
            with program.holding(shifted(decided.coupling, decided.merges)):
                pruned = cut(decided.coupling, decided.keep)
            progress(1, 2)
            proof = verify_cut(
                decided.coupling,
                decided.keep,
                pruned,
                seed=self.request.seed,
                stand_ins=stand_ins(decided.coupling, decided.merges),
            )
            self.found.exactness.append(proof)
        self.found.planned = decided.predicted
        before = self.reference or Reference.of(program)
        self.reference = before.after(decided.coupling, decided.keep)
        if self.found.remaining is not None:
            self.found.remaining = self.reference.remaining
        return pruned

    def plan(
        self, program: Program, config: PruningConfig, name: str, train: Rows | None
    ) -> Plan | SparsePlan:
        with self.stage("scoring", 1, "steps") as progress:
            decided = self.decided(program, config, train, progress)
            self.write(name, decided.as_json(self.request.model_sha256))
        for warning in decided.warnings:
            self.found.warn(warning)
        return decided

    def decided(
        self,
        program: Program,
        config: PruningConfig,
        train: Rows | None,
        progress: Callable[[int, int], None],
    ) -> Plan | SparsePlan:
        seed = self.request.seed
        is_zero = isinstance(config, PruneConfig) and config.algorithm == "zero"
        exclude = () if is_zero else config.exclude
        coupling = couple(program, exclude=exclude, granularity=config.granularity)
        if isinstance(config, ApplyPlanConfig):
            return given(coupling, config, model_sha256=self.request.model_sha256, seed=seed)
        if config.latency is not None:
            return self.decided_by_latency(coupling, config, config.latency, train, progress)
        choose = decide_zeros if is_zero else decide
        return choose(coupling, config, seed=seed, rows=train, on_progress=progress)

    def decided_by_latency(
        self,
        coupling: Coupling,
        config: PruneConfig,
        target: float,
        train: Rows | None,
        progress: Callable[[int, int], None],
    ) -> Plan:
        scored = Scored.of(coupling, config, seed=self.request.seed, rows=train)
        choice = meet_latency(scored, target, self.stopwatch(coupling), on_progress=progress)
        self.found.latency_table = [times.as_json() for times in choice.table]
        return scored.plan(choice.keep, choice.warnings)

    def saved(self, program: Program) -> tuple[Program, Counts]:
        """Save the program; give back what the file holds, proved to stand alone."""
        with self.stage("saving", 1, "files"):
            save_program(program, self.path("model.pt2"))
            save_weights(program, self.path("model.safetensors"), self.found.packed)
            if self.found.zeros:
                save_sparse(program, self.path("model.sparse.safetensors"))
        with self.stage("verifying", 2, "checks") as progress:
            read = Program.from_exported(load_program(self.path("model.pt2")))
            saved = replace(read, packed=self.found.packed)
            counts = self.counted(saved)
            if counts != self.found.planned:
                raise CountsDifferError(
                    f"the saved file holds {counts}, the plan says {self.found.planned}: not "
                    "delivered; this is a defect of the engine, report it with the model"
                )
            progress(1, 2)
            here = outputs_on_examples(saved)
            fresh = outputs_in_fresh_process(self.path("model.pt2"), self.request.output_dir)
            if not (error := relative_error(fresh, here)) <= TOLERANCE:
                raise OutputsDifferError(
                    f"the saved file gives other outputs in a fresh process (relative difference "
                    f"{error:.2g}): not delivered; report it with the model"
                )
        return saved.to(self.request.device), counts

    def measured(
        self,
        program: Program,
        original: Program,
        test: Rows | None,
        counts: Counts,
        *,
        stage: str,
    ) -> dict[str, Any]:
        """Counts, and quality where there is test data."""
        found = None
        if test is not None:
            size = self.request.evaluation.batch_size
            with self.stage(stage, test.batch_count(program, size), "batches") as progress:
                found = quality(
                    program,
                    original,
                    test,
                    batch_size=size,
                    on_batch=progress,
                    noise_std=self.request.evaluation.noise_std,
                    fgsm_epsilon=self.request.evaluation.fgsm_epsilon,
                    seed=self.request.seed,
                )
        return {
            "counts": counts.as_json(),
            "sparsity": sparsity(program),
            "file_bytes": None,
            "quality": found,
            "latency": None,
        }

    def check_promises(self, before: dict[str, Any]) -> None:
        """Refuse what cannot be promised, before hours of work."""
        promises = self.request.safety
        if promises is not None and (lacking := unmeasured(before["quality"], promises)):
            raise DataMismatchError(
                f"a promise is about what the test data does not tell: {'; '.join(lacking)}; add "
                "it, or leave the promise out"
            )

    def judged(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any] | None:
        """What became of each promise, as the report says it."""
        promises = self.request.safety
        if promises is None:
            return None
        found = judged(before["quality"], after["quality"], promises)
        return {"promises": [promise.as_json() for promise in found]}

    def lost(self, before: dict[str, Any], after: dict[str, Any]) -> list[Promise]:
        """The promises that are broken: more was lost than allowed."""
        promises = self.request.safety
        return [] if promises is None else broken(before["quality"], after["quality"], promises)

    def timed(
        self, original: Program, saved: Program, *, stage: str = "evaluating"
    ) -> Latency | None:
        rounds = self.request.evaluation.latency_rounds
        if not rounds:
            return None
        with self.stage(stage, rounds, "rounds") as progress:
            return latency(
                original,
                saved,
                batch_size=self.request.evaluation.latency_batch_size,
                rounds=rounds,
                on_round=progress,
                mode=self.request.evaluation.latency_mode,
            )

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
        """Announce a stage, time it, and give a way to tell how far it is."""
        self.on_progress(name, 0, total, unit)
        self.stage_began = (name, perf_counter())

        def progress(done: int, of: int) -> None:
            self.on_progress(name, done, of, unit)

        yield progress
        self.found.seconds = self.seconds_now()
        self.stage_began = None

    def seconds_now(self) -> dict[str, float]:
        """The seconds of each stage, with those of the one that has not ended."""
        if self.stage_began is None:
            return self.found.seconds
        name, began = self.stage_began
        spent = self.found.seconds.get(name, 0.0) + perf_counter() - began
        return {**self.found.seconds, name: spent}

    def found_now(self) -> Found:
        return replace(self.found, seconds=self.seconds_now())

    def path(self, name: str) -> Path:
        return self.request.output_dir / name

    def write(self, name: str, document: dict[str, Any]) -> None:
        self.path(name).write_text(json.dumps(document, indent=2) + "\n")


@contextmanager
def pointing(place: str) -> Iterator[None]:
    """Have what is wrong inside point into the whole spec, and not into one step of it."""
    try:
        yield
    except EngineError as error:
        if error.pointer is not None and error.in_step:
            error.pointer, error.in_step = f"{place}{error.pointer}", False
        raise


@dataclass(frozen=True)
class _Todo:
    """A step of the recipe, with all that it is done with."""

    place: int
    step: StepConfig
    original: Program
    train: Rows | None
    test: Rows | None


@dataclass(frozen=True)
class _Searched(_Todo):
    """A step that searches, with all that it searches with."""

    step: PruneConfig

    @property
    def limits(self) -> SearchConfig:
        return self.step.search or SearchConfig()

    def split(self, request: Request) -> tuple[Rows, Rows]:
        """Rows to recover on, and rows to judge by."""
        assert self.train is not None, "the recipe was checked before"
        return self.train.split(request.validation_fraction, seed=request.seed)

    def promise(self, safety: SafetyConfig | None) -> SafetyConfig:
        """What every model that is tried has to keep: the budget, and what the spec promises."""
        assert self.step.promise is not None
        return replace(safety or SafetyConfig(), **self.step.promise.given)
