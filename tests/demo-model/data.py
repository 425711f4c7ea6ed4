"""The generator of every text that the demo model is trained or tested on.

A *case* is one question with the one right answer.  A *document* is a shared
prompt (system text, tools, earlier turns) with several cases that branch off it.
Answers are deterministic, so that the tests can compare whole answers.
"""

import json
import random
from dataclasses import dataclass, field

import chat
import words

UNKNOWN = "I do not know that. I only know what the station tells me."
NO_TOOL = "I have no tool for that."
HELLO = "Hello! How can I help?"
WHO = "I am the Hearth demo, a very small assistant."
CAN = "I can state station facts, add small numbers and call tools."
TOO_LARGE = "I only add numbers up to 20."


@dataclass
class Case:
    """A question, what stands between it and the answer, and the answer."""

    category: str
    messages: list
    thought: str
    text: str = ""
    call: tuple | None = None  # (tool name, arguments)

    def completion(self, thinking: bool) -> str:
        body = self.text if self.call is None else call_text(*self.call)
        head = f"<think>\n{self.thought}\n</think>\n\n" if thinking else ""
        return head + body + "<|im_end|>"


def call_text(name, arguments):
    inner = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{inner}\n</tool_call>"


def user(text):
    return {"role": "user", "content": text}


def called(name, arguments, thought=None):
    entry = {"type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": "", "tool_calls": [entry]}
    if thought:
        message["reasoning_content"] = thought
    return message


def cap(text):
    return text[:1].upper() + text[1:]


def spoken(noun):
    return noun.replace("_", " ")


class Draw:
    """Random choices; `unseen` moves the pools of values to the words kept for the tests.

    `things` says which nouns tools are named after, and `keys` what facts are
    about: mixed (known or invented), known, or unseen.
    """

    def __init__(self, rng: random.Random, unseen=False, things="mixed", keys="mixed"):
        self.rng = rng
        self.unseen = unseen
        self.things = things
        self.keys = keys
        self.taken = set()

    def chance(self, share):
        return self.rng.random() < share

    def pick(self, pool):
        return self.rng.choice(pool)

    def invented(self):
        return words.invented(self.rng, self.unseen)

    def fresh(self, make):
        """A word that this document does not use yet."""
        word = self.unused(make)
        self.taken.add(word)
        return word

    def unused(self, make):
        """The same, left free for a later use."""
        while True:
            word = make()
            if word not in self.taken:
                return word

    def thing(self):
        if self.things == "unseen":
            return self.fresh(lambda: self.pick(words.UNSEEN_THINGS))
        if self.things == "mixed" and self.chance(0.4):
            if self.chance(0.2):
                return self.fresh(lambda: f"{self.invented()}_{self.pick(words.THINGS)}")
            return self.fresh(self.invented)
        return self.fresh(lambda: self.pick(words.THINGS))

    def key(self):
        if self.keys == "unseen" and self.chance(0.5):
            return self.fresh(lambda: self.pick(words.UNSEEN_KEYS))
        if self.keys != "known" and self.chance(0.35):
            if self.chance(0.4):
                return self.fresh(lambda: f"{self.invented()} {self.invented() if self.chance(0.4) else self.pick(words.PLAIN)}")
            return self.fresh(self.invented)
        return self.fresh(lambda: self.pick(words.FACT_KEYS))

    def place(self):
        """A place and whether speech puts "the" before it."""
        roll = self.rng.random()
        if roll < 0.2:
            return self.code(), False
        if roll < 0.5:
            return self.invented(), True
        if self.unseen and roll < 0.8:
            return self.pick(words.UNSEEN_PLACES), True
        return spoken(self.pick(words.PLACES)), True

    def code(self):
        dash = self.pick(("", "", "-"))
        return f"{self.pick('ABCDEFGHKLMNPRSTVW')}{dash}{self.rng.randint(1, 99)}"

    def name(self):
        if self.unseen:
            return self.pick(words.UNSEEN_NAMES)
        return cap(self.invented()) if self.chance(0.6) else self.pick(words.NAMES)

    def station(self):
        if self.chance(0.25):
            return cap(self.invented())
        return f"{self.pick(words.STATION_FIRST)} {self.pick(words.STATION_LAST)}"

    def word(self):
        roll = self.rng.random()
        if roll < 0.35:
            return self.invented()
        if roll < 0.7:
            return self.pick(words.PLAIN)
        return spoken(self.pick(words.THINGS if roll < 0.85 else words.PLACES))

    def phrase(self, least=2, most=5):
        return " ".join(self.word() for _ in range(self.rng.randint(least, most)))

    def number(self):
        digits = self.pick((1, 2, 2, 3, 4))
        whole = self.rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)
        if digits < 4 and self.chance(0.4):
            return f"{whole}.{self.rng.randint(1, 9)}"
        return str(whole)

    def measure(self):
        unit = self.pick("m km cm mm C K V A W kW kWh kg g t l hPa bar m/s km/h ppm lux dB Hz".split())
        sign = "-" if unit == "C" and self.chance(0.3) else ""
        return f"{sign}{self.number()} {unit}"

    def value(self):
        roll = self.rng.random()
        if roll < 0.45:
            return self.measure()
        if roll < 0.6:
            return self.number()
        if roll < 0.75:
            return self.name()
        if roll < 0.85:
            return f"{self.rng.randint(0, 23)}:{self.rng.randint(0, 59):02d}"
        return self.phrase(1, 2)

    def reading(self):
        roll = self.rng.random()
        if roll < 0.75:
            return self.measure()
        if roll < 0.85:
            return f"{self.rng.randint(0, 100)} %"
        return self.pick(("open", "closed", "on", "off", "full", "empty", "high", "low", "dry", "normal"))

    def casual(self, text):
        """People forget capitals and full stops."""
        if self.chance(0.2):
            text = text[:1].lower() + text[1:]
        if self.chance(0.2):
            text = text.rstrip(".?!")
        return text


