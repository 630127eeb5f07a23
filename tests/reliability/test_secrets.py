"""Secrets stay out of all that is written, and words that only look like secrets stay what they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.export import save_student
from lightning_distill.reporting.atomic import write_json
from lightning_distill.security.secrets import MASK, hidden_settings, masked_keys, redacted, redacted_values
from tests.builders import make_model
from tests.cli.conftest import Project, module, project
from tests.reliability.counts import times
from tests.reliability.planted import PARTS, Planted

__all__ = ["project"]

NO_SECRETS: dict[str, Any] = {
    "cls_token": "first-token-of-all",
    "num_tokens": 196_608,
    "token_dim": 768,
    "max_tokens": 131_072,
    "max_new_tokens": "131072",
    "tokenizer": "bert-base-uncased",
    "pad_token": "<|endoftext|>",
    "mask_token": "placeholder",
    "eos_token": "</s>",
    "token_type": "wordpiece",
    "token_type_ids": "segment-ids",
    "tokens": "patch-tokens",
    "keys": {"query": "one-text", "value": "another-text"},
    "key": "column-of-keys",
    "key_padding_mask": "attention_mask",
    "sort_key": "sample_id",
    "monkey": "capuchin",
    "author": "somebody",
    "secretary": "somebody",
    "passage": "a passage of text",
    "authentic": "something",
    "use_token": "whenever",
    "token": 5,
    "bearing": "ball-bearing",
    "lr_token": 0.5,
    "image_token": "image-placeholder",
    "tokens_per_second": "1000000",
    "auth": True,
    "secret": None,
}
SECRETS = (
    *(
        "api_key",
        "apikey",
        "apiKey",
        "API_KEY",
        "wandb_api_key",
        "password",
        "passwd",
        "db_password",
        "pwd2_pwd",
    ),
    *(
        "secret",
        "client_secret",
        "clientSecret",
        "token",
        "access_token",
        "hf_token",
        "auth_token",
        "authToken",
    ),
    *("auth", "authorization", "Authorization", "credentials", "private_key", "ssh_key", "secret_access_key"),
    *("connection_string", "aws_access_key_id", "account_key", "passphrase", "bearer", "github_token"),
)
TOKENS = (
    "hf_" + "aB3" * 12,
    "ghp_" + "aB3" * 12,
    "github_pat_" + "aB3_" * 8,
    "sk-proj-" + "aB3" * 9,
    "AKIA" + "ABCD1234" * 2,
    "xoxb-1234567890-abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIEow and then the rest is missing",
    "Bearer abcdef0123456789abcdef",
)


@pytest.mark.row("Q6")
@pytest.mark.parametrize("key", NO_SECRETS)
def test_what_only_sounds_like_a_secret_stays(key: str) -> None:
    value = NO_SECRETS[key]
    for name in (key, f"the_{key}"):
        assert redacted_values({"init_args": [{name: value}]}) == {"init_args": [{name: value}]}
    for text in (
        f"--model.{key}={value}",
        f"--model.{key} {value}",
        f"{key}: {value}",
        f"f({key}={value!r})",
    ):
        assert redacted(text) == text
    assert redacted_values(["fit", f"--a.{key}", value, f"--{key}={value}"])[2:] == [
        value,
        f"--{key}={value}",
    ]


@pytest.mark.row("Q6")
def test_no_config_of_the_project_has_a_masked_word() -> None:
    files = sorted(Path(__file__).parents[2].glob("configs/**/*.yaml"))
    assert len(files) > 10
    for file in files:
        text = file.read_text()
        assert redacted(text) == text
        assert redacted_values(yaml.safe_load(text)) == yaml.safe_load(text)


@pytest.mark.row("Q6")
def test_special_tokens_and_numbers_under_the_key_token_stay() -> None:
    for value in (
        "[CLS]",
        "<cls>",
        "<|image|>",
        "[MASK]",
        5,
        0.25,
        True,
        "12345678",
        "first",
        ["a", 1],
        {"x": 2},
    ):
        assert redacted_values({"token": value}) == {"token": value}


@pytest.mark.row("Q5")
@pytest.mark.parametrize("key", SECRETS)
def test_a_key_that_names_a_secret_hides_its_value(key: str) -> None:
    value = "correct-horse"
    assert redacted_values({"a": [{key: value}]}) == {"a": [{key: MASK}]}
    assert redacted_values(["fit", f"--data.{key}", value]) == ["fit", f"--data.{key}", MASK]
    for text in (
        f"--data.{key}={value} --x 1",
        f"--data.{key} {value}",
        f"before\n  {key}: {value}\nafter",
        f"Namespace({key}={value!r}, x=1)",
        json.dumps({"x": 1, key: value, "y": json.dumps({key: value})}),
        f"https://example.org/?x=1&{key}={value}&y=2",
        f"a.yaml, data.{key}: found {value!r}; expected a number. To fix: correct the value",
    ):
        assert value not in redacted(text)
        assert MASK in redacted(text)


@pytest.mark.row("Q5")
@pytest.mark.parametrize("secret", TOKENS)
def test_a_secret_of_a_known_form_is_found_anywhere(secret: str) -> None:
    shown = redacted(f"before {secret}\n")
    assert MASK in shown
    assert not any(line in shown for line in secret.removeprefix("Bearer ").splitlines())


@pytest.mark.row("Q5")
def test_what_stands_in_the_environment_is_found_anywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSWORD", "pg/pass word'1")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy%40pass@proxy:3128")
    monkeypatch.setenv("SERVICE_KEY_FILE", "/etc/service.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("MAX_TOKENS", "131072")
    monkeypatch.setenv("SHORT_KEY", "abc")
    for text in ("a pg/pass word'1 b", "a pg%2Fpass%20word%271 b", f"a {'pg/pass word' + chr(39) + '1'!r} b"):
        assert "word" not in redacted(text)
    assert redacted("proxy@pass and proxy%40pass") == f"{MASK} and {MASK}"
    for text in ("/etc/service.json", str(tmp_path), "131072", "abcdef"):
        assert redacted(text) == text


@pytest.mark.row("Q5")
def test_the_user_of_a_url_is_hidden_but_not_the_rest() -> None:
    for user in ("me:pass", "me", "me:p@ss", "ghp"):
        assert redacted(f"at https://{user}@example.org/a?b=1.") == f"at https://{MASK}@example.org/a?b=1."
    for text in (
        "https://medium.com/@me/post",
        "git@github.com:a/b",
        "ssh://git@github.com/a",
        "me@example.org",
    ):
        assert redacted(text) == text


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcxyz"), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.row("Q5")
@given(
    PLAIN, st.sampled_from(SECRETS), st.text(min_size=8, alphabet=st.characters(categories=["L", "N", "P"]))
)
def test_at_any_depth_the_secret_goes_and_the_rest_stays(plain: Any, key: str, secret: str) -> None:
    secret = f"Zq7{secret}"
    value = {"rest": plain, "deep": [[{"er": {key: secret, "rest": plain}}]]}
    shown = redacted_values(value)
    assert secret not in repr(shown)
    expected = redacted_values(plain)
    assert shown["rest"] == expected
    assert shown["deep"][0][0]["er"] == {key: MASK, "rest": expected}
    assert redacted_values(shown) == shown
    assert value["deep"][0][0]["er"][key] == secret  # type: ignore[index]
    assert list(hidden_settings(value)) == ["deep"]
    assert set(masked_keys(shown)) >= {f"deep.er.{key}"}


def own_config(planted: Planted, config: dict[str, Any]) -> None:
    """Put the secrets where a user would."""
    source = config["data"]["init_args"]["source"]
    source["class_path"] = "own_parts.RemoteTable"
    source["init_args"] |= {"password": planted.new(), "options": planted.options}
    config["model"]["class_path"] = "own_parts._OwnModule"
    module(config).update(hub=planted.hub, notes=planted.notes)
    config["trainer"]["max_epochs"] = 1


@pytest.fixture
def planted(project: Project, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Secrets in the environment, netrc, a config and a command line, and classes that take them."""
    secrets = Planted(times(40, 200), seed=9)
    for name, value in secrets.environment.items():
        monkeypatch.setenv(name, value)
    Path(".netrc").write_text(secrets.netrc)
    monkeypatch.setenv("NETRC", str(Path(".netrc").absolute()))
    monkeypatch.setenv("LIGHTNING_DISTILL_CACHE", str(Path("cache").absolute()))
    monkeypatch.setenv("LIGHTNING_DISTILL_ALLOW", "own_parts")
    monkeypatch.syspath_prepend(str(project.folder))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    Path("own_parts.py").write_text(PARTS)
    project.change("own.yaml", lambda config: own_config(secrets, config))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return secrets


