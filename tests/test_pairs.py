"""Registered pairs and their settings; what is found out about a pair before it is trained."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from selbench import catalogue
from selbench.config import Protocol, load_protocol
from selbench.diagnose.template import LARGE, PROBES, Gap, Gaps, greedy_rollouts, special_token_gaps
from selbench.errors import ConfigError
from selbench.models import PAIRS, Pair, PairSpec, check_pair, compare_pair, load_pair, pair_settings
from selbench.prompt_sources import Prompt
from selbench.rollout import Rollouts
from selbench.sources import open_tokenizer

TINY = PAIRS.get("tiny")
PUBLISHED = [spec for spec in PAIRS if spec.shapes]
MODEL = load_protocol("tiny").model.model_dump()


# the registry


def test_the_promised_pairs_are_there() -> None:
    promised = (
        "qwen3-8b-4b qwen3-8b-1.7b qwen3-4b-1.7b qwen3-14b-1.7b qwen3-1.7b-0.6b qwen2.5-14b-1.5b qwen2.5-7b-1.5b qwen2.5-7b-0.5b "
        "qwen2.5-math-7b-1.5b qwen2.5-coder-1.5b-0.5b llama-3.3-70b-3.1-8b smollm2-self tiny"
    )
    assert set(promised.split()) <= {spec.name for spec in PAIRS}
    assert (PAIRS.get("qwen2.5-math-7b-1.5b").teacher, PAIRS.get("qwen2.5-math-7b-1.5b").student) == (
        "Qwen/Qwen2.5-Math-7B-Instruct", "Qwen/Qwen2.5-Math-1.5B-Instruct",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean qwen3-8b-4b"):
        PAIRS.get("qwen3-8b-4")


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_the_published_shapes_have_the_published_number_of_parameters(spec: PairSpec) -> None:
    """Counted on the architecture itself, without memory for its weights."""
    families = {"Qwen/Qwen3": Qwen3Config, "Qwen/Qwen2": Qwen2Config, "meta-llama": LlamaConfig, "HuggingFaceTB": LlamaConfig}
    for role in ("teacher", "student"):
        shape, source = spec.shapes[role], getattr(spec, role)
        kind = next(family for prefix, family in families.items() if source.startswith(prefix))
        given = {key: value for key, value in shape.items() if key not in ("parameters", "tied")}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(kind(tie_word_embeddings=bool(shape["tied"]), **given))
        assert sum(p.numel() for p in model.parameters()) == shape["parameters"]
        assert model.config.num_key_value_heads == shape["num_key_value_heads"]


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_settings_are_valid_keys_with_a_source_each(spec: PairSpec) -> None:
    assert set(spec.settings) == set(spec.sources)
    assert all(spec.sources.values())
    content = {"name": "x", "pairs": [spec.name], "prompts": "p.jsonl", "tasks": ["t"]}
    resolved = Protocol.model_validate(nested({**content, **spec.settings})).model_dump()
    for key, value in spec.settings.items():
        section, name = key.split(".")
        assert resolved[section][name] == value


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            out.setdefault(section, {})[name] = value
        else:
            out[key] = value
    return out


# settings beneath the protocol


def protocol_file(folder: Path, **content: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "prompts": "p.jsonl", "tasks": ["arithmetic"], **content}))
    return str(path)


def test_a_pairs_settings_hold_where_the_protocol_says_nothing(tmp_path: Path) -> None:
    file = protocol_file(tmp_path, pairs=["qwen3-8b-4b"], evaluation={"temperature": 0.3})
    protocol = load_protocol(file, ["training.top_p=0.9"], beneath=pair_settings)
    assert protocol.model.thinking is False
    assert protocol.model.teacher_dtype == "bfloat16"
    assert (protocol.evaluation.temperature, protocol.evaluation.top_k) == (0.3, 20)
    assert protocol.training.top_p == 0.9
    assert load_protocol(file, beneath=pair_settings).name == "mine"
    assert load_protocol(file, ["evaluation.temperature=0.3"], beneath=pair_settings).name == "mine"
    assert protocol.name.startswith("mine-")
    assert load_protocol(file).model.thinking is None


def test_pairs_that_disagree_on_an_open_key(tmp_path: Path) -> None:
    file = protocol_file(tmp_path, pairs=["qwen3-8b-4b", "qwen2.5-7b-1.5b"])
    with pytest.raises(ConfigError) as caught:
        load_protocol(file, beneath=pair_settings)
    (line,) = caught.value.problems
    assert "its pairs want different values of model.thinking (qwen3-8b-4b: false, qwen2.5-7b-1.5b: null)" in line
    assert load_protocol(file, ["model.thinking=null"], beneath=pair_settings).model.thinking is None


def test_pairs_spelt_out_or_unknown_have_no_settings() -> None:
    assert pair_settings({"pairs": [{"name": "qwen3-8b-4b", "teacher": "a/b", "student": "c/d"}, "nobody", 3]}) == {}
    assert list(pair_settings({"pairs": ["qwen3-8b-4b", {"name": "tiny"}]})) == ["qwen3-8b-4b", "tiny"]
    assert pair_settings({}) == pair_settings({"pairs": "qwen3-8b-4b"}) == {}


# mismatches without weights


@pytest.fixture
def folders(tmp_path: Path) -> PairSpec:
    """The tiny pair in folders of its own, to be spoilt."""
    for role in ("teacher", "student"):
        shutil.copytree(getattr(TINY, role), tmp_path / role)
    return PairSpec("spoilt", str(tmp_path / "teacher"), str(tmp_path / "student"))


def change(folder: str, name: str, **values: Any) -> None:
    path = Path(folder) / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def found(spec: PairSpec, **settings: Any) -> list[tuple[str, str]]:
    return [(finding.severity, finding.text) for finding in compare_pair(spec, settings)]


def test_a_pair_that_fits_has_no_findings(folders: PairSpec) -> None:
    assert found(folders) == found(TINY, **MODEL) == []
    assert check_pair(TINY) == []


def test_other_vocabulary(folders: PairSpec) -> None:
    path = Path(folders.teacher) / "tokenizer.json"
    path.write_text(path.read_text().replace('"+": ', '"@@": ', 1))
    ((severity, text),) = found(folders)
    assert severity == "error"
    assert "the tokenizers differ in 2 tokens" in text
    assert check_pair(folders) == [f"pair spoilt: {text}"]


def test_fillers_of_a_gguf_file_are_no_tokens(folders: PairSpec) -> None:
    """A tokenizer read from a GGUF file names the padding of its head; the hub's tokenizer of the same model does not."""
    tokenizer = open_tokenizer(folders.teacher)
    tokens = len(tokenizer)
    tokenizer.add_tokens([f"[PAD{tokens}]", f"[PAD{tokens + 1}]"])
    tokenizer.save_pretrained(folders.teacher)
    assert found(folders) == []
    tokenizer.add_tokens(["[PAD7]"])
    tokenizer.save_pretrained(folders.teacher)
    ((severity, text),) = found(folders)
    assert (severity, f"differ in 1 tokens, first '[PAD7]' (teacher id {tokens + 2}, student id None)" in text) == ("error", True)


