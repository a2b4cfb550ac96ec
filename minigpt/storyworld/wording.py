"""How lessons are asked for: every instruction in several wordings, in English and in Chinese.

One draw chooses the wording in both languages. `{0}`, `{1}` ... stand for what the instruction
names: the question, or the words, the title, the topic that a story is to have.
"""

from minigpt.storyworld.tasks import Pair

# task: wordings about a story that was given before
ASKED: dict[str, list[Pair]] = {
    "translation": [
        ("Translate this into Chinese.", "请把这段话翻译成英文。"),
        ("What is this in Chinese?", "这段话用英文怎么说？"),
        ("Say it in Chinese.", "请用英文说一遍。"),
    ],
    "question": [
        ("{0}", "{0}"),
        ("Tell me: {0}", "请告诉我：{0}"),
        ("{0} Answer briefly.", "{0}请简短回答。"),
    ],
    "summary": [
        ("Tell the story in one sentence.", "请用一句话概括这个故事。"),
        ("Sum it up in one sentence.", "请用一句话总结一下。"),
        ("What happened? One sentence, please.", "发生了什么事？请用一句话回答。"),
    ],
    "title": [
        ("Give the story a title.", "请给这个故事起个题目。"),
        ("What would be a good title?", "什么题目合适？"),
        ("Find a title for it.", "请想一个题目。"),
    ],
    "sentiment": [
        ("Does the story end well: good, bad or mixed?", "故事的结局怎么样：好、坏还是有好有坏？"),
        ("Is the ending good, bad or mixed?", "结局是好、坏还是有好有坏？"),
        ("How does it end: good, bad or mixed?", "最后怎么样：好、坏还是有好有坏？"),
    ],
    "topic": [
        (
            "What is the topic: theft, weather, accident, forgetting or quarrel?",
            "主题是什么：偷窃、天气、意外、遗忘还是争吵？",
        ),
        (
            "What is the story about: theft, weather, accident, forgetting or quarrel?",
            "这个故事讲的是什么：偷窃、天气、意外、遗忘还是争吵？",
        ),
        (
            "Name the topic: theft, weather, accident, forgetting or quarrel?",
            "请说出主题：偷窃、天气、意外、遗忘还是争吵？",
        ),
    ],
}

# constraint on a story that is to be told: wordings
WANTED: dict[str, list[Pair]] = {
    "free": [
        ("Tell me a story.", "给我讲个故事吧。"),
        ("Please write a story.", "请写一个故事。"),
        ("I would like to hear a story.", "我想听一个故事。"),
    ],
    "words": [
        ("Tell a story with these words: {0}, {1}, {2}.", "请用这些词讲一个故事：{0}、{1}、{2}。"),
        ("Use {0}, {1} and {2} in a story.", "请讲一个有{0}、{1}和{2}的故事。"),
        (
            "Write a story. It must have the words {0}, {1} and {2}.",
            "请写一个故事，里面要有{0}、{1}和{2}。",
        ),
    ],
    "ends well": [
        ("Tell a story that ends well.", "请讲一个结局好的故事。"),
        ("Write a story with a good ending.", "请写一个故事，结局要好。"),
        ("I would like a story with a happy end.", "我想听一个结局圆满的故事。"),
    ],
    "ends badly": [
        ("Tell a story that ends badly.", "请讲一个结局坏的故事。"),
        ("Write a story with a bad ending.", "请写一个故事，结局要坏。"),
        ("I would like a story with an unhappy end.", "我想听一个结局不好的故事。"),
    ],
    "ends mixed": [
        ("Tell a story that ends well for only one child.", "请讲一个结局有好有坏的故事。"),
        ("Write a story with a mixed ending.", "请写一个故事，结局有好有坏。"),
        (
            "I would like a story that ends well for only one child.",
            "我想听一个有人高兴有人不高兴的故事。",
        ),
    ],
    "about": [
        ("Tell a story on this topic: {0}.", "请讲一个主题是{0}的故事。"),
        ("Write a story. The topic is {0}.", "请写一个故事，主题是{0}。"),
        ("I would like a story. Topic: {0}.", "我想听一个故事，主题：{0}。"),
    ],
    "title": [
        ("Tell the story of {0}.", "请讲《{0}》的故事。"),
        ("Write a story with the title {0}.", "请写一个故事，题目是《{0}》。"),
        ("The title is {0}. Tell the story.", "题目是《{0}》，请讲这个故事。"),
    ],
    "named": [
        ("Tell a story about {0} with the {1} in it.", "请讲一个关于{0}的故事，里面有{1}。"),
        ("Write a story. {0} and the {1} must be in it.", "请写一个故事，里面要有{0}和{1}。"),
        ("I would like to hear about {0} and the {1}.", "我想听{0}和{1}的故事。"),
    ],
}
