"""How an event is told: `FORMS`, each sentence in English and in Chinese, and `forms(event, plot)`.

One choice of form fixes both languages. In a form, `{who}` is the event's main person (a pronoun
where the plot's focus makes clear who is meant), `{whom}` the other child, `{what}` the thing,
`{that}` the other thing, `{owner}` whose thing it is, `{where}` and `{there}` the places; `{hero}`,
`{toy}`, `{start}` and so on are roles of the whole story. After the dot stands what is said of
it: `{who.her}`, `{where.at}`; `spelling.py` lists all. A capital slot starts with a capital.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from minigpt.storyworld.plot import OTHER, OWNER, Event, Plot

Told = Mapping[str, list[tuple[int, str, str]]]  # kind of event: weight, English, Chinese

FORMS: Told = {
    "opening": [
        (
            3,
            "One {day}, {hero} was playing {start.at} in {hero.her} {coat} coat.",
            "一个{day}，{hero}穿着{coat}的外套{start.at}玩耍。",
        ),
        (
            2,
            "One {day}, a {hero.girl} in {coat.a} coat was sitting {start.at}: {hero}.",
            "一个{day}，有个穿{coat}外套的{hero.girl}坐{start.at}，{hero.she}就是{hero}。",
        ),
        (
            2,
            "It was {day.a}, and {hero} had come to {start} in {coat.a} coat.",
            "那是一个{day}，{hero}穿着{coat}的外套来到了{start}。",
        ),
        (
            2,
            "On {day.a}, {hero} put on {hero.her} {coat} coat and went to {start}.",
            "在一个{day}，{hero}穿上{coat}的外套，去了{start}。",
        ),
        (
            1,
            "It was {day.a}, and {hero} in {hero.her} {coat} coat was bored {start.at}.",
            "那是一个{day}，穿着{coat}外套的{hero}{start.at}闲得发慌。",
        ),
    ],
    "treasure": [
        (
            3,
            "{Who} had {toy.a_coloured} from {elder}, who lived {far.at}.",
            "{who}有{toy.a_coloured}，是住{far.at}的{elder}送的。",
        ),
        (
            2,
            "{Who} held {toy.a_coloured} that {elder} had sent from {far}.",
            "{who}拿着{toy.a_coloured}，是{elder}从{far}寄来的。",
        ),
        (
            2,
            "{Who} was carrying {toy.a_coloured}; {elder} had brought it from {far}.",
            "{who}带着{toy.a_coloured}，那是{elder}从{far}带来的。",
        ),
        (
            1,
            "{Elder}, who lived {far.at}, had just given {who.him} {toy.a_coloured}.",
            "住{far.at}的{elder}刚刚送给{who.him}{toy.a_coloured}。",
        ),
        (
            1,
            "The postman had brought {who.him} {toy.a_coloured} from {elder} {far.at}.",
            "邮递员给{who.him}送来了{toy.a_coloured}，是住{far.at}的{elder}寄的。",
        ),
    ],
    "bond": [
        (1, "{Who} loved it more than anything else.", "{who}最喜欢的就是它了。"),
        (1, "{Who} took it everywhere, even to bed.", "{who}走到哪儿都带着它，连睡觉也不例外。"),
        (1, "It always made {who.him} feel brave.", "有了它，{who.she}总觉得自己很勇敢。"),
        (1, "{Who} had even given it a secret name.", "{who}还悄悄地给它起了个名字。"),
        (1, "There was nothing finer in the whole village.", "全村再没有比它更漂亮的东西了。"),
    ],
    "meeting": [
        (
            3,
            "Then {hero.her} friend {friend} came along with {other.a_coloured}.",
            "这时，{hero.her}朋友{friend}带着{other.a_coloured}来了。",
        ),
        (
            2,
            "Soon {friend} came running with {other.a_coloured}.",
            "不一会儿，{friend}带着{other.a_coloured}跑了过来。",
        ),
        (
            2,
            '"Look what I have," called {friend}, and {friend.she} held up {other.a_coloured}.',
            "“看我有什么，”{friend}举起{other.a_coloured}喊道。",
        ),
        (
            1,
            "{Friend} from next door was there too, with {other.a_coloured}.",
            "隔壁的{friend}也在那儿，带着{other.a_coloured}。",
        ),
        (
            1,
            "Behind a tree {hero.she} met {friend}, who was playing with {other.a_coloured}.",
            "在一棵树后面，{hero.she}遇见了{friend}，{friend.she}正玩着{other.a_coloured}。",
        ),
    ],
    "plan": [
        (
            3,
            '"Let us {where.fun} {where.at}," said {who.name}.',
            "“我们去{where}{where.fun}吧，”{who.name}说。",
        ),
        (
            2,
            '"Shall we go to {where} and {where.fun}?" asked {who.name}.',
            "{who}问：“我们去{where}{where.fun}好吗？”",
        ),
        (
            1,
            "{Who} had a plan: they would {where.fun} {where.at}.",
            "{who}有个主意：去{where}{where.fun}。",
        ),
        (
            1,
            "{Who} had always wanted to {where.fun} {where.at}.",
            "{who}一直想去{where}{where.fun}。",
        ),
    ],
    "journey with both": [
        (
            2,
            "They walked to {where}, {hero} with {toy} and {friend} with {other}.",
            "{they}向{where}走去，{hero}带着{toy}，{friend}带着{other}。",
        ),
        (
            2,
            "{Hero} carried {toy}, {friend} carried {other}, and soon they reached {where}.",
            "{hero}拿着{toy}，{friend}拿着{other}，不久就到了{where}。",
        ),
        (
            1,
            "They took {toy} and {other} along and ran all the way to {where}.",
            "{they}带上{toy}和{other}，一路跑到了{where}。",
        ),
    ],
    "journey with one": [
        (
            2,
            "They walked to {where} with {what}, but {whom} left {that} {start.at}.",
            "{they}带着{what}去了{where}，{whom}却把{that}留{start.at}了。",
        ),
        (
            2,
            "{Whom} hid {that} {start.at}, and then {who} carried {what} to {where}.",
            "{whom}把{that}藏{start.at}，然后{who}带着{what}，两人一起去了{where}。",
        ),
        (
            1,
            "{That} stayed {start.at} when they set off for {where} with {what}.",
            "{they}带着{what}出发去{where}，{that}就留{start.at}了。",
        ),
    ],
    "sight": [
        (1, "{where.sight}", "{where.sight}"),
        (1, "{where.view}", "{where.view}"),
    ],
    "play": [
        (1, "There they {what.play}.", "在那儿，{they}{what.play}。"),
        (1, "For an hour they {what.play}.", "整整一个小时，{they}{what.play}。"),
        (1, "They laughed and {what.play}.", "{they}一边笑，一边{what.play}。"),
    ],
    "snack": [
        (
            1,
            "{Who} opened a bag and took out {count} {food}.",
            "{who}打开袋子，拿出{count}{food.unit}{food}。",
        ),
        (
            1,
            '"I have {count} {food} for us," said {who.name}.',
            "“我给咱们带了{count}{food.unit}{food}，”{who}说。",
        ),
        (
            1,
            "Luckily {who} had brought {count} {food}.",
            "幸好{who}带来了{count}{food.unit}{food}。",
        ),
    ],
    "meal": [
        (
            1,
            "They ate {eaten} of them and kept the rest.",
            "{they}吃了{eaten}{food.unit}，剩下的留着。",
        ),
        (
            1,
            "{Eaten} were gone in no time, and the others went back into the bag.",
            "一转眼就吃掉了{eaten}{food.unit}，其余的放回了袋子里。",
        ),
        (
            1,
            "Sitting in the grass, they shared {eaten} of them.",
            "{they}坐在草地上，分着吃了{eaten}{food.unit}。",
        ),
    ],
    "lend": [
        (
            2,
            "{Whom} wanted to hold {what}, so {who} handed it over.",
            "{whom}想拿一拿{what}，{who}就递给了{whom.him}。",
        ),
        (
            1,
            '"You may carry {what} now," {who} said to {whom}.',
            "“现在{what}给你拿，”{who}对{whom}说。",
        ),
        (
            1,
            "Because {whom} asked so nicely, {who} gave {whom.him} {what} for a while.",
            "{whom}好好地请求了一番，{who}就把{what}借给了{whom.him}。",
        ),
    ],
    "refuse": [
        (2, "{Whom} asked for {what}, but {who} said no.", "{whom}想要{what}，{who}却不肯。"),
        (1, '"No, {what} is mine," {who} told {whom}.', "“不行，{what}是我的，”{who}对{whom}说。"),
        (
            1,
            "{Whom} reached for {what}, but {who} held it tight.",
            "{whom}伸手去拿{what}，{who}却紧紧抓住不放。",
        ),
    ],
    "swap": [
        (
            2,
            "Then they swapped: {hero} took {other} and {friend} took {toy}.",
            "后来{they}交换了：{hero}拿{other}，{friend}拿{toy}。",
        ),
        (
            1,
            "{Friend} gave {hero} {other} and got {toy} for it.",
            "{friend}把{other}给了{hero}，换来了{toy}。",
        ),
        (
            1,
            '"Let us trade," said {hero}, so {friend} took {toy} and {hero} got {other}.',
            "“我们换着玩吧，”{hero}说，于是{friend}拿了{toy}，{hero}得到了{other}。",
        ),
    ],
    "walk on": [
        (1, "After a while they walked on to {where}.", "过了一会儿，{they}又走到了{where}。"),
        (1, "Then they raced each other to {where}.", "然后{they}比赛跑到了{where}。"),
        (
            1,
            '"Follow me to {where}," called {friend}, and off they went.',
            "“跟我去{where}，”{friend}喊道，{they}就出发了。",
        ),
        (1, "Later a narrow path led them to {where}.", "后来，一条小路把{they}带到了{where}。"),
    ],
    "stolen": [
        (
            2,
            "Suddenly {animal} grabbed {what} and fled to {where}.",
            "突然，{animal}叼起{what}，逃到{where}去了。",
        ),
        (
            1,
            "Just then {animal} snatched {what} from {who} and carried it off to {where}.",
            "正在这时，{animal}从{who}手里抢走{what}，带到{where}去了。",
        ),
        (
            1,
            "{Who} looked away, and {animal} dragged {what} to {where}.",
            "{who}刚一转头，{animal}就把{what}拖到{where}去了。",
        ),
    ],
    "torn": [
        (
            2,
            "Then {who} stumbled over a root and tore a big hole in {what}.",
            "后来，{who}被树根绊倒，把{what}划破了一个大洞。",
        ),
        (
            1,
            "{What} caught on a rusty nail, and {who} heard it rip.",
            "{what}被生锈的钉子钩住，{who}听见它嘶的一声破了。",
        ),
        (
            1,
            "When {who} climbed over a fence, a thorn ripped {what}.",
            "{who}翻过篱笆时，一根刺把{what}划破了。",
        ),
    ],
    "slipped": [
        (
            1,
            "{Who} slipped in the mud, fell on {what} and ripped it.",
            "{who}在泥地里滑倒，压在{what}上，把它弄破了。",
        ),
        (
            1,
            "The rain made the path slippery, {who} fell, and {what} got a hole.",
            "雨天路滑，{who}摔了一跤，{what}破了一个洞。",
        ),
    ],
    "blown": [
        (
            2,
            "A strong wind tore {what} from {who.names} hands and blew it to {where}.",
            "一阵大风从{who}手里卷走了{what}，把它吹到了{where}。",
        ),
        (
            1,
            "Whoosh, the wind lifted {what} away from {who} and dropped it {where.at}.",
            "呼的一声，风刮走了{who}手里的{what}，让它落{where.at}。",
        ),
        (
            1,
            "The storm grew wild, {who} let go, and {what} flew to {where}.",
            "风越刮越猛，{who}手一松，{what}就飞到了{where}。",
        ),
    ],
    "taken": [
        (
            1,
            "So {who} snatched {what} and ran away to {where}.",
            "于是{who}一把抢过{what}，跑到{where}去了。",
        ),
        (
            1,
            "{Who} grew so cross that {who.she} took {what} and ran to {where}.",
            "{who}越想越气，抢了{what}就跑到{where}去了。",
        ),
        (
            1,
            '"Then I will just take it," shouted {who.name} and rushed off to {where} with {what}.',
            "“那我就自己拿，”{who}大喊一声，带着{what}冲到{where}去了。",
        ),
    ],
    "forgotten": [
        (
            2,
            "Only there did {who} notice that {what} was still {where.at}.",
            "到了那儿，{who}才发现{what}还{where.at}。",
        ),
        (
            1,
            '"Oh no, I left {what} {where.at}," cried {who.name}.',
            "“糟了，我把{what}忘{where.at}了，”{who}喊道。",
        ),
        (
            1,
            "{Who} looked down at two empty hands: {what} was lying {where.at}.",
            "{who}低头一看，两手空空：{what}落{where.at}了。",
        ),
    ],
    "grief stolen": [
        (1, "{Who} was sad because the thief had {what}.", "{what}被偷走了，{who}很难过。"),
        (1, "{Who} wept, for a thief had {what} now.", "{who}哭了，因为小偷拿走了{what}。"),
        (
            1,
            '"Stop the thief," cried {who.name}, but it was too late.',
            "“抓小偷，”{who}大喊，可是已经太晚了。",
        ),
    ],
    "grief torn": [
        (1, "{Who} was sad because {what} was torn.", "{what}破了，{who}很难过。"),
        (1, "{Who} stared at the hole and swallowed hard.", "{who}盯着那个破洞，说不出话来。"),
        (1, '"My poor {what.noun}," sobbed {who.name}.', "“我可怜的{what}，”{who}抽泣着说。"),
    ],
    "grief blown": [
        (1, "{Who} was sad because the wind had {what}.", "{what}被风吹走了，{who}很难过。"),
        (1, "{Who} shook a fist at the clouds and cried.", "{who}朝着云挥拳头，哭了起来。"),
        (
            1,
            '"Give it back, you silly wind," shouted {who.name} with tears in {who.her} eyes.',
            "“还给我，坏风，”{who}眼泪汪汪地喊道。",
        ),
    ],
    "grief forgotten": [
        (1, "{Who} was sad because {what} was all alone.", "{what}孤零零的，{who}很难过。"),
        (1, "A lump rose in {who.names} throat.", "{who}的喉咙一下子哽住了。"),
        (1, '"Somebody will take it," wailed {who.name}.', "“会被别人拿走的，”{who}哭着说。"),
    ],
    "grief taken": [
        (1, "{Who} was angry because {whom} had {what}.", "{what}被{whom}抢走了，{who}很生气。"),
        (
            1,
            "{Who} stamped {who.her} foot and called {whom} a robber.",
            "{who}跺着脚，骂{whom}是强盗。",
        ),
        (1, '"That is not fair," yelled {who.name}.', "“这不公平，”{who}大叫。"),
    ],
    "regret": [
        (1, '"I am so sorry," whispered {who.name}.', "“真对不起，”{who}小声说。"),
        (
            1,
            "{Who} blushed, because {who.she} should have taken better care of {what}.",
            "{who}脸红了，{who.she}本该把{what}看好的。",
        ),
        (1, "{Who} did not dare to look at {whom}.", "{who}不敢看{whom}。"),
    ],
    "comfort": [
        (1, '"Do not worry," said {who.name} softly.', "“别担心，”{who}轻轻地说。"),
        (1, "{Who} put an arm around {whom}.", "{who}搂住了{whom}。"),
        (1, "{Who} thought hard about what to do.", "{who}苦苦地想着该怎么办。"),
    ],
    "comfort with the coat": [
        (
            1,
            "{Who} dried {whom.names} tears with {who.her} {coat} coat.",
            "{who}用{coat}的外套擦干了{whom.names}眼泪。",
        ),
        (
            1,
            "{Who} laid {who.her} {coat} coat around {whom}.",
            "{who}把{coat}的外套披在{whom}身上。",
        ),
    ],
    "found together": [
        (
            1,
            "Hand in hand they hurried to {where}, and there was {what}.",
            "{they}手拉手赶到{where}，{what}就在那儿。",
        ),
        (
            1,
            "They searched {where} together until {owner} held {what} again.",
            "{they}一起{where.at}找了又找，{owner}终于又拿到了{what}。",
        ),
        (
            1,
            "Together they went to {where}, where {owner} picked up {what}.",
            "{they}一起去了{where}，{owner}在那儿捡起了{what}。",
        ),
    ],
    "elder brings": [
        (
            1,
            "But {elder} came from {where} and gave {owner} {what}.",
            "不过{elder}从{where}来了，把{what}交给了{owner}。",
        ),
        (
            1,
            "Just then {elder} arrived from {where} and handed {what} to {owner}.",
            "正在这时，{elder}从{where}走来，把{what}递给了{owner}。",
        ),
        (
            1,
            "Luckily {elder} had seen {what} {where.at} and brought it to {owner}.",
            "幸好{elder}在{where}看见了{what}，给{owner}送了过来。",
        ),
    ],
    "given up": [
        (
            1,
            "But {where} was too far away, so {what} stayed there.",
            "可是{where}太远了，{what}只好留在那儿。",
        ),
        (
            1,
            "It was getting late, and nobody went to {where} for {what}.",
            "天色晚了，没有人去{where}找{what}。",
        ),
        (
            1,
            "They were too tired to go to {where} and gave {what} up.",
            "{they}太累了，不想去{where}，只好不要{what}了。",
        ),
    ],
    "fetch stolen": [
        (
            1,
            "{Who} crept to {where} and took {what} from {animal.the}.",
            "{who}悄悄来到{where}，从{animal.the}那儿拿走了{what}。",
        ),
        (
            1,
            "{Who} ran to {where} and traded a crust of bread for {what}.",
            "{who}跑到{where}，用一块面包皮换回了{what}。",
        ),
        (
            1,
            "At {where} {who} clapped loudly, {animal.the} fled, and {what} was saved.",
            "{who}在{where}用力拍手，吓跑了{animal.the}，救回了{what}。",
        ),
    ],
    "fetch blown": [
        (
            1,
            "{Who} ran to {where} and pulled {what} out of a bush.",
            "{who}跑到{where}，从灌木丛里拉出了{what}。",
        ),
        (
            1,
            "{Who} went to {where} and shook {what} down from a branch.",
            "{who}来到{where}，把{what}从树枝上摇了下来。",
        ),
        (1, "At {where} {who} found {what} in a ditch.", "{who}在{where}的水沟里找到了{what}。"),
    ],
    "fetch forgotten": [
        (
            1,
            "{Who} ran back to {where} and found {what} under a bench.",
            "{who}跑回{where}，在长椅下面找到了{what}。",
        ),
        (
            1,
            "{Who} turned around, went to {where} and picked up {what}.",
            "{who}转身回到{where}，捡起了{what}。",
        ),
        (
            1,
            "Back at {where} {who} discovered {what} behind a stone.",
            "{who}回到{where}，在一块石头后面发现了{what}。",
        ),
    ],
    "fail stolen": [
        (
            1,
            "{Who} ran after {animal.the} to {where}, but it would not let go of {what}.",
            "{who}追到{where}，可是{animal.the}就是不肯松开{what}。",
        ),
        (
            1,
            "{Who} went to {where}, but {animal.the} growled and kept {what}.",
            "{who}去了{where}，可是{animal.the}凶巴巴地守着{what}。",
        ),
    ],
    "fail blown": [
        (
            1,
            "{Who} ran to {where}, but {what} hung too high in a tree.",
            "{who}跑到{where}，可是{what}挂在树上，太高了。",
        ),
        (
            1,
            "{Who} went to {where}, but nobody could reach {what} on the roof.",
            "{who}去了{where}，可是{what}落在屋顶上，谁也够不着。",
        ),
    ],
    "fail forgotten": [
        (
            1,
            "{Who} ran back to {where} but could not find {what} in the dusk.",
            "{who}跑回{where}，可是天黑了，找不到{what}。",
        ),
        (
            1,
            "{Who} went to {where}, but {what} had slipped under a locked gate.",
            "{who}去了{where}，可是{what}滑到锁着的大门里面去了。",
        ),
    ],
    "come back": [
        (1, "{Who} came back to {where}, hugging {what}.", "{who}抱着{what}回到了{where}。"),
        (
            1,
            "Soon {who} was {where.at} again and waved {what}.",
            "不久{who}又回到了{where}，挥舞着{what}。",
        ),
        (
            1,
            "With {what} {who} returned to {whom} {where.at}.",
            "{who}带着{what}回到{where}，回到了{whom}身边。",
        ),
    ],
    "bring": [
        (
            1,
            "{Who} came back to {where} and gave {what} to {whom}.",
            "{who}回到{where}，把{what}还给了{whom}。",
        ),
        (
            1,
            "Out of breath, {who} brought {what} to {whom} {where.at}.",
            "{who}上气不接下气地跑回{where}，把{what}交给{whom}。",
        ),
        (
            1,
            '"Here is your {what.noun}," {who} told {whom} {where.at}.',
            "“给你{what}，”{who}回到{where}对{whom}说。",
        ),
    ],
    "keep": [
        (
            1,
            "But {who} liked {what} so much that {who.she} kept it.",
            "可是{who}太喜欢{what}了，就自己留下了。",
        ),
        (
            1,
            '"Now it belongs to me," thought {who.name} and did not give {what} back.',
            "“现在是我的了，”{who}心想，没有把{what}还回去。",
        ),
    ],
    "mend": [
        (
            1,
            "{Who} sat down and mended {what} with needle and thread.",
            "{who}坐下来，用针线补好了{what}。",
        ),
        (
            1,
            "With a patch and some glue {who} made {what} whole again.",
            "{who}用补丁和胶水把{what}修好了。",
        ),
    ],
    "mend for": [
        (
            1,
            "{Who} mended {what} with needle and thread and gave it to {whom}.",
            "{who}用针线补好了{what}，交给了{whom}。",
        ),
        (
            1,
            "With a patch and some glue {who} repaired {what} for {whom}.",
            "{who}用补丁和胶水给{whom}修好了{what}。",
        ),
        (
            1,
            '"I know how to sew," said {who.name} and closed the hole in {whom.names} {what.noun}.',
            "“我会缝，”{who}说着补好了{whom.names}{what}。",
        ),
    ],
    "elder mends": [
        (
            1,
            "{Elder} came by and took {what} home to {far} to mend it.",
            "{elder}正好路过，把{what}带回{far}去补。",
        ),
        (
            1,
            '"I can fix that," said {elder} and carried {what} to {far}.',
            "“我能修好，”{elder}说着把{what}带到{far}去了。",
        ),
    ],
    "elder keeps": [
        (
            1,
            "But {elder} had found {what} {where.at} and taken it home to {far}.",
            "不过{elder}{where.at}捡到了{what}，带回{far}去了。",
        ),
        (
            1,
            "Luckily {elder} picked up {what} {where.at} and locked it away {far.at}.",
            "幸好{elder}{where.at}捡到了{what}，收{far.at}了。",
        ),
    ],
    "spoiled": [
        (1, "Nobody knew how to mend {what}.", "谁也不知道怎么修好{what}。"),
        (
            1,
            "They tried to repair {what}, but the hole only grew.",
            "{they}想修好{what}，可是洞越来越大。",
        ),
    ],
    "sorry": [
        (
            1,
            "But {who} soon came back to {where} and gave {what} to {whom}.",
            "可是{who}很快回到{where}，把{what}还给了{whom}。",
        ),
        (
            1,
            "After a while {who} felt ashamed, returned to {where} and handed {what} to {whom}.",
            "过了一会儿，{who}觉得羞愧，回到{where}把{what}还给了{whom}。",
        ),
        (
            1,
            '"Forgive me," said {who.name} back {where.at}, and {whom} got {what} again.',
            "“原谅我吧，”{who}回到{where}说，{whom}又拿回了{what}。",
        ),
    ],
    "ask back": [
        (
            1,
            "{Who} followed {whom} to {where} and took {what} back.",
            "{who}跟着{whom}到了{where}，拿回了{what}。",
        ),
        (
            1,
            "{Who} went to {where} and asked {whom} firmly until {who.she} had {what} again.",
            "{who}来到{where}，一再向{whom}要，终于拿回了{what}。",
        ),
    ],
    "forgive": [
        (
            1,
            "{Who} walked to {where} and said that {whom} could keep {what}.",
            "{who}走到{where}，说{what}就送给{whom}了。",
        ),
        (
            1,
            '"You can have {what}," {who} told {whom} {where.at}.',
            "“{what}送给你吧，”{who}来到{where}对{whom}说。",
        ),
    ],
    "stay away": [
        (
            1,
            "{Who} did not come back and hid behind a wall with {what}.",
            "{who}没有回来，带着{what}躲到了一堵墙后面。",
        ),
        (
            1,
            "All day {who} stayed there alone with {what}.",
            "一整天，{who}都带着{what}独自待在那儿。",
        ),
    ],
    "give instead": [
        (
            1,
            '"Take {what} instead," said {who.name} and gave it to {whom}.',
            "“那就拿{what}吧，”{who}说着递给了{whom}。",
        ),
        (
            1,
            "To cheer {whom} up, {who} gave away {what}.",
            "为了让{whom}高兴起来，{who}把{what}送给了{whom.him}。",
        ),
        (
            1,
            "Then {who} pressed {what} into {whom.names} hands.",
            "然后{who}把{what}塞到了{whom}手里。",
        ),
    ],
    "lend in thanks": [
        (
            1,
            '"You may keep {what} until tomorrow," {who} told {whom}.',
            "“{what}可以借你玩到明天，”{who}对{whom}说。",
        ),
        (
            1,
            "To say thank you, {who} let {whom} take {what} for a week.",
            "为了表示感谢，{who}让{whom}把{what}拿去玩一个星期。",
        ),
    ],
    "share": [
        (
            1,
            "{Who} gave {whom} the last {left} {food}.",
            "{who}把最后{left}{food.unit}{food}给了{whom}。",
        ),
        (
            1,
            "There were {left} {food} left, and {whom} got them all from {who}.",
            "还剩{left}{food.unit}{food}，{who}全给了{whom}。",
        ),
    ],
    "tell": [
        (
            1,
            "{Who} went to {where} and told {elder} everything about {toy.coloured}.",
            "{who}去了{where}，跟{elder}说了{toy.coloured}遇到的一切。",
        ),
        (
            1,
            "{Who} visited {elder} {where.at} and spoke of {toy.coloured}.",
            "{who}来到{where}看望{elder}，说起了{toy.coloured}。",
        ),
        (
            1,
            "In the evening {who} walked to {where}, where {elder} asked about {toy.coloured}.",
            "傍晚，{who}走到{where}，{elder}问起了{toy.coloured}。",
        ),
    ],
    "go home with nothing": [
        (
            1,
            "{Who} walked back to {where}, but {whom} stayed {there.at}.",
            "{who}走回了{where}，{whom}留{there.at}了。",
        ),
        (
            1,
            "At sunset {whom} was still {there.at}, and {who.name} trotted back to {where}.",
            "太阳下山时，{whom}还{there.at}，{who.name}慢慢走回了{where}。",
        ),
    ],
    "go home with one": [
        (
            1,
            "{Who} took {what} back to {where}, but {whom} stayed {there.at}.",
            "{who}带着{what}回到了{where}，{whom}留{there.at}了。",
        ),
        (
            1,
            "At sunset {whom} was still {there.at}, and {who.name} carried {what} back to {where}.",
            "太阳下山时，{whom}还{there.at}，{who.name}把{what}带回了{where}。",
        ),
    ],
    "go home with both": [
        (
            1,
            "{Who} took {toy} and {other} back to {where}, but {whom} stayed {there.at}.",
            "{who}带着{toy}和{other}回到了{where}，{whom}留{there.at}了。",
        ),
        (
            1,
            "{Whom} stayed {there.at}, while {who.name} carried {toy} and {other} back to {where}.",
            "{whom}留{there.at}，{who.name}把{toy}和{other}都带回了{where}。",
        ),
    ],
    "go home together": [
        (1, "Arm in arm they went back to {where}.", "{they}手挽手回到了{where}。"),
        (
            1,
            "When the stars came out, both were {where.at} again.",
            "星星出来的时候，两人又回到了{where}。",
        ),
    ],
    "rejoin": [
        (1, "{Who} went to {whom} {where.at}.", "{who}去{where}找{whom}。"),
        (
            1,
            "A little later {who} joined {whom} {where.at}.",
            "过了一会儿，{who}也来到{where}，和{whom}待在一起。",
        ),
    ],
    "it lies": [
        (
            1,
            "As for {what.coloured}, it was still {where.at}.",
            "至于{what.coloured}，它还{where.at}。",
        ),
        (1, "{What.coloured} lay forgotten {where.at}.", "{what.coloured}被遗忘{where.at}了。"),
        (
            1,
            "Nobody touched {what.coloured}, which was still {where.at}.",
            "谁也没有去动{what.coloured}，它还{where.at}。",
        ),
    ],
    "it is held": [
        (1, "As for {what.coloured}, {who} had it now.", "至于{what.coloured}，现在由{who}保管。"),
        (
            1,
            "{What.coloured} was with {who} from that day on.",
            "从那天起，{what.coloured}就归{who}了。",
        ),
    ],
    "it is kept": [
        (1, "As for {what.coloured}, {who} still had it.", "至于{what.coloured}，还在{who}那儿。"),
        (
            1,
            "{Who} never let {what.coloured} out of sight again.",
            "{who}再也没有让{what.coloured}离开过自己。",
        ),
    ],
    "feel happy": [
        (1, "{Who} was happy and slept well that night.", "{who}很开心，那天晚上睡得很香。"),
        (1, "Never had {who} felt so happy.", "{who}从来没有这么开心过。"),
        (
            1,
            "{Who} laughed out loud, happy that all was well.",
            "一切都好好的，{who}开心得大笑起来。",
        ),
    ],
    "feel proud": [
        (1, "{Who} was proud and stood a little taller.", "{who}很自豪，觉得自己长高了一点儿。"),
        (1, "{Who} felt proud like a captain.", "{who}自豪得像个船长。"),
        (1, "That night {who} was too proud to fall asleep.", "那天晚上，{who}自豪得睡不着觉。"),
    ],
    "feel grateful": [
        (1, "{Who} was grateful and said thank you three times.", "{who}很感激，说了三遍谢谢。"),
        (
            1,
            "{Who} was so grateful that {who.she} drew a picture to say so.",
            "{who}非常感激，画了一幅画来道谢。",
        ),
        (
            1,
            "{Who} felt grateful, because somebody had been kind.",
            "{who}心里充满感激，因为有人对{who.him}这么好。",
        ),
    ],
    "feel sad": [
        (1, "{Who} was sad and went to bed without supper.", "{who}很难过，没吃晚饭就上床了。"),
        (1, "{Who} stayed sad for a long time.", "{who}难过了很久。"),
        (1, "That night {who} was sad and counted raindrops.", "那天晚上，{who}难过地数着雨点。"),
    ],
    "feel angry": [
        (1, "{Who} was angry and slammed every door.", "{who}很生气，把每扇门都摔得砰砰响。"),
        (1, "{Who} was still angry a week later.", "过了一个星期，{who}还在生气。"),
        (
            1,
            "{Who} was angry and did not speak to {whom} again.",
            "{who}很生气，再也不跟{whom}说话了。",
        ),
    ],
    "feel sorry": [
        (
            1,
            "{Who} felt sorry and wrote {whom} a long letter.",
            "{who}很内疚，给{whom}写了一封长信。",
        ),
        (1, "{Who} was sorry but did not know what to say.", "{who}很内疚，却不知道该说什么。"),
        (
            1,
            "That night {who} lay awake and was sorry for everything.",
            "那天晚上，{who}躺着睡不着，为这一切感到内疚。",
        ),
    ],
    "lesson stolen": [
        (
            1,
            "Since then {who} has always watched out for animals {second.at}.",
            "从那以后，{who}{second.at}总是提防着小动物。",
        ),
        (
            1,
            '"Thieves are everywhere," {who} wrote in {who.her} diary.',
            "“到处都有小偷，”{who}在日记里写道。",
        ),
    ],
    "lesson torn": [
        (
            1,
            "Since then {who} has always looked where to step {second.at}.",
            "从那以后，{who}{second.at}走路总是看着脚下。",
        ),
        (
            1,
            '"Slowly is faster," {who} wrote in {who.her} diary.',
            "“慢一点反而更快，”{who}在日记里写道。",
        ),
    ],
    "lesson blown": [
        (
            1,
            "Since then {who} has always held on tightly {second.at}.",
            "从那以后，{who}{second.at}总是把东西抓得牢牢的。",
        ),
        (
            1,
            '"Never trust the wind," {who} wrote in {who.her} diary.',
            "“永远别相信风，”{who}在日记里写道。",
        ),
    ],
    "lesson forgotten": [
        (
            1,
            "Since then {who} has always looked twice before leaving {second}.",
            "从那以后，{who}离开{second}前总要回头看两遍。",
        ),
        (
            1,
            '"My head is a sieve," {who} wrote in {who.her} diary.',
            "“我的记性像个筛子，”{who}在日记里写道。",
        ),
    ],
    "lesson taken": [
        (1, "Since then {who} has always asked first.", "从那以后，{who}总是先问一声再拿。"),
        (
            1,
            '"Asking is better than grabbing," {who} wrote in {who.her} diary.',
            "“问一声比抢好，”{who}在日记里写道。",
        ),
    ],
    "dream": [
        (
            1,
            "That night {who} dreamed of {toy.a_coloured} as big as a house.",
            "那天夜里，{who}梦见了{toy.a_coloured}，大得像一座房子。",
        ),
        (
            1,
            "Before falling asleep, {who} thought of {elder} and of {second}.",
            "入睡以前，{who}想起了{elder}，也想起了{second}。",
        ),
        (
            1,
            "In {who.names} dreams {toy.coloured} learned to talk.",
            "在{who}的梦里，{toy.coloured}学会了说话。",
        ),
    ],
    "tomorrow": [
        (
            1,
            '"Tomorrow I will {where.fun} {where.at}," said {who.name}.',
            "“明天我要去{where}{where.fun}，”{who}说。",
        ),
        (
            1,
            "{Who} went to sleep and hoped to {where.fun} {where.at} the next day.",
            "{who}睡着了，盼着第二天去{where}{where.fun}。",
        ),
        (1, "{Who} drew a map of the way to {where}.", "{who}画了一张去{where}的地图。"),
        (
            1,
            "{Who} could hardly wait to {where.fun} {where.at}.",
            "{who}恨不得马上去{where}{where.fun}。",
        ),
    ],
    "appointment": [
        (
            1,
            '"Let us meet {where.at} tomorrow," said {who.name} to {whom}.',
            "“我们明天{where.at}见吧，”{who}对{whom}说。",
        ),
        (
            1,
            "{Who} promised {whom} to come to {where} the next day.",
            "{who}答应{whom}，第二天到{where}去。",
        ),
    ],
    "good end": [
        (1, "It had been a good day after all.", "这到底还是美好的一天。"),
        (1, "And the moon smiled down on {second}.", "月亮微笑着照着{second}。"),
        (1, "{Hero} and {friend} remained friends for ever.", "{hero}和{friend}永远是好朋友。"),
    ],
    "mixed end": [
        (1, "It had been a strange day.", "这真是奇怪的一天。"),
        (
            1,
            "One of them smiled that night, and the other did not.",
            "那天晚上，两个人一个在笑，一个却笑不出来。",
        ),
        (1, "The moon looked down on {second} and wondered.", "月亮照着{second}，觉得很奇怪。"),
    ],
    "bad end": [
        (1, "It had not been a good day.", "这可不是美好的一天。"),
        (1, "A cold moon looked down on {second}.", "冷冷的月亮照着{second}。"),
        (
            1,
            "{Hero} and {friend} hardly spoke on the next day.",
            "第二天，{hero}和{friend}几乎没说话。",
        ),
    ],
}


class Form(NamedTuple):
    """One way to tell an event: templates for the %-operator over the slots that `spell` fills."""

    en: str
    zh: str


def forms(event: Event, plot: Plot, told: Told = FORMS) -> list[tuple[int, Form]]:
    """Return the ways to tell `event` in `plot` as (integer weight, form), their slots resolved."""
    roles = own_roles(event.who, event.what, event.where) | {"there": event.there}
    return [
        (weight, Form(resolve(en, roles, plot.focus), resolve(zh, roles, plot.focus)))
        for weight, en, zh in told[event.kind]
    ]


SLOT = re.compile(r"\{(?P<role>\w+)(?P<case>\.\w+)?\}")


def own_roles(who: str = "", what: str = "", where: str = "") -> dict[str, str]:
    """Return which roles of the story the slots of one event stand for."""
    roles = {"who": who, "whom": OTHER.get(who, ""), "where": where}
    return roles | {"what": what, "that": OTHER.get(what, ""), "owner": OWNER.get(what, "")}


def resolve(text: str, roles: Mapping[str, str], focus: str = "") -> str:
    """Turn `{Who}` into `%(Hero)s` or, where a pronoun is clear, into `%(Hero.she)s`, and so on.

    >>> resolve("{Who} ran {where.at}.", {"who": "hero", "where": "start"}, focus="hero")
    '%(Hero.she)s ran %(start.at)s.'
    """

    def follows_hero(before: str) -> bool:
        return roles.get("who") == "hero" and "{who" in before.lower()

    def key_of(slot: re.Match) -> str:
        name, case = slot["role"].lower(), slot["case"] or ""
        role = roles.get(name, name)
        assert role, f"{slot[0]} has no meaning in {text!r}"
        if name == "who" and role == focus:
            case = {"": ".she", ".names": ".her"}.get(case, case)
        case = case.removesuffix(".name")
        if role == "elder" and (focus == "hero" or follows_hero(text[: slot.start()])):
            case = ".hers"
        key = role + case
        return f"%({key.capitalize() if slot['role'][0].isupper() else key})s"

    return SLOT.sub(key_of, text)