def test_heads_of_different_width(folders: PairSpec) -> None:
    tokens = AutoConfig.from_pretrained(folders.student).vocab_size
    change(folders.teacher, "config.json", vocab_size=tokens + 128)
    ((severity, text),) = found(folders)
    assert severity == "note"
    assert f"{tokens} (student) and {tokens + 128} (teacher) columns for {tokens} tokens: columns from {tokens} on are padding" in text
    change(folders.teacher, "config.json", vocab_size=tokens - 1)
    ((severity, text),) = found(folders)
    assert severity == "error"
    assert "a token past the smaller head has no probability" in text


def test_other_chat_template(folders: PairSpec) -> None:
    path = Path(folders.teacher) / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|assistant|>", "<|assistant|>Answer:"))
    ((severity, text),) = found(folders)
    assert severity == "warning"
    assert "the chat templates differ in the prompt: after '" in text
    assert "the student's goes on with ''" in text
    assert "the teacher's with 'Answer:'" in text
    assert "set model.chat_template=teacher" in text
    ((_, text),) = found(folders, chat_template="teacher")
    assert "both models read the teacher's, so the student works in a format" in text


def test_other_end_of_a_turn(folders: PairSpec) -> None:
    path = Path(folders.teacher) / "chat_template.jinja"
    path.write_text(path.read_text() + "{% if not add_generation_prompt %}[end]{% endif %}")
    ((severity, text),) = found(folders)
    assert (severity, "the chat templates differ in the end of a turn" in text) == ("warning", True)


