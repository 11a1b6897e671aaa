"""A grid of settings: what is typed becomes runs, each once, in an order that a grid cut short can live with."""

from __future__ import annotations

from pathlib import Path

import pytest

from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.published import TABLE_3_ERRORS
from allconv_caffe.train import grid, settings
from allconv_caffe.train.settings import DriverError, RunSettings


def test_the_group_of_table_3_is_its_twelve_networks() -> None:
    """table-3 names the twelve networks whose errors Table 3 gives, and no others."""
    names = grid.chosen(["table-3"])
    assert [EXPERIMENTS[name].title for name in names] == [title for title, *_ in TABLE_3_ERRORS.values()]


def test_patterns_name_experiments_and_take_them_away() -> None:
    """Patterns are those of a shell; "!" takes away; the order is that of the paper's tables."""
    assert grid.chosen(["cifar10-allcnn-c", "cifar10-model-?"]) == [
        "cifar10-model-a",
        "cifar10-model-b",
        "cifar10-model-c",
        "cifar10-allcnn-c",
    ]
    assert grid.chosen(["table-3", "!*-cnn-?", "!*-allcnn-?"]) == [
        "cifar10-model-a",
        "cifar10-model-b",
        "cifar10-model-c",
    ]


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (["cifar10-nope"], "experiment cifar10-nope: names no experiment; did you mean cifar10-model-c?"),
        (["table-3", "!nope-*"], "experiment !nope-*: names no experiment"),
        (["cifar10-model-a", "!*-a"], "experiments: found none left of cifar10-model-a !*-a, expected at least one"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(patterns: list[str], text: str) -> None:
    """A slip in a pattern is said before anything runs."""
    with pytest.raises(DriverError) as caught:
        grid.chosen(patterns)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("lr", [".25,.1", ".05"], [0.25, 0.1, 0.05]),
        ("lr", [".1,0.10"], [0.1]),
        ("seed", ["1-3,7"], [1, 2, 3, 7]),
        ("precision", ["float32,bf16"], ["float32", "bf16"]),
        ("data", ["data/a,data/b"], [Path("data/a"), Path("data/b")]),
    ],
)
def test_lists_and_ranges_are_read(name: str, texts: list[str], expected: list[object]) -> None:
    """Commas part values, of whole numbers a dash spans them; each counts once."""
    assert grid.values(name, texts) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed", "3-1", "SEED=3-1: expected a range such as 1-3"),
        ("lr", "1-3", "LR=1-3: expected a number"),
        ("lr", ".1,", "LR=: expected a number"),
    ],
)
def test_a_wrong_value_of_a_list_is_named(name: str, text: str, message: str) -> None:
    """A value that is none is refused with the setting's name."""
    with pytest.raises(DriverError) as caught:
        grid.values(name, [text])
    assert str(caught.value) == message


def test_options_are_lists_too_but_for_those_that_are_lists_themselves() -> None:
    """filler=msra,xavier are two values; drop_epochs=200,250 is one, and a second text has another."""
    found = grid.option_values(["filler=msra,xavier", "drop-epochs=2,3", "drop_epochs=4", "mirror=true"])
    assert found == {"filler": ["msra", "xavier"], "drop_epochs": [(2.0, 3.0), (4.0,)], "mirror": [True]}
    with pytest.raises(TableError, match="option filer: found 'filer'"):
        grid.option_values(["filer=msra"])
    with pytest.raises(DriverError, match="^--set filler: expected NAME=VALUE"):
        grid.option_values(["filler"])


def test_the_product_begins_with_every_first_seed() -> None:
    """Seeds are the slowest: after a third of the grid every network and rate has one run."""
    jobs = grid.product(
        ["cifar10-model-a", "cifar10-model-b"],
        RunSettings(engine="torch"),
        {"lr": [0.1, 0.05], "seed": [1, 2], "epochs": [4.0]},
        {"filler": ["msra", "xavier"]},
    )
    assert len(jobs) == 16 and len({job.key for job in jobs}) == 16
    assert [job.settings.seed for job in jobs] == [1] * 8 + [2] * 8
    assert jobs[1].words == "cifar10-model-a lr 0.1 set filler=xavier seed 1"
    assert jobs[1].settings.epochs == 4.0 and jobs[1].settings.options == {"filler": "xavier"}
    assert grid.point_words(jobs[1].point) == "lr 0.1, set filler=xavier"  # what all share is no part of a point


def test_a_long_point_still_names_a_file() -> None:
    """A folder's name has 255 bytes at most; two long ones that begin alike stay two."""
    steps = [tuple(float(n) for n in range(1, count)) for count in (80, 81)]
    jobs = grid.product(["cifar10-model-a"], RunSettings(engine="torch"), {"seed": [1]}, {"drop_epochs": steps})
    assert len({job.key for job in jobs}) == 2 and all(len(job.words) > 255 > len(job.key) + 20 for job in jobs)


def test_the_command_of_a_run_makes_the_same_run() -> None:
    """Each run of a grid is an ordinary one: what stands beside it can be typed."""
    from click.testing import CliRunner

    from allconv_caffe.cli import main, train as cli_train

    (job,) = grid.product(
        ["cifar10-model-a"],
        RunSettings(runs_dir=Path("other runs"), caffe_flags=("-x",), download=False),
        {"lr": [0.25], "seed": [3], "data": [Path("a set")]},
        {"drop_epochs": [(2.0, 3.0)], "mirror": [True]},
    )
    assert job.command == (
        "allconv run cifar10-model-a --seed 3 --lr 0.25 --data 'a set' --set drop_epochs=2,3 --set mirror=true "
        "--no-download --runs-dir 'other runs' -- -x"
    )
    assert job.settings.command == job.command
    handed: list[RunSettings] = []
    with pytest.MonkeyPatch.context() as patch:
        from allconv_caffe.train import run as driver

        def take(experiment: str, asked: RunSettings, say: object) -> driver.RunResult:
            handed.append(asked)
            return driver.RunResult("done", Path(), None)

        patch.setattr(driver, "run", take)
        import shlex

        assert CliRunner().invoke(main.main, shlex.split(job.command)[1:]).exit_code == 0
    assert cli_train.run.name == "run"
    from dataclasses import replace

    assert replace(handed[0], command="") == replace(job.settings, command="")


def test_settings_go_through_a_file() -> None:
    """What a scheduler's process reads is what was written: paths, tuples and options keep their kind."""
    import json

    given = RunSettings(
        lr=0.1,
        data=Path("x"),
        caffe_flags=("-a", "b"),
        options={"drop_epochs": (1.0, 2.0)},
        runs_dir=Path("r"),
        retries=2,
    )
    assert settings.from_json(json.loads(json.dumps(settings.to_json(given)))) == given
    assert settings.to_json(RunSettings()) == {}
