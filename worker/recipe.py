"""A job spec in the engine's own words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from secateur.amounts import Override
from secateur.factorization import FactorizeStep
from secateur.objective import Objective
from secateur.outputs import OutputFormat
from secateur.precision import CastStep
from secateur.pruning import PruneStep
from secateur.quantization import QuantizeStep
from secateur.recovery import (
    DistillStep,
    FinetuneStep,
    RecalibrateStep,
    ReconstructStep,
    TrainingStep,
)
from secateur.safety import Safety
from secateur.search import Search
from secateur.spec import ApplyPlanStep, GivenGroup, Step
from worker.engine.config import (
    ApplyPlanConfig,
    CastConfig,
    DistillConfig,
    EvaluationConfig,
    FactorizeConfig,
    FinetuneConfig,
    GroupConfig,
    MergeConfig,
    ObjectiveConfig,
    OverrideConfig,
    PruneConfig,
    QuantizeConfig,
    RecalibrateConfig,
    ReconstructConfig,
    RecoveryConfig,
    Request,
    SearchConfig,
    StepConfig,
)
from worker.engine.safety import SafetyConfig
from worker.order import CHECKPOINT_FILE, Order


def _prune(step: PruneStep) -> PruneConfig:
    return PruneConfig(
        criterion=step.criterion.name.value,
        options=_plain(step.criterion.options),
        scope=step.scope.value,
        **(step.budget.given if step.budget else {}),
        floor=step.floor,
        aggregation=step.aggregation.value,
        normalization=step.normalization.value if step.normalization else None,
        granularity=step.granularity.value,
        exclude=step.exclude,
        channel_multiple=step.channel_multiple,
        overrides=tuple(_override(override) for override in step.overrides),
        algorithm=step.algorithm.value,
        pattern=step.pattern,
        rounds=step.rounds,
        schedule=step.schedule.value,
        recover=tuple(_RECOVERIES[type(each)](each) for each in step.recover),
        search=_search(step),
    )


def _search(step: PruneStep) -> SearchConfig | None:
    if step.budget is None or not step.budget.is_searched:
        return None
    asked = step.search or Search()
    return SearchConfig(asked.minimize.value, asked.trials, asked.seconds)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the contract's types, which the engine does not know."""
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in options.items()
    }


def _override(override: Override) -> OverrideConfig:
    return OverrideConfig(**override.given)


def _apply_plan(step: ApplyPlanStep) -> ApplyPlanConfig:
    return ApplyPlanConfig(
        model_sha256=step.plan.model_sha256,
        groups=tuple(_group(group) for group in step.plan.channel_groups),
        granularity=step.plan.granularity.value,
        exclude=step.plan.exclude,
    )


def _group(group: GivenGroup) -> GroupConfig:
    merges = tuple(MergeConfig(m.source, m.target, m.scales) for m in group.merges)
    return GroupConfig(group.id, group.keep, group.channel_count, merges)


def _recalibrate(step: RecalibrateStep) -> RecalibrateConfig:
    return RecalibrateConfig(sample_count=step.sample_count, batch_size=step.batch_size)


def _reconstruct(step: ReconstructStep) -> ReconstructConfig:
    return ReconstructConfig(step.sample_count, step.batch_size, step.damping)


def _finetune(step: FinetuneStep) -> FinetuneConfig:
    return FinetuneConfig(**_said(step))


def _distill(step: DistillStep) -> DistillConfig:
    return DistillConfig(**_said(step))


def _said(step: TrainingStep) -> dict[str, Any]:
    """The options of a training, without a learning rate where none is given."""
    said = step.model_dump(exclude={"step"})
    return {name: value for name, value in said.items() if name != "learning_rate" or value}


_RECOVERIES: Mapping[type[Any], Callable[[Any], RecoveryConfig]] = {
    RecalibrateStep: _recalibrate,
    ReconstructStep: _reconstruct,
    FinetuneStep: _finetune,
    DistillStep: _distill,
}


def _factorize(step: FactorizeStep) -> FactorizeConfig:
    said = step.model_dump(exclude={"step", "rank"})
    return FactorizeConfig(**_plain({**said, **step.rank.given}))


def _quantize(step: QuantizeStep) -> QuantizeConfig:
    said = step.model_dump(exclude={"step"}, exclude_none=True)
    used = {"granularity": step.granularity_used, "symmetric": step.symmetric_used}
    return QuantizeConfig(**_plain({**said, **used}))


def _cast(step: CastStep) -> CastConfig:
    return CastConfig(**_plain(step.model_dump(exclude={"step"})))


BUILDERS: Mapping[type[Step], Callable[[Any], StepConfig]] = {
    PruneStep: _prune,
    ApplyPlanStep: _apply_plan,
    FactorizeStep: _factorize,
    QuantizeStep: _quantize,
    CastStep: _cast,
    **_RECOVERIES,
}
"""Every step that a spec may hold, and how the engine is told of it."""


def request_of(order: Order, *, output_dir: Path, device: str) -> Request:
    """What the engine is asked to do for one attempt."""
    spec = order.spec
    return Request(
        model=order.model.path,
        model_sha256=order.model.sha256,
        recipe=recipe_of(spec.recipe),
        output_dir=output_dir,
        train=order.train.path if order.train else None,
        test=order.test.path if order.test else None,
        model_format=order.model_format.value,
        output_formats=_formats(spec.output_formats),
        objective=_objective(spec.objective),
        evaluation=EvaluationConfig(
            batch_size=spec.evaluation.batch_size,
            latency_batch_size=spec.evaluation.latency_batch_size,
            latency_rounds=spec.evaluation.latency_rounds,
            latency_mode=spec.evaluation.latency_mode.value,
            noise_std=spec.evaluation.noise_std,
            fgsm_epsilon=spec.evaluation.fgsm_epsilon,
        ),
        safety=_promises(spec.safety),
        validation_fraction=spec.data.validation_fraction,
        seed=spec.seed,
        device=device,
        spec_sha256=spec.sha256,
        checkpoint=output_dir.with_name(CHECKPOINT_FILE),
        resume=order.checkpoint.path if order.checkpoint else None,
        checkpoint_s=order.checkpoint_s,
    )


_RATE_OF_CODES = 1e-4
"""What trains a quantized network where nobody says it: it may have no batch norms any more."""


def recipe_of(steps: Sequence[Step]) -> tuple[StepConfig, ...]:
    """The steps; a training behind a quantization has a learning rate of its own."""
    found: list[StepConfig] = []
    is_quantized = False
    for step in steps:
        config = BUILDERS[type(step)](step)
        if isinstance(step, TrainingStep) and step.learning_rate is None and is_quantized:
            assert isinstance(config, FinetuneConfig | DistillConfig)
            config = replace(config, learning_rate=_RATE_OF_CODES)
        is_quantized |= isinstance(step, QuantizeStep)
        found.append(config)
    return tuple(found)


def _formats(formats: tuple[OutputFormat, ...] | None) -> tuple[str, ...] | None:
    return None if formats is None else tuple(each.value for each in formats)


def _objective(objective: Objective) -> ObjectiveConfig:
    task = None if objective.task is None else objective.task.value
    return ObjectiveConfig(task, objective.output, objective.ignore_class)


def _promises(safety: Safety | None) -> SafetyConfig | None:
    return None if safety is None else SafetyConfig(**safety.max_drop.given)
