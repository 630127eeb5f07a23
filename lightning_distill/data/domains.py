"""Several domains in the place of one."""

from __future__ import annotations

from lightning_distill.data.base import MultimodalDataModule


class Domains:
    """Several domains by name, where `CrossDomainDataModule` takes one DataModule.

    Args:
        modules: Name -> DataModule, one or more.
    """

    def __init__(self, modules: dict[str, MultimodalDataModule]) -> None:
        self.modules = modules