def test_chat_templates_that_differ_elsewhere(folders: PairSpec) -> None:
    path = Path(folders.teacher) / "chat_template.jinja"
    path.write_text(path.read_text() + "{% if tools is defined and tools %}tools{% endif %}")
    ((severity, text),) = found(folders)
    assert (severity, "tools may differ" in text) == ("note", True)
    path.unlink()
    ((severity, text),) = found(folders)
    assert (severity, "has no chat template (a base model?)" in text) == ("warning", True)


def test_one_knows_thinking_the_other_does_not(folders: PairSpec) -> None:
    path = Path(folders.student) / "chat_template.jinja"
    path.write_text(path.read_text() + "{% if enable_thinking is defined and not enable_thinking %}()={% endif %}")
    ((severity, text),) = found(folders)
    assert severity == "warning"
    assert "the student's chat template knows a thinking switch, the teacher's does not" in text
    ((severity, text),) = found(folders, thinking=False)
    assert (severity, "the chat templates differ in the prompt" in text) == ("warning", True)
    ((severity, text),) = found(TINY, thinking=False)
    assert (severity, "does not know enable_thinking" in text) == ("error", True)


def test_templates_that_think_differently(folders: PairSpec) -> None:
    for role, mark in (("student", "()="), ("teacher", "()+")):
        path = Path(getattr(folders, role)) / "chat_template.jinja"
        path.write_text(path.read_text() + f"{{% if enable_thinking is defined and not enable_thinking %}}{mark}{{% endif %}}")
    ((severity, text),) = found(folders)
    assert (severity, "model.thinking=false, which is not set here" in text) == ("note", True)
    ((severity, text),) = found(folders, thinking=False)
    assert (severity, "goes on with '='" in text and "with '+'" in text) == ("warning", True)


def test_other_end_token(folders: PairSpec) -> None:
    change(folders.teacher, "tokenizer_config.json", eos_token="<|user|>")
    change(folders.teacher, "generation_config.json", eos_token_id=3)
    warning, note = found(folders)
    assert warning[0] == "warning"
    assert "the student ends a response with '<|end|>', the teacher with '<|user|>'" in warning[1]
    assert "set loss.special_token_mask=['<|end|>']" in warning[1]
    assert note[0] == "note"


def test_more_end_tokens_on_one_side(folders: PairSpec) -> None:
    change(folders.teacher, "generation_config.json", eos_token_id=[1, 3])
    ((severity, text),) = found(folders)
    assert severity == "note"
    assert "the teacher may also end with '<|user|>', which does not stop the student's rollouts" in text
    change(folders.teacher, "generation_config.json", eos_token_id=1)
    change(folders.student, "generation_config.json", eos_token_id=[1, 3])
    ((severity, text),) = found(folders)
    assert (severity, "the student's rollouts also stop at '<|user|>'" in text) == ("note", True)


def test_other_pad_and_special_tokens_are_notes(folders: PairSpec) -> None:
    change(folders.teacher, "tokenizer_config.json", pad_token="<|end|>")
    findings = found(folders)
    assert {severity for severity, _ in findings} == {"note"}
    assert any("pad tokens differ ('<|pad|>' in the student, '<|end|>' in the teacher); padding is masked" in text for _, text in findings)


def test_no_end_token_at_all(folders: PairSpec) -> None:
    for folder in (folders.student, folders.teacher):
        change(folder, "tokenizer_config.json", eos_token=None)
        for name in ("generation_config.json", "config.json"):
            change(folder, name, eos_token_id=None)
    assert [severity for severity, _ in found(folders)] == ["error"]


