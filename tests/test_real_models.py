"""Real models, where they are on this machine: GGUF and folder, rendering, greedy rollouts, special tokens.

They are looked for by SELBENCH_TEST_MODELS, SELBENCH_MODELS (folders, separated as in PATH) and in ~/.cache/selbench-models.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from selbench.config import load_protocol
from selbench.diagnose.template import PROBES, greedy_rollouts, special_token_gaps
from selbench.models import PAIRS, PairSpec, check_pair, compare_pair, load_model, load_pair
from selbench.privileged import context_problems
from selbench.prompt_sources import Prompt
from selbench.renderer import vocabulary
from selbench.sources import MODELS, locate, open_config, open_tokenizer

pytestmark = pytest.mark.slow
CACHE = "~/.cache/selbench-models"
SMOLLM, CODER, CODER_TEACHER = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
FETCH = {
    SMOLLM: "hf download HuggingFaceTB/SmolLM2-135M-Instruct",
    CODER: "hf download Qwen/Qwen2.5-Coder-0.5B-Instruct",
    CODER_TEACHER: "hf download Qwen/Qwen2.5-Coder-1.5B-Instruct",
}
MODEL = load_protocol("tiny").model.model_dump()


def found(name: str, *, gguf: bool = False) -> Path:
    """The model's folder, or its .gguf file; skipped with the command that fetches it where there is none."""
    homes = [*os.environ.get("SELBENCH_TEST_MODELS", "").split(os.pathsep), os.environ.get(MODELS, ""), CACHE]
    for home in (Path(text).expanduser() for text in homes if text):
        places = [home / f"{name}.gguf", *sorted((home / name).glob("*.gguf"))] if gguf else [home / name]
        for place in places:
            if place.is_file() or (not gguf and (place / "config.json").is_file()):
                return place
    how = f"put a GGUF of it at {CACHE}/{name}.gguf" if gguf else f"{FETCH[name]} --local-dir {CACHE}/{name}"
    pytest.skip(f"no {name} in {', '.join(filter(None, homes))}; {how}")


def test_gguf_and_the_folder_converted_from_it_are_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = found(SMOLLM, gguf=True)
    model, tokenizer = load_model(str(file), "float32", "cpu"), open_tokenizer(str(file))
    model.save_pretrained(tmp_path / "org" / SMOLLM)
    tokenizer.save_pretrained(tmp_path / "org" / SMOLLM)
    monkeypatch.setenv(MODELS, str(tmp_path))
    assert Path(locate("Org/SmolLM2-135M-Instruct")) == tmp_path / "org" / SMOLLM
    folder = load_model("Org/SmolLM2-135M-Instruct", "float32", "cpu")
    other = open_tokenizer("Org/SmolLM2-135M-Instruct")
    text = other.apply_chat_template([{"role": "user", "content": "What is 17+25?"}], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == other(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=torch.tensor([ids])).logits, folder(input_ids=torch.tensor([ids])).logits)
    assert sum(p.numel() for p in folder.parameters()) == PAIRS.get("smollm2-self").shapes["student"]["parameters"]
    assert check_pair(PairSpec("one", str(file), str(tmp_path / "org" / SMOLLM))) == []


def test_smollm_renders_answers_and_ends() -> None:
    source = str(found(SMOLLM))
    pair = load_pair(PairSpec("self", source, source), MODEL, "cpu")
    assert pair.renderer.text("1+1").endswith("<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n")
    drawn = greedy_rollouts(pair, ["What is 17+25?", "Name a colour.", "Say hello."], 48)
    assert len(drawn) == 3
    assert "stop" in drawn.finish
    assert all(pair.renderer.decode(response).strip() for response in drawn.responses())
    again = greedy_rollouts(pair, ["What is 17+25?", "Name a colour.", "Say hello."], 48)
    assert again == drawn
    gaps = special_token_gaps(pair, [Prompt("x", "0")] * 3, rollouts=drawn)
    (end,) = [gap for gap in gaps.rows if gap.token == "<|im_end|>"]
    assert end.count == drawn.finish.count("stop")
    assert end.nats == 0  # the model is its own teacher


def test_smollm_as_its_own_teacher_with_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS, str(found(SMOLLM).parent))
    spec = PAIRS.get("smollm2-self")
    assert [finding.severity for finding in compare_pair(spec, MODEL)] == []
    prompts = [Prompt(text, "5", "2+3=5, so the answer is 5.") for text in PROBES[:3]]
    assert context_problems(spec, prompts, "probes") == []
    gaps = special_token_gaps(load_pair(spec, MODEL, "cpu"), prompts, max_tokens=32)
    assert gaps.responses == 3
    assert all(gap.student != gap.teacher for gap in gaps.rows)


def test_the_coder_pair_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = found(CODER), found(CODER_TEACHER)
    spec = PAIRS.get("qwen2.5-coder-1.5b-0.5b")
    local = PairSpec(spec.name, str(teacher), str(student))
    assert {finding.severity for finding in compare_pair(local, MODEL)} <= {"note"}
    for role in ("student", "teacher"):
        config = open_config(getattr(local, role)).get_text_config()
        shape = spec.shapes[role]
        given = {key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size")}
        assert given == {key: shape[key] for key in given}
        assert config.num_key_value_heads == shape["num_key_value_heads"]


def test_little_probability_lies_in_the_padding_of_a_real_head() -> None:
    """Qwen2.5: 151,665 tokens, 151,936 columns. What the softmax spends on 271 columns that no text uses, along its responses."""
    source = str(found(CODER))
    pair = load_pair(PairSpec("self", source, source), MODEL, "cpu", teacher=False)
    tokens = 1 + max(vocabulary(pair.renderer.tokenizer).values())
    assert pair.student.generation_config.suppress_tokens == list(range(tokens, 151_936))
    drawn = greedy_rollouts(pair, ["What is 17+25?", "Name a colour."], 48)
    assert max(map(max, drawn.tokens)) < tokens
    with torch.no_grad():
        spent = [
            pair.student(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].float().softmax(-1)[:, tokens:].sum(-1)
            for ids, start in zip(drawn.tokens, drawn.start, strict=True)
        ]
    assert max(float(share.max()) for share in spent) < 1e-5
