"""What the layers of one model say of a number of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_distill.batch_rows import some_samples
from lightning_distill.explanation.layers import chosen_layers, per_sample
from lightning_distill.extraction import LayerExtractor, find_module
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, ModelOutput


class LayerReader:
    """Reads layers of one side, which it chooses when it sees the first samples.

    Args:
        model: Whose layers are read; None reads only what the answers hold.
        ask: Runs the model.
    """

    def __init__(self, model: nn.Module | None, ask: Callable[[Batch], ModelOutput]) -> None:
        self._model, self._ask = model, ask
        self._extractor: LayerExtractor | None = None
        self._found: dict[str, list[Tensor]] | None = None

    def read(self, batch: Batch) -> None:
        """Add what the layers say of these samples."""
        if self._found is None:
            self._found = {}
            self._choose(batch)
        if self._extractor is None:
            output, layers = self._ask(batch), {}
        else:
            with self._extractor.capturing() as layers:
                output = self._ask(batch)
        assert self._model is not None or not layers
        for path, x in layers.items():
            module = find_module(self._model, path.partition("[")[0])  # type: ignore[arg-type]
            self._add(path, per_sample(x, module, batch))
        for name in [*(f"features.{m}" for m in output.features), "embedding", "logits"]:
            if name != "embedding" or output.embedding is not None:
                self._add(name, output.at(name).flatten(1))

    def _choose(self, batch: Batch) -> None:
        if self._model is None:
            return
        few = some_samples(batch, torch.arange(min(5, len(batch["target"])), device=batch["target"].device))
        ours = isinstance(self._model, MultimodalModel)
        starts = [f"encoders.{m}" for m in self._model.modalities] if ours else [""]  # type: ignore[union-attr]
        self._ask(few)  # a teacher may answer its first batch twice, to compare
        paths = chosen_layers(self._model, lambda: self._ask(few), starts)
        self._extractor = LayerExtractor(self._model, paths) if paths else None

    def _add(self, name: str, x: Tensor) -> None:
        assert self._found is not None
        self._found.setdefault(name, []).append(x.detach().double().cpu())

    def layers(self) -> dict[str, Tensor]:
        """Name -> "samples dim"."""
        return {name: torch.cat(parts) for name, parts in (self._found or {}).items()}

    def close(self) -> None:
        """Remove the hooks."""
        if self._extractor is not None:
            self._extractor.close()
