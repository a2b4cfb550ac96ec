"""The words of the storyworld: its people, places and things, each in English and in Chinese.

Every entry is one line of data. What a sentence may say about an entry (a pronoun, "a green
kite", "by the river") is spelled out in `forms.py`.
"""

from typing import NamedTuple


class Person(NamedTuple):
    """A child."""

    en: str
    zh: str
    girl: bool


class Elder(NamedTuple):
    """A grown-up or older member of the hero's family."""

    en: str
    zh: str
    woman: bool


class Place(NamedTuple):
    """A place: "by the river" / "在河边", what children do there, and two things to see."""

    en: str
    at: str
    zh: str
    zh_at: str
    fun: tuple[str, str]
    sights: tuple[tuple[str, str], tuple[str, str]]


class Thing(NamedTuple):
    """A thing to hold, give and lose; `unit` is its Chinese measure word."""

    en: str
    zh: str
    unit: str
    play: tuple[str, str]


class Noun(NamedTuple):
    """A plain word; `unit` is its Chinese measure word where it is counted."""

    en: str
    zh: str
    unit: str = ""


class Day(NamedTuple):
    """A kind of day and the sky it comes with."""

    en: str
    zh: str
    sky: str


PEOPLE = [
    Person("Mia", "米娅", True),
    Person("Tom", "汤姆", False),
    Person("Lily", "莉莉", True),
    Person("Leo", "里奥", False),
    Person("Emma", "艾玛", True),
    Person("Jack", "杰克", False),
    Person("Nora", "诺拉", True),
    Person("Max", "马克斯", False),
    Person("Anna", "安娜", True),
    Person("Sam", "山姆", False),
    Person("Lucy", "露西", True),
    Person("Oscar", "奥斯卡", False),
    Person("Rosa", "罗莎", True),
    Person("Peter", "彼得", False),
    Person("Zoe", "佐伊", True),
    Person("Hugo", "雨果", False),
    Person("Ella", "艾拉", True),
    Person("Finn", "芬恩", False),
    Person("Molly", "茉莉", True),
    Person("David", "大卫", False),
]

ELDERS = [
    Elder("grandma", "奶奶", True),
    Elder("uncle", "叔叔", False),
    Elder("mother", "妈妈", True),
    Elder("grandpa", "爷爷", False),
    Elder("aunt", "姑姑", True),
    Elder("father", "爸爸", False),
    Elder("big sister", "姐姐", True),
    Elder("big brother", "哥哥", False),
]

