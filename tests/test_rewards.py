"""Rewards of the user's own: found by file or module, called with the row, refused in one line."""

import pytest
from helpers import write

from minigpt.alignment.rewards import exact_answer, own_reward
from minigpt.alignment.stories import order_examples, pair_examples, story_reward
from minigpt.batching.examples import Example
from minigpt.batching.messages import turns
from minigpt.storyworld.tables import World
from minigpt.storyworld.verify import verify
from minigpt.support.errors import ConfigError, DataError

ROW = {"n": 3, "prompt": "Hi"}
EXAMPLE = Example(turns("Hi", "The Hello!"), "a.jsonl, line 7", "hi", "", ("Hey",), record=ROW)


def test_a_function_of_a_file_gets_prompt_answer_and_row(tmp_path):
    write(tmp_path / "aid.py", "SCALE = 10")
    code = "from aid import SCALE\ndef mine(prompt, answer, row):\n"
    code += "    return SCALE * len(prompt) + len(answer) + row['n'] / 10\n"
    reward = own_reward(f"{write(tmp_path / 'my.py', code)}:mine")
    assert reward.grade(EXAMPLE, "Hello") == pytest.approx(25.3)
    assert len(reward.sha256) == 64
    again = own_reward(f"{write(tmp_path / 'other.py', code + '# changed')}:mine")
    assert again.sha256 != reward.sha256


def test_a_function_of_a_module_is_found(tmp_path, monkeypatch):
    write(tmp_path / "graders_of_mine.py", "def same(prompt, answer, row): return answer == prompt")
    monkeypatch.chdir(tmp_path)
    reward = own_reward("graders_of_mine:same")
    assert [reward.grade(EXAMPLE, text) for text in ("Hi", "Ho")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("code", "word", "cause", "remedy"),
    [
        ("", "{file}", "names no function", "file.py:function"),
        ("", "nowhere.py:f", "no such file", ".py file"),
        ("", "no_such_module:f", "no module 'no_such_module'", "install it"),
        ("import no_such_thing", "{file}:f", "no module 'no_such_thing'", "install it"),
        ("def f(:", "{file}:f", "SyntaxError", "mend it"),
        ("\n1 / 0", "{file}:f", "ZeroDivisionError.*my.py, line 2", "mend it"),
        ("def grade(p, a, r): ...", "{file}:grades", "no function 'grades'", "did you mean grade"),
        ("f = 3", "{file}:f", "int where a function", "def reward"),
        ("def f(answer): ...", "{file}:f", "does not fit", "def reward"),
    ],
)
def test_a_reward_that_cannot_be_used_is_named(code, word, cause, remedy, tmp_path):
    file = write(tmp_path / "my.py", code)
    with pytest.raises(ConfigError, match=cause) as error:
        own_reward(word.format(file=file))
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("return row['missing']", r"KeyError: 'missing' — a.jsonl, line 7; my.py, line 2"),
        ("return None", "returned 'None' — a.jsonl, line 7"),
        ("return float('nan')", "returned 'nan'"),
        ("return 'much'", "returned 'much'"),
    ],
)
def test_a_reward_that_fails_names_the_row_and_its_own_line(body, cause, tmp_path):
    file = write(tmp_path / "my.py", f"def f(prompt, answer, row):\n    {body}\n")
    with pytest.raises(DataError, match=cause):
        own_reward(f"{file}:f").grade(EXAMPLE, "x")


def test_the_right_answers_of_a_row_are_the_usual_reward():
    reward = exact_answer([EXAMPLE])
    grades = [reward.grade(EXAMPLE, text) for text in ("hello", "Hey.", "Hello you", "")]
    assert grades == [1.0, 1.0, 0.0, 0.0]
    bare = EXAMPLE._replace(messages=turns("Hi", ""))
    with pytest.raises(ConfigError, match=r"without an answer.*line 7.*--reward"):
        exact_answer([EXAMPLE, bare])


def test_storyworld_grades_orders_and_makes_pairs_with_one_fault():
    world, reward = World.little(), story_reward("little")
    orders = [order for seed in range(12) for order in order_examples(seed, world)]
    assert all(reward.grade(order, order.messages[-1]["content"]) == 1.0 for order in orders)
    assert {order.group for order in orders} != {orders[0].group}
    for order in orders:
        broken = order.messages[-1]["content"][: len(order.messages[-1]["content"]) // 2]
        assert reward.grade(order, broken) == 0.0
    pairs = list(pair_examples(3, world))
    assert len(pairs) > 2
    for pair in pairs:
        language = "en" if pair.messages[-1]["content"].isascii() else "zh"
        assert verify(pair.messages[-1]["content"], language, world).ok
        spoiled = pair.group != "ignored instruction"
        assert verify(pair.rejected, language, world).ok != spoiled