def test_a_template_that_prints_the_day(folders: PairSpec) -> None:
    for folder in (folders.student, folders.teacher):
        path = Path(folder) / "chat_template.jinja"
        path.write_text("{{ strftime_now('%Y') }}" + path.read_text())
    ((severity, text),) = found(folders)
    assert (severity, "prints today's date" in text) == ("warning", True)


def test_a_revision_of_local_files_is_not_checked(folders: PairSpec) -> None:
    ((severity, text),) = found(folders, teacher_revision="abc")
    assert (severity, "model.teacher_revision = abc: not checked" in text) == ("warning", True)


def test_what_the_hub_would_have_to_say() -> None:
    findings = compare_pair(PairSpec("far", "org/never-downloaded", TINY.student))
    assert [finding.severity for finding in findings] == ["unreachable"]
    assert "hub cannot be reached" in check_pair(PairSpec("far", "org/never-downloaded", TINY.student))[0]


def test_unknown_templates_are_one_line(folders: PairSpec) -> None:
    assert [severity for severity, _ in found(folders, template="boxed-qven")] == ["error"]
    ((severity, text),) = found(folders, chat_template="techer")
    assert (severity, "did you mean teacher?" in text) == ("error", True)


# gaps of special tokens


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text, "0", "0") for text in texts]


def by_hand(model: Any, rollouts: Rollouts, token: int) -> list[float]:
    """Log-probabilities of a token where the responses hold it, by the model's own logits, sequence by sequence."""
    out = []
    for tokens, mask in zip(rollouts.tokens, rollouts.mask, strict=True):
        logp = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        out += [float(logp[i - 1, token]) for i, (t, m) in enumerate(zip(tokens, mask, strict=True)) if m and t == token]
    return out


@torch.no_grad()
def test_gaps_are_the_models_own_log_probabilities(tiny_pair: Pair) -> None:
    texts = ("3+4", "12+5", "529+535")
    drawn = greedy_rollouts(tiny_pair, texts, 64)
    gaps = special_token_gaps(tiny_pair, prompts(*texts), max_tokens=64, marks=("+",))
    assert [gap.token for gap in gaps.rows if gap.token == "<|end|>"] == ["<|end|>"]
    for gap in gaps.rows:
        ours, theirs = (by_hand(model, drawn, gap.id) for model in (tiny_pair.student, tiny_pair.teacher))
        assert gap.count == len(ours) > 0
        assert gap.student == pytest.approx(sum(ours) / len(ours), abs=1e-4)
        assert gap.teacher == pytest.approx(sum(theirs) / len(theirs), abs=1e-4)
    assert "+" in [gap.token for gap in gaps.rows]
    assert "+" not in [gap.token for gap in special_token_gaps(tiny_pair, prompts(*texts), max_tokens=64).rows]
    assert gaps.responses == 3
    assert gaps.tokens == sum(map(sum, drawn.mask))
    assert [gap.nats for gap in gaps.rows] == sorted((gap.nats for gap in gaps.rows), reverse=True)


def test_a_teacher_with_another_end_token_is_found_and_explained(tiny_pair: Pair) -> None:
    """The teacher's end token trades places with <|user|> in its head: it ends a response with <|user|>."""
    assert tiny_pair.teacher is not None
    teacher = tiny_pair.teacher
    columns, width = teacher.get_output_embeddings().weight.shape
    head = torch.nn.Linear(width, columns, bias=False)
    with torch.no_grad():
        rows = torch.arange(len(head.weight))
        rows[[1, 3]] = rows[[3, 1]]
        head.weight.copy_(teacher.get_output_embeddings().weight[rows])
    before = special_token_gaps(tiny_pair, prompts(*PROBES))
    teacher.set_output_embeddings(head)
    after = special_token_gaps(tiny_pair, prompts(*PROBES))
    ends = [next(gap for gap in gaps.rows if gap.token == "<|end|>") for gaps in (before, after)]
    assert ends[0].explanation() is None
    assert ends[1].nats > LARGE
    assert ends[1].instead == "<|user|>"
    assert ends[1].share > ends[0].share
    text = ends[1].explanation() or ""
    assert "would write '<|user|>'" in text
    assert "loss.special_token_mask=['<|end|>']" in text
    assert text in after.lines()
    assert json.loads(json.dumps(after.content()))["rows"][0]["token"] == "<|end|>"