@pytest.mark.row("Q5")
def test_of_all_planted_secrets_none_is_written_or_printed(
    project: Project, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with W&B, its predictions, the same run when it fails, and what is printed of all that."""
    inputs = {project.folder / name for name in ("own.yaml", ".netrc", "own_parts.py")}
    said = ""

    def run(*words: str) -> int:
        nonlocal said
        monkeypatch.setattr(sys, "argv", ["lightning-distill", *words])  # W&B writes it down
        code = project.run(*words)
        said += project.out + project.err
        return code

    assert run("fit", "--config", "own.yaml", "--run", "a", *planted.words) == 0, project.err
    assert list(Path("a/wandb").rglob("run-*.wandb"))
    checkpoint = "a/checkpoints/best.ckpt"
    logger = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "own")
    again = ("--config", "own.yaml", "--run", "b", "--ckpt_path", checkpoint, "--trainer.max_epochs", "3")
    assert run("fit", *again, *planted.words, "--model.init_args.fails", "true", "--debug", *logger) == 1
    assert "changed since the checkpoint: " in said
    assert "Traceback" in said
    assert "error: RuntimeError: cannot log in" in said
    assert list(Path("own").rglob("hparams.yaml"))  # another logger, which Lightning tells hyperparameters
    assert run("predict", "--config", "own.yaml", "--ckpt_path", checkpoint) == 0, project.err
    assert {p.name for p in Path("a").iterdir()} >= {
        "config.yaml",
        "env.json",
        "student",
        "predictions.parquet",
    }

    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["hub"]
    assert MASK in repr(saved)
    assert len(planted.all) > times(40, 200)
    assert planted.found_in(Path("own.yaml").read_bytes())  # whoever looks finds what is there
    assert planted.found_in(said.encode()) == []
    assert planted.found_below([project.folder], inputs) == {}


@pytest.mark.row("Q5")
def test_an_exported_student_and_a_report_hold_no_secret(tmp_path: Path) -> None:
    spec = {"class_path": "a.B", "init_args": {"mirror": "https://me:letmein1@b", "api_key": "letmein2"}}
    init_args = {"encoders": dict.fromkeys("ab", spec), "cls_token": "first-of-all"}
    save_student(make_model(), tmp_path / "student", {"class_path": "a.C", "init_args": init_args})
    write_json(tmp_path / "report.json", {"run": init_args})
    for file in (tmp_path / "student/config.json", tmp_path / "report.json"):
        text = file.read_text()
        assert "letmein" not in text
        assert text.count(MASK) == 4
        assert "first-of-all" in text


@pytest.mark.row("Q5")
def test_a_secret_that_a_run_has_left_out_must_be_given_again(project: Project, planted: Planted) -> None:
    url = "https://me:letmein1@example.org/a"
    options = {"mirror": url, "names": ["a"]}
    name = project.change("one.yaml", lambda c: own_config(planted, c))
    config = yaml.safe_load(Path(name).read_text())
    config["data"]["init_args"]["source"]["init_args"].update(password="letmein2", options=options)
    module(config).update(hub=None, notes=None)
    Path(name).write_text(yaml.safe_dump(config))
    assert project.run("fit", "--config", name, "--run", "a", "--trainer.logger", "false") == 0, project.err
    told = project.fails("test", "--run", "a")
    at = "data.init_args.source.init_args"
    assert f"{at}.password" in told
    assert f"--{at}.password, --{at}.options.mirror" in told
    again = (f"--{at}.password", "letmein2", f"--{at}.options.mirror", url)
    assert project.run("test", "--run", "a", *again) == 0, project.err
    assert project.run("fit", "--run", "a", "--resume", "auto", "--trainer.max_epochs", "2", *again) == 0
    for file in ("a/config.yaml", "a/env.json"):
        assert "letmein" not in Path(file).read_text()
    commands = json.loads(Path("a/env.json").read_text())
    assert commands["command"][-4:] == [again[0], MASK, again[2], f"https://{MASK}@example.org/a"]


@pytest.mark.row("Q5")
def test_rounds_of_born_again_have_the_secrets_but_their_files_do_not(
    project: Project, planted: Planted
) -> None:
    words = ("born-again", "--config", "own.yaml", "--rounds", "2", "--out", "b", "--trainer.logger", "false")
    assert project.run(*words) == 0, project.err
    assert Path("b/round1/student").is_dir()
    assert project.run(*words) == 0, project.err  # the rounds are those of this config
    inputs = {project.folder / name for name in ("own.yaml", ".netrc", "own_parts.py")}
    assert planted.found_below([project.folder], inputs) == {}


@pytest.mark.row("Q5")
def test_a_logger_that_the_config_names_gets_none_either(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given to W&B's own class beside the config of the run, and the command line it writes down."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    key, password = "Kq7zVx93LmPw5TdR", "Hb4nYc82QsEu6GjF"
    given = {"api_key": key, "depth": {"url": f"https://me:{password}@host/x"}, "size": 3}
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"save_dir": str(project.folder / "logs"), "project": "p", "offline": True},
    }
    config = project.change(
        "own.yaml",
        lambda config: config["trainer"].update(
            logger={**logger, "dict_kwargs": {"config": given, "notes": f"see https://me:{password}@host"}},
            max_epochs=1,
        ),
    )
    assert project.fit("--run", "a", config=config) == 0, project.err
    written = [path for folder in ("a", "logs") for path in Path(folder).rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    found = [str(p) for p in written for word in (key, password) if word.encode() in p.read_bytes()]
    assert found == []
    assert key not in project.out + project.err
