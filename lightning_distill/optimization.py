"""Which parameter is stepped how fast: groups by name, layer-wise decay, schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import AdamW, Optimizer

from lightning_distill.errors import ConfigError, nearest
from lightning_distill.learning_rates import WarmupCosine

_STUDENT: Final = "student."
_NUMBER: Final = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose names begin alike.

    Attributes:
        prefix: Path of a part of the student, such as "encoders.image" or "head", or "terms" for adaptors.
        lr_factor: Times the optimizer's learning rate.
        weight_decay: Instead of the optimizer's; None keeps it.
    """

    prefix: str
    lr_factor: float = 1.0
    weight_decay: float | None = None


class GroupedOptimizer:
    """An optimizer with learning rates by part of the student.

    rate(p) = lr * lr_factor(p) * layer_decay ** (L - layer(p))

    where L is the last layer of the encoder p belongs to; outside of encoders there is no decay by layer.
    Layers are those of timm's `group_matcher`, and the numbered blocks of other encoders, with embeddings
    before and everything else after them. A parameter in several groups belongs to the one with the longest
    prefix. In a config it stands where the optimizer does:

        optimizer:
          class_path: lightning_distill.optimization.GroupedOptimizer
          init_args:
            optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001}}
            groups: [{prefix: encoders.text, lr_factor: 0.1}, {prefix: head, weight_decay: 0.0}]
            layer_decay: 0.75

    Args:
        optimizer: Makes the optimizer from groups.
        groups: Where not given, all parameters are one.
        layer_decay: In (0, 1]; 1 treats all layers alike.
        decay_vectors: Whether biases and scales (parameters of one dimension) get weight decay too.

    Raises:
        ConfigError: If a factor is out of range, or a prefix is given twice; when the optimizer is made, if a
            prefix names nothing.

    Source of the decay by layer: Clark et al., ELECTRA (2003.10555), appendix; Bao et al., BEiT (2106.08254),
    as in `timm.optim.param_groups_layer_decay`.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = AdamW,
        groups: list[ParameterGroup] | None = None,
        layer_decay: float = 1.0,
        decay_vectors: bool = False,
    ) -> None:
        prefixes = [group.prefix for group in groups or []]
        twice = len(prefixes) != len(set(prefixes))
        if twice or not 0 < layer_decay <= 1 or any(group.lr_factor < 0 for group in groups or []):
            raise ConfigError(
                where="GroupedOptimizer",
                found=f"groups of {prefixes} with layer_decay {layer_decay}",
                expected="each prefix once, factors of 0 or more, a decay above 0 and up to 1",
                fix="join the groups of one prefix; 1 is no decay, 0.75 is usual",
            )
        self.optimizer, self.groups = optimizer, tuple(groups or ())
        self.layer_decay, self.decay_vectors = layer_decay, decay_vectors

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        """Make the optimizer, without decay by layer.

        Args:
            parameters: As `named_parameters()` gives them.
        """
        return self.build(dict(parameters), {})

    def build(self, parameters: Mapping[str, nn.Parameter], layers: Mapping[str, int]) -> Optimizer:
        """Make the optimizer.

        Args:
            parameters: Name -> parameter.
            layers: Name -> how many layers there are above the parameter's; 0 where not given.
        """
        buckets: dict[tuple[float, float | None], list[nn.Parameter]] = {}
        chosen = self._groups_of(parameters)
        for name, parameter in parameters.items():
            group = chosen[name]
            factor = group.lr_factor * self.layer_decay ** layers.get(name, 0)
            vector = parameter.ndim <= 1 and not self.decay_vectors
            buckets.setdefault((factor, 0.0 if vector else group.weight_decay), []).append(parameter)
        groups: list[dict[str, Any]] = []
        for (_, weight_decay), members in buckets.items():
            decay = {} if weight_decay is None else {"weight_decay": weight_decay}
            groups.append({"params": members, **decay})
        optimizer = self.optimizer(groups)
        # The rate itself is known to `optimizer` alone.
        for made, (factor, _) in zip(optimizer.param_groups, buckets, strict=True):
            made["lr"] = made["lr"] * factor
        return optimizer

    def _groups_of(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, ParameterGroup]:
        rest = ParameterGroup("")
        chosen = dict.fromkeys(parameters, rest)
        for group in sorted(self.groups, key=lambda group: len(group.prefix)):
            under = [n for n in parameters if n == group.prefix or n.startswith(f"{group.prefix}.")]
            if not under:
                raise _no_such(group.prefix, parameters)
            chosen.update(dict.fromkeys(under, group))
        return chosen


def _no_such(prefix: str, names: Iterable[str]) -> ConfigError:
    parts = [name.split(".") for name in names]
    known = dict.fromkeys(".".join(part[:i]) for part in parts for i in range(1, len(part) + 1))
    return ConfigError(
        where="GroupedOptimizer.groups",
        found=f"prefix {prefix!r}, under which nothing is trained{nearest(prefix, known)}",
        expected="the beginning of a parameter's name, such as " + ", ".join(sorted(known, key=len)[:6]),
        fix="print the names with [name for name, _ in student.named_parameters()]",
    )


def make_optimizer(factory: OptimizerCallable | GroupedOptimizer, module: LightningModule) -> Optimizer:
    """One optimizer over all that is trained; the student's parts are named without "student.".

    Args:
        factory: What the module was given.
        module: It has a `student`.

    Raises:
        ConfigError: If the optimizer refuses a setting, or learns at no rate.
    """
    try:
        optimizer = _made(factory, module)
    except ValueError as error:
        raise ConfigError(
            where="DistillationModule.optimizer",
            found=error,
            expected="settings that the optimizer accepts",
            fix="correct the setting that the message names",
        ) from error
    rate = float(optimizer.defaults.get("lr", 1.0))
    if not 0 < rate < math.inf:
        raise ConfigError(
            where="DistillationModule.optimizer.lr",
            found=rate,
            expected="a positive number",
            fix="try 0.001",
        )
    return optimizer


def _made(factory: OptimizerCallable | GroupedOptimizer, module: LightningModule) -> Optimizer:
    trained = {n.removeprefix(_STUDENT): p for n, p in module.named_parameters() if p.requires_grad}
    if not isinstance(factory, GroupedOptimizer):
        return factory(list(trained.values()))
    encoders = getattr(module.student, "encoders", {})
    layers: dict[str, int] = {}
    if factory.layer_decay != 1:
        for name, encoder in encoders.items():
            layers |= {f"encoders.{name}.{n}": above for n, above in layers_above(encoder).items()}
    return factory.build(trained, layers)


def layers_above(encoder: nn.Module) -> dict[str, int]:
    """Name of each parameter -> number of layers between its own and the encoder's last.

    Args:
        encoder: timm's models say what their layers are; of others, numbered blocks are the layers.

    >>> layers_above(nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)))
    {'0.weight': 1, '2.weight': 0}
    """
    for path, module in encoder.named_modules():
        if callable(getattr(module, "group_matcher", None)):
            prefix = f"{path}." if path else ""
            return _above({prefix + n: layer for n, layer in _timm_layers(module).items()})
    return _above(_numbered([name for name, _ in encoder.named_parameters()]))


def _timm_layers(model: Any) -> dict[str, int]:
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return layers


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """Embeddings, numbered blocks in order, then the rest."""
    found = {name: _NUMBER.search(f".{name}") for name in names}
    blocks = {name: int(match[1]) + 1 for name, match in found.items() if match}
    after = max(blocks.values(), default=0) + 1
    return {n: blocks.get(n, 0 if "embed" in n else after) for n in names}


def _above(layers: Mapping[str, int]) -> dict[str, int]:
    # Layers without a parameter, such as activations in a Sequential, do not count.
    rank = {layer: i for i, layer in enumerate(sorted(set(layers.values()), reverse=True))}
    return {name: rank[layer] for name, layer in layers.items()}


def make_scheduler(
    factory: LRSchedulerCallable, optimizer: Optimizer, module: LightningModule, interval: str
) -> dict[str, Any]:
    """The scheduler as Lightning wants it; a `WarmupCosine` without an end lasts as long as training.

    Args:
        factory: Makes it from the optimizer.
        optimizer: With the base rates.
        module: In training.
        interval: "epoch" or "step".

    Raises:
        ConfigError: If the length of training is needed, and there is none.
    """
    scheduler = factory(optimizer)
    if isinstance(scheduler, WarmupCosine) and scheduler.total_steps is None:
        trainer = module.trainer
        total = trainer.estimated_stepping_batches if interval == "step" else trainer.max_epochs
        if total is None or not 0 < total < float("inf"):
            raise ConfigError(
                where="WarmupCosine.total_steps",
                found="a training without an end",
                expected="a number of steps",
                fix="give total_steps, or trainer.max_epochs or max_steps",
            )
        scheduler.end_at(int(total))
    return {"scheduler": scheduler, "interval": interval}
