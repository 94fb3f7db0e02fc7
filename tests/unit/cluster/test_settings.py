from pathlib import Path

import pytest
from pydantic import Field

from cluster.launch import NotFineError, run_job
from cluster.settings import Settings, describe_settings, load_settings


class Pool(Settings):
    size: int = Field(default=2, ge=1)
    """Actors in the pool."""
    wait_seconds: float = Field(default=1.0, gt=0)
    columns: tuple[str, ...] = ()
    revision: str | None = None


class Job(Settings):
    input: str
    pool: Pool = Pool()
    dry: bool = False


def test_defaults_then_file_then_arguments(tmp_path: Path) -> None:
    defaults = tmp_path / "job.toml"
    defaults.write_text('input = "a"\n[pool]\nsize = 3\nrevision = "x"\n')
    job = load_settings(Job, ["pool.size=5"], defaults=defaults)
    assert (job.input, job.pool.size, job.pool.revision) == ("a", 5, "x")


def test_a_toml_argument_takes_the_place_of_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('input = "a"\n[pool]\nsize = 3\n')
    (tmp_path / "other.toml").write_text('input = "b"\n')
    job = load_settings(Job, [str(tmp_path / "other.toml")], defaults=tmp_path / "job.toml")
    assert (job.input, job.pool.size) == ("b", 2)


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("pool.revision=12e4567", "revision", "12e4567"),
        ("pool.revision=null", "revision", None),
        ("pool.columns=a,b", "columns", ("a", "b")),
        ('pool.columns=["a"]', "columns", ("a",)),
    ],
)
def test_text_is_converted_by_the_fields_type_alone(argument: str, field: str, value: object) -> None:
    assert getattr(load_settings(Job, ["input=x", argument]).pool, field) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=x", "pool.sise=3"], r"Job: pool\.sise: no such setting \(--help lists them\)"),
        (["input=x", "pool.size=0"], r"Job: pool\.size: input should be greater than or equal to 1"),
        (["input=x", "pool.wait_seconds=inf"], r"Job: pool\.wait_seconds: input should be a finite number"),
        ([], r"Job: input: required, give input=VALUE"),
        (["input=x", "size"], r"argument 'size': expected section\.key=value or a \.toml file"),
        (["input=x", "input.a=3"], r"argument 'input\.a=3': 'input' is a value, not a section"),
        (["nowhere.toml"], r"settings file nowhere\.toml: .*No such file"),
        (["a.toml", "b.toml"], r"one settings file is expected, found 2: a\.toml, b\.toml"),
    ],
)
def test_refusals_name_the_place_and_the_remedy(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_settings(Job, arguments)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Job(input="x").input = "y"


def test_every_setting_is_described_with_default_and_docstring() -> None:
    assert ("pool.size", "2", "Actors in the pool.") in describe_settings(Job)
    assert ("input", "required", "") in describe_settings(Job)


def _run(arguments: list[str], main: object = print) -> int:
    try:
        run_job(main, Job, arguments=arguments)
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_job_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(job: Job) -> None:
        raise RuntimeError("the store is away")

    def doubt(job: Job) -> None:
        raise NotFineError("half the rows")

    assert _run(["input=x"], main=lambda job: None) == 0
    assert _run(["input=x"], main=doubt) == 3
    assert "error: half the rows" in capsys.readouterr().err
    assert _run(["input=x"], main=fail) == 1
    assert _run(["pool.size=0", "input=x"]) == 2
    assert "error: the store is away" in capsys.readouterr().err


def test_dry_run_prints_resolved_settings_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def never(job: Job) -> None:
        raise AssertionError

    assert _run(["input=x", "pool.size=7", "--dry-run", "--dry"], main=never) == 0
    printed = capsys.readouterr().out
    assert '"size": 7' in printed
    assert '"dry": true' in printed
