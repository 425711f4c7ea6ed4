"""The words that the generated text is made of.

The lists are wide on purpose: a model that sees few nouns learns the nouns, one
that sees many, and invented ones, learns to copy.
"""

import random
import zlib

THINGS = """
temperature humidity pressure wind_speed wind_direction rainfall snow_depth water_level
air_quality brightness noise voltage current power fuel_level oil_level battery tank_level
soil_moisture radiation visibility cloud_cover river_flow tide_height ice_thickness salinity
acidity dew_point smoke_level gas_level frost heat light sound motion vibration speed flow
heater pump fan lamp valve door gate hatch window antenna mast generator boiler cooler freezer
dryer mixer radio beacon siren camera drone winch crane cable ladder bridge ramp lift engine
motor turbine compressor filter vent chimney stove oven kettle fridge washer printer scanner
monitor screen speaker microphone recorder router modem server clock timer alarm lock shutter
blind curtain roof deck tent cabin shed cellar barn garage workshop kitchen office library
bunk mess dock pier boat raft kayak sled ski tractor truck van bicycle trailer wagon cart
meter gauge probe sensor detector counter scale balance thermometer barometer anemometer
telescope microscope compass sextant transmitter receiver amplifier inverter charger
panel collector cell grid fuse relay breaker wire plug socket switch button lever handle
wheel brake clutch gear chain belt spring bolt screw nail hammer saw drill wrench
file rope hook anchor net trap cage fence wall post flag sign board map chart
table shelf box crate barrel bucket bottle jar tin bag sack basket tray
blanket pillow mattress towel soap brush broom mop rag sponge
coffee tea sugar flour rice bread butter cheese milk honey salt pepper soup stew
stock supply order parcel letter note message report memo bulletin notice warning
reminder entry record log diary journal summary forecast schedule roster plan
greenhouse nursery pond stream well spring_water fountain sprinkler hose drain sewer gutter
reservoir dam canal lock_gate sluice weir spillway culvert
furnace burner torch lantern candle projector spotlight floodlight
air_filter water_filter fuel_pump water_pump roof_fan floor_lamp night_light fire_door
main_valve side_gate gas_valve oil_pump hot_tub snow_plow ice_saw weather_balloon data_link
""".split()

# Facts have their own nouns, so that a question tells a fact from a reading by its words.
FACT_KEYS = """
altitude;height;length;width;depth;area;volume;weight;capacity;age;size;population;latitude;longitude;
mast height;roof area;tank volume;battery capacity;fuel reserve;food reserve;water reserve;call sign;
radio channel;emergency channel;phone number;door code;supply day;market day;rest day;inspection day;
nearest village;nearest town;nearest lake;nearest river;nearest road;mountain;valley;island;region;country;
founder;motto;colour;roof colour;flag colour;door colour;dog;cat;horse;mascot;password;budget;
number of beds;number of rooms;number of lamps;number of masts;number of sleds;crew size;guest limit;
opening year;building year;last inspection;next inspection;next delivery;next visit;ferry time;bus time;
breakfast time;dinner time;wake time;quiet time;sunrise;sunset;high tide;low tide;average wind;record cold;
record heat;speed limit;load limit;distance to town;trail length;bridge limit;boat name;truck name;ship;
grid square;map sheet;parish;district;time zone;frequency;serial number;licence;project;sponsor;language;
favourite dish;soup of the day;spare key;first aid kit;fire exit;meeting point;wood pile;car park
""".replace("\n", "").split(";")

PEOPLE_KEYS = """
operator cook leader doctor mechanic pilot owner guide ranger warden engineer manager captain nurse driver
carpenter gardener botanist geologist keeper director technician
""".split()

PLACES = """
cellar attic kitchen hall lobby office workshop garage barn shed stable greenhouse tower roof basement
laboratory library dormitory bunkroom pantry bathroom sauna hangar depot yard garden orchard meadow field
forest ridge summit valley glade marsh lake shore dock pier bridge tunnel cave quarry camp gate fence
north_wing south_wing east_wing west_wing north_gate south_gate east_field west_field upper_deck lower_deck
engine_room control_room store_room cold_room wet_lab dry_lab boat_house guest_room main_hall back_door
""".split()

NAMES = """
Mara Tom Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Karl Lena Mia Nils Olga Pia Quin Rosa Sam Tara Udo Vera
Walt Xenia Yara Zoe Anton Berta Carlo Dora Emil Frida Greta Hugo Ines Jonas Klara Lars Marta Nora Oskar Paula
Rita Silas Tilda Ursa Viktor Wanda Arlo Bruno Celia Dario Elsa Felix Gerda Henrik Irma Jakob
""".split()

