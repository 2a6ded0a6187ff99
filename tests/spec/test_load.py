"""A job file that is wrong: every error at once, each with its line, what was found and what is allowed."""

import pytest

from distaug.errors import JobError
from distaug.spec.document import LIMIT_BYTES
from distaug.spec.job import FORMAT, JobSpec
from distaug.spec.load import dump_job, load_job, parse_job

SMALLEST = "data: {source: digits}\nmodel: {name: resnet18}\n"

FLAGSHIP = """\
name: cifar10-resnet18
seed: 0
data: {source: parquet, path: data/cifar10, batches: auto}
augment: {ops: [{crop: {padding: 4}}, {flip: {p: 0.5}}]}
mix: {mixup: {alpha: 1.0}, cutmix: {alpha: 1.0}, probability: 1, switch_probability: 0.5, off_after_epoch: 90}
model: {name: resnet18, stem: small, stochastic_depth: 0.1, options: {note: ["no", 1e-3, null, {}]}}
train:
  epochs: 100
  global_batch: 512
  optimizer: {name: sgd, lr: 0.1, lr_per_samples: 128, momentum: 0.9, nesterov: true, weight_decay: 5e-4}
  schedule: {name: cosine, warmup_epochs: 5}
  label_smoothing: 0.1
  clip_norm: 1.0
  ema: {decay: 0.999}
precision: auto
stop: {metric: top1, patience_epochs: 10, start_epoch: 60}
checkpoint: {every_epochs: 1, keep_best: 1}
cluster: {workers: [1, 4], retries: 3, env: {NCCL_SOCKET_IFNAME: eth0, NCCL_DEBUG: "1"}}
"""


def errors(text, sets=(), name=None):
    with pytest.raises(JobError) as caught:
        parse_job(text, filename="job.yaml", sets=sets, name=name)
    lines = str(caught.value).splitlines()
    if len(lines) == 1:
        return lines
    assert lines[0] == f"{len(lines) - 1} errors in job.yaml"
    return [line.removeprefix("  ") for line in lines[1:]]


def test_the_smallest_job_takes_defaults():
    job = parse_job(SMALLEST)
    assert job.train.epochs == 30 and job.augment.preset is None and job.name == "run"


def test_the_flagship_job_is_read_and_dumped_to_an_equal_one():
    job = parse_job(FLAGSHIP)
    assert job.train.optimizer.weight_decay == 0.0005
    assert job.cluster.workers == (1, 4)
    assert [op.crop is not None for op in job.augment.operations] == [True, False]
    assert parse_job(dump_job(job)) == job
    assert dump_job(parse_job(dump_job(job))) == dump_job(job)


@pytest.mark.parametrize("text", ["base: job.yaml\nvariants: {a: {}}\n", "base: {model: {name: resnet18}}\n"])
def test_a_study_is_told_from_a_job(text):
    assert errors(text, ["train.epochs=0"]) == ["job.yaml: this is a study; `distaug study job.yaml` trains its runs"]
    assert "base: unknown key" in errors("base: 3\n" + SMALLEST)[0]


