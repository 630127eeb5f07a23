"""What clip rules cost beside a plain copy of the gradients, beside torch's and timm's.

34 million gradients in the 163 tensors of a ResNet-18, a text transformer of 6 layers of 384, a fusion and a
head. Every variant gets the gradients as they were, so that each one binds: the value clip on a few entries
in a hundred, the norm by a half, adaptive clipping on a few rows in a hundred. One thread, process CPU time,
variants in turns with rotating order: the median of the rounds' ratios to the copy. On CUDA, where there is
one, wall time between two synchronisations, launches included.

`in_place` is one pass over the same bytes in one piece, read and written: what a clip can cost at least.
`boundary_us` is what a clip of the gradient at the fusion boundary adds to forward and backward of one
modality, "8 512": tight loops with and without it.

    python benchmarks/clipping.py --out benchmarks/results/clipping.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import turns

from lightning_distill.clipping import AdaptiveClip, NormClip, SkipNonFinite, ValueClip
from lightning_distill.feature_clipping import BoundaryClip
from lightning_distill.gradients import gradients_of
from lightning_distill.telemetry.gradients import GradientTelemetry

AGC_FACTOR, AGC_FLOOR = 0.01, 1e-3
ROW_SPREAD = 0.5
"""Standard deviation of the logarithm of a row's |g| / |w|."""
ROWS_BOUND = 1.75
"""So many of these above the mean is where adaptive clipping binds: 4 rows in a hundred."""
ENTRIES_BOUND = 0.97


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    found: dict[str, tuple[int, ...]] = {}
    _resnet("encoders.image", found)
    _transformer("encoders.text", found)
    found["fusion.weight"] = (512, 896)
    return found | {"head.weight": (100, 512), "head.bias": (100,)}


def _resnet(at: str, found: dict[str, tuple[int, ...]]) -> None:
    def unit(name: str, *shape: int) -> None:
        found[f"{at}.{name}.weight"] = shape
        found[f"{at}.{name}_norm.weight"] = found[f"{at}.{name}_norm.bias"] = shape[:1]

    unit("stem", 64, 3, 7, 7)
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            unit(f"{width}.{block}.conv1", width, before, 3, 3)
            unit(f"{width}.{block}.conv2", width, width, 3, 3)
            if before != width:
                unit(f"{width}.{block}.shortcut", width, before, 1, 1)
            before = width


def _transformer(at: str, found: dict[str, tuple[int, ...]]) -> None:
    found |= {f"{at}.words": (30_522, 384), f"{at}.places": (512, 384)}
    found |= {f"{at}.norm.weight": (384,), f"{at}.norm.bias": (384,)}
    layer = {"query": (384, 384), "key": (384, 384), "value": (384, 384), "out": (384, 384)}
    layer |= {"up": (1536, 384), "down": (384, 1536)}
    for i in range(6):
        for name, shape in layer.items():
            found[f"{at}.{i}.{name}.weight"], found[f"{at}.{i}.{name}.bias"] = shape, shape[:1]
        for name in ("norm1", "norm2"):
            found[f"{at}.{i}.{name}.weight"] = found[f"{at}.{i}.{name}.bias"] = (384,)


def parameters(device: str) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """Parameters, and the gradients that they get before each turn."""
    generator = torch.Generator().manual_seed(0)
    made, grads = {}, {}
    for name, shape in shapes().items():
        weight = 0.05 * torch.randn(shape, generator=generator)
        rows = shape[:1] + (1,) * (len(shape) - 1) if len(shape) > 1 else (1,)
        ratio = (ROW_SPREAD * (torch.randn(rows, generator=generator) - ROWS_BOUND)).exp()
        grads[name] = (AGC_FACTOR * ratio * 0.05 * torch.randn(shape, generator=generator)).to(device)
        made[name] = nn.Parameter(weight.to(device))
        made[name].grad = grads[name].clone()
    return made, grads


