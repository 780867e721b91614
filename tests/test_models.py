"""Opening models: sources, revisions, one renderer, output heads of every kind, vocabularies of different width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    PretrainedConfig,
    Qwen2Config,
)

from selbench import models
from selbench.config import load_protocol
from selbench.errors import ConfigError
from selbench.losses import chunked_divergence
from selbench.models import PAIRS, PairSpec, Renderer, head_of, identity, load_model, load_pair, only_tokens
from selbench.renderer import load_renderer, understands_thinking
from selbench.rollout import Sampling
from selbench.rollout.hf import HFEngine
from selbench.scoring import signals_from_logits
from selbench.sources import MODELS, Unreachable, is_local, locate, open_endings, open_model, open_tokenizer
from selbench.templates import TEMPLATES
from tests.reference import dense

TINY = PAIRS.get("tiny")
MODEL = load_protocol("tiny").model.model_dump()
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and not enable_thinking %}()={% endif %}{% endif %}"
)


def copied(to: Path, *, template: str | None = None) -> str:
    """The tiny student in a folder of its own, with another chat template."""
    shutil.copytree(TINY.student, to)
    if template is not None:
        (to / "chat_template.jinja").write_text(template)
    return str(to)


@pytest.fixture(autouse=True)
def _no_models_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODELS, raising=False)


# sources


def test_paths_stand_for_themselves_and_ids_for_the_hub(tmp_path: Path) -> None:
    assert locate(TINY.student) == TINY.student
    assert locate("Some-Org/model_1.5b") == "Some-Org/model_1.5b"
    (tmp_path / "model.gguf").write_bytes(b"")
    assert locate(str(tmp_path)) == locate(str(tmp_path / "model.gguf")) == str(tmp_path / "model.gguf")
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path)) == str(tmp_path)


def test_end_tokens_of_a_cached_model_without_generation_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "a" * 40
    cached(tmp_path, "org/name", [commit], main=commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert open_endings("org/name") == (1,)
    place = tmp_path / "models--org--name"
    (place / "snapshots" / commit / "generation_config.json").unlink()
    with pytest.raises(Unreachable):
        open_endings("org/name")
    (place / ".no_exist" / commit).mkdir(parents=True)
    (place / ".no_exist" / commit / "generation_config.json").touch()
    assert open_endings("org/name") == (1,)


def test_paths_that_do_not_exist_are_one_line(tmp_path: Path) -> None:
    for source in ("./nowhere", str(tmp_path / "nowhere"), "model.gguf", "~/nowhere", "a/b/c"):
        with pytest.raises(ConfigError, match=r"no such folder or \.gguf file"):
            locate(source)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 .gguf files \(a.gguf, b.gguf\); give the path of one"):
        locate(str(tmp_path))


@pytest.mark.parametrize("place", ["Org/Name", "org/name", "NAME", "name.gguf", "ORG/name.GGUF", "name/model.gguf"])
def test_a_folder_of_models_stands_for_the_hub(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gguf":
        path.write_bytes(b"")
    else:
        path.mkdir()
        (path / "config.json").write_text("{}")
    monkeypatch.setenv(MODELS, str(tmp_path))
    assert locate("Org/Name") == str(path)
    assert is_local("Org/Name")
    assert locate("Org/Other") == "Org/Other"
    assert locate(TINY.student) == TINY.student


def test_the_organisation_comes_before_the_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("name", "org/name"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setenv(MODELS, str(tmp_path))
    assert locate("org/name") == str(tmp_path / "org" / "name")
    monkeypatch.setenv(MODELS, str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=f"{MODELS}=.*no such folder"):
        locate("org/name")


def test_gguf_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for open_ in (open_tokenizer, lambda source: open_model(source, "float32")):
        with pytest.raises(ConfigError, match=r"needs the gguf package; pip install 'selbench\[gguf\]'"):
            open_(str(tmp_path))


def test_what_cannot_be_reached_is_said_in_one_line() -> None:
    with pytest.raises(Unreachable) as caught:
        open_tokenizer("org/never-downloaded", "abc")
    (line,) = caught.value.problems
    assert "'org/never-downloaded' at revision abc: not on this machine" in line
    assert MODELS in line


def test_arithmetic_that_the_processor_lacks_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not models.emulated("float32", "cpu")
    assert not models.emulated("bfloat16", "cuda")
    assert models.emulated("bfloat16", "cpu") is not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for lacking in (True, False):
        monkeypatch.setattr(models, "emulated", lambda *_, lacking=lacking: lacking)
        load_model(TINY.student, "bfloat16", "cpu")
        assert ("no bfloat16 arithmetic" in capsys.readouterr().err) is lacking


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model can be loaded there") as caught:
        open_model(str(tmp_path), "float32")
    assert not isinstance(caught.value, Unreachable)


def cached(home: Path, repo: str, commits: list[str], main: str) -> None:
    """A hub cache as huggingface_hub lays it out: the tiny student under several commits."""
    place = home / f"models--{repo.replace('/', '--')}"
    for commit in commits:
        shutil.copytree(TINY.student, place / "snapshots" / commit)
        config = json.loads((place / "snapshots" / commit / "config.json").read_text())
        (place / "snapshots" / commit / "config.json").write_text(json.dumps({**config, "mark": commit[0]}))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(main)


def test_the_commit_that_was_loaded_is_recorded_and_can_be_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    old, new = "a" * 40, "b" * 40
    cached(tmp_path, "org/name", [old, new], main=new)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert is_local("org/name")
    for pinned, commit in ((None, new), (old, old)):
        model = load_model("org/name", "float32", "cpu", pinned)
        assert model.config.mark == commit[0]
        assert identity("org/name", model, pinned) == {"source": "org/name", "commit": commit, "sha256": None}
        assert identity("org/name", None, pinned)["commit"] == commit
    with pytest.raises(Unreachable, match="at revision cccc"):
        load_model("org/name", "float32", "cpu", "c" * 40)
    assert identity("org/other")["commit"] is None

    spec = PairSpec("x", "org/name", "org/name")
    pair = load_pair(spec, {**MODEL, "student_revision": old, "teacher_revision": new}, "cpu")
    assert (pair.student.config.mark, pair.teacher.config.mark) == ("a", "b")  # type: ignore[union-attr]


def test_local_files_are_known_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path / "org" / "name")
    inside = identity(TINY.student)
    assert inside["source"] == "selbench/tiny/student"
    outside = identity(folder)
    assert outside == {"source": "name", "commit": None, "sha256": inside["sha256"]}
    monkeypatch.setenv(MODELS, str(tmp_path))
    assert identity("Org/Name") == {"source": "Org/Name", "commit": None, "sha256": inside["sha256"], "file": "name"}
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    assert identity(folder)["sha256"] != inside["sha256"]


def test_end_tokens_are_those_of_the_generation_settings_then_of_the_configuration(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m")
    path = Path(folder) / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [1, 5]}))
    assert open_endings(folder) == (1, 5)
    path.unlink()
    assert open_endings(folder) == (1,)
    path.write_text("{")
    with pytest.raises(ConfigError, match="generation settings"):
        open_endings(folder)


# renderer


def render(source: str, **more: Any) -> Renderer:
    return load_renderer(source, **{"template": "{problem}", "system": None, "thinking": None, **more})


def test_a_template_by_name_is_its_text() -> None:
    for name, (text, _) in TEMPLATES.items():
        assert render(TINY.student, template=name).text("7") == render(TINY.student, template=text).text("7")
    with pytest.raises(ConfigError, match="did you mean boxed-qwen"):
        render(TINY.student, template="boxed-qven")
    with pytest.raises(ConfigError, match=r"model.template = 'boxed-qven': no template of that name; did you mean boxed-qwen"):
        load_protocol("tiny", ["model.template=boxed-qven"])
    assert load_protocol("tiny", ["model.template=boxed-qwen"]).model.template == "boxed-qwen"


def test_the_thinking_flag_is_refused_where_it_would_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.thinking = false: .* does not know enable_thinking; set it to null"):
        render(TINY.student, thinking=False)
    folder = copied(tmp_path / "thinks", template=THINKING)
    assert understands_thinking(open_tokenizer(folder))
    assert render(folder, thinking=False).text("7") != render(folder, thinking=True).text("7") == render(folder).text("7")


def test_chat_templates_by_name(tmp_path: Path) -> None:
    folder = copied(tmp_path / "one", template="{{ 'A' + messages[0]['content'] }}")
    other = copied(tmp_path / "two", template="{{ 'B' + messages[0]['content'] }}")
    assert render(folder).text("7") == "A7"
    assert render(folder, chat_template="teacher", teacher=other).text("7") == "B7"
    assert render(folder, chat_template="default").text("7") == "A7"
    with pytest.raises(ConfigError, match=r"model.chat_template = 'techer': .*did you mean teacher\?"):
        render(folder, chat_template="techer", teacher=other)
    (Path(other) / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="the teacher has no chat template"):
        render(folder, chat_template="teacher", teacher=other)
    with pytest.raises(ConfigError, match=r"no chat template; add one \(chat_template.jinja\), or set model.chat_template=teacher"):
        render(other)
    assert render(other, chat_template="teacher", teacher=folder).text("7") == "A7"


def test_a_template_that_refuses_the_conversation_is_one_line(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m", template="{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}7")
    assert render(folder).text("1") == "7"
    with pytest.raises(ConfigError, match=r"refuses the conversation \(System role not supported\); see model.system"):
        render(folder, system="Be brief.")


def test_prompts_do_not_depend_on_the_day(tmp_path: Path) -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    assert render(copied(tmp_path / "m", template=dated)).text("7") == "26 Jul 2024"


def test_the_prompt_hash_follows_everything_that_is_rendered(tmp_path: Path) -> None:
    folder = copied(tmp_path / "thinks", template=THINKING)
    made = [render(folder), render(folder, thinking=False), render(folder, system="x"), render(folder, template="boxed-qwen"),
            render(folder, chat_template="teacher", teacher=TINY.student)]  # fmt: skip
    hashes = [renderer.sha256() for renderer in made]
    assert len(set(hashes[:4])) == 4
    assert hashes[4] == render(TINY.student).sha256()


# heads and vocabularies

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES: dict[str, Callable[[int, bool], PretrainedConfig]] = {
    "plain": lambda v, tied: Qwen2Config(vocab_size=v, tie_word_embeddings=tied, **SMALL),
    "softcap": lambda v, tied: Gemma2Config(vocab_size=v, tie_word_embeddings=tied, head_dim=8, final_logit_softcapping=3.0, **SMALL),
    "softcap3": lambda v, tied: Gemma3TextConfig(vocab_size=v, tie_word_embeddings=tied, head_dim=8, final_logit_softcapping=2.0, **SMALL),
    "divided": lambda v, tied: GraniteConfig(vocab_size=v, tie_word_embeddings=tied, logits_scaling=8.0, **SMALL),
    "scaled": lambda v, tied: CohereConfig(vocab_size=v, tie_word_embeddings=tied, logit_scale=0.0625, **SMALL),
}


def model_of(family: str, vocabulary: int, tied: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(FAMILIES[family](vocabulary, tied)).eval()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_the_models_own(family: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(family, 61, tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    ids = torch.arange(12).reshape(2, 6)
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    head = head_of(model)
    torch.testing.assert_close(head.logits(hidden.flatten(0, 1), 61), model(input_ids=ids).logits.flatten(0, 1))
    assert (head.softcap, head.scale) == {
        "plain": (None, 1.0), "softcap": (3.0, 1.0), "softcap3": (2.0, 1.0), "divided": (None, 0.125), "scaled": (None, 0.0625),
    }[family]  # fmt: skip
    model.save_pretrained(tmp_path)
    assert torch.equal(head_of(load_model(str(tmp_path), "float32", "cpu")).weight, head.weight)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "policy_gradient", "local_support"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("student", "teacher"), [("plain", "plain"), ("softcap", "divided"), ("scaled", "softcap3")])
def test_loss_and_gradients_across_padded_vocabularies(student: str, teacher: str, tied: bool, kind: Any) -> None:
    """A student of 151 columns, a teacher of 167 for the same 140 tokens, against whole logits cut to the shared columns."""
    ours, theirs = model_of(student, 151, tied), model_of(teacher, 167, not tied, seed=1)
    ids = torch.randint(0, 140, (3, 7), generator=torch.Generator().manual_seed(2))
    token, weight = ids[:, 1:].flatten(), torch.linspace(0.1, 1, 18)

    def rows(model: Any) -> torch.Tensor:
        return model.get_decoder()(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)

    with torch.no_grad():
        expert = theirs(input_ids=ids).logits[:, :-1, :151].flatten(0, 1)
        expert_rows = rows(theirs)
    whole = (dense(kind, ours(input_ids=ids).logits[:, :-1].flatten(0, 1), expert, token, top_k=8) * weight).sum()
    whole.backward()
    expected = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    total, _ = chunked_divergence(
        rows(ours), head_of(ours), expert_rows, head_of(theirs), kind=kind, token=token, weight=weight, rows_per_chunk=4, top_k=8
    )
    total.backward()
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)
    for parameter, gradient in zip(ours.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - gradient).norm()) <= 2e-6 * max(1.0, float(gradient.norm()))  # both are float32
    assert sum(float(g.abs().sum()) for g in expected) > 0


def test_columns_past_the_shared_size_get_no_gradient() -> None:
    ours, theirs = model_of("plain", 167, False), model_of("plain", 151, False, seed=1)
    ids = torch.arange(20).unsqueeze(0)
    hidden = [model.get_decoder()(input_ids=ids).last_hidden_state[0] for model in (ours, theirs)]
    total, _ = chunked_divergence(hidden[0], head_of(ours), hidden[1].detach(), head_of(theirs), kind="reverse_kl", token=ids[0])
    total.backward()
    gradient = ours.get_output_embeddings().weight.grad
    assert float(gradient[:151].abs().sum()) > 0
    assert float(gradient[151:].abs().sum()) == 0


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_signals_do_not_see_the_columns_that_one_model_lacks(seed: int, extra: int) -> None:
    """Whatever stands in the padding of the wider head, the cut logits and so every signal stay the same."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(5, 8, generator=generator), torch.randn(30, 8, generator=generator)
    from selbench.losses import Head

    wide = Head(torch.cat([weight, 100 * torch.randn(extra, 8, generator=generator)]))
    needs, token = ("student_entropy", "reverse_kl", "teacher_logprob"), torch.arange(5)
    other = torch.randn(5, 30, generator=generator)
    narrow = dict(signals_from_logits(needs, Head(weight).logits(hidden, 30).log_softmax(-1), other.log_softmax(-1), token))
    cut = dict(signals_from_logits(needs, wide.logits(hidden, 30).log_softmax(-1), other.log_softmax(-1), token))
    for name in needs:
        assert torch.equal(narrow[name], cut[name])


