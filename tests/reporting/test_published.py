import pytest

from bench.errors import UserError
from bench.reporting.published import PATH, for_figures, read_published


@pytest.mark.parametrize(
    ("system", "task", "score"),
    [
        ("BERT-base (teacher)", "mnli-mm", 83.4),
        ("DistilBERT4", "cola", 32.8),
        ("TinyBERT4 (DA)", "average", 77.0),
        ("TinyBERT6 (DA)", "qqp", 71.6),
        ("DistilBERT", "wnli", 56.3),
        ("BERT-base + PABEE", "sst2", 92.0),
        ("DeeBERT", "mnli", 74.4),
        ("BERT-6L", "mrpc", 85.1),
        ("CoFi, about 60 % pruned", "cola", 60.4),
        ("CoFi, about 95 % pruned", "cola", 38.9),
    ],
)
def test_known_cells(system, task, score):
    table = read_published()
    found = table[(table["system"] == system) & (table["task"] == task)]["score"]
    assert score in set(found)


def test_every_number_names_its_source_and_occurs_once():
    table = read_published()
    assert table["source"].str.len().gt(0).all()
    settings = ["source", "system", "task", "metric", "split", "speedup", "notes"]
    assert not table[table["score"].notna()].duplicated(settings).any()


def test_a_printed_speedup_is_the_one_shown_and_a_computed_one_is_marked():
    table = read_published()
    assert table[(table["system"] == "PABEE") & (table["task"] == "rte")]["speedup"].item() == 1.81
    row = table[(table["system"] == "TinyBERT4 (DA)") & (table["task"] == "average")].iloc[0]
    assert row["speedup"] == 9.4 and not row["computed"] and row["speedup_of"] == "time"
    assert row["flops_speedup"] == pytest.approx(22.5 / 1.2)
    row = table[(table["system"] == "DynaBERT") & (table["task"] == "average")].iloc[0]
    assert row["computed"] and row["speedup"] == pytest.approx(11.2 / 1.81) and "doubled here" in row["notes"]


def test_a_measured_time_is_not_drawn_on_an_axis_of_flops():
    drawn = for_figures(read_published())
    assert not drawn["system"].str.contains("CoFi").any() and drawn["speedup"].notna().all()
    assert set(drawn.loc[drawn["system"] == "TinyBERT4 (DA)", "speedup"].round(2)) == {18.75}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (",mnli,accuracy,", ",mnlu,accuracy,", "unknown task 'mnlu'"),
        (",accuracy,test,83.9,", ",acc,test,83.9,", "metric"),
        (",accuracy,test,83.9,", ",accuracy,test,839,", "score"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, old, new, named):
    broken = tmp_path / "published.csv"
    broken.write_text(PATH.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=rf"line 2: .*{named}"):
        read_published(broken)