PLACES = [
    Place(
        "river",
        "by",
        "河边",
        "在河边",
        ("watch the ducks", "看鸭子"),
        (
            ("The water was cold and clear.", "河水又凉又清。"),
            ("A fisherman was mending his net.", "一个渔夫正在补网。"),
        ),
    ),
    Place(
        "park",
        "in",
        "公园",
        "在公园里",
        ("feed the pigeons", "喂鸽子"),
        (
            ("Two old men were playing chess.", "两位老人正在下棋。"),
            ("A baby was laughing in its pram.", "一个婴儿在车里咯咯地笑。"),
        ),
    ),
    Place(
        "forest",
        "in",
        "森林",
        "在森林里",
        ("pick mushrooms", "采蘑菇"),
        (
            ("It smelled of pine and wet earth.", "空气里有松树和湿土的味道。"),
            ("Somewhere a woodpecker was knocking.", "不知哪儿有一只啄木鸟在敲树干。"),
        ),
    ),
    Place(
        "beach",
        "on",
        "海滩",
        "在海滩上",
        ("collect shells", "捡贝壳"),
        (
            ("Small waves rolled over the sand.", "小小的浪花漫过沙子。"),
            ("A crab hurried sideways into its hole.", "一只螃蟹横着爬回了洞里。"),
        ),
    ),
    Place(
        "market",
        "at",
        "集市",
        "在集市上",
        ("look at the jugglers", "看杂耍"),
        (
            ("The stalls were full of cheese and flowers.", "摊位上摆满了奶酪和鲜花。"),
            ("A woman was selling honey and warm bread.", "一个女人在卖蜂蜜和热面包。"),
        ),
    ),
    Place(
        "farm",
        "on",
        "农场",
        "在农场里",
        ("visit the lambs", "看小羊羔"),
        (
            ("Hens were scratching in the straw.", "母鸡正在稻草里刨食。"),
            ("The farmer drove past on his tractor.", "农夫开着拖拉机从旁边经过。"),
        ),
    ),
    Place(
        "old mill",
        "at",
        "老磨坊",
        "在老磨坊旁边",
        ("see the big wheel turn", "看大水轮转动"),
        (
            ("White flour lay on every step.", "每一级台阶上都落着白白的面粉。"),
            ("The miller waved from a small window.", "磨坊主从小窗口向外挥手。"),
        ),
    ),
    Place(
        "hill",
        "on",
        "小山",
        "在小山上",
        ("roll in the grass", "在草地上打滚"),
        (
            ("From there the houses looked like toys.", "从那里看，房子就像玩具一样。"),
            ("Sheep with black faces were eating grass.", "几只黑脸的绵羊正在吃草。"),
        ),
    ),
    Place(
        "bridge",
        "at",
        "桥边",
        "在桥边",
        ("wave at the boats", "向船只挥手"),
        (
            ("A cart rumbled over the stones.", "一辆马车轰隆隆地驶过石头路。"),
            ("Someone had carved a heart into the wood.", "有人在木头上刻了一颗心。"),
        ),
    ),
    Place(
        "harbour",
        "at",
        "港口",
        "在港口",
        ("count the ships", "数轮船"),
        (
            ("Gulls were screaming above the masts.", "海鸥在桅杆上方尖叫。"),
            ("The air tasted of salt and fish.", "空气里有一股盐和鱼的味道。"),
        ),
    ),
    Place(
        "castle",
        "at",
        "城堡",
        "在城堡里",
        ("search for the secret door", "寻找秘密的门"),
        (
            ("Ivy covered the thick grey walls.", "常春藤爬满了厚厚的灰墙。"),
            ("Two stone lions guarded the gate.", "两只石狮子守着大门。"),
        ),
    ),
    Place(
        "lake",
        "by",
        "湖边",
        "在湖边",
        ("skip stones", "打水漂"),
        (
            ("A swan glided by without a sound.", "一只天鹅静静地游了过去。"),
            ("Frogs were croaking among the reeds.", "青蛙在芦苇丛里呱呱叫。"),
        ),
    ),
    Place(
        "garden",
        "in",
        "花园",
        "在花园里",
        ("hunt for snails", "找蜗牛"),
        (
            ("Bean plants were climbing up the fence.", "豆苗正顺着篱笆往上爬。"),
            ("A hedgehog was asleep under the roses.", "一只刺猬在玫瑰丛下睡着了。"),
        ),
    ),
    Place(
        "station",
        "at",
        "车站",
        "在车站",
        ("listen for the night train", "听火车的汽笛"),
        (
            ("A porter was whistling on the platform.", "一个搬运工在站台上吹着口哨。"),
            ("The great clock struck loudly.", "大钟响亮地敲了起来。"),
        ),
    ),
]