def test_a_model_that_is_its_own_teacher_has_no_gaps() -> None:
    pair = load_pair(PairSpec("same", TINY.student, TINY.student), MODEL, "cpu")
    gaps = special_token_gaps(pair, prompts(*PROBES))
    assert all(gap.nats == 0 for gap in gaps.rows)
    assert all(gap.share == 0 for gap in gaps.rows)
    assert gaps.lines()[-1] == f"no gap is above {LARGE:g} nats"


def test_the_teachers_own_context_is_read(tiny_pair: Pair) -> None:
    told = replace(tiny_pair, spec=replace(tiny_pair.spec, privileged="{problem}{answer}"))
    plain, other = (special_token_gaps(pair, prompts(*PROBES)).rows[0] for pair in (tiny_pair, told))
    assert plain.student == other.student
    assert plain.teacher != other.teacher


def test_given_rollouts_are_taken_as_they_are(tiny_pair: Pair) -> None:
    prompt = tiny_pair.renderer.encode("3+4")
    drawn = Rollouts.of([prompt], [[7, 1]], ["stop"])
    gaps = special_token_gaps(tiny_pair, prompts("3+4"), rollouts=drawn)
    assert [(gap.id, gap.count) for gap in gaps.rows] == [(1, 1)]
    assert (gaps.ended, gaps.tokens) == (1, 2)
    with pytest.raises(ValueError, match=r"which the tokenizer of \d+ tokens does not have"):
        special_token_gaps(tiny_pair, prompts("3+4"), rollouts=Rollouts.of([prompt], [[10**6]], ["stop"]))


def test_the_published_example_is_explained() -> None:
    """methods 6.4: '<|im_end|>' student -0.00, teacher -58.71."""
    gap = Gap("<|im_end|>", 151645, 16, -0.001, -58.71, "<|endoftext|>", 0.9)
    assert gap.nats == pytest.approx(58.709)
    text = gap.explanation() or ""
    assert "with probability 1; the teacher finds it e^58.7 times less likely and would write '<|endoftext|>'" in text
    assert "16 such tokens hold 90% of the difference" in text
    assert Gap("x", 0, 1, -1.0, -1.0 - LARGE, "y", 0.1).explanation() is None
    assert Gaps((), 2, 0, 8).lines() == ["special tokens in 2 greedy rollouts (8 tokens, 0 reached their end): none occurs"]


# the verb


def test_check_says_what_it_found(folders: PairSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.check("tiny", device="cpu")
    shown = capsys.readouterr().out
    assert "ok   tiny: vocabulary, chat template and end tokens of teacher and student agree" in shown
    assert "'<|end|>'" in shown
    assert catalogue.check("", models=(folders.teacher, folders.student), weights=False)
    assert "skip special tokens in rollouts: not asked for" in capsys.readouterr().out
    change(folders.teacher, "config.json", vocab_size=3)
    assert not catalogue.check("", models=(folders.teacher, folders.student))
    assert "FAIL the tokenizer has" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unknown strategy or pair 'tinny': did you mean tiny"):
        catalogue.check("tinny")


def test_a_run_records_the_gaps_before_its_first_step(tmp_path: Path, make_cell: Any) -> None:
    from selbench.sweep import work

    cell = make_cell("full", **{"training.steps": 1, "training.prompts_per_step": 4, "evaluation.problems": 2, "evaluation.samples": 1})
    work(cell, tmp_path, "cpu")
    passport = json.loads((tmp_path / cell.folder / "passport.json").read_text())
    gaps = passport["template_gaps"]
    assert gaps["responses"] == 4 + len(PROBES)
    assert gaps["large_nats"] == LARGE
    assert {row["token"] for row in gaps["rows"]} >= {"<|end|>"}
    assert all(math.isfinite(row["student"]) and math.isfinite(row["teacher"]) for row in gaps["rows"])
    assert passport["models"]["teacher"]["sha256"]
