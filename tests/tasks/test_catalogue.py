import pytest

from bench.errors import UserError
from bench.settings import GLUE, OwnTask
from bench.tasks.catalogue import TASKS, in_order, task, tasks_of, title


def test_the_nine_tasks_of_glue() -> None:
    assert tuple(TASKS) == GLUE == ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    assert task("mnli").labels == ("entailment", "neutral", "contradiction")
    assert {name: each.outputs for name, each in TASKS.items() if each.outputs != 2} == {"stsb": 1, "mnli": 3}
    assert [name for name, each in TASKS.items() if each.regression] == ["stsb"]


def test_unknown_name_lists_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"'sst'.*cola, sst2, .*wnli"):
        task("sst")


def test_every_test_split_has_a_submission_file_with_a_word_for_each_class() -> None:
    for each in TASKS.values():
        assert len(each.submission_files) == len(each.test_splits)
        assert len(each.submission_words) == len(each.labels)


def test_split_names() -> None:
    assert task("rte").splits == {"train": "train", "validation": "validation", "test": "test"}
    assert task("mnli").splits == {
        "train": "train",
        "validation": "validation_matched",
        "test": "test_matched",
        "validation_mismatched": "validation_mismatched",
        "test_mismatched": "test_mismatched",
    }


def test_own_tasks_are_looked_up_like_glues() -> None:
    own = {"tickets": OwnTask(columns=["text"], labels=["bug", 2], metrics=["f1_macro"], files={"train": "a.csv"})}
    assert list(tasks_of(own)) == [*GLUE, "tickets"]
    found = task("tickets", own)
    assert (found.title, found.labels, found.outputs, found.regression) == ("tickets", ("bug", "2"), 2, False)
    assert found.submission_files == () and task("rte", own) is TASKS["rte"]
    with pytest.raises(UserError, match=r"'tickets'; choose from cola, .*wnli$"):
        task("tickets")
    with pytest.raises(UserError, match=r"'ticket'; .*wnli, tickets$"):
        task("ticket", own)


def test_names_alone_give_titles_and_order() -> None:
    assert [title(name) for name in ("sst2", "tickets")] == ["SST-2", "tickets"]
    assert in_order(["news", "rte", "tickets", "cola", "rte"]) == ["cola", "rte", "news", "tickets"]