def test_name_argument_wins():
    assert parse_job("name: a\n" + SMALLEST, name="b").name == "b"
    (line,) = errors(SMALLEST, name="a/b")
    assert line.startswith('--name a/b: name: found the text `"a/b"`; allowed: text of the form ^[A-Za-z0-9]')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed: -1",
            f"job.yaml:3: seed: found `-1`; allowed: a whole number of at least 0 and below {2**63}",
        ),
        ("seed: 1e1", "; write `10`"),
        ("seed: '1'", 'found the text `"1"`; allowed: a whole number'),
        ("seed: '1'", "; leave out the quotes"),
        ("seed: true", "found `true`; allowed: a whole number"),
        ("seed:", "found nothing; allowed: a whole number"),
        ("seed: null", "found `null`; allowed: a whole number"),
        ("seed: [1, 2]", "found `[1, 2]`; allowed: a whole number"),
        ("seed: {a: 1}", "found a mapping; allowed: a whole number"),
        (
            "name: 12",
            'found `12`; allowed: text of the form ^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$; quote it: "12"',
        ),
        ("name: off", 'name: found `off`, which many YAML readers take for a boolean; quote it: "off"'),
        ("name: ../x", "found the text `../x`; allowed: text of the form"),
        (
            "precision: bf61",
            "allowed: `auto`, `fp32`, `tf32`, `bf16`, `fp16` or `fp64`; did you mean `bf16`?",
        ),
        (
            "train: {compile: no}",
            "job.yaml:3: train.compile: found the text `no`; allowed: `true` or `false`; write `false`",
        ),
        ("train: {exact: on}", "allowed: `true`, `false` or `auto`; write `true`"),
        ("train: {ema: 0.9}", "found `0.9`; allowed: a mapping with the key decay or `null`"),
        ("train: {clip_norm: 0}", "found `0`; allowed: a number above 0 or `null`"),
        ("train: {clip_norm: .inf}", "found `.inf`; allowed: a number above 0 or `null`"),
        ("train:", "found nothing; allowed: a mapping with the keys epochs, "),
        ("train:", "leave the key out, or write `{}` for the defaults"),
        ("train: {optimizer: {betas: [0.9]}}", "betas: found `[0.9]`; allowed: a list of 2 (each a number)"),
        ("train: {optimizer: {betas: [0.9, x]}}", "betas.1: found the text `x`; allowed: a number"),
        ("mix: {probability: 2}", "found `2`; allowed: a number from 0 to 1"),
        (
            "augment: {ops: [flip]}",
            "ops.0: found the text `flip`; allowed: a mapping with the keys crop, flip, vflip",
        ),
        ("augment: {ops: [{}]}", "names exactly one operation, found none"),
        ("augment: {ops: [{flip: {}, crop: {}}]}", "names exactly one operation, found crop, flip"),
        ("augment: {ops: [{flip: }]}", "`flip` has no settings; write `flip: {}` for the defaults"),
        ("augment: {preset: weak, ops: []}", "augment: `preset` and `ops` are both given"),
        ("cluster: {env: {A: 1}}", 'cluster.env.A: found `1`; allowed: text; quote it: "1"'),
        (
            "cluster: {env: {A: on}}",
            'cluster.env.A: found `on`, which many YAML readers take for a boolean; quote it: "on"',
        ),
        ("cluster: {gpus_per_worker: 2}", "found `2`; allowed: `0`, `1` or `auto`"),
        (
            "epochs: 3",
            "job.yaml:3: epochs: unknown key; did you mean `train.epochs`? Keys of a job: format, name, ",
        ),
        (
            "train: {epoch: 3}",
            "train.epoch: unknown key; did you mean `epochs`? Keys of `train`: epochs, global_batch, ",
        ),
        ("mix: {mixupp: {alpha: 1}}", "mix.mixupp: unknown key; did you mean `mixup`?"),
        ("mix: {Cut-Mix: {alpha: 1}}", "did you mean `cutmix`?"),
        ("data2: 1", "did you mean `data`?"),
        ("zzz: 1", "job.yaml:3: zzz: unknown key. Keys of a job: format, "),
        ("deploy: {}", "deploy: unknown key"),
        (
            "augment:\n  ops:\n  - flip: {}\n  - crop: {pad: 1}",
            "job.yaml:6: augment.ops.1.crop.pad: unknown key; did you mean `padding`? "
            "Keys of `augment.ops.1.crop`: padding, mode",
        ),
    ],
)
def test_one_wrong_value_gives_one_line(text, expected):
    (line,) = errors(SMALLEST + text)
    assert expected in line


@pytest.mark.parametrize("value", ["x", "0", "[0, 4]", "[1.0, 2]", "[1]", "[1, 2, 3]", "1.5", "{a: 1}", "true"])
def test_a_field_of_several_kinds_gives_one_line(value):
    (line,) = errors(SMALLEST + f"cluster: {{workers: {value}}}")
    assert line.startswith("job.yaml:3: cluster.workers: found ")
    assert line.endswith(
        "allowed: a whole number from 1 to 4096, a list of 2 (each a whole number from 1 to 4096) or `auto`"
    )