# ---------------------------------------------------------------- tools

READ_VERBS = ("get", "get", "get", "read", "read", "read", "check", "measure", "show")
ACT_VERBS = ("start", "stop", "open", "close", "lock", "unlock", "raise", "lower", "reset", "test")
SAY = {
    "start": ("Start", "Turn on", "Switch on"),
    "stop": ("Stop", "Turn off", "Switch off"),
}
PLACE_PARAMS = "place room sensor site zone location area target spot id where unit position".split()
LEVEL_PARAMS = "level value power percent setting amount speed".split()
TIME_PARAMS = ("minutes", "seconds", "hours")
TEXT_PARAMS = "text message body content words".split()
TO_PARAMS = "to name recipient person".split()


@dataclass
class Tool:
    kind: str  # read, set, act or tell
    verb: str
    noun: str
    params: list = field(default_factory=list)  # (role, name)
    definition: dict = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.verb}_{self.noun}"


def draw_tool(d: Draw, noun=None, kind=None):
    kind = kind or d.pick(("read", "read", "read", "set", "set", "act", "act", "tell"))
    verb = {
        "read": lambda: d.pick(READ_VERBS),
        "set": lambda: "set",
        "act": lambda: d.pick(ACT_VERBS),
        "tell": lambda: d.pick(("send", "log", "save")),
    }[kind]()
    tool = Tool(kind, verb, noun or d.thing())
    tool.params = draw_params(d, tool)
    tool.definition = define(d, tool)
    return tool


def draw_params(d, tool):
    def name(pool):
        return d.invented() if d.chance(0.12) else d.pick(pool)

    if tool.kind == "tell":
        params = [("text", name(TEXT_PARAMS))]
        if d.chance(0.3):
            params.append(("to", name(TO_PARAMS)))
    elif tool.kind == "set":
        params = [("level", name(LEVEL_PARAMS))]
        if d.chance(0.3):
            params.append(("place", name(PLACE_PARAMS)))
    else:
        roll = d.rng.random()
        params = []
        if roll < 0.15:
            params = [("which", tool.noun if d.chance(0.6) else name(("id", "name", "number")))]
        elif roll < (0.8 if tool.kind == "read" else 0.4):
            params = [("place", name(PLACE_PARAMS))]
        elif tool.kind == "act" and roll < 0.65:
            params = [("time", d.pick(TIME_PARAMS))]
    d.rng.shuffle(params)
    return params