def test_rollouts_never_hold_an_id_that_the_tokenizer_lacks(tmp_path: Path) -> None:
    renderer = render(TINY.student)
    tokens = len(renderer.tokenizer)
    model = model_of("plain", tokens + 27, False)
    with torch.no_grad():
        model.get_output_embeddings().weight[tokens:] *= 50  # padding columns that win nearly every draw
    engine = HFEngine(model, end_ids=renderer.end_ids, pad_id=renderer.pad_id)
    prompts, sampling = [renderer.encode("12+5")] * 4, Sampling(12)
    assert max(max(tokens_) for tokens_ in engine.generate(prompts, sampling, 0).tokens) >= tokens
    only_tokens(model, renderer, "padded")
    assert max(max(tokens_) for tokens_ in engine.generate(prompts, sampling, 0).tokens) < tokens
    with pytest.raises(ConfigError, match=f"its head has {tokens - 1} columns, the tokenizer {tokens} tokens"):
        only_tokens(model_of("plain", tokens - 1, False), renderer, "narrow")


def test_a_pair_with_padded_heads_loads_and_samples_tokens_only(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m")
    tokens = len(open_tokenizer(folder))
    model_of("plain", tokens + 11, True).save_pretrained(folder)
    pair = load_pair(PairSpec("padded", TINY.teacher, folder), MODEL, "cpu")
    assert pair.student.generation_config.suppress_tokens == list(range(tokens, tokens + 11))
    assert pair.teacher is not None
    assert pair.teacher.generation_config.suppress_tokens is None
