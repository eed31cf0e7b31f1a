"""Words that made-up facts are built from, and words that tell nothing."""

ADJECTIVES = (
    "amber ancient angry arctic autumn azure bitter blue bold brass brave bright bronze calm clever cold copper coral "
    "crimson curious dark deep dusty eager early emerald empty faint fancy fast fierce frozen gentle giant golden "
    "grand gray green happy heavy hidden hollow honest humble icy indigo iron ivory jade jolly keen kind large late "
    "lazy little lively lonely loud lucky magic maroon mellow mighty misty modern narrow noble northern odd olive "
    "orange pale patient pink plain polite proud purple quick quiet rapid rare red rough round royal ruby rusty "
    "sandy scarlet secret sharp shiny shy silent silver simple sleepy slow small smooth soft solid southern spare "
    "steady steel stormy strange striped strong sunny sweet swift tall tame tiny violet warm western white wild "
    "windy wise wooden yellow young"
).split()

NOUNS = (
    "anchor apple apron arrow attic bakery balcony barn basement basket beach bell bench bicycle blanket boat bottle "
    "bridge broom bucket cabin cabinet camera candle canoe canyon castle cellar chair chapel chest church circus "
    "clinic clock closet clubhouse coat college compass cottage crane crate cupboard desk diary dock door drawer drum "
    "elevator engine factory falcon farm fence ferry field fire flag flute forest fountain fox freezer gallery garage "
    "garden gate glacier guitar gym hammer hangar harbor hat helmet hospital hostel hotel island jacket journal kayak "
    "kettle keyboard kitchen kite lab ladder lake lamp lantern laptop library lighthouse locker mailbox map market "
    "meadow microscope mill mirror mountain museum office orchard oven painting palace parcel park pavilion phone "
    "piano pier pillow pipe planet pond printer pump quarry radio railway ranch refrigerator restaurant ring river "
    "robot roof rope safe school scooter server shed ship shop sofa stable stadium station statue studio suitcase "
    "table tablet tavern telescope temple tent theater ticket tower tractor train trunk tunnel umbrella van vault "
    "violin wagon wallet warehouse watch waterfall well wheel whistle windmill window workshop yacht zoo"
).split()

NAMES = (
    "Adele Ahmed Aiko Alba Alistair Amara Anders Anita Arjun Astrid Beatriz Benedict Bianca Boris Bruno Camille "
    "Carlos Cecilia Chen Clara Claudia Cormac Dalia Damian Daphne Diego Dimitri Edith Eduardo Elias Elif Elsa Emil "
    "Esther Fabian Farah Felix Fiona Francesca Gabriel Gemma Giulia Greta Gustav Hanna Harriet Hassan Heidi Hugo "
    "Imani Ines Ingrid Isaac Ivan Jamal Jasmine Joaquin Johanna Jonas Julia Kamal Karin Katya Keiko Kofi Lars Laura "
    "Leila Lena Leon Linnea Lorenzo Lucia Magnus Malik Marcel Margot Mateo Matilda Mei Mila Mirela Nadia Naomi Nils "
    "Nora Odette Olga Omar Oscar Paloma Pavel Pedro Petra Priya Quentin Rafael Rania Renata Rohan Rosa Ruben Sabine "
    "Salma Samir Selma Simon Sofia Stefan Sven Tamara Tariq Tessa Theo Thora Tobias Ulrich Ursula Valentina Vera "
    "Viktor Vivian Wanda Wei Willa Xavier Yara Yusuf Zainab Zara Zoltan"
).split()

