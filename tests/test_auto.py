"""engine/auto.py: which augmentations --augment auto tries, and which of them it takes."""

import json
import shutil
from dataclasses import replace

import pytest
from conftest import write_csv
from test_augment import OTHER_LANGUAGES

import augment
from engine.arguments import parse_args
from engine.auto import decide
from engine.files import InputError
from main import main

SCORES = {"word_substitution": 40.0, "noise": 60.0, "contextual": 50.0, "none": 0.0}


@pytest.fixture
def trials(monkeypatch):
    """
    Gives (run, made): run stands in for a trial and scores as SCORES says; made lists what it was
    asked for. Contextual insertion is available, back translation is not.
    """
    made = []

    def missing(texts, *, seed=0, **of_models):
        raise InputError("no weights")

    def available(texts, *, seed=0, **of_models):
        return texts

    def run(args):
        made.append((args.augment, args.chosen_augment, args.val_fraction))
        folder = args.folder
        folder.mkdir(parents=True)
        line = {"epoch": 1, "val": {"macro_f1": SCORES[args.augment]}}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")

    for name, function in (("back_translation", missing), ("contextual", available)):
        monkeypatch.setitem(
            augment.AUGMENTATIONS, name, replace(augment.AUGMENTATIONS[name], function=function)
        )
    return run, made


def arguments(dataset, tmp_path, *more):
    command = ["--dataset", str(dataset), "--augment", "auto"]
    return parse_args([*command, "--output_dir", str(tmp_path / "runs"), *more])


def test_auto_takes_the_augmentation_with_the_best_held_out_macro_f1(
    corpus_folder, tmp_path, trials, capsys
):
    run, made = trials
    args = arguments(corpus_folder, tmp_path)
    decide(args, run)
    assert args.chosen_augment == "noise" and args.augment == "auto"
    assert made == [
        (name, name, 0.1) for name in ("word_substitution", "contextual", "noise", "none")
    ]
    out = capsys.readouterr().out
    assert "auto leaves out back_translation: no weights" in out and "takes noise" in out
    again = arguments(corpus_folder, tmp_path)
    decide(again, run)  # what was decided is kept
    assert again.chosen_augment == "noise" and len(made) == 4


@pytest.mark.parametrize("flags", [["--val_left_out", "4", "--max_per_class", "16"], []])
def test_a_trial_has_the_validation_texts_of_the_run(corpus_folder, tmp_path, trials, flags):
    run, made = trials
    folder = tmp_path / "data"
    shutil.copytree(corpus_folder, folder)
    if not flags:
        shutil.copyfile(folder / "test.csv", folder / "validation.csv")
    decide(arguments(folder, tmp_path, *flags), run)
    assert {val_fraction for *_, val_fraction in made} == {0.0}


def test_auto_leaves_out_what_is_for_english_where_the_texts_are_not(tmp_path, trials, capsys):
    run, made = trials
    texts = OTHER_LANGUAGES["French"].split(". ") * 4
    path = write_csv(
        tmp_path / "french.csv", [(f"{text} {i}", "ab"[i % 2]) for i, text in enumerate(texts)]
    )
    args = arguments(path, tmp_path)
    decide(args, run)
    assert [name for name, *_ in made] == ["noise", "none"] and args.chosen_augment == "noise"
    assert "auto leaves out word_substitution: the texts do not look English" in (
        capsys.readouterr().out
    )


@pytest.fixture
def command(corpus_folder, tiny_encoder, tmp_path, monkeypatch):
    """A run of main.py that decides between two augmentations, on a copy of the corpus."""
    shutil.copytree(corpus_folder, tmp_path / "data")
    monkeypatch.setattr(
        "engine.auto.AUGMENTATIONS",
        {name: augment.AUGMENTATIONS[name] for name in ("noise", "none")},
    )
    flags = "--epochs 1 --batch_size 32 --device cpu --augment auto".split()
    places = ["--dataset", str(tmp_path / "data"), "--encoder", str(tiny_encoder)]
    return [*places, *flags, "--output_dir", str(tmp_path / "runs")]


def test_auto_trains_on_what_it_took_and_overwrite_decides_again(command, tmp_path, capsys):
    """All of it through main.py, on two augmentations: the trials, then the run with all texts."""
    assert main(command) == 0
    folder = parse_args(command).folder
    decided = json.loads((folder / "augmentations.json").read_text())
    assert set(decided["macro_f1_on_validation"]) == {"noise", "none"}
    assert decided["chosen"] in ("noise", "none")
    result = json.loads((folder / "result.json").read_text())
    assert result["settings"]["augment"] == "auto" and "best_val" not in result
    assert len((folder / "train_rows.txt").read_text().split()) == 68  # the trials had 61
    assert f"takes {decided['chosen']}" in capsys.readouterr().out
    (tmp_path / "data" / "train.csv").write_text(
        (tmp_path / "data" / "train.csv").read_text() + "one more text on beans,noun.food\n"
    )
    assert main([*command, "--overwrite"]) == 0  # the trials of the other texts are in the way
    assert capsys.readouterr().out.count("auto tries") == 2
    assert main(command) == 0  # the finished run is shown again
    assert "auto tries" not in capsys.readouterr().out


def test_a_check_of_the_texts_makes_no_trial(command, capsys):
    assert main([*command, "--check_only"]) == 0
    assert "auto tries" not in capsys.readouterr().out
