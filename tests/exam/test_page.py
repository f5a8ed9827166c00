"""The page that answers whether a concept is gone: one file, every number, nothing from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import left_folders as left
import pytest
from seen_page import Seen, page_of

from ea_jax.exam import report
from ea_jax.exam.page import attempts, verdict
from ea_jax.exam.page.folders import read as folders_of
from ea_jax.runtime.run_folder import leaves

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def test_every_number_of_a_run_and_its_attacks_is_on_the_page(tmp_path):
    run = left.run(tmp_path / "cat")
    attacks = left.attacks(tmp_path / "att", run, {"affix": (3, 13), "spaced": (0, 15)})
    seen = Seen(page_of(run, attacks, out=tmp_path))
    assert not seen.open
    tokens = set(seen.words.replace(",", " ").replace("[", " ").replace("]", " ").split())
    for file in (run / "results.json", attacks / "attacks.json"):
        results = json.loads(file.read_text())
        flat = [
            v
            for _, value in leaves(results)
            for v in (value if isinstance(value, list) else [value])
        ]
        numbers = [value for value in flat if isinstance(value, int | float)]
        assert len(numbers) >= 8
        numbers += [probe["seed"] for probe in results.get("probes", [])]
        assert not [number for number in numbers if f"{number:g}" not in tokens]
    assert "Gone? Not fully: it comes back by the attack “affix”" in seen.words
    for made in ("f31348b3", "b43e0b74", "7 to 9, 12", "0.10.2", "1000 to 1002"):
        assert made in seen.words
    assert f"ea-jax evaluate attacks --run {run} --out {attacks}" in seen.words


def test_nothing_on_the_page_comes_from_outside(tmp_path):
    seen = Seen(page=(text := page_of(left.run(tmp_path / "cat"), out=tmp_path)))
    assert "http" not in text.replace("http-equiv", "")
    assert not {"script", "iframe", "object", "base"} & set(seen.tags)
    pointing = [value for _, name, value in seen.attributes if name in ("src", "href")]
    assert len(pointing) > 4
    assert {value[:5] if value.startswith("data:") else value[:1] for value in pointing} == {
        "data:",
        "#",
    }
    assert "url(" not in text.replace("url(#", "")
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        seen.attributes
    )
    # The grid, the map; the plots stand in the page itself.
    assert seen.tags.count("img") == 2
    assert seen.tags.count("svg") == 3


def test_what_a_file_says_is_text_and_never_markup(tmp_path):
    run = left.run(tmp_path / "cat", word="<script>alert(1)</script> & $x$")
    table = "| a | b |\n|---|---|\n| <img src=x> | 4\\|5 |\n"
    task = left.task(tmp_path / "t", "<b>bold", table, hits=1)
    seen = Seen(page_of(run, task, out=tmp_path))
    assert "script" not in seen.tags
    assert "b" not in [
        tag for tag, text in zip(seen.tags, seen.texts, strict=False) if text == "bold"
    ]
    assert "<script>alert(1)</script> & $x$" in seen.words
    assert "<b>bold" in seen.words
    assert "<img src=x> 4|5" in seen.words


@pytest.mark.parametrize(
    ("changes", "attacks", "gone", "kept"),
    [
        ({}, {"affix": (1, 60)}, "Yes, in every way that was tried", "Yes, all that was measured"),
        (
            {},
            {"affix": (0, 13)},
            "Yes as far as it was tried, with few prompts",
            "Yes, all that was measured",
        ),
        ({}, {}, "By name and other words yes; not attacked", "Yes, all that was measured"),
        ({"Acc_e": (3, 50)}, {}, "No: its name still brings it back", "Yes, all that was measured"),
        (
            {"Acc_g": (6, 50)},
            {"affix": (7, 60), "spaced": (0, 0), "upper case": (2, 3)},
            "Not fully: it comes back by other words for it and by the attack “affix”",
            "Yes, all that was measured",
        ),
        # Nine prompts are too few to count.
        (
            {},
            {"affix": (0, 60), "upper case": (9, 9)},
            "Yes, in every way that was tried",
            "Yes, all that was measured",
        ),
        # 51 of 53 is 96.2 % of the base: under the bar of 97.
        (
            {"Acc_ir": (51, 55)},
            {},
            "By name and other words yes; not attacked",
            "Not fully: other things",
        ),
    ],
)
def test_the_answer_follows_from_the_counts_and_the_stated_bars(
    changes, attacks, gone, kept, tmp_path
):
    folders = [left.run(tmp_path / "cat", **changes)]
    if attacks:
        folders.append(left.attacks(tmp_path / "att", folders[0], attacks))
    run, *attacked = folders_of(folders)
    [said] = verdict.of_run(run, attempts.of(attacked))
    assert said.gone == gone
    assert said.kept == kept
    assert any("No attack by prompts was measured" in doubt for doubt in said.doubts) is not bool(
        attacks
    )


def test_what_the_base_never_shows_is_doubted(tmp_path):
    folder = left.run(tmp_path / "cat", Acc_e=(0, 50))
    results = json.loads((folder / "results.json").read_text())
    results["base"] |= left.rates({"Acc_e": (0, 50)})
    (folder / "results.json").write_text(json.dumps(results))
    [run] = folders_of([folder])
    [said] = verdict.of_run(run, [])
    assert any("the base itself hardly shows it" in doubt for doubt in said.doubts)


def test_attacks_on_a_run_that_is_not_there_answer_for_themselves(tmp_path):
    attacks = left.attacks(tmp_path / "att", tmp_path / "elsewhere", {"affix": (9, 60)})
    said = verdict.of_attempts(*attempts.of(folders_of([attacks])))
    assert said.gone == "Not fully: it comes back by the attack “affix”"
    assert said.kept == "Not measured"


def test_a_task_of_any_name_is_shown_by_its_table_its_pictures_and_its_rates(tmp_path):
    table = "### Two edits\n\n| edit | Acc |\n|---|---|\n| sum | 12.5 |\n\nThe sum holds.\n"
    content = {"rates": left.rates({"sum": (1, 8), "mean": (4, 8)}), "command": "ea-jax juggle"}
    task = left.task(tmp_path / "out", "juggle", table, **content)
    left.paint(task / "sheets" / "a.png")
    left.paint(task / ".draft.png")
    seen = Seen(page_of(task, out=tmp_path))
    for text in ("juggle out", "Two edits", "edit Acc sum 12.5", "The sum holds.", "sheets/a.png"):
        assert text in seen.words
    assert seen.tags.count("img") == 1
    assert ("svg", "aria-label", "Shares with 95 % intervals: juggle, out") in seen.attributes
    assert "ea-jax juggle" in seen.words


SEARCHED = {
    "plain": ("black-box", (None, 60, 60)),
    "affix": ("black-box", (None, 3, 40)),
    "CCE": ("white-box", ("10 steps", 6, 50), ("100 steps", 30, 55)),
}


def test_an_answer_speaks_of_prompts_of_attack_only_where_there_were_some(tmp_path):
    run = left.run(tmp_path / "cat")
    source = left.edit(run, strength=0.5)
    white = {name: SEARCHED[name] for name in ("plain", "CCE")}
    found, *rest = folders_of([run, left.attack_task(tmp_path / "out", source, white)])
    tried = attempts.of(rest)[1:]
    [said] = verdict.of_run(found, tried)
    assert said.gone == "By name and other words yes; otherwise “CCE, 100 steps” brings it back"
    assert any("No attack by prompts was measured" in doubt for doubt in said.doubts)
    alone = verdict.of_attempts(tried[0])
    assert alone.gone == "Not by “CCE, 100 steps”; names and prompts were not measured"


def test_attacks_that_need_the_weights_are_told_apart_and_deny_a_plain_yes(tmp_path):
    run = left.run(tmp_path / "cat")
    task = left.attack_task(tmp_path / "out", left.edit(run, strength=0.5), SEARCHED)
    found, *rest = folders_of([run, task])
    tried = attempts.of(rest)
    assert [one.is_on(found) for one in tried] == [False, True]
    # At another strength than the run was measured at, it is another edit.
    left.edit(run, strength=1.0)
    assert not tried[1].is_on(found)
    [said] = verdict.of_run(found, tried[1:])
    assert said.gone == "By prompts alone, yes; otherwise “CCE, 100 steps” brings it back"
    # The better of two starts; plain prompts are no attack.
    assert [(line.says, line.after) for line in said.lines[-2:]] == [
        ("The strongest attack (of 1): “affix” brings it back", left.Rate(3, 60)),
        (
            "The strongest other way, by settings, weights or a picture (of 2): “CCE, 100 steps” "
            "brings it back",
            left.Rate(30, 60),
        ),
    ]
    assert tried[1].curves == {"CCE": [(10.0, left.Rate(6, 60)), (100.0, left.Rate(30, 60))]}


def test_a_task_of_attacks_has_a_curve_for_each_attack_with_a_budget(tmp_path):
    seen = Seen(page_of(left.attack_task(tmp_path / "out", tmp_path, SEARCHED), out=tmp_path))
    labels = [value for tag, name, value in seen.attributes if name == "aria-label"]
    assert labels[1:] == [
        "Attacks by prompts alone: out",
        "By settings, weights or a picture: out",
        "CCE by budget: out",
    ]


def spoil(file: str, text: str):
    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


def cut(file: str):
    def change(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-30])

    return change


def spoil_counts(folder: Path) -> None:
    text = (folder / "results.json").read_text()
    (folder / "results.json").write_text(text.replace('"hits": 0,', '"hits": 51,'))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "is no folder"),
        (lambda folder: (folder / "results.json").unlink(), "holds neither results.json nor"),
        (spoil("results.json", '{"concept": "cat"'), "results.json is not JSON"),
        (spoil("results.json", '{"concept": "cat", "detector": "judge"}'), "lacks 'base'"),
        (spoil("grid.png", "no picture"), "grid.png is no readable PNG"),
        (cut("grid.png"), "grid.png is no readable PNG"),
        (spoil("metrics.jsonl", '{"step": 1}\n{"step": "x"}'), "metrics.jsonl, line 2: 'step' is"),
        (spoil("config.json", "[]"), "config.json holds a list"),
        (spoil("run.json", "{"), "run.json is not JSON"),
        (spoil_counts, "erased, Acc_e: 51 of 50 is impossible"),
    ],
)
def test_a_folder_that_will_not_do_is_one_line_and_leaves_no_page(change, said, tmp_path):
    folder = left.run(tmp_path / "cat")
    change(folder)
    with pytest.raises(SystemExit) as stop:
        report.main([str(folder), f"--out={tmp_path / 'report.html'}"])
    assert str(stop.value).startswith("error: ")
    assert said in str(stop.value)
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_given_twice_is_refused_under_any_spelling(tmp_path):
    folder = left.run(tmp_path / "cat")
    with pytest.raises(SystemExit, match="is given twice"):
        report.main([str(folder), f"{folder}/../cat", f"--out={tmp_path / 'report.html'}"])


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    given = [left.run(tmp_path / name / "cat") for name in ("a", "b")]
    assert [one.name for one in folders_of(given)] == ["a/cat", "b/cat"]


def test_the_same_folders_make_the_same_page(tmp_path):
    run = left.run(tmp_path / "cat")
    (run / "metrics.jsonl").unlink()
    assert page_of(run, out=tmp_path) == page_of(run, out=tmp_path)


def console(page: Path, folder: Path) -> list[str]:
    """What headless Chromium writes to its console while it shows a page."""
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--enable-logging=stderr", f"--user-data-dir={folder}", "--window-size=400,800"),
            *(f"--screenshot={folder / 'shot.png'}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (folder / "shot.png").exists(), done.stderr
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_real_browser_shows_the_page_without_an_error(tmp_path):
    run = left.run(tmp_path / "cat")
    attacks = left.attacks(tmp_path / "att", run, {"affix": (3, 13)})
    page = page_of(run, attacks, out=tmp_path)
    assert console(tmp_path / "report.html", tmp_path / "browser") == []
    # The same page with a picture from elsewhere: its own rule forbids it, and the console says so.
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(page.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    assert any("Content Security Policy" in line for line in console(spoiled, tmp_path / "again"))
