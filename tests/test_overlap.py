"""The contamination check: what counts as the same problem, what counts as near it, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selbench.overlap import Overlap, Problem, Problems, Rule, find_overlaps, key, words
from selbench.task import TASKS
from tests.test_cli import problems as refused
from tests.test_cli import selbench

WORDS = (
    "let",
    "triangle",
    "47",
    "circle",
    "frac",
    "sum",
    "integers",
    "prime",
    "radius",
    "12",
    "angle",
    "Points",
    "chosen",
    "EVEN",
    "root",
    "x",
)
sentence = st.lists(st.sampled_from(WORDS), min_size=14, max_size=40).map(" ".join)
babble = st.lists(st.sampled_from("ab"), min_size=6, max_size=20).map(" ".join)  # shares many 6-grams
CIRCLE = (
    r"Let $ABCD$ be a square with side length $12$ inscribed in a circle of radius $r$. Points $X$ and $Y$ lie on the sides so "
    r"that $\dfrac{AX}{XB} = \frac{1}{2}$. Find the area of triangle $AXY$."
)
SPACED = (
    r"let $\, ABCD \,$ be a square, with side\quad length $12$, inscribed in a circle of radius $r$: points $X$ and $Y$ lie on the "
    r"sides so that $\displaystyle\frac{AX}{XB} \;=\; \frac{1}{2}$.  Find the area\\ of triangle $\left.AXY\right.$!"
)


def find(prompts: list[str], problems: list[str], rule: Rule | None = None) -> list[Overlap]:
    return find_overlaps(prompts, Problems([Problem("t", str(n), text) for n, text in enumerate(problems)], rule or Rule()))


def pairs(found: list[Overlap], prompts: list[str]) -> set[tuple[str, str, str]]:
    return {(prompts[o.prompt], o.problem.id, o.kind) for o in found}


@given(sentence, st.data())
def test_exact_overlap_does_not_see_case_spacing_and_punctuation(text: str, data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.sampled_from([" ", "  ", "\n", ", ", "; ", r" \, ", r"\quad ", "$ ", " ~"]), min_size=40, max_size=40))
    changed = "".join(word + gap for word, gap in zip(text.split(), gaps, strict=False)) + data.draw(st.sampled_from(["", ".", "?", "$"]))
    changed = data.draw(st.sampled_from([changed, changed.upper(), changed.lower(), changed.title()]))
    assume(len("".join(words(text))) >= 40)
    assert key(changed) == key(text)
    assert [o.kind for o in find([changed], [text])] == ["exact"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (CIRCLE, SPACED, True),
        ("47+97", "4+797", False),  # in short texts an operator is all the difference
        ("47+97", " 47 + 97 ", True),
        ("47+97", "$47+97$.", True),
        ("(3, 4)", "(34)", False),
        ("1.5+2", "15+2", False),
        (r"\tfrac{1}{2}", r"\frac12", False),
        (r"\tfrac{1}{2}", r"\frac{1}{2}", True),
        ("10,000 apples cost how many dollars in Springfield?", r"$10{,}\!000$ apples cost how many dollars in Springfield", True),
        ("求所有满足条件的正整数 n", "求所有满足条件的正整数n。", True),
        ("ｎ＋１＝２", "n+1=2", True),
        ("", "", False),
        ("$$", "$", False),
    ],
)  # fmt: skip
def test_what_is_the_same_problem(one: str, other: str, same: bool) -> None:
    assert [o.kind for o in find([one], [other])] == ["exact"] * same


def test_words() -> None:
    assert words(r"Find $\dfrac{m}{n}$,\quad 10{,}000 étés") == ["find", "frac", "m", "n", "10", "000", "étés"]
    assert words("设x为正整数") == ["设", "x", "为", "正", "整", "数"]


def test_near_numbers_by_hand() -> None:
    """Nine words have four 6-grams; the prompt has two of them among three of its own."""
    (found,) = find(["a b c d e f g z"], ["a b c d e f g h i"])
    assert (found.kind, found.jaccard, found.containment, found.run) == ("near", 2 / 5, 2 / 4, None)
    assert find(["a b c d e f g z"], ["a b c d e f g h i"], Rule(jaccard=0.41)) == []
    assert find(["a b c d e f g z"], ["a b c d e f g h i"], Rule(jaccard=1, containment=0.5)) != []
    assert find(["a b c d e f g z"], ["a b c d e f g h i"], Rule(near=False)) == []


def test_a_run_of_words_is_near_unless_it_is_a_stock_phrase() -> None:
    run = "the first movie is one hour long while the second movie lasts two"  # 13 words
    filler = [" ".join(f"{letter}{n}" for n in range(60)) for letter in "abcdefghijklmn"]
    problem = f"{filler[0]} {run} {filler[1]}"
    (found,) = find([f"{filler[2]} {run}"], [problem])
    assert found.run == run
    assert found.jaccard < 0.2
    assert found.containment < 0.6
    assert find([f"{filler[2]} {run}"], [problem], Rule(n=14)) == []
    many = [f"{text} {run}" for text in filler[2:12]]
    assert len(find(many[:9], [problem])) == 9  # nine prompts and the problem hold it
    assert find(many, [problem]) == []
    assert len(find([many[0]] * 20, [problem])) == 20  # one text, many times, is no stock phrase
    short = Rule(n=3, jaccard=1, containment=1)
    assert [o.run for o in find(["one two three four"], ["nil one two three"], short)] == ["one two three"]


@given(st.lists(sentence, min_size=1, max_size=6), st.lists(sentence, min_size=1, max_size=4), st.randoms())
def test_the_order_and_the_number_of_repeats_do_not_matter(prompts: list[str], problems: list[str], random: object) -> None:
    expected = pairs(find(prompts, problems), prompts)
    mixed = prompts * 2
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert pairs(find(mixed, problems), mixed) == expected


@given(st.lists(babble, min_size=1, max_size=5), st.lists(babble, min_size=1, max_size=5))
def test_the_index_finds_what_comparing_every_pair_finds(prompts: list[str], problems: list[str]) -> None:
    rule = Rule(n=10**6)  # the rule on runs looks at all prompts together
    found = {(o.prompt, o.problem.id): (o.kind, o.jaccard, o.containment) for o in find(prompts, problems, rule)}
    for p, prompt in enumerate(prompts):
        for q, problem in enumerate(problems):
            a, b = ({tuple(words(text)[i : i + 6]) for i in range(len(words(text)) - 5)} for text in (prompt, problem))
            jaccard, containment = len(a & b) / len(a | b), len(a & b) / len(b)
            expected = ("exact", 1.0, 1.0) if key(prompt) == key(problem) else ("near", jaccard, containment)
            assert ((p, str(q)) in found) == (expected[0] == "exact" or jaccard >= 0.2 or containment >= 0.6)
            assert found.get((p, str(q)), expected) == expected


def test_every_problem_of_a_benchmark_is_found_in_itself(benchmark_data: Path) -> None:
    texts = [json.loads(line)["problem"] for line in (benchmark_data / "math500/test.jsonl").open(encoding="utf-8")]
    found = find(texts, texts)
    assert {o.prompt for o in found if o.kind == "exact" and o.problem.id == str(o.prompt)} == set(range(500))
    assert len({o.prompt for o in found if o.kind == "exact" and o.problem.id != str(o.prompt)}) == 0


def test_published_samples(benchmark_data: Path, tmp_path: Path) -> None:
    """The sample of DAPO was cleaned by the same 6-gram rules: none is left but one that shares a long condition alone."""
    planted = tmp_path / "planted.jsonl"
    rows = [json.loads(line) for line in (benchmark_data / "math500/test.jsonl").open(encoding="utf-8")][:20]
    changed = [row["problem"].replace(" ", "  ").replace("$", r"$\,").upper() for row in rows]
    planted.write_text("\n".join(json.dumps({"prompt": text}) for text in changed), encoding="utf-8")
    out = tmp_path / "deep" / "overlap.json"
    sources = ["open-r1/DAPO-Math-17k-Processed", "openai/gsm8k", str(planted)]
    done = selbench("check-overlap", *sources, "--tasks", "math500,gsm8k", "-o", str(out), "--fail", SELBENCH_DATA=str(benchmark_data))
    assert done.returncode == 1, done.stderr
    content = json.loads(out.read_text())
    counts = {(c["source"], c["task"]): (c["exact"], c["near"], c["touched"]) for c in content["counts"]}
    assert counts == {
        (sources[0], "math500"): (0, 1, 1), (sources[0], "gsm8k"): (0, 0, 0),
        (sources[1], "math500"): (0, 0, 0), (sources[1], "gsm8k"): (0, 4, 3),
        (sources[2], "math500"): (20, 0, 20), (sources[2], "gsm8k"): (0, 0, 0),
    }  # fmt: skip
    near = [m for m in content["matches"] if m["source"] == sources[0]]
    assert [(m["jaccard"] < 0.2, m["containment"] < 0.6) for m in near] == [(True, True)]
    assert 'both say "seatings are considered the same if one is a rotation of the other"' in done.stdout
    assert "| openai/gsm8k | 7473 | gsm8k | 1319 | 0 | 4 | 3 (0.227 %) |" in done.stdout


def test_the_command_without_any_overlap_and_with_tasks_out_of_reach(tmp_path: Path) -> None:
    done = selbench("check-overlap", "selbench:tiny/prompts.jsonl", "--fail")
    assert done.returncode == 0, done.stderr
    assert "| selbench:tiny/prompts.jsonl | 4096 | arithmetic | 200 | 0 | 0 | 0 (0 %) |" in done.stdout
    assert "gsm8k: not checked: dataset openai/gsm8k: not reachable" in done.stdout
    (first, *_) = TASKS.get("arithmetic").load()
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": first["problem"].replace("+", " + ")}) + '\n{"question": "1+1"}\n')
    copied = selbench("check-overlap", "mine.jsonl", "--tasks", "arithmetic", cwd=tmp_path)
    assert copied.returncode == 0
    assert "| mine.jsonl | 2 | arithmetic | 200 | 1 | 0 | 1 (0.5 %) |" in copied.stdout
    assert f"mine.jsonl row 1 | arithmetic {first['id']}: equal" in copied.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.jsonl"], "no such file"),
        (["selbench:tiny/nowhere.jsonl"], "no such file in the package"),
        (["selbench:tiny/prompts.jsonl", "--tasks", "arithmetics"], "did you mean arithmetic?"),
        (["selbench:tiny/prompts.jsonl", "--tasks", "gsm8k"], "set SELBENCH_DATA"),
        (["openai/gsm9k"], "did you mean openai/gsm8k?"),
        (["openai/gsm8k@main"], "id@<40-digit commit>"),
        (["selbench:tiny/prompts.jsonl", "--tasks", "arithmetic", "-o", "."], "is a folder; name a file"),
    ],
)
def test_one_line_each(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = selbench("check-overlap", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert expected in line
    assert "Traceback" not in done.stderr


def test_a_mistyped_filter_is_refused(tmp_path: Path) -> None:
    (line,) = refused("run", "filters.overlaps=none", cwd=tmp_path)
    assert "unknown key 'filters.overlaps': did you mean overlap" in line
