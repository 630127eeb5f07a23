"""Folders of transformers and timm with code, or with weights that are pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.canaries import MODULE, TRACE, Canary
from tests.reliability.hostile import Config, Opening


def bert(
    change: dict[str, Any], teacher: bool = False, pretrained: bool = True, edit: Callable[[], object] = int
) -> Callable[[], Opening]:
    """A small folder of transformers, its config.json changed."""

    def make() -> Opening:
        import transformers

        from lightning_distill.encoders import TransformersTextEncoder
        from lightning_distill.teachers import TransformersTeacher

        settings = transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
        kind = transformers.BertForSequenceClassification if teacher else transformers.BertModel
        kind(settings).save_pretrained("bert")
        path = Path("bert/config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        Path("bert/own.py").write_text(f"open({TRACE!r}, 'w')\nclass Own: pass\n")
        edit()
        if teacher:
            return lambda: TransformersTeacher("bert")
        return lambda: TransformersTextEncoder("bert", pretrained=pretrained)

    return make


AUTO = {"auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}


def only_pickled() -> None:
    """No weights but a pickle."""
    Path("bert/model.safetensors").unlink()
    Path("bert/pytorch_model.bin").write_bytes(pickle.dumps(Canary(), 2))


def pickled_as_safetensors() -> None:
    Path("bert/model.safetensors").write_bytes(pickle.dumps(Canary()))


def index_to_elsewhere() -> None:
    """An index of parts that names a pickle outside."""
    Path("bert/model.safetensors").unlink()
    Path("outside.bin").write_bytes(pickle.dumps(Canary()))
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "../outside.bin"}}
    Path("bert/model.safetensors.index.json").write_text(json.dumps(index))


def tokenizer(change: dict[str, Any]) -> Callable[[], Opening]:
    """A tokenizer with code of its own."""

    def make() -> Opening:
        from lightning_distill.data import TextProcessor
        from tests.data.test_text import save_bert

        save_bert(Path("tokenizer"))
        path = Path("tokenizer/tokenizer_config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        Path("tokenizer/own.py").write_text(f"open({TRACE!r}, 'w')\nclass Own: pass\n")
        return lambda: TextProcessor("tokenizer").check()

    return make


def timm_folder(
    edit: Callable[[Config], object], weights: bytes | None, name: bool = False
) -> Callable[[], Opening]:
    """A small folder of timm, config.json changed; other weights, and none in safetensors."""

    def make() -> Opening:
        import timm

        from lightning_distill.encoders import TimmImageEncoder

        model = timm.create_model("test_resnet", num_classes=0)
        timm.models.save_for_hf(model, "timm", safe_serialization=True)
        path = Path("timm/config.json")
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        if weights is not None:
            Path("timm/model.safetensors").unlink()
            Path("timm/pytorch_model.bin").write_bytes(weights)
            Path("timm/model.npz").write_bytes(weights)
        if name:
            return lambda: TimmImageEncoder(f"local-dir:{Path('timm').absolute()}", pretrained=True)
        return lambda: TimmImageEncoder("resnet18", weights=Path("timm"))

    return make


FOLDERS: dict[str, Callable[[], Opening]] = {
    "auto_map": bert(AUTO),
    "auto_map, without weights": bert(AUTO, pretrained=False),
    "auto_map of a type of its own": bert(AUTO | {"model_type": "own"}),
    "auto_map of a teacher": bert(AUTO, teacher=True),
    "code that is trusted, says the folder": bert(AUTO | {"trust_remote_code": True}),
    "attention of a hub": bert({"attn_implementation": "kernels-org/attention"}),
    "attention of a hub, inside": bert({"_attn_implementation_internal": "kernels-org/attention:run"}),
    "attention of a hub, for a part": bert({"text_config": {"_attn_implementation": {"": "a/b"}}}),
    "attention of a hub, of a teacher": bert({"_attn_implementation": "kernels-org/attention"}, teacher=True),
    "experts of a hub": bert({"_experts_implementation": "kernels-org/experts"}, pretrained=False),
    "only a pickle": bert({}, edit=only_pickled),
    "only a pickle, of a teacher": bert({}, teacher=True, edit=only_pickled),
    "a pickle called safetensors": bert({}, edit=pickled_as_safetensors),
    "an index to a pickle": bert({}, edit=index_to_elsewhere),
    "code of a tokenizer": tokenizer({"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}),
    "code of a tokenizer's class": tokenizer(
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    ),
    "timm: only a pickle": timm_folder(lambda c: None, pickle.dumps(Canary(), 2)),
    "timm: only a pickle, by name": timm_folder(lambda c: None, pickle.dumps(Canary(), 2), name=True),
    "timm: a loader of its own": timm_folder(
        lambda c: c["pretrained_cfg"].update(custom_load=True), pickle.dumps(Canary(), 2), name=True
    ),
    "timm: another hub behind it": timm_folder(
        lambda c: c.update(architecture=f"hf-hub:{MODULE}/x"), None, name=True
    ),
}
