"""From two CSV files to predictions, a report and a stream, by the commands, as a user would."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ctlssl import load_dataset, to_long
from ctlssl.cli import app
from ctlssl.runs import RunFolder, TableTask, open_run
from ctlssl.runs.live import LiveRun
from ctlssl.tasks import prepare
from ctlssl.training import predict
from tests.pages import check_page

COLUMNS = ["--id", "patient", "--time", "hours", "--variable", "test", "--value", "result"]
ODD = "<script>alert(1)</script>"
QUICK = ["--width", "8", "--epochs", "2"]


def call(*words, input=None):
    return CliRunner().invoke(app, [str(word) for word in words], input=input)


def done(*words, input=None):
    """A command that must succeed; what it said."""
    result = call(*words, input=input)
    assert result.exit_code == 0, result.output
    return result.output


def write_tables(folder, patients=100):
    """Records and outcomes of some patients of covid19; one variable and one sex have names that a page must escape."""
    ds = load_dataset("covid19")
    ids = np.random.default_rng(0).permutation(ds["series"].values)[:patients]
    long = to_long(ds, "patient", "hours", "test", "result").replace({"test": {"urea": ODD}})
    long[long["patient"].isin(ids)].sample(frac=1, random_state=0).to_csv(folder / "records.csv", index=False)
    sex = np.where(ds["gender"].values == 1, "m", "<b>f</b>")
    columns = {"died": ds["outcome"].values, "age": ds["age"].values, "sex": sex, "stay": ds["discharge"].values}
    outcomes = pd.DataFrame({"patient": ds["series"].values} | columns)
    outcomes[outcomes["patient"].isin(ids)].to_csv(folder / "outcomes.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_tables(folder)
    said = done("train", folder / "records.csv", *COLUMNS, *asked(folder), *QUICK, "--out", folder / "run")
    assert "epoch 2: training loss" in said and "test: auroc" in said and "report.html" in said
    return folder


def asked(folder):
    static = ["--static", "age", "--static", "sex", "--end", "stay"]
    return ["--labels", folder / "outcomes.csv", "--label", "died", "--landmark", "24", *static]


def split_of(run):
    loaded = run.settings.load()
    return prepare(loaded.task, run.settings.training.seed, loaded.ds)


def test_what_is_in_the_folder(folder):
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "data.json", "metrics.jsonl", "model.safetensors", "report.json", "report.html"} <= names
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["task"]["records"] == str(folder / "records.csv") and config["task"]["static"] == ["age", "sex"]
    run = open_run(folder / "run")
    assert run.static == ("age", "sex=<b>f</b>", "sex=m") and run.answers == ("class_0", "class_1")


def test_predictions_are_those_of_the_model(folder, tmp_path):
    """Columns and policies are those of the training; the second table has the covariates."""
    labels = ["--labels", folder / "outcomes.csv"]
    said = done("predict", folder / "run", folder / "records.csv", *labels, "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    assert f"Wrote {len(table)} rows" in said and len(table) > 90
    run = open_run(folder / "run")
    test = split_of(run).test
    expected = predict(run.model, test).logits.double().softmax(1)[:, 1].numpy()
    found = table.set_index("series").loc[test.ids.tolist(), "class_1"].values
    np.testing.assert_allclose(found, expected, atol=1e-6)
    refused = call("predict", folder / "run", folder / "records.csv", "--out", tmp_path / "q.csv")
    assert refused.exit_code == 2 and "no column 'age', 'sex'; if it stands in a second table" in refused.stderr
    assert not (tmp_path / "q.csv").exists()


def test_evaluation_of_the_test_part_is_the_report(folder, tmp_path):
    run = open_run(folder / "run")
    records = pd.read_csv(folder / "records.csv")
    records[records["patient"].isin(split_of(run).test.ids)].to_csv(tmp_path / "test.csv", index=False)
    said = done("evaluate", folder / "run", tmp_path / "test.csv", "--labels", folder / "outcomes.csv", "--draws", 50)
    for name, value in RunFolder(folder / "run").read_json("report.json")["test"].items():
        found, low, high = map(float, re.search(rf"{name} (\S+)   95 % interval (\S+) to (\S+)", said).groups())
        assert found == pytest.approx(value, abs=6e-5) and low <= found <= high


def test_the_report_stands_alone(folder):
    text = check_page(folder / "run" / "report.html", pictures=6)
    for part in ("Scores of the test part", "Calibration", "Learning", "Time scales", "What the observations did"):
        assert part in text
    assert "gaps shuffled" in text and "log-odds of died = 1" in text and "blocks" not in text


def test_inspection_of_the_same_files(folder, tmp_path):
    words = ["inspect", folder / "records.csv", *COLUMNS, "--labels", folder / "outcomes.csv", "--label", "died"]
    said = done(*words)
    assert "label died: 0: " in said and "likely leak" in said and ODD in said
    said = done(*words, "--landmark", 24, "--end", "stay", "--html", tmp_path / "look.html")
    assert "number of rows alone: AUROC" in said and str(tmp_path / "look.html") in said
    assert ODD in check_page(tmp_path / "look.html", pictures=1)
    assert "375 series" in done("inspect", "covid19") and "label outcome" in done("inspect", "covid19")
    (tmp_path / "twice.csv").write_text("id,time,variable,value\na,0,x,1\na,0,x,2\na,1,x,<3\n")
    said = done("inspect", tmp_path / "twice.csv")
    assert "A policy is wanted: " in said and "1 series" in said
    assert call("inspect", tmp_path / "absent.csv").exit_code == 2


# Streams


def lines_of(folder, patient, until=math.inf):
    """The rows of a patient as lines of JSON, with covariates in the first."""
    records = pd.read_csv(folder / "records.csv")
    records = records[(records["patient"] == patient) & (records["hours"] <= until)]
    outcome = pd.read_csv(folder / "outcomes.csv").set_index("patient").loc[patient]
    told = []
    for time, rows in records.groupby("hours"):
        values = dict(zip(rows["test"], rows["result"], strict=True))
        told.append({"series": int(patient), "time": time, "values": values})
    told[0]["static"] = {"age": float(outcome["age"]), "sex": outcome["sex"]}
    return told


def test_a_stream_ends_where_predict_does(folder, tmp_path):
    """Rows one by one, two patients in turns; rows after the landmark are not read, and that is said."""
    done(
        "predict", folder / "run", folder / "records.csv", "--labels", folder / "outcomes.csv", "--out", tmp_path / "p"
    )
    table = pd.read_csv(tmp_path / "p").set_index("series")
    two = split_of(open_run(folder / "run")).test.ids[:2].tolist()
    first, second = (lines_of(folder, patient) for patient in two)
    mixed = [line for pair in zip(first, second, strict=False) for line in pair]
    mixed += first[len(second) :] + second[len(first) :]
    text = "".join(json.dumps(line) + "\n" for line in mixed)
    answers = [json.loads(line) for line in done("stream", folder / "run", input=text).splitlines()]
    assert len(answers) == len(mixed)
    for patient in two:
        last = [answer for answer in answers if answer["series"] == patient][-1]
        assert last["class_1"] == pytest.approx(table.loc[patient, "class_1"], abs=1e-5)
        assert "note" in last and "landmark 24" in last["note"]


BAD = [
    ("{", "no JSON"),
    ("[1]", "give {"),
    ('{"series": "a", "time": 1, "value": 3}', "'value' means nothing here"),
    ('{"time": 1}', "series is None"),
    ('{"series": true, "time": 1}', "series is True"),
    ('{"series": "a", "time": "noon"}', "time is 'noon'"),
    ('{"series": "a", "time": NaN}', "NaN is no JSON"),
    ('{"series": "a", "time": 1e999}', "beyond what a number holds"),
    ('{"series": "a", "time": 1' + "0" * 400 + "}", "beyond what a number holds"),
    ('{"series": "a", "time": 1, "values": [1]}', "values is [1]"),
    ('{"series": "a", "time": 1, "values": {"albumin": "high"}}', "albumin is 'high'"),
    ('{"series": "a", "time": 1, "values": {"lactate of mars": 1}}', "does not know 'lactate of mars'"),
    ('{"series": "b", "time": 1}', "static of a new series names"),
    ('{"series": "b", "time": 1, "static": {"age": 1, "sex": "x"}}', "sex' is 'x'; known are"),
    ('{"series": "a", "time": 1, "static": {}}', "has told its static covariates"),
    ('{"series": "a", "time": 0.5, "values": {"albumin": 1}}', "series 'a': an observation at time 0.5 is before 1.0"),
    ('{"series": "a", "end": 1}', "stands beside"),
    ("[" * 100_000, "no JSON"),
    ('{"series": "a", "time": 1, "values": {"' + "x" * 2**20 + '": 1}}', "more than 1048576 bytes"),
]


def test_malformed_lines_are_named_and_change_nothing(folder):
    start = '{"series": "a", "time": 1, "values": {"albumin": 30, "glucose": null}, "static": {"age": 60, "sex": "m"}}'
    ask = '{"series": "a", "time": 2}'
    text = "\n".join([start, ask, *(line for line, _ in BAD), "", ask]) + "\n"
    result = call("stream", folder / "run", input=text)
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1 and len(told) == len(BAD) + 3
    assert told[1] == told[-1] and told[1]["class_1"] == told[0]["class_1"]
    for number, ((_, message), answer) in enumerate(zip(BAD, told[2:-1], strict=True), start=3):
        assert answer["error"].startswith(f"line {number}: ") and message in answer["error"]
    binary = call("stream", folder / "run", input=b"\xff\xfe\n" + start.encode() + b"\n")
    assert "line 1: " in binary.stdout and "class_1" in binary.stdout


def test_late_lines_by_policy_ended_series_and_their_number(folder):
    run = open_run(folder / "run")
    live = LiveRun(run, late="replay", window=5.0, unknown="drop", most_series=1)
    static = {"age": 60, "sex": "m"}
    late = [(3.0, {"albumin": 30.0}), (1.0, {"glucose": 7.0, "of mars": 1.0}), (2.0, {"albumin": 25.0})]
    for k, (time, values) in enumerate(late):
        line = {"series": "a", "time": time, "values": values} | ({} if k else {"static": static})
        told = live.answer(json.dumps(line))
    with pytest.raises(ValueError, match="1 series are kept"):
        live.answer(json.dumps({"series": "b", "time": 0, "static": static}))
    assert live.answer('{"series": "a", "end": true}') == {"series": "a", "ended": True}
    assert live.answer('{"series": "a", "end": true}') == {"series": "a", "ended": False}
    for k, (time, values) in enumerate(sorted(late, key=lambda row: row[0])):
        values = {name: value for name, value in values.items() if name != "of mars"}
        line = {"series": "b", "time": time, "values": values} | ({} if k else {"static": static})
        prompt = live.answer(json.dumps(line))
    assert prompt["class_1"] == pytest.approx(told["class_1"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": [1.0]}, "there is one answer a series"),
        ({"late": "ignore"}, "late"),
        ({"late": "replay"}, "window"),
        ({"unknown": "keep"}, "neither error nor drop"),
    ],
)
def test_streams_that_cannot_be(folder, options, message):
    with pytest.raises(ValueError, match=message):
        LiveRun(open_run(folder / "run"), **options)


# Other questions


def test_numbers_are_predicted_in_their_own_units(folder, tmp_path):
    """Lengths of stay in hours, hundreds of them: scaled for training, and back for answers, scores and streams."""
    words = ["--labels", folder / "outcomes.csv", "--label", "stay", "--landmark", 24, "--static", "age"]
    said = done("train", folder / "records.csv", *COLUMNS, *words, *QUICK, "--out", tmp_path / "run")
    outcomes = pd.read_csv(folder / "outcomes.csv").set_index("patient")["stay"]
    run = open_run(tmp_path / "run")
    assert float(re.search(r"rmse (\S+),", said).group(1)) < 3 * outcomes.std() and run.targets.mean[0] > 100
    test = split_of(run).test
    assert run.targets.mean[0] == pytest.approx(float(split_of(run).train.labels.double().mean()))
    done("predict", tmp_path / "run", folder / "records.csv", "--labels", words[1], "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv").set_index("series")
    assert table.columns.tolist() == ["stay"] and abs(table["stay"].mean() - outcomes.mean()) < 2 * outcomes.std()
    root = math.sqrt(np.mean((table.loc[test.ids.tolist(), "stay"] - test.labels[:, 0].numpy()) ** 2))
    assert RunFolder(tmp_path / "run").read_json("report.json")["test"]["rmse"] == pytest.approx(root, rel=1e-4)
    assert "stay" in check_page(tmp_path / "run" / "report.html", pictures=7)
    patient = int(test.ids[0])
    told = lines_of(folder, patient, 24.0)
    told[0]["static"].pop("sex")
    answers = done("stream", tmp_path / "run", input="".join(json.dumps(line) + "\n" for line in told)).splitlines()
    assert json.loads(answers[-1])["stay"] == pytest.approx(table.loc[patient, "stay"], rel=1e-4)


def test_later_values_are_forecast(folder, tmp_path):
    words = ["--landmark", 48, "--until", 200, *QUICK, "--out", tmp_path / "run"]
    said = done("train", folder / "records.csv", *COLUMNS, *words)
    assert "test: rmse" in said
    check_page(tmp_path / "run" / "report.html", pictures=7)
    records = pd.read_csv(folder / "records.csv")
    patient = int(records["patient"].iloc[0])
    records[records["patient"] == patient].to_csv(tmp_path / "one.csv", index=False)
    done("predict", tmp_path / "run", tmp_path / "one.csv", "--at", 1, "--at", 10, "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    told = lines_of(folder, patient, 48.0)
    told[0].pop("static")
    text = "".join(json.dumps(line) + "\n" for line in told)
    last = json.loads(done("stream", tmp_path / "run", "--at", 1, "--at", 10, input=text).splitlines()[-1])
    assert len(last["forecasts"]) == len(table)
    np.testing.assert_allclose([row["mean"] for row in last["forecasts"]], table["mean"], rtol=1e-3)
    assert ODD in {row["variable"] for row in last["forecasts"]}
    assert call("stream", tmp_path / "run", input=text).exit_code == 2


# What no part may know, what goes on, and what is refused


def test_nothing_of_the_test_part_reaches_training(folder, tmp_path):
    """Other values, times, labels and covariates of the series that are tested leave every bit of the weights."""
    run = open_run(folder / "run")
    tested = split_of(run).test.ids
    records, outcomes = (pd.read_csv(folder / f"{name}.csv") for name in ("records", "outcomes"))
    own = records["patient"].isin(tested)
    records.loc[own, "result"] = 7 * records.loc[own, "result"] + 1
    records.loc[own, "hours"] = records.loc[own, "hours"] / 3
    outcomes.loc[outcomes["patient"].isin(tested), "age"] += 40
    records.to_csv(tmp_path / "records.csv", index=False)
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    words = [*COLUMNS, *asked(tmp_path), *QUICK, "--no-report", "--out", tmp_path / "run"]
    done("train", tmp_path / "records.csv", *words)
    assert set(split_of(open_run(tmp_path / "run")).test.ids.tolist()) == set(tested.tolist())
    for name in ("model.safetensors", "data.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()
    assert not (tmp_path / "run" / "report.html").exists()


def test_from_a_configuration_file_and_resumed(folder, tmp_path):
    (tmp_path / "run.toml").write_text(
        f'model = "gru"\nwidth = 8\n[task]\nrecords = "{folder / "records.csv"}"\nid = "patient"\ntime = "hours"\n'
        f'variable = "test"\nvalue = "result"\nlabels = "{folder / "outcomes.csv"}"\n'
        'label = ["died"]\nlandmark = 12.0\n'
        "[task.limits]\nalbumin = [0, 100]\n[training]\nepochs = 1\n"
    )
    out = ["--out", tmp_path / "run"]
    done("train", "--config", tmp_path / "run.toml", "--landmark", 24, "--no-report", *out)
    settings = open_run(tmp_path / "run").settings
    assert isinstance(settings.task, TableTask) and settings.task.limits == {"albumin": (0.0, 100.0)}
    assert (settings.model, settings.task.landmark, settings.training.epochs) == ("gru", 24.0, 1)
    assert "epoch 2" in done("train", "--resume", "--epochs", 2, "--no-report", *out)
    refused = call("train", "--resume", "--landmark", 12, *out)
    assert refused.exit_code == 2 and "task.landmark = 24.0, and 12.0 is asked for" in refused.stderr


def test_records_that_changed_are_not_gone_on_with(folder, tmp_path):
    write_tables(tmp_path, patients=60)
    words = [*COLUMNS, *asked(tmp_path), "--width", 8, "--no-report", "--out", tmp_path / "run"]
    done("train", tmp_path / "records.csv", *words, "--epochs", 1)
    records = pd.read_csv(tmp_path / "records.csv")
    records.assign(result=2 * records["result"]).iloc[:-300].to_csv(tmp_path / "records.csv", index=False)
    refused = call("train", "--resume", "--epochs", 3, "--out", tmp_path / "run")
    assert refused.exit_code == 2 and "are of a fit with training data" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "absent.csv", "--label", "died"], "absent.csv: there is no such file"),
        (["train", "covid19", "--landmark", "3"], "--landmark: these are for a file of records"),
        (["train", "RECORDS", "--label", "died"], "no column 'died'; if it stands in a second table"),
        (["train", "RECORDS"], "what is to be predicted"),
        (["train", "RECORDS", "--landmark", "3", "--limit", "albumin"], "--limit 'albumin' is not NAME=LOW:HIGH"),
        (["train", "RECORDS", "--landmark", "3", "--limit", "x=a:b"], "is not NAME=LOW:HIGH"),
        (["train", "RECORDS", "--landmark", "3", "--outside", "wrap"], "unknown --outside wrap"),
        (["train", "RECORDS", "--landmark", "1e9"], "too few"),
        (["predict", "RUN", "RECORDS", "--unit", "min"], "second table"),
        (["evaluate", "RUN", "RECORDS"], "second table"),
    ],
)
def test_refused_in_one_line(folder, tmp_path, words, message):
    names = {"RECORDS": str(folder / "records.csv"), "RUN": str(folder / "run")}
    words = [names.get(word, word) for word in words]
    if words[0] == "train":
        words += ["--out", str(tmp_path / "run"), *COLUMNS]
    refused = call(*words)
    assert refused.exit_code == 2, refused.output
    if message not in ("patient",):
        assert message in refused.stderr
    assert (
        refused.stderr.startswith("Error: ") and refused.stderr.count("\n") == 1 and "Traceback" not in refused.output
    )


def test_another_unit_of_time_is_refused(folder, tmp_path):
    stamped = pd.read_csv(folder / "records.csv")
    stamped["hours"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(stamped["hours"], unit="h")
    stamped.to_csv(tmp_path / "stamped.csv", index=False)
    refused = call("predict", folder / "run", tmp_path / "stamped.csv", "--labels", folder / "outcomes.csv")
    assert refused.exit_code == 2 and "the times are in 'h', those of the training in ''" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shuffled_labels_are_chance(tmp_path):
    """The same files with the outcomes dealt out anew: the AUROC of five fits is .5 within three standard errors."""
    write_tables(tmp_path, patients=361)
    outcomes = pd.read_csv(tmp_path / "outcomes.csv")
    outcomes["died"] = np.random.default_rng(0).permutation(outcomes["died"].values)
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    found, deviations = [], []
    for seed in range(5):
        out = tmp_path / f"run{seed}"
        words = [*COLUMNS, *asked(tmp_path), "--seed", seed, "--no-report", "--out", out]
        done("train", tmp_path / "records.csv", *words)
        labels = split_of(open_run(out)).test.labels.numpy()
        found.append(RunFolder(out).read_json("report.json")["test"]["auroc"])
        deviations.append(math.sqrt((len(labels) + 1) / (12 * labels.sum() * (1 - labels).sum())))
    print(f"AUROC of shuffled labels, seeds 0 to 4: {found}")
    assert abs(np.mean(found) - 0.5) < 3 * np.mean(deviations) / math.sqrt(len(found)) * 1.5  # the splits overlap
