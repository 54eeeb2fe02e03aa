#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Write train.jsonl and eval.jsonl: short stories and facts about one small made-up world.

The world is a set of tables (who lives where, which thing has which colour), so every text agrees
with every other and a very small model can know it all. Needs nothing but Python's own library.

    python3 data/make_corpus.py            # writes data/train.jsonl and data/eval.jsonl
    python3 data/make_corpus.py --check    # fails if the files in the tree differ from what it makes
"""
import argparse
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN_SEED, EVAL_SEED, MODEL_SEED = 11, 12, 13
TRAIN_ROWS, EVAL_ROWS = 680, 100
WORDS_MIN, WORDS_MAX = 82, 102  # a row of so many words has about 100 to 130 tokens

# name, she/he, work, home, pet, the pet's name, food, colour, friend
PEOPLE = [
    ("Anna", "she", "baker", "mill", "cat", "Milo", "warm bread", "red", "Tom"),
    ("Tom", "he", "fisher", "harbour", "dog", "Rex", "fish soup", "blue", "Anna"),
    ("Mara", "she", "gardener", "green house", "hen", "Dot", "plum cake", "green", "Ben"),
    ("Ben", "he", "carpenter", "old barn", "goat", "Bell", "apple pie", "brown", "Mara"),
    ("Lily", "she", "teacher", "school", "mouse", "Pip", "honey cake", "yellow", "Oscar"),
    ("Oscar", "he", "doctor", "stone house", "owl", "Sage", "onion soup", "white", "Lily"),
    ("Nora", "she", "sailor", "lighthouse", "parrot", "Kiwi", "rice and beans", "orange", "Felix"),
    ("Felix", "he", "painter", "tower", "fox", "Rusty", "roast corn", "purple", "Nora"),
    ("Ruth", "she", "shepherd", "hill farm", "sheep", "Cloud", "goat cheese", "grey", "Simon"),
    ("Simon", "he", "miller", "water mill", "donkey", "Oats", "nut bread", "black", "Ruth"),
    ("Ivy", "she", "weaver", "cottage", "rabbit", "Clover", "carrot stew", "pink", "Hugo"),
    ("Hugo", "he", "smith", "forge", "horse", "Ember", "baked beans", "silver", "Ivy"),
]
# thing, colour, made of, who made it, where it is kept
THINGS = [
    ("lantern", "silver", "tin", "Hugo", "on the high shelf"),
    ("basket", "yellow", "straw", "Ivy", "behind the door"),
    ("kite", "red", "paper", "Felix", "under the bed"),
    ("boat", "blue", "wood", "Ben", "beside the pier"),
    ("blanket", "grey", "wool", "Ruth", "in the big chest"),
    ("key", "black", "iron", "Hugo", "above the gate"),
    ("drum", "orange", "leather", "Simon", "near the stove"),
    ("map", "white", "paper", "Nora", "inside the clock"),
    ("flute", "brown", "wood", "Ben", "on the window"),
    ("coat", "green", "wool", "Ivy", "in the wardrobe"),
    ("bell", "golden", "brass", "Hugo", "under the stairs"),
    ("net", "purple", "rope", "Tom", "in the shed"),
]
# place, who keeps it, what is sold or done there, what lies next to it
PLACES = [
    ("market", "Mara", "people buy plums and beans", "bridge"),
    ("bridge", "Simon", "boats pass below", "river"),
    ("river", "Tom", "fish swim in the deep water", "forest"),
    ("forest", "Ruth", "owls sleep in the tall trees", "hill"),
    ("hill", "Felix", "the wind is strong", "meadow"),
    ("meadow", "Ivy", "bees hum in the clover", "well"),
    ("well", "Oscar", "the water is always cold", "garden"),
    ("garden", "Lily", "roses climb the wall", "market"),
    ("beach", "Nora", "shells lie in the sand", "harbour"),
    ("harbour", "Anna", "ships come in at night", "bridge"),
]
ANIMALS = [
    ("A cat", "sleeps in the sun", "drinks milk"), ("A dog", "guards the door", "eats bones"),
    ("A hen", "sits in the straw", "eats corn"), ("A goat", "climbs on rocks", "eats leaves"),
    ("A mouse", "hides in a hole", "eats cheese"), ("An owl", "flies at night", "eats beetles"),
    ("A parrot", "talks all day", "eats nuts"), ("A fox", "runs in the snow", "eats berries"),
    ("A sheep", "stands on the hill", "eats grass"), ("A donkey", "pulls the cart", "eats oats"),
    ("A rabbit", "digs in the meadow", "eats carrots"), ("A horse", "runs on the road", "eats hay"),
]
WEATHER = [("sunny", "The sun was warm"), ("rainy", "The rain fell softly"), ("windy", "The wind was loud"),
           ("snowy", "The snow was deep"), ("foggy", "The fog was thick"), ("cold", "The air was sharp")]
FEELING = ["happy", "tired", "proud", "hungry", "worried", "calm"]

PLOTS = {
    "lost": [
        "One {weather} {morning|evening|day}, {H} could not find the {T}.",
        "{It was made of {Tm}, and {Tmaker} had made it.|It was {Tc}, and {H} loved it very much.}",
        "{H} looked under the table, {but it was not there|but there was only dust|and found an old shoe}.",
        "{Then|So} {h} asked {F}, {hisher} best friend, for help.",
        "\"{Where did you last see it?|When did you lose it?}\" asked {F}.",
        "\"{I had it at the {P}|I took it to the {P}},\" said {H}.",
        "They walked {past the {N}|along the road|hand in hand} to the {P}, where {Pdo}.",
        "{Pk} was there, {as always|hard at work|with a big smile}.",
        "\"{I have not seen the {T}|No {T} here, my friends},\" said {Pk}.",
        "At last {A} the {Ap} {barked|jumped|ran} and showed them the way home.",
        "The {Tc} {T} was {Tw}, where it always was.",
        "{H} laughed, and {F} laughed too.",
        "They ate {food} {until it was dark|and told stories|by the fire}.",
    ],
    "gift": [
        "{F} the {Fjob} had a birthday, and {H} the {job} wanted to bring a gift.",
        "{H} {took|chose} the {Tc} {T} from {Tmaker}, because {F} {needed one|had always wanted one}.",
        "It was a {weather} {morning|evening|day}. {Wsent}.",
        "On the way {h} came to the {P}, where {Pdo}.",
        "\"{Good day|Hello|Come in}, {H},\" said {Pk}. \"What do you carry?\"",
        "\"A {T} of {Tm} for {F},\" said {H}.",
        "\"{That is a fine gift|How kind of you},\" said {Pk}.",
        "{H} {thanked {Pk}|waved} and went on to the {Fhome}, {for {F} lives there|where {F} lives}.",
        "{F} was {feeling} when {H} came.",
        "\"{For me?|Is this for me?}\" asked {F}. \"{It is just what I need|I am so glad}.\"",
        "They put the {T} {Tw} and ate {Ffood}, which {F} likes best.",
        "{A} the {Ap} slept {by the fire|under the table|on a chair}.",
    ],
    "storm": [
        "A storm came to the {P} in the night.",
        "{Pk}, who keeps the {P}, was {worried|cold and tired}.",
        "{H} heard the {wind|thunder|rain} at the {home} and could not sleep.",
        "\"{We must help {Pk}|{Pk} is all alone},\" {h} said to {A} the {Ap}.",
        "{H} took the {T} and {hisher} {colour} coat and ran {past the {N}|through the rain|into the dark}.",
        "{F} the {Fjob} came too, {with a rope|with a ladder|with a lamp}.",
        "Together they {closed the gate|tied the boats|saved the hens|carried the sacks}.",
        "{It took all night|The work was hard|Nobody was hurt}, and in the morning the sky was clear.",
        "\"{Thank you, {H}|You are good friends},\" said {Pk}.",
        "{Pk} gave {H} some {food} and gave {F} some {Ffood}.",
        "{H} was {tired|happy|proud}, and {F} was {tired|happy|proud} too.",
        "From that day on, the {T} stayed at the {home}, {Tw}.",
    ],
    "pet": [
        "{H} the {job} has a {Ap} named {A}.",
        "One {weather} {morning|evening|day}, {A} ran away from the {home}.",
        "{H} {called and called|cried|ran after {A}}, but the {Ap} did not come.",
        "{Wsent}, and {h} had only the {Tc} {T}.",
        "First {h} went to the {P}, where {Pdo}.",
        "\"Have you seen {A}?\" asked {H}. \"{No|Not today|I am sorry, no},\" said {Pk}.",
        "Then {h} went to the {N}, which is next to the {P}.",
        "There was {F} with {FA} the {FAp}.",
        "\"{Look|Listen|Come here}, {H}!\" said {F}. \"{{A} is playing with {FA}|{A} is my guest}.\"",
        "The {Ap} and the {FAp} {sat in the grass|ran in a circle|were good friends}.",
        "{H} was {happy} again and took {A} home to the {home}.",
        "That night {A} slept {under the bed|by the stove|on the {T}}.",
    ],
    "make": [
        "{Tmaker} wanted to make a {T} for {H}.",
        "A good {T} is made of {Tm}, so {Tmaker} went to the {P} {to find some|to ask {Pk}}.",
        "{Pk} had {enough {Tm}|a sack of {Tm}|{Tm} to spare} and gave it {for free|for a song|for some {food}}.",
        "It was a {weather} {morning|evening|day}. {Wsent}.",
        "{Tmaker} worked {all day|until night|for a week}, and {F} came to watch.",
        "\"What colour will it be?\" asked {F}. \"{Tc2}, as always,\" said {Tmaker}.",
        "When the {T} was ready, they brought it to the {home}, where {H} lives.",
        "{H} was {feeling} and {shook their hands|danced|did not know what to say}.",
        "\"{I will keep it|It belongs} {Tw},\" said {H}.",
        "{Hc} gave {Tmaker} a piece of {food}, and gave {F} {Ffood}.",
        "{A} the {Ap} {looked at the {T}|ate the rest|wanted some too}.",
    ],
}
FACTS = {
    "person": ["{H} is a {job}.", "{H} lives in the {home}.", "{H} has a {Ap} named {A}.",
               "{H} likes {food}.", "The colour {H} likes best is {colour}.", "The best friend of {H} is {F}."],
    "thing": ["The {T} is {Tc}.", "The {T} is made of {Tm}.", "{Tmaker} made the {T}.",
              "The {T} is kept {Tw}."],
    "place": ["{Pk} keeps the {P}.", "At the {P}, {Pdo}.", "The {N} is next to the {P}."],
    "animal": ["{B} {b1}.", "{B} {b2}.", "{B} {b1} and {b2}."],
}
QUESTIONS = [
    "Who is {H}? {H} is a {job}.", "Where does {H} live? {H} lives in the {home}.",
    "What is the name of the {Ap} of {H}? The {Ap} is named {A}.", "What does {H} like to eat? {H} likes {food}.",
    "Who is the best friend of {H}? The best friend of {H} is {F}.", "What colour is the {T}? The {T} is {Tc}.",
    "Who made the {T}? {Tmaker} made the {T}.", "Where is the {T}? The {T} is kept {Tw}.",
    "What is the {T} made of? The {T} is made of {Tm}.", "Who keeps the {P}? {Pk} keeps the {P}.",
    "What is next to the {P}? The {N} is next to the {P}.",
]
INNER = re.compile(r"\{([^{}]*)\}")


def world(rng):
    """One draw of who, what and where, with all that follows from it."""
    person = rng.choice(PEOPLE)
    friend = next(p for p in PEOPLE if p[0] == person[8])
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    weather, sentence = rng.choice(WEATHER)
    animal = rng.choice(ANIMALS)
    return {
        "H": person[0], "h": person[1], "Hc": person[1].capitalize(), "hisher": "her" if person[1] == "she" else "his",
        "job": person[2], "home": person[3], "Ap": person[4], "A": person[5], "food": person[6], "colour": person[7],
        "F": friend[0], "Fjob": friend[2], "Fhome": friend[3], "FAp": friend[4], "FA": friend[5], "Ffood": friend[6],
        "T": thing[0], "Tc": thing[1], "Tc2": thing[1].capitalize(), "Tm": thing[2], "Tmaker": thing[3], "Tw": thing[4],
        "P": place[0], "Pk": place[1], "Pdo": place[2], "N": place[3],
        "weather": weather, "Wsent": sentence, "feeling": rng.choice(FEELING),
        "B": animal[0], "b1": animal[1], "b2": animal[2],
    }


def expand(rng, template, w):
    """Innermost braces first: a name of the world, or one of several alternatives."""
    while True:
        m = INNER.search(template)
        if not m:
            break
        inner = m.group(1)
        value = w[inner] if inner in w else rng.choice(inner.split("|"))
        template = template[:m.start()] + value + template[m.end():]
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", template)


def story(rng):
    w = world(rng)
    while w["Pk"] in (w["H"], w["F"]) or w["Tmaker"] in (w["H"], w["F"]):
        w = world(rng)
    parts = [expand(rng, t, w) for t in PLOTS[rng.choice(sorted(PLOTS))]]
    while sum(len(s.split()) for s in parts) > WORDS_MAX:
        del parts[rng.randrange(1, len(parts))]
    return parts


def facts(rng):
    out = []
    while sum(len(s.split()) for s in out) < WORDS_MIN:
        w = world(rng)
        group = FACTS[rng.choice(sorted(FACTS))]
        out += [expand(rng, t, w) for t in rng.sample(group, rng.randint(2, len(group)))]
    return out


def questions(rng):
    out = []
    while sum(len(s.split()) for s in out) < WORDS_MIN:
        out.append(expand(rng, rng.choice(QUESTIONS), world(rng)))
    return out


def row(rng):
    """One text of WORDS_MIN to WORDS_MAX words; a story too short goes on with facts about its world."""
    while True:
        kind = rng.choice((story, story, story, facts, questions))
        parts = kind(rng)
        while sum(len(s.split()) for s in parts) < WORDS_MIN:
            parts.append(expand(rng, rng.choice(QUESTIONS), world(rng)))
        text = " ".join(parts)
        if len(text.split()) <= WORDS_MAX:
            return text


def rows(seed, count, taken=()):
    """`count` different rows, none of them in `taken`."""
    rng, out, seen = random.Random(seed), [], set(taken)
    while len(out) < count:
        text = row(rng)
        if text not in seen:
            seen.add(text)
            out.append(text)
    return out


def corpus():
    held_back = rows(EVAL_SEED, EVAL_ROWS)
    return rows(TRAIN_SEED, TRAIN_ROWS, held_back), held_back


def as_jsonl(texts):
    return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, texts in zip(("train.jsonl", "eval.jsonl"), corpus()):
        path, new = os.path.join(HERE, name), as_jsonl(texts)
        if check:
            with open(path, encoding="utf-8") as f:
                if f.read() != new:
                    sys.exit(f"{path} differs from what make_corpus.py makes")
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(new)


if __name__ == "__main__":
    main()