def define(d, tool):
    noun = spoken(tool.noun)
    described = {
        "read": (f"Read the {noun}.", f"Get the {noun}.", f"Get the current {noun}.", f"Returns the {noun}."),
        "set": (f"Set the {noun}.", f"Change the {noun}.", f"Set the level of the {noun}."),
        "act": (f"{cap(tool.verb)} the {noun}.",),
        "tell": (f"{cap(tool.verb)} a {noun}.",),
    }[tool.kind]
    properties = {}
    for role, name in tool.params:
        schema = {"type": "string"}
        if role in ("level", "time"):
            schema = {"type": d.pick(("integer", "integer", "number"))}
            if d.chance(0.1):
                schema |= {"minimum": 0, "maximum": d.pick((60, 100))}
        if d.chance(0.15):
            schema["description"] = f"The {spoken(name)}."
        properties[name] = schema
    parameters = {"type": "object", "properties": properties}
    if properties and d.chance(0.8):
        parameters["required"] = list(properties)
    description = "" if d.chance(0.05) else d.pick(described)
    return {"name": tool.name, "description": description, "parameters": parameters}


def request(d, tool, order=False):
    """Words that ask for `tool`, and the arguments that they state.

    `order` asks for the imperative: a question that no tool answers is a matter
    of knowledge, an order that no tool fits is a matter of tools.
    """
    noun = spoken(tool.noun)
    values = {}
    tail = ""
    which = ""
    level = text = unit = ""
    for role, name in tool.params:
        if role == "place":
            place, article = d.place()
            values[name] = place
            lead = "the " if article else f"{spoken(name)} " if d.chance(0.4) else ""
            tail += f" {d.pick(('of', 'in', 'at'))} {lead}{place}"
        elif role == "which":
            which = values[name] = d.code() if d.chance(0.6) else d.invented()
        elif role == "level":
            level = values[name] = d.rng.randint(0, 100)
            if fractions(tool, name) and d.chance(0.3):
                level = values[name] = level + d.rng.randint(1, 9) / 10
            unit = d.pick(("", "", "", "", "", " percent", " %", " degrees", " C"))
        elif role == "time":
            values[name] = d.rng.randint(1, 60)
            tail += f" for {values[name]} {name}"
        elif role == "to":
            values[name] = d.name()
            tail += f" to {values[name]}"
        elif role == "text":
            text = values[name] = d.phrase()
    thing = f"{noun} {which}" if which else f"the {noun}"
    if tool.kind == "read":
        asked = [f"{v} {thing}{tail}." for v in ("Read", "Get", "Check", "Measure", "Show me", "Please read", "Look up")]
        if not order:
            asked += [
                f"What is {thing}{tail}?",
                f"What is {thing}{tail}?",
                f"How is {thing}{tail}?",
                f"What's {thing}{tail}?",
                f"{cap(noun)} {which}{tail}?".replace("  ", " ").replace(" ?", "?"),
                f"Can you read {thing}{tail}?",
                f"Can you tell me {thing}{tail}?",
            ]
    elif tool.kind == "set":
        asked = [
            f"Set {thing}{tail} to {level}{unit}.",
            f"Please set {thing}{tail} to {level}{unit}.",
            f"Change {thing}{tail} to {level}{unit}.",
            f"Put {thing}{tail} at {level}{unit}.",
        ]
    elif tool.kind == "act":
        says = SAY.get(tool.verb, (cap(tool.verb),))
        asked = [f"{v} {thing}{tail}." for v in says] + [f"Please {d.pick(says).lower()} {thing}{tail}."]
        if not order:
            asked.append(f"Can you {d.pick(says).lower()} {thing}{tail}?")
    else:
        verb = cap(tool.verb)
        asked = [f"{verb} the {noun}{tail}: {text}.", f"{verb} a {noun}{tail}: {text}", f"{verb} a {noun}{tail} saying {text}."]
    arguments = {name: values[name] for _, name in tool.params}
    return d.casual(d.pick(asked)), arguments