STATION_FIRST = """
Larch Pine Cedar Birch Alder Rowan Willow Maple Aspen Juniper Granite Slate Flint Copper Iron Silver Raven
Falcon Heron Otter Badger Lynx Wolf Bear Elk Frost Snow Ice Storm Cloud Thunder Silent Lone High Low Grey
White Black Red Green Blue North South East West Old New
""".split()
STATION_LAST = """
Ridge Point Peak Valley Lake Creek Hollow Bay Cove Rock Hill Field Pass Bluff Gorge Meadow Harbour Island
Summit Glen Moor Fell Crag Dale
""".split()

PLAIN = """
red green blue yellow white black brown grey small large old new cold warm dry wet quick slow quiet loud bright
dark soft hard round flat long short high low deep clear clean empty full open closed broken ready late early
stone river tree leaf bird fish fox hare moss fern pine oak snow rain storm cloud star moon sun sand wave wind
apple pear plum bean corn nut egg cup plate spoon fork knife book pen paper coat boot hat glove ring coin
north south east west left right today tomorrow morning noon evening night monday friday sunday
check bring carry clean move send take keep hold turn lift fill pack count paint wash dig cut mend
""".split()

CITIES = """
France Spain Italy Norway Japan Peru Kenya Canada Brazil Egypt India China Poland Greece Chile Nepal Iceland
Paris London Rome Berlin Tokyo Oslo Madrid Cairo Delhi Vienna Prague Lisbon
""".split()

TOPICS = """
cats dogs horses music history football chess physics love war money space time art poetry dance law
medicine cooking cars planes trains stars planets whales bees ants trees flowers gold silver computers robots
games films books songs paintings kings queens knights castles pirates dragons dinosaurs volcanoes oceans deserts
""".split()

# Nouns of the tests only: no training text holds one.
UNSEEN_THINGS = """
turbidity glacier snowfall ozone pollen lightning gust puddle kiln loom anvil periscope metronome
hovercraft gondola chandelier furrow trellis pulley bellows tripod lathe cistern aquarium hydrant
zipline turnstile pendulum hopper conveyor incubator humidor sundial treadmill trombone easel
igloo catapult wardrobe elevator
""".split()
UNSEEN_KEYS = """
elevation;perimeter;launch year;ski trail;parking fee;patron;anthem;postcode;tax number;tent limit;
lighthouse;glacier name;harvest day;loudest bell;oldest tree;nearest airport;ticket price;secret recipe
""".replace("\n", "").split(";")
UNSEEN_PLACES = """
balcony chapel veranda nursery vault crypt corridor courtyard playground vineyard canyon lagoon
""".split()
UNSEEN_NAMES = "Bodil Casper Edith Goran Ludmila Magnus Petra Ruben Sigrid Torben Ylva Zoltan".split()

ONSETS = "b c d f g h j k l m n p r s t v w z br dr gr kr pl st tr".split()
VOWELS = "a e i o u".split()
CODAS = " l m n r s t k x nd rk".split(" ")


_CUTTABLE = [
    [word.lower() for line in pool for word in line.replace("_", " ").split() if len(word) > 3]
    for pool in (THINGS, FACT_KEYS, PLACES, NAMES, PLAIN, TOPICS, CITIES)
]
_KEPT = {
    word.lower()
    for pool in (UNSEEN_THINGS, UNSEEN_KEYS, UNSEEN_PLACES, UNSEEN_NAMES)
    for line in pool
    for word in line.split()
}


def _is_reserved(word):
    """One invented word in eight is kept for the tests, by its own spelling."""
    return zlib.crc32(word.encode()) % 8 == 0


def _cut_and_joined(rng):
    """The head of one word and the tail of another: the pieces of real words, newly met."""
    head, tail = (rng.choice(rng.choice(_CUTTABLE)) for _ in range(2))
    return head[: rng.randint(1, max(1, len(head) - 2))] + tail[-rng.randint(2, max(2, len(tail) - 1)) :]


def _syllables(rng):
    beats = rng.choice((2, 2, 2, 3))
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(beats))


def invented(rng: random.Random, unseen=False) -> str:
    """A pronounceable word that no dictionary holds."""
    while True:
        word = _cut_and_joined(rng) if rng.random() < 0.5 else _syllables(rng)
        if word not in _KEPT and _is_reserved(word) == unseen:
            return word