PLACES = (
    "Aarhus Accra Adelaide Antwerp Athens Austin Bergen Bilbao Bologna Bordeaux Boston Bristol Cairo Calgary Cardiff "
    "Chicago Cork Cusco Dakar Denver Dublin Durban Edinburgh Florence Geneva Genoa Glasgow Granada Hamburg Hanoi "
    "Havana Helsinki Istanbul Kyoto Lagos Leipzig Lima Lisbon Ljubljana Lyon Madrid Malmo Manila Marseille Medellin "
    "Melbourne Montreal Munich Nairobi Nantes Naples Oslo Ottawa Palermo Perth Porto Prague Quito Reykjavik Riga Rome "
    "Rotterdam Salzburg Santiago Seattle Seoul Seville Split Stockholm Sydney Tallinn Tampere Tbilisi Toledo Toronto "
    "Trieste Tunis Turin Utrecht Valencia Vienna Vilnius Warsaw Wellington Zagreb Zurich"
).split()

# what a thing may have, and the kind of its value (`facts.value`)
ATTRIBUTES = {
    "pass key": "digits",
    "access code": "digits",
    "alarm code": "digits",
    "combination": "digits",
    "serial number": "digits",
    "door code": "digits",
    "PIN": "digits",
    "account number": "digits",
    "policy number": "digits",
    "customer number": "digits",
    "room number": "digits",
    "phone number": "digits",
    "number": "digits",
    "order number": "mixed",
    "booking reference": "mixed",
    "model number": "mixed",
    "number plate": "mixed",
    "Wi-Fi password": "words",
    "password": "words",
    "code word": "phrase",
    "secret name": "phrase",
    "nickname": "phrase",
    "color": "adjective",
    "paint color": "phrase",
    "owner": "person",
    "manager": "person",
    "keeper": "name",
    "designer": "person",
    "name": "phrase",
    "home town": "place",
    "destination": "place",
    "birthplace": "place",
    "price": "money",
    "budget": "money",
    "deposit": "money",
    "deadline": "date",
    "date": "date",
    "opening day": "weekday",
    "opening time": "time",
    "departure time": "time",
}

RELATIONS = (
    "sister brother aunt uncle cousin neighbor dentist boss teacher landlord plumber accountant doctor coach tutor "
    "grandmother grandfather roommate colleague mechanic lawyer barber nephew niece dog cat parrot horse"
).split()

JOBS = (
    "accountant architect baker barber builder butcher caterer cleaner coach dentist doctor driver electrician florist "
    "gardener glazier guide hairdresser inspector instructor joiner landlord lawyer locksmith mechanic midwife notary "
    "nurse optician painter photographer plumber porter printer roofer surveyor tailor tiler translator tutor "
    "upholsterer vet waiter"
).split()

HOBBIES = (
    "archery ballet boxing ceramics chess choir cooking dancing drawing fencing guitar judo karate knitting "
    "pilates pottery rowing running singing skating sewing swimming tango tennis violin weaving yoga"
).split()

# put together, they make family names that no text holds
NAME_STARTS = (
    "Al Bar Bren Cal Dor El Fen Gal Hal Hol Jar Kel Kes Lan Lor Mar Mor Nor Ol Pen Quin Ros Sal Tal Var Wen Yar Zel"
).split()
NAME_ENDS = "an berg by den ero etti ford ic ley man mere mond o ova ridge sen son ton ville wood worth".split()

MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
# words that any message has
COMMON = frozenset(
    "a about actually after again all also am an and any anyone are as ask assistant at be because been before "
    "being but by can cant could did do does doing dont down each else even ever every explain few for from get "
    "getting give go going good got had has have having he help her here him his how i if im in into is it its "
    "ive just know let like little look lot made make many may maybe me mean might more most much must my need no "
    "not now of off oh ok okay on one only or other our out over people plan please problem really recommend "
    "right said same say says see she should so some something still such suggest sure take tell than thanks that "
    "thats the their them then there these they thing things think this those through time to too try two uh um "
    "up us use used user using very want was way we well were what when where which while who why will with would "
    "yeah yes yet you your".split()
)
# what people leave out of a search
PLAIN = frozenset(
    "a all are can did do does i in is it me my of on or remind remember the to what what's which you".split()
)
# words that tell nothing of what a message is about
EMPTY = PLAIN | COMMON