def variants(
    named: Mapping[str, nn.Parameter], bounds: Mapping[str, float]
) -> dict[str, Callable[[], object]]:
    """What is compared, by name."""
    pairs, plain = list(named.items()), list(named.values())
    value, norm = ValueClip(bounds["value"]), NormClip(bounds["norm"])
    guarded, agc = SkipNonFinite(ValueClip(bounds["value"])), AdaptiveClip(AGC_FACTOR, AGC_FLOOR)
    telemetry = GradientTelemetry()
    flat = torch.cat([p.detach().flatten() for p in plain])
    copy = torch.zeros_like(flat)

    def watched() -> None:
        gradients = gradients_of(pairs)
        telemetry.before(gradients)
        value.clip_gradients(gradients)
        telemetry.after()

    return {
        "memcpy": lambda: copy.copy_(flat),
        "in_place": lambda: copy.clamp_(-bounds["value"], bounds["value"]),
        "value": lambda: value.clip(pairs),
        "value_with_telemetry": watched,
        "value_guarded": lambda: guarded.clip(pairs),
        "norm": lambda: norm.clip(pairs),
        "agc": lambda: agc.clip(pairs),
        "torch_value": lambda: nn.utils.clip_grad_value_(plain, bounds["value"]),
        "torch_norm": lambda: nn.utils.clip_grad_norm_(plain, bounds["norm"]),
        "timm_agc": lambda: adaptive_clip_grad(plain[:-2], AGC_FACTOR, AGC_FLOOR),  # without the head
    }


def clock(device: str) -> float:
    """CPU seconds of this process; on CUDA wall seconds when all that was launched is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(rounds: int, device: str) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every variant in every round, and what was clipped."""
    named, grads = parameters(device)
    sizes = torch.cat([g.flatten() for g in grads.values()]).abs()
    bound = sizes[torch.randperm(len(sizes))[:100_000].to(device)].quantile(ENTRIES_BOUND).item()
    norm = torch.linalg.vector_norm(sizes.double()).item()
    work = variants(named, {"value": bound, "norm": norm / 2})

    def again() -> None:
        for name, parameter in named.items():
            assert parameter.grad is not None
            parameter.grad.copy_(grads[name])

    clipped = {"value": round((sizes > bound).double().mean().item(), 4), "norm": 0.5}
    again()
    work["agc"]()
    clipped["agc_rows"] = round(_rows_changed(named, grads), 4)
    del sizes
    seconds: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for round_ in range(rounds + 2):
        at = round_ % len(names)
        for name in names[at:] + names[:at]:
            again()
            start = clock(device)
            work[name]()
            taken = clock(device) - start
            if round_ >= 2:
                seconds[name].append(taken)
    about = {
        "parameters": sum(p.numel() for p in named.values()),
        "tensors": len(named),
        "clipped": clipped,
    }
    return seconds, about


def _rows_changed(named: Mapping[str, nn.Parameter], grads: Mapping[str, Tensor]) -> float:
    changed = []
    for name, parameter in named.items():
        if parameter.grad is not None and parameter.ndim > 1 and not name.startswith("head"):
            changed.append((parameter.grad != grads[name]).flatten(1).any(1))
    return torch.cat(changed).double().mean().item()


def boundary_microseconds(rounds: int, device: str, loops: int = 300) -> dict[str, float]:
    """What the clip adds to forward and backward, a round's difference each."""
    x = torch.randn(8, 512, device=device, requires_grad=True)
    grad, clip = torch.randn(8, 512, device=device), BoundaryClip(1.0)

    def seconds(step: Callable[[Tensor], Tensor]) -> float:
        start = clock(device)
        for _ in range(loops):
            torch.autograd.grad(step(x * 2), x, grad)
        return (clock(device) - start) / loops

    def bare(z: Tensor) -> Tensor:
        return z

    seconds(clip), seconds(bare)
    gc.collect()
    gc.disable()  # as timeit does
    found = []
    for round_ in range(rounds):
        taken = {step: seconds(step) for step in ((clip, bare) if round_ % 2 else (bare, clip))}
        found.append(1e6 * (taken[clip] - taken[bare]))
    gc.enable()
    return turns.spread(found)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/clipping.json"))
    parser.add_argument("--rounds", type=int, default=27)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds, about = measure(options.rounds, device)
    spread = {name: turns.ratio(s, seconds["memcpy"]) for name, s in seconds.items() if name != "memcpy"}
    spread["norm_over_torch"] = turns.ratio(seconds["norm"], seconds["torch_norm"])
    spread["value_over_torch"] = turns.ratio(seconds["value"], seconds["torch_value"])
    spread["boundary_us"] = boundary_microseconds(options.rounds, device)
    report = {
        "ratios": {name: found["median"] for name, found in spread.items() if name != "boundary_us"},
        "boundary_us": spread["boundary_us"]["median"],
        "spread": spread,
        "milliseconds": {name: round(1000 * median(s), 3) for name, s in seconds.items()},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "rounds": options.rounds,
        **about,
        "about": turns.about(("lightning_distill", "torch", "timm")),
    }
    turns.write(options.out, report)
    print(json.dumps(report, indent=2))
    return 0 if all(math.isfinite(ratio) for ratio in report["ratios"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