THINGS = [
    Thing("kite", "风筝", "只", ("flew the kite above the rooftops", "把风筝放得比屋顶还高")),
    Thing(
        "doll", "布娃娃", "个", ("made a bed of leaves for the doll", "用树叶给布娃娃铺了一张床")
    ),
    Thing("lantern", "灯笼", "盏", ("told ghost stories around the lantern", "围着灯笼讲鬼故事")),
    Thing("umbrella", "雨伞", "把", ("danced under the umbrella", "在雨伞底下跳舞")),
    Thing("mask", "面具", "个", ("frightened each other with the mask", "戴上面具互相吓唬")),
    Thing("hat", "帽子", "顶", ("tossed the hat high and caught it", "把帽子高高抛起再接住")),
    Thing("scarf", "围巾", "条", ("used the scarf as a skipping rope", "拿围巾当跳绳")),
    Thing("puppet", "手偶", "个", ("put on a funny show with the puppet", "用手偶演了一出滑稽戏")),
    Thing("basket", "篮子", "个", ("threw pebbles into the basket", "往篮子里扔小石子")),
    Thing("flag", "旗子", "面", ("marched behind the flag like soldiers", "像士兵一样跟着旗子走")),
    Thing(
        "pinwheel",
        "风车",
        "个",
        ("ran in circles to spin the pinwheel", "绕着圈跑，让风车转个不停"),
    ),
    Thing(
        "crown", "纸王冠", "顶", ("gave silly orders under the crown", "戴着纸王冠下傻乎乎的命令")
    ),
    Thing(
        "book", "图画书", "本", ("looked at every picture in the book", "看完了图画书里的每一幅画")
    ),
    Thing("fan", "扇子", "把", ("pretended that the fan was a butterfly", "假装扇子是一只蝴蝶")),
    Thing("boat", "小船", "只", ("sailed the boat across a puddle", "让小船驶过一个水洼")),
    Thing("bear", "玩具熊", "只", ("carried the bear about like a baby", "像抱婴儿一样抱着玩具熊")),
]

COLORS = [
    Noun("red", "红色"),
    Noun("blue", "蓝色"),
    Noun("green", "绿色"),
    Noun("yellow", "黄色"),
    Noun("white", "白色"),
    Noun("purple", "紫色"),
    Noun("orange", "橙色"),
    Noun("brown", "棕色"),
]

ANIMALS = [
    Noun("magpie", "喜鹊", "只"),
    Noun("monkey", "猴子", "只"),
    Noun("fox", "狐狸", "只"),
    Noun("goat", "山羊", "只"),
    Noun("puppy", "小狗", "只"),
    Noun("goose", "大鹅", "只"),
]

FOODS = [
    Noun("plums", "李子", "颗"),
    Noun("biscuits", "饼干", "块"),
    Noun("pears", "梨", "个"),
    Noun("nuts", "坚果", "颗"),
    Noun("carrots", "胡萝卜", "根"),
    Noun("buns", "小面包", "个"),
]

NUMBERS = [
    Noun("two", "两"),
    Noun("three", "三"),
    Noun("four", "四"),
    Noun("five", "五"),
    Noun("six", "六"),
    Noun("seven", "七"),
    Noun("eight", "八"),
    Noun("nine", "九"),
    Noun("ten", "十"),
    Noun("eleven", "十一"),
    Noun("twelve", "十二"),
]

DAYS = [
    Day("sunny morning", "阳光明媚的早晨", "sun"),
    Day("warm spring day", "温暖的春日", "sun"),
    Day("quiet Sunday", "安静的星期天", "sun"),
    Day("windy morning", "刮风的早晨", "wind"),
    Day("stormy autumn day", "刮大风的秋日", "wind"),
    Day("breezy afternoon", "起风的下午", "wind"),
    Day("rainy morning", "下雨的早晨", "rain"),
    Day("wet afternoon", "湿漉漉的下午", "rain"),
    Day("grey day", "下着小雨的日子", "rain"),
]

MOODS = [
    Noun("happy", "开心"),
    Noun("proud", "自豪"),
    Noun("grateful", "感激"),
    Noun("sad", "难过"),
    Noun("angry", "生气"),
    Noun("sorry", "内疚"),
]

LISTS = {
    "hero": PEOPLE,
    "friend": PEOPLE,
    "elder": ELDERS,
    "toy": THINGS,
    "other": THINGS,
    "start": PLACES,
    "far": PLACES,
    "second": PLACES,
    "third": PLACES,
    "coat": COLORS,
    "colour": COLORS,
    "tint": COLORS,
    "animal": ANIMALS,
    "food": FOODS,
    "count": NUMBERS,
    "eaten": NUMBERS,
    "day": DAYS,
}
BY_NAME = {role: {entry.en: entry for entry in entries} for role, entries in LISTS.items()}