def test_all_errors_are_named_at_once_in_the_order_of_the_file():
    text = """\
name: no
data:
  source: cifr10
  val_fraction: 0.6
  test_fraction: 0.6
train:
  epochs: 0
  epochs: 5
  schedule: {warmup_epochs: 400, gamma: 0.3}
  lr: 0.1
augment:
  preset: weak
  ops: [{crop: {padding: x}}]
cluster: {workers: 3, env: {API_TOKEN: x}}
"""
    found = errors(text, sets=["trian.epochs=1", "precision=bf61"])
    starts = [line.split(": ")[:2] for line in found]
    assert starts == [
        ["job.yaml:1", "model"],  # missing
        ["job.yaml:1", "name"],
        ["job.yaml:3", "data.source"],
        ["job.yaml:4", "data.val_fraction"],  # a conflict, found beside the wrong values
        ["job.yaml:7", "train.epochs"],
        ["job.yaml:8", "train.epochs"],
        ["job.yaml:9", "train.schedule.gamma"],
        ["job.yaml:10", "train.lr"],
        ["job.yaml:11", "augment"],  # both `preset` and `ops`, found once the wrong padding was set aside
        ["job.yaml:13", "augment.ops.0.crop.padding"],
        ["job.yaml:14", "cluster.env.API_TOKEN"],
        ["job.yaml:14", "train.global_batch"],
        ["--set trian.epochs=1", "trian"],
        ["--set precision=bf61", "precision"],
    ]


def test_no_conflict_is_derived_from_a_wrong_value():
    # With the default of 30 epochs the warm-up would seem too long.
    (line,) = errors(SMALLEST + "train: {epochs: x, schedule: {warmup_epochs: 40}}")
    assert "train.epochs: found the text `x`" in line


def test_a_section_with_a_wrong_entry_is_still_checked_as_a_whole():
    text = SMALLEST + "augment:\n  preset: weak\n  ops: [{flip: {p: 2}}, {flip: {}, crop: {}}]"
    found = errors(text)
    assert len(found) == 2
    assert "augment.ops.0.flip.p" in found[0] and "augment.ops.1: each entry" in found[1]


@pytest.mark.parametrize("section", ["data: 5\n", "data: {}\n", "data: {source: 1}\n", ""])
def test_a_missing_section_does_not_hide_the_rest(section):
    found = errors(section + "model: {name: a}\nseed: -1\n")
    assert len(found) == 2 and "data" in found[0] and "seed" in found[1]


def test_a_missing_field_is_named_in_its_section():
    assert errors("data: {source: digits}\nmodel:\n  stem: small\n") == [
        "job.yaml:2: model.name: missing; allowed: text that is not empty"
    ]


def test_long_values_are_cut():
    (line,) = errors(SMALLEST + f"seed: {'x' * 1000}")
    assert len(line) < 250


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "nothing"), ("# only this\n", "nothing"), ("- a\n", "a list"), ("a\n", "a single value")],
)
def test_a_file_without_sections(text, found):
    (line,) = errors(text)
    assert line.startswith(f"job.yaml: found {found}; a job is a mapping of sections, at least `data: ")


def test_a_newer_format_is_refused_by_name_and_number_alone():
    (line,) = errors(f"# new\nformat: {FORMAT + 1}\nnew_section: 1\n")
    assert line == (
        f"job.yaml:2: format: {FORMAT + 1} is newer than {FORMAT}, the newest that this distaug reads; "
        "install a newer distaug"
    )
    assert "allowed: a whole number from 1 to 1" in errors(SMALLEST + "format: 0")[0]


def test_load_job_reads_a_file_with_a_byte_order_mark_and_windows_lines(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load_job(file) == parse_job(SMALLEST)
    assert load_job(str(file), ["seed=4"], name="n").seed == 4


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "digits.yaml").write_text(SMALLEST)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nname: caf\xe9\n")
    (tmp_path / "big.yaml").write_bytes(b"#" * (LIMIT_BYTES + 1))
    for name, says in {
        "digit.yaml": f"no such file; did you mean {tmp_path}/digits.yaml?",
        "nowhere/else.yaml": "no such file; check the path",
        "digits.yaml/x": "cannot be read: Not a directory",
        "": f"a folder; name one job file ({tmp_path}/big.yaml, {tmp_path}/digits.yaml, ",
        "latin.yaml": "latin.yaml:2: not UTF-8 text (byte 0xe9)",
        "big.yaml": f"more than {LIMIT_BYTES} bytes",
    }.items():
        with pytest.raises(JobError) as caught:
            load_job(tmp_path / name)
        assert says in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path))


def test_a_job_made_in_python_equals_the_file():
    made = JobSpec.model_validate({"data": {"source": "digits"}, "model": {"name": "resnet18"}})
    assert made == parse_job(SMALLEST) and parse_job(dump_job(made)) == made
