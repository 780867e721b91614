"""What the records of a run do not say of its rollouts: texts, the models' candidates, further signals, the verdict of the answer.

The token ids that the run stored are read again by the untrained student and the teacher; nothing is generated. The weights of a
strategy's last step are those before its last update, which no run keeps: there the teacher alone is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from selbench import records
from selbench.errors import UserError
from selbench.publishing.layout import MANIFEST
from selbench.report.sections import groups_of
from selbench.report.viewer import KEY, PLACE, bank_of, chosen

if TYPE_CHECKING:
    from selbench.config import Cell
    from selbench.models import Pair
    from selbench.prompts import Prompt
    from selbench.rollout import Rollouts

__all__ = ["Told", "tell"]

STUDENT = ("student_entropy", "reverse_kl", "compatibility_mass_16", "student_logprob")
TEACHER = ("teacher_entropy", "teacher_logprob")
CANDIDATES = 5
TOGETHER = 8192  # padded tokens of a micro-batch


@dataclass(frozen=True)
class Told:
    """Rows of `report/tokens.parquet`, and a sentence for each thing that could not be had."""

    rows: pd.DataFrame
    missing: list[str]


def tell(folder: Path, *, rollouts: int, tokens: int, device: str, models: bool = True) -> Told:
    """The rows for the rollouts that the report of `folder` shows; what is missing is computed with the pair's models and stored, but
    not in a published folder.

    rollouts, tokens: at most so many of each pair. models: False reads what an earlier report stored, and loads nothing.
    """
    path = folder / PLACE
    plan = records.read_json(folder / "plan.json")
    stored = records.read_table(path) if path.exists() else pd.DataFrame()
    known = set(stored[[*KEY, "token"]].itertuples(index=False, name=None)) if len(stored) else set()
    parts, missing = list[pd.DataFrame](), list[str]()
    for pair in plan["pairs"] if models else ():
        wanted = chosen(bank_of(folder, groups_of(plan), pair), rollouts, tokens)
        wanted = [rows for rows in wanted if not known.issuperset(rows[[*KEY, "token"]].itertuples(index=False, name=None))]
        if not wanted:
            continue
        try:
            found, sentences = _with_models(folder, plan, pair, wanted, device)
        except (UserError, ValueError) as error:  # pydantic's are ValueErrors: a protocol of another release
            missing.append(f"pair {pair}: its models say nothing of the tokens here ({' '.join(str(error).split())[:300]})")
            continue
        parts, missing = [*parts, found], [*missing, *sentences]
    if parts:
        stored = pd.concat([stored, *parts] if len(stored) else parts, ignore_index=True).drop_duplicates(KEY, keep="last")
        if not (folder / MANIFEST).exists():  # nothing is added to what was published
            with records.beside(path) as draft:
                stored.to_parquet(draft, index=False, compression="zstd")
    return Told(stored, missing)


def _with_models(
    folder: Path, plan: dict[str, Any], pair: str, wanted: Sequence[pd.DataFrame], device: str
) -> tuple[pd.DataFrame, list[str]]:
    """Rows for the rollouts of `wanted`. Raises UserError when models or prompts are not those of the run, or not here."""
    from selbench.models import load_pair
    from selbench.prompts import check_planned, training_prompts
    from selbench.sources import is_local
    from selbench.sweep import pair_of

    cell = _cell(folder, plan, pair)
    spec = pair_of(cell.pair)
    if away := [source for source in dict.fromkeys((spec.student, spec.teacher)) if not is_local(source)]:
        raise UserError(f"{' and '.join(away)} {'is' if len(away) == 1 else 'are'} not on this machine")
    prompts = training_prompts(cell.protocol, [pair_of(entry) for entry in cell.protocol.pairs])
    check_planned(prompts, folder)
    loaded = load_pair(spec, cell.protocol.model.model_dump(), device)
    _same_models(folder / cell.folder, loaded)
    whole = [rows for rows in wanted if rows["position"].tolist() == list(range(len(rows)))]
    sentences = []
    if len(whole) < len(wanted):
        sentences.append(
            f"pair {pair}: {len(wanted) - len(whole)} rollouts have tokens that the loss masks and no run stores; left as they are"
        )
    parts = [part for first in (True, False) for part in _rows(cell, loaded, prompts, [r for r in whole if _common(r) is first], first)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), sentences


def _cell(folder: Path, plan: dict[str, Any], pair: str) -> Cell:
    from selbench.config import Cell

    path = next(path for c in plan["cells"] if c["pair"] == pair and (path := folder / c["folder"] / "config.yaml").exists())
    return Cell.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def _same_models(run: Path, pair: Pair) -> None:
    """Raises UserError when the weights here are not those that the run's passport names: they would say something else."""
    from selbench.models import identity

    named = records.read_json(run / "passport.json").get("models") or {}
    for role, model in (("student", pair.student), ("teacher", pair.teacher)):
        then = (named.get(role) or {}).get("sha256")
        if then and model is not None and (now := identity(getattr(pair.spec, role), model).get("sha256")) != then:
            raise UserError(f"the {role} here ({str(now)[:12]}) is not that of the run ({then[:12]})")