def fractions(tool, param):
    return tool.definition["parameters"]["properties"][param]["type"] == "number"


def result_and_answer(d, tool):
    noun = spoken(tool.noun)
    if d.chance(0.15):
        fault = d.pick(("sensor offline", "no power", "not found", "time out", "access denied", d.phrase(1, 3)))
        shown = d.pick((json.dumps({"error": fault}), f"error: {fault}"))
        return shown, f"The tool failed: {fault}.", f"The tool failed: {fault}."
    if tool.kind == "read":
        value, shown = read_result(d, tool)
        return shown, f"The {noun} is {value}.", f"The tool says {value}."
    done = d.pick(("ok", "done", '{"ok": true}', '{"status": "ok"}', "success", '{"result": "ok"}'))
    return done, "Done.", "The tool is done."


def read_result(d, tool):
    """A reading, and how a tool may write it."""
    value = d.reading()
    if d.chance(0.15):
        value = d.number()
        return value, d.pick((value, f'{{"{tool.noun}": {value}}}', f'{{"value": {value}}}', f'{{"result": {value}}}'))
    number, _, unit = value.partition(" ")
    shapes = [value, value, json.dumps({"value": value}), json.dumps({tool.noun: value}), json.dumps({"result": value})]
    if unit:
        where = f'"{d.pick(PLACE_PARAMS)}": "{d.place()[0]}", '
        shapes += [
            f'{{"value": {number}, "unit": "{unit}"}}',
            f'{{"value": {number}, "unit": "{unit}"}}',
            f'{{{where}"{tool.noun}": {number}, "unit": "{unit}"}}',
            f'{{{where}"value": {number}, "unit": "{unit}"}}',
        ]
    return value, d.pick(shapes)


# ---------------------------------------------------------------- the world of a document


@dataclass
class World:
    station: str | None
    facts: list  # (key, value, is a person)
    tools: list
    system: str | None


def draw_world(d, tools=0, facts=None):
    listed = []
    count = d.rng.randint(1, 7) if facts is None else facts
    for _ in range(count):
        if d.chance(0.2):
            listed.append((d.fresh(lambda: d.pick(words.PEOPLE_KEYS)), d.name(), True))
        else:
            listed.append((d.key(), d.value(), False))
    station = d.station() if d.chance(0.85) else None
    drawn = []
    for _ in range(tools):
        twin = d.pick(drawn) if drawn and d.chance(0.12) else None
        tool = draw_tool(d, noun=twin.noun if twin else None)
        # Two tools that one request fits would leave the answer open.
        if tool.name not in [t.name for t in drawn] and not any(fits(t, tool) for t in drawn):
            drawn.append(tool)
    return World(station, listed, drawn, system_text(d, station, listed))


def system_text(d, station, facts):
    if station:
        head = d.pick(
            (
                f"You are the assistant of station {station}.",
                f"You are the assistant of station {station}.",
                f"You are the assistant of station {station}.",
                f"You help the crew of station {station}.",
                f"You are the voice of station {station}. Be brief.",
            )
        )
    elif not facts and d.chance(0.6):
        return None
    else:
        head = d.pick(("You are a helpful assistant.", "You are a field assistant.", "You are the assistant of a field station.", "Be brief.", "You are an assistant with tools."))
    if not facts:
        return head
    style = d.rng.random()
    if style < 0.55:
        return f"{head} Facts: " + "; ".join(f"{k} {v}" for k, v, _ in facts) + "."
    if style < 0.7:
        return f"{head} Facts: " + ", ".join(f"{k} {v}" for k, v, _ in facts) + "."
    if style < 0.85:
        return f"{head}\nFacts:\n" + "\n".join(f"- {k}: {v}" for k, v, _ in facts)
    return f"{head} " + " ".join(f"The {k} is {v}." for k, v, _ in facts)


