"""Records that do not hold together: ways to make them of a good run, and what is said of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from selbench.publishing.layout import MANIFEST, manifest_text
from selbench.records import read_json, write_table, write_text
from tests.small_run import CLEAN, edit, rows_of

CELL = "tiny/random-v1@0.1/seed1"
ANSWERS = f"{CELL}/eval/arithmetic/samples.parquet"


def other_protocol(folder: Path) -> None:
    edit(folder / CELL / "DONE", fingerprint="f" * 64)


def mixed_passport(folder: Path) -> None:
    edit(folder / CELL / "passport.json", protocol_fingerprint="f" * 64)


def edited_settings(folder: Path) -> None:
    path = folder / CELL / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["protocol"]["training"]["learning_rate"] *= 2
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def missing_cell(folder: Path) -> None:
    (folder / CELL / "DONE").unlink()


def dropped_seed(folder: Path) -> None:
    plan = read_json(folder / "plan.json")
    edit(folder / "plan.json", cells=[cell for cell in plan["cells"] if cell["folder"] != CELL])


def duplicate_records(folder: Path) -> None:
    rows = rows_of(folder / ANSWERS)
    write_table(folder / ANSWERS, [*rows, rows[0]])
    edit((folder / ANSWERS).with_name("meta.json"), **summed([*rows, rows[0]]))


def newer_schema(folder: Path) -> None:
    edit(folder / CELL / "passport.json", schema=99)


def newer_plan(folder: Path) -> None:
    edit(folder / "plan.json", schema=99)


def newer_mark(folder: Path) -> None:
    edit(folder / CELL / "DONE", schema=99)


def newer_answers(folder: Path) -> None:
    edit((folder / ANSWERS).with_name("meta.json"), schema=99)


def other_verdict(folder: Path) -> None:
    rows = rows_of(folder / ANSWERS)
    rows[0]["verdict"] = "incorrect" if rows[0]["verdict"] == "correct" else "correct"
    write_table(folder / ANSWERS, rows)


def other_verdict_and_accuracy(folder: Path) -> None:
    other_verdict(folder)
    edit((folder / ANSWERS).with_name("meta.json"), **summed(rows_of(folder / ANSWERS)))


def easier_question(folder: Path) -> None:
    for path in folder.rglob("samples.parquet"):
        write_table(path, [row | ({"gold": "7"} if row["problem"] == rows_of(path)[0]["problem"] else {}) for row in rows_of(path)])


def other_selection(folder: Path) -> None:
    rows = rows_of(folder / CELL / "selection.parquet")
    write_table(folder / CELL / "selection.parquet", [rows[0], rows[1] | {"kept": rows[1]["kept"] + 1}])


def lost_tokens(folder: Path) -> None:
    write_table(folder / CELL / "tokens.parquet", rows_of(folder / CELL / "tokens.parquet")[1:])


def lost_step(folder: Path) -> None:
    path = folder / CELL / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def cheaper_ledger(folder: Path) -> None:
    ledger = read_json(folder / CELL / "ledger.json")
    edit(folder / CELL / "ledger.json", update=ledger["update"] | {"flops": ledger["update"]["flops"] / 2})


def other_prompts(folder: Path) -> None:
    passport = read_json(folder / CELL / "passport.json")
    edit(folder / CELL / "passport.json", training_prompts=passport["training_prompts"] | {"sha256": "e" * 64})


def dirty_tree(folder: Path) -> None:
    edit(folder / CELL / "passport.json", code=CLEAN | {"dirty": True})


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"accuracy": sum(row["verdict"] == "correct" for row in rows) / len(rows), "tokens": sum(int(row["tokens"]) for row in rows)}


def forge(folder: Path) -> None:
    """A manifest that fits the bytes."""
    facts = {
        name: value for name, value in json.loads((folder / MANIFEST).read_text()).items() if name not in ("files", "digest", "schema")
    }
    write_text(folder / MANIFEST, manifest_text(folder, facts))


TAMPERED: dict[Callable[[Path], None], tuple[str, str]] = {  # what publish and what verify says
    other_protocol: (f"{CELL}/DONE: of protocol ffffffffffff",) * 2,
    mixed_passport: (f"{CELL}/passport.json: of protocol ffffffffffff",) * 2,
    edited_settings: (f"{CELL}/config.yaml: of protocol ",) * 2,
    missing_cell: (f"{CELL}: missing, no DONE",) * 2,
    dropped_seed: (f"its command ran {CELL} too, which the plan leaves out",) * 2,
    duplicate_records: (f"{ANSWERS}: 1 answers stand there twice",) * 2,
    newer_schema: (f"{CELL}/passport.json: written by a newer selbench (schema 99",) * 2,
    newer_plan: ("plan.json: written by a newer selbench (schema 99",) * 2,
    newer_mark: (f"{CELL}/DONE: written by a newer selbench (schema 99",) * 2,
    newer_answers: (f"{CELL}/eval/arithmetic/meta.json: written by a newer selbench (schema 99",) * 2,
    other_verdict: (f"{CELL}/eval/arithmetic/meta.json: accuracy is ",) * 2,
    other_verdict_and_accuracy: (f"{ANSWERS}: problem ",) * 2,
    easier_question: ("task arithmetic: question ",) * 2,
    other_selection: (f"{CELL}/selection.parquet: kept of step 2 is not that of metrics.jsonl",) * 2,
    lost_tokens: (f"{CELL}/tokens.parquet: tokens of step 1 are ",) * 2,
    lost_step: (f"{CELL}/metrics.jsonl: 1 step records where the protocol has steps 1 to 2",) * 2,
    cheaper_ledger: (f"{CELL}/ledger.json: update.flops, from the records another value",) * 2,
    other_prompts: (f"{CELL}/passport.json: trained on other prompts",) * 2,
    dirty_tree: (f"{CELL}: code with uncommitted changes on 0123456789ab", "plan.json: dirty does not name the runs"),
}