def _common(rows: pd.DataFrame) -> bool:
    return bool(rows["strategy"].iloc[0] == "")


def _rows(cell: Cell, pair: Pair, prompts: Sequence[Prompt], wanted: Sequence[pd.DataFrame], student: bool) -> Iterator[pd.DataFrame]:
    """A frame per rollout."""
    from selbench.grading import grade
    from selbench.prompts import prompts_of_step
    from selbench.rollout import Rollouts

    settings, renderer = cell.protocol.training, pair.renderer
    asked: list[Prompt] = []
    for rows in wanted:
        head = rows.iloc[0]
        drawn = prompts_of_step(prompts, int(head["seed"]), int(head["step"]), settings.prompts_per_step)
        asked.append(drawn[int(head["sample"]) // settings.samples_per_prompt])
    if not wanted:
        return
    responses = [rows["token"].tolist() for rows in wanted]
    finish = ["stop" if response[-1] in renderer.end_ids else "length" for response in responses]
    rollouts = Rollouts.of([renderer.encode(prompt.problem) for prompt in asked], responses, finish)
    columns = _read(pair, rollouts, asked, student)
    done = 0
    for rows, prompt, response, end in zip(wanted, asked, responses, finish, strict=True):
        here, done = slice(done, done + len(rows)), done + len(rows)
        part = rows[[*KEY, "token"]].assign(**{name: values[here] for name, values in columns.items()})
        judged = None if prompt.answer is None else grade(renderer.decode(response), prompt.answer, truncated=end == "length")
        said: dict[str, Any] = {
            "text": [_shown(renderer.tokenizer, token) for token in response], "problem": prompt.problem, "gold": prompt.answer,
            "finish": end, "verdict": judged.verdict if judged else None, "extracted": judged.extracted if judged else None,
        }  # fmt: skip
        yield part.assign(**said)


def _read(pair: Pair, rollouts: Rollouts, asked: Sequence[Prompt], student: bool) -> dict[str, list[Any]]:
    """Signals and candidates of all response tokens in sequence order, as columns; the student's are empty where it is not asked."""
    import torch

    from selbench.models import head_of
    from selbench.privileged import teacher_rollouts
    from selbench.scoring import hidden_rows, layout, micro_batches, rows_after, signal_values

    assert pair.teacher is not None
    rows, read = layout(rollouts), teacher_rollouts(pair, rollouts, asked)
    read_rows, heads = rows_after(rows, rollouts, read), {"student": head_of(pair.student), "teacher": head_of(pair.teacher)}
    size = min(len(head.weight) for head in heads.values())
    needs = (*STUDENT, *TEACHER) if student else TEACHER
    columns: dict[str, list[Any]] = {name: [float("nan")] * len(rows) for name in (*STUDENT, *TEACHER)}
    columns |= {f"{side}_{what}": [None] * len(rows) for side in heads for what in ("texts", "shares")}
    with torch.no_grad():
        for group in micro_batches(rollouts, len(rollouts), TOGETHER):
            with pair.teaching():
                hidden, here = hidden_rows(pair.teacher.get_decoder(), read, read_rows, group, pair.device)
            given = {"teacher": hidden}
            if student:
                given["student"] = hidden_rows(pair.student.get_decoder(), rollouts, rows, group, pair.device)[0]
            values = signal_values(needs, rows.at(here), given.get("student"), heads["student"], hidden, heads["teacher"])
            places = here.tolist()
            for name, value in values.items():
                for place, x in zip(places, value.tolist(), strict=True):
                    columns[name][place] = x
            for side, states in given.items():
                for place, (texts, shares) in zip(places, _candidates(pair, heads[side], states, size), strict=True):
                    columns[f"{side}_texts"][place], columns[f"{side}_shares"][place] = texts, shares
    return columns


def _candidates(pair: Pair, head: Any, hidden: Any, size: int) -> Iterator[tuple[list[str], list[float]]]:
    """The likeliest tokens and their probabilities, row by row; hidden (n, D)."""
    from selbench.losses import chunk_rows

    step = chunk_rows(size, hidden.device)
    for start in range(0, len(hidden), step):
        top = head.logits(hidden[start : start + step], size).softmax(-1).topk(min(CANDIDATES, size))
        for ids, shares in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            yield [_shown(pair.renderer.tokenizer, i) for i in ids], [round(share, 6) for share in shares]


def _shown(tokenizer: Any, token: int) -> str:
    """A token as text; a piece of a character, which is none, by its name in the vocabulary."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token))