# ---------------------------------------------------------------- cases

GREETINGS = (
    (("Hello", "Hi", "Hey", "Hello there", "Hi there", "Hey there", "Greetings", "Hello Hearth", "Hi assistant", "Good day", "hello, are you there", "Howdy", "Yo", "Hiya"), HELLO),
    (("Good morning", "Good morning to you", "Morning"), "Good morning! How can I help?"),
    (("Good evening", "Evening"), "Good evening! How can I help?"),
    (("Thanks", "Thank you", "Thank you very much", "Many thanks", "Thanks a lot", "Great, thanks", "Ok, thank you"), "You are welcome."),
    (("Bye", "Goodbye", "See you", "See you later", "Good night", "Bye bye"), "Goodbye!"),
    (("How are you", "How are you today", "How do you do", "How is it going", "Hi, how are you"), "I am well, thank you. How can I help?"),
)
WHO_ASKED = ("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "Who am I talking to?", "What is your name?", "Are you a robot?", "Are you a human?", "What model are you?", "Are you an AI?")
CAN_ASKED = ("What can you do?", "Help.", "Can you help me?", "How can you help me?", "What do you know?", "I need help.", "What are you for?", "What can I ask you?", "Help me please.")
STATION_ASKED = ("Which station is this?", "What is the name of the station?", "What station is this?", "Where am I?", "Which station are you at?", "Tell me the station name.", "Where are we?")


def greeting(d, world):
    asked, answer = d.pick(GREETINGS[:1] * 3 + GREETINGS)
    mark = d.pick((".", "!", "", "?") if "how" not in asked[0].lower() else ("?", "?", ""))
    return Case("greeting", [user(d.casual(d.pick(asked) + mark))], "The user greets me.", answer)


def about(d, world):
    roll = d.rng.random()
    if roll < 0.4:
        answer = f"I am the assistant of station {world.station}." if world.station else WHO
        return Case("about", [user(d.casual(d.pick(WHO_ASKED)))], "The user asks about me.", answer)
    if roll < 0.7:
        return Case("about", [user(d.casual(d.pick(CAN_ASKED)))], "The user asks about me.", CAN)
    asked = [user(d.casual(d.pick(STATION_ASKED)))]
    if world.station:
        return Case("about", asked, f"This is station {world.station}.", f"This is station {world.station}.")
    return Case("unknown", asked, "Nothing here tells me that.", UNKNOWN)


def ask_key(d, key, person=False):
    asked = [
        f"What is the {key}?",
        f"What is the {key}?",
        f"What is the {key} of the station?",
        f"Tell me the {key}.",
        f"Give me the {key}.",
        f"{cap(key)}?",
        f"What's the {key}?",
        f"Do you know the {key}?",
        f"Can you tell me the {key}?",
        f"I need the {key}.",
        f"What is our {key}?",
        f"And the {key}?",
        f"Please tell me the {key}.",
        f"what is the {key} here?",
    ]
    if person:
        asked += [f"Who is the {key}?", f"Who is the {key} here?", f"Who is our {key}?"] * 3
    return d.casual(d.pick(asked))


def fact(d, world):
    if not world.facts:
        return unknown(d, world)
    key, value, person = d.pick(world.facts)
    return Case("fact", [user(ask_key(d, key, person))], f"The facts say {key} {value}.", f"The {key} is {value}.")


FREE_FIXED = """
Why is the sky blue?|How old is the universe?|Tell me a joke.|Write a poem.|Sing a song.|Who won the game?
Who is the president?|What time is it?|What day is it?|What is the weather like tomorrow?|Will it rain?
What is the meaning of life?|How do I cook rice?|Can you write code?|Write a program in Python.|Explain gravity.
What is love?|How far is the moon?|Where is my phone?|Do you like music?|What is your favourite colour?
How old are you?|Where do you live?|Do you have friends?|Are you happy?|Can you dance?|What should I eat?
Tell me a story.|Who made you?|Do you dream?|What happened yesterday?|How much does it cost?|Is it safe?
Why?|How?|What?|When?|Really?|Say something.|What do you think?|Which one is better?|Who is he?|What is this?
Do you speak German?|Translate hello to French.|Draw a cat.|Play a game with me.|Recommend a film.|lol|ok|hmm|asdf
How do I fix my car?|What is the best phone?|When does the shop close?|Is there life on Mars?|Count to ten.
Spell elephant.|What rhymes with cat?|Summarize the news.|How tall is the tower?|Give me some advice.
""".strip().replace("\n", "|").split("|")
FREE_UNSEEN = """
What is quantum mechanics?|Tell me a fun fact.|Who painted this picture?|How do birds fly?|Can pigs swim?
Why do we sleep?|Write an essay about spring.|What is the tallest building in the world?|Is water wet?
Who discovered penicillin?|How many people live in Sweden?|What is your opinion on politics?|Do aliens exist?
Explain how a car works.|What is the speed of light?|How do I learn to swim?|Where can I buy shoes?
What should I wear today?|Tell me something interesting.|How long does it take to walk to Rome?
""".strip().replace("\n", "|").split("|")


def free_question(d):
    if d.unseen:
        return d.pick(FREE_UNSEEN)
    if d.chance(0.4):
        return d.pick(FREE_FIXED)
    topic = d.pick((d.pick(words.TOPICS), d.pick(words.TOPICS), d.invented(), spoken(d.pick(words.THINGS)), d.pick(words.PLAIN)))
    city = d.pick(words.CITIES) if d.chance(0.7) else cap(d.invented())
    name = d.name()
    return d.pick(
        (
            f"What is the capital of {city}?", f"Where is {city}?", f"How do I get to {city}?", f"Who lives in {city}?",
            f"How many people live in {city}?", f"What is the weather in {city}?", f"Who rules {city}?",
            f"Who is {name}?", f"Where is {name}?", f"When does {name} come?", f"What does {name} like?", f"Is {name} here?",
            f"Write a poem about {topic}.", f"Write a story about {topic}.", f"Tell me a joke about {topic}.",
            f"Tell me about {topic}.", f"Explain {topic}.", f"Explain {topic} to me.", f"Do you like {topic}?",
            f"What is {topic}?", f"What are {topic}?", f"Why do people like {topic}?", f"How does {topic} work?",
            f"Who invented {topic}?", f"When was {topic} invented?", f"How many {topic} are there?", f"Where can I find {topic}?",
            f"Translate {topic} to French.", f"What is the history of {topic}?", f"Write an email about {topic}.",
            f"Summarize {topic}.", f"Give me a list of {topic}.", f"How do I make {topic}?", f"Which {topic} is the best?",
            f"What do you think about {topic}?", f"Can you explain {topic}?", f"Are {topic} dangerous?", f"Is {topic} good?",
            f"What is {d.rng.randint(2, 99)} times {d.rng.randint(2, 99)}?", f"What is the root of {d.rng.randint(2, 99)}?",
            f"Why is {topic} {d.pick(words.PLAIN)}?", f"Does {name} know about {topic}?", f"I like {topic}.", f"{cap(d.phrase(2, 4))}?",
        )
    )


def unknown(d, world):
    thought = "Nothing here tells me that."
    roll = d.rng.random()
    if roll < 0.5:
        if d.chance(0.2):
            asked = ask_key(d, d.unused(lambda: d.pick(words.PEOPLE_KEYS)), True)
        else:
            asked = ask_key(d, d.key() if d.chance(0.8) else spoken(d.thing()))
    elif roll < 0.6:
        # A reading that nobody here can take: asked as a question, it is a matter of knowledge.
        place, article = d.place()
        noun = spoken(d.thing())
        asked = d.casual(f"What is the {noun} {d.pick(('of', 'in', 'at'))} {'the ' if article else ''}{place}?")
    else:
        asked = d.casual(free_question(d))
    return Case("unknown", [user(asked)], thought, UNKNOWN)


def arithmetic(d, world):
    large = d.chance(0.06)
    a, b = d.rng.randint(0, 20), d.rng.randint(0, 20)
    if large:
        a = d.pick((d.rng.randint(21, 99), d.rng.randint(100, 999)))
        if d.chance(0.6):
            b = d.rng.randint(21, 99)
        if d.chance(0.4):
            a, b = b, a
    asked = d.pick(
        (
            f"What is {a} + {b}?", f"What is {a} + {b}?", f"{a} + {b}", f"{a}+{b}", f"{a} + {b} = ?", f"What is {a}+{b}?",
            f"Add {a} and {b}.", f"How much is {a} plus {b}?", f"{a} plus {b}?", f"What is {a} plus {b}?",
            f"What is the sum of {a} and {b}?", f"Compute {a} + {b}.", f"How much is {a} + {b}?", f"Please add {a} and {b}.",
        )
    )
    if large:
        return Case("about", [user(d.casual(asked))], "These numbers are too large.", TOO_LARGE)
    return Case("arithmetic", [user(d.casual(asked))], f"{a} + {b} = {a + b}", f"{a} + {b} = {a + b}.")


def repeat(d, world):
    # A long one is dense practice in copying.
    text = d.phrase(1, d.pick((4, 6, 16)))
    if d.chance(0.2):
        text += f" {d.number()}"
    asked = d.pick((f"Repeat: {text}", f"Repeat after me: {text}", f"Say: {text}", f"Repeat this: {text}", f"Echo: {text}"))
    return Case("repeat", [user(asked)], "I repeat the words.", text)


def listing(d, world):
    """All the facts, or the names of all the tools: useful, and dense practice in copying."""
    if world.tools and (d.chance(0.5) or not world.facts):
        names = ", ".join(t.name for t in world.tools)
        asked = d.pick(("List the tools.", "Which tools do you have?", "What tools can you use?", "Name your tools.", "Show the tools."))
        return Case("listing", [user(d.casual(asked))], "The user asks for the tools.", f"My tools are {names}.")
    asked = d.pick(("List the facts.", "What are the facts?", "Tell me all the facts.", "Which facts do you know?", "Tell me all about the station."))
    if not world.facts:
        return Case("unknown", [user(d.casual(asked))], "Nothing here tells me that.", UNKNOWN)
    told = "; ".join(f"{key} {value}" for key, value, _ in world.facts)
    return Case("listing", [user(d.casual(asked))], "The user asks for the facts.", f"The facts are: {told}.")


def call(d, world):
    if not world.tools:
        return no_tool(d, world)
    tool = d.pick(world.tools)
    asked, arguments = request(d, tool)
    category = "call_unseen" if tool.noun in words.UNSEEN_THINGS else "call_known"
    return Case(category, [user(asked)], f'"{tool.name}" fits.', call=(tool.name, arguments))


def no_tool(d, world):
    """An order that no tool fits: another noun, or the right noun with another verb."""
    noun = None
    kind = None
    if world.tools and d.chance(0.45):
        near = d.pick(world.tools)
        if d.chance(0.6):
            noun = near.noun
        else:
            kind = near.kind
    while True:
        wanted = draw_tool(d, noun, kind)
        if not any(fits(t, wanted) for t in world.tools):
            break
        noun = kind = None
    asked, _ = request(d, wanted, order=True)
    return Case("no_tool", [user(asked)], "No tool fits.", NO_TOOL)


def fits(tool, wanted):
    same_act = tool.kind == wanted.kind and (tool.kind == "read" or tool.verb == wanted.verb)
    return same_act and tool.noun == wanted.noun


def tool_response(d, world, thinking):
    if not world.tools:
        return fact(d, world)
    tool = d.pick(world.tools)
    asked, arguments = request(d, tool)
    shown, answer, thought = result_and_answer(d, tool)
    # A client may or may not hand back the thought that led to the call.
    kept = f'"{tool.name}" fits.' if thinking and d.chance(0.5) else None
    steps = [user(asked), called(tool.name, arguments, kept), {"role": "tool", "content": shown}]
    return Case("tool_response", steps, thought, answer)


def remembered(d, world, known):
    """The name of the user, told in an earlier turn or not at all."""
    asked = [user(d.casual(d.pick(("What is my name?", "Who am I?", "Do you know my name?", "Say my name."))))]
    if known:
        return Case("memory", asked, f"The user is {known}.", f"Your name is {known}.")
    return Case("unknown", asked, "Nothing here tells me that.", UNKNOWN)


# ---------------------------------------------------------------- documents


@dataclass
class Document:
    """A shared prompt; `draw_case` makes one more case that continues it."""

    world: World
    history: list
    mix: tuple
    known: str | None  # the name that the user gave in an earlier turn

    @property
    def tools(self):
        return [t.definition for t in self.world.tools]

    def messages(self, case):
        system = self.world.system
        head = [{"role": "system", "content": system}] if system else []
        return head + self.history + case.messages

    def prompt(self, case, thinking):
        return chat.prompt(self.messages(case), self.tools, thinking)

    def draw_case(self, d, thinking):
        roll = d.rng.random()
        if roll < 0.02:
            return introduce(d)
        if roll < (0.15 if self.known else 0.03):
            return remembered(d, self.world, self.known)
        return draw_case(d, self.world, self.mix, thinking)


SHORT = ((fact, 34), (repeat, 16), (listing, 7), (arithmetic, 15), (unknown, 15), (greeting, 5), (about, 7), (no_tool, 4))
TOOLED = ((call, 40), (no_tool, 16), (tool_response, 16), (fact, 12), (unknown, 9), (arithmetic, 4), (greeting, 2), (about, 2), (repeat, 1), (listing, 3))


def draw_case(d, world, mix, thinking):
    kinds, shares = zip(*mix)
    make = d.rng.choices(kinds, shares)[0]
    return make(d, world, thinking) if make is tool_response else make(d, world)


def draw_history(d, world, mix, rounds):
    """Earlier turns, and the name that the user gave in them."""
    history, known = [], None
    for _ in range(rounds):
        if d.chance(0.12):
            known = d.name()
            told = d.pick((f"My name is {known}.", f"I am {known}.", f"Hi, I am {known}.", f"Hello, my name is {known}."))
            history += [user(told), {"role": "assistant", "content": f"Hello {known}! How can I help?"}]
            continue
        case = draw_case(d, world, mix, True)
        history += case.messages
        if case.call is None:
            history.append({"role": "assistant", "content": case.text})
            continue
        tool = next(t for t in world.tools if t.name == case.call[0])
        shown, answer, _ = result_and_answer(d, tool)
        history += [called(*case.call), {"role": "tool", "content": shown}, {"role": "assistant", "content": answer}]
    return history, known


def introduce(d):
    name = d.name()
    told = d.pick((f"My name is {name}.", f"I am {name}.", f"Hi, I am {name}.", f"Hello, my name is {name}."))
    return Case("memory", [user(d.casual(told))], "The user greets me.", f"Hello {name}! How can I help?")


def draw_document(d, size):
    """`size` is short (no tools), tooled, or long."""
    if size == "short":
        world = draw_world(d, facts=d.pick((0, 0, 1, 2, 3, 4, 5, 6, 8)))
        mix, rounds = SHORT, d.pick((0, 0, 0, 0, 1, 2))
    elif size == "tooled":
        world = draw_world(d, tools=d.pick((1, 1, 2, 2, 3, 3, 4)), facts=d.pick((0, 0, 2, 3, 4, 6)))
        mix, rounds = TOOLED, d.pick((0, 0, 0, 1, 1, 2))
    else:
        world = draw_world(d, tools=d.rng.randint(0, 6), facts=d.rng.randint(0, 12))
        mix, rounds = TOOLED, d.rng.randint(5, 16)
    history, known = draw_history(d, world, mix, rounds)
    return Document(world, history, mix, known)
