"""Words that made-up facts are built from, words that tell nothing, and words that no other may stand for."""

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

PETS = "canary cat dog ferret gecko goldfish hamster hen horse parrot pony rabbit tortoise turtle".split()

FOODS = (
    "almonds apples apricots barley beans beef beets bread broccoli butter cabbage carrots cashews celery cheese "
    "cherries chicken cod corn crab cucumber duck eggs figs garlic grapes ham hay honey kale lamb leeks lentils "
    "lettuce liver mackerel melon milk mushrooms mussels mustard noodles oats olives onions oysters parsnips pasta "
    "peaches peanuts pears peas pepper plums pork potatoes prawns pumpkin rabbit radishes raisins rice salmon "
    "sardines seeds sesame shrimp soy spinach squash tofu tomatoes trout tuna turkey turnips walnuts wheat yogurt"
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
# beginnings of contractions ("couldn't"), which an embedder's vocabulary may hold as words, and what negates
CONTRACTED = frozenset(
    "ain anti aren cannot couldn daren didn doesn don hadn hasn haven isn mayn mightn mustn needn non nor oughtn shan "
    "shouldn wasn weren won wouldn".split()
)
# words that lie close together and each of which says something else than the others
_NUMBERS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth last next zero one two three four five six seven eight nine "
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
    "seventy eighty ninety hundred hundreds hundredth thousand thousands million millions billion billions trillion "
    "dozen dozens half halves quarter quarters quarterly single double doubles triple triples quadruple dual pair once "
    "twice thrice both neither"
)
_TIMES = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun today tomorrow "
    "yesterday tonight moment second seconds minute minutes hour hours hourly day days daily night nights nightly "
    "overnight week weeks weekly weekday weekdays weekend weekends fortnight month months monthly year years yearly "
    "annual annually biannual biennial season seasons seasonal decade decades century centuries millennium millennia "
    "morning mornings noon midday afternoon afternoons evening evenings midnight dawn dusk sunrise sunset daytime "
    "nighttime spring summer summers autumn fall winter winters always often sometimes frequently regularly "
    "occasionally periodically usually rarely seldom never whenever sometime soon early earlier earliest late later "
    "latest recent recently former formerly latter previous previously past present future sundays mondays tuesdays "
    "wednesdays thursdays fridays saturdays"
)
_UNITS = (
    "inch inches foot feet yard yards mile miles acre acres hectare hectares metre metres meter meters centimetre "
    "centimetres centimeter centimeters millimetre millimetres millimeter millimeters kilometre kilometres kilometer "
    "kilometers gram grams kilogram kilograms kilo kilos ounce ounces pound pounds lbs ton tons tonne tonnes litre "
    "litres liter liters gallon gallons pint pints cup cups teaspoon tablespoon degree degrees celsius fahrenheit "
    "kelvin watt watts kilowatt megawatt volt volts amp amps hertz megahertz byte bytes kilobyte megabyte megabytes "
    "gigabyte gigabytes terabyte mph kmh rpm percent percentage knots dollar dollars cent cents euro euros franc "
    "francs penny pennies pence shilling shillings rupee rupees peso pesos yen yuan ruble rubles mark marks krone "
    "krona dime nickel usd eur gbp"
)
_KIN = (
    "mother mothers mom moms mum mums mommy mummy mama momma mamma father fathers dad dads daddy papa pop parent "
    "parents sister sisters brother brothers bro sibling siblings twin twins son sons daughter daughters child "
    "children kid kids baby babies infant toddler teen teens teenager teenagers adult adults grandmother grandma "
    "granny nana grandfather grandpa grandparents grandson granddaughter grandchild grandchildren aunt aunts auntie "
    "uncle uncles nephew nephews niece nieces cousin cousins husband husbands wife wives spouse spouses widow widower "
    "bride groom fiance fiancee boyfriend boyfriends girlfriend girlfriends stepmother stepfather stepson stepdaughter "
    "godfather godmother man men woman women boy boys girl girls male males female females guy guys lady ladies "
    "gentleman gentlemen masculine feminine king kings queen queens prince princes princess princesses duke duchess "
    "earl countess baron baroness lord actor actress waiter waitress hero heroine he she him her his hers himself "
    "herself"
)
_DIRECTIONS = (
    "north south east west northern southern eastern western northeast northwest southeast southwest northeastern "
    "northwestern southeastern southwestern northward southward eastward westward northwards southwards eastwards "
    "westwards left right up down upward downward upwards downwards upper lower above below beneath under underneath "
    "over upstairs downstairs uphill downhill upstream downstream top bottom front back rear forward backward forwards "
    "backwards inside outside indoor outdoor indoors outdoors inner outer interior exterior internal external inward "
    "outward horizontal horizontally vertical vertically before after near far ahead behind beside between"
)
_COLORS = (
    "color colour black white red green blue yellow orange purple violet pink brown grey gray beige maroon crimson "
    "scarlet turquoise teal cyan magenta indigo lavender ivory golden gold silver bronze blond blonde brunette reddish "
    "greenish bluish yellowish brownish"
)
_PEOPLES = (
    "african albanian algerian american arab arabian arabic argentine argentinian armenian asian australian austrian "
    "bavarian belgian bengali bosnian brazilian british bulgarian burmese canadian cantonese caribbean catalan chilean "
    "chinese colombian croatian cuban czech danish dutch egyptian english estonian ethiopian european filipino finnish "
    "flemish french georgian german greek hawaiian hebrew hindi hispanic hungarian icelandic indian indonesian iranian "
    "iraqi irish israeli italian jamaican japanese jewish jordanian kenyan korean kurdish latin latino latvian "
    "lebanese lithuanian macedonian malay malaysian maltese mandarin mexican moroccan nepalese nigerian norse "
    "norwegian pakistani palestinian persian peruvian polish portuguese punjabi romanian russian scandinavian scottish "
    "serbian sicilian slavic slovak slovenian somali soviet spanish swedish swiss syrian tamil thai tibetan tunisian "
    "turkish ukrainian urdu uruguayan venezuelan vietnamese welsh africa america asia europe christian christians "
    "muslim muslims islamic jew jews hindu hindus buddhist buddhists catholic catholics protestant protestants "
    "orthodox lutheran methodist baptist anglican atheist england britain scotland wales ireland france germany italy "
    "spain portugal belgium holland netherlands switzerland austria poland russia ukraine sweden norway denmark "
    "finland greece turkey israel egypt iran iraq india pakistan china japan korea taiwan vietnam thailand indonesia "
    "australia zealand canada usa mexico brazil brasil argentina chile peru colombia venezuela cuba nigeria kenya"
)
APART = frozenset(
    f"{_NUMBERS} {_TIMES} {_UNITS} {_KIN} {_DIRECTIONS} {_COLORS} {_PEOPLES}".split()
    + [word.lower() for word in (*MONTHS, *WEEKDAYS, *NAMES, *PLACES)]
)
# each word before a colon says the opposite of each behind it, and so do other forms of them (`train.synonyms`)
_OPPOSITES = (
    "increase raise grow maximum max: decrease reduce lowered shrink minimum min; add install attach: remove; buy "
    "bought purchase: sell sold sale; import: export; accept approve allow permit include enable: reject refuse deny "
    "decline prohibit ban forbid restrict exclude prevent; win won winner victory triumph success: lose defeat failure "
    "fail; open reopen unlock: close lock; start begin begun commence open initiate originate: end finish stop cease "
    "complete conclude finally eventually ultimate halt; stay remain keep kept arrive come came entrance: leave depart "
    "exit went gone quit resign; cheap inexpensive affordable: expensive costly; fast quick rapid speedy accelerate: "
    "slow gradual; hot warm heat: cold cool chill chilly freeze icy snowy; big large huge great giant major gigantic "
    "sizable massive: small tiny minor miniature; high tall: low short; long lengthy extend: short brief; wide broad "
    "thick widen expand: narrow thin tight slim shrink; deep depth: shallow; heavy: light; old vintage archaic "
    "traditional: new young youth modern; great best better excellent wonderful: poor worse worst terrible horrible; "
    "happy joy cheerful laugh: unhappy sorrow cry miserable; love adore: hate despise; easy easily simple effortless "
    "straightforward: hard difficult tough tricky complex; strong strength powerful: weak weaken weakness; rich "
    "wealthy affluent: poor poverty; soft gentle smooth: hard rough firm; whole complete entire: partial part portion; "
    "true truth real correct genuine factual authentic realistic: false lie wrong fake myth mistake fiction fictional; "
    "identical similar alike equal: different differ distinct unlike; everything: nothing nobody; anything anybody "
    "somebody someone: nothing nobody; several: scarce; common normal regular ordinary typical standard popular "
    "mainstream conventional: rare special weird strange exceptional uncommon unusual extraordinary irregular "
    "abnormal; public: private secret; local regional domestic national: foreign international abroad worldwide "
    "overseas; urban city town downtown: rural countryside suburban village; alive live survive life: dead die died "
    "death kill deceased; attack offense invade: defend; employer manager supervisor: employee worker staff; teach "
    "taught professor instructor: learn student; doctor physician surgeon nurse: patient; landlord: tenant; lend loan: "
    "borrow; gave given send sent offer deliver: receive took taken accept; brought: took; push shove: pull; asked "
    "question inquire: answer response; issue: solution; cause: result consequence; senior elder: junior freshman "
    "sophomore; primary main: secondary; professional expert specialist: amateur novice; married marry engaged: "
    "divorced; teammate: opponent; connect join unite merge combine together: disconnect separate divide apart; agree "
    "agreement support: disagree argue oppose; believe: doubt; certain: doubtful unsure uncertain whether; likely "
    "probable probably possible: doubtful impossible unlikely; remember recall remind: forget forgot; fix repair: "
    "broke broken damage fault; war battle fight combat fought: peace truce; legal lawful: illegal unlawful criminal; "
    "healthy: disease; clean wash: dirty dirt stain; wet water moist damp humid: dry; bright lit light: dark darkness "
    "dim; loud noisy noise: quiet silent; hide hidden conceal: show reveal expose visible uncover; safe safety secure: "
    "dangerous danger unsafe risky risk; organic: synthetic; positive: negative; advantage benefit: disadvantage; "
    "profit income revenue credit: expense debt; deposit: withdraw; success: unsuccessful; guilty: innocent; awake "
    "wake: asleep sleep; absent: presence attend; broad general: specific particular; singular: plural; prior: "
    "posterior; fiction novel fictional: nonfiction; capitalism: socialism communism; democracy: dictatorship "
    "authoritarian monarchy; republican conservative: democrat liberal; progressive: conservative; theory: practice; "
    "upload: download; input: output; ascend: descend; lead: follow; stressed tense: relaxed calm; hesitant reluctant: "
    "confident eager; limited restricted: unlimited extended; host: guest visitor; writer wrote: reader; speak spoken "
    "told: hear heard listen; shop buyer customer client: seller vendor supplier; barely hardly slightly: completely "
    "entirely utterly totally largely; almost: exactly; brave courage: coward fear; generous: selfish; wise smart "
    "clever intelligent: stupid dumb foolish; optional: mandatory compulsory required; temporary: permanent; active "
    "busy: idle lazy; innocent victim: criminal killer murderer; victim: attacker offender; plaintiff prosecution: "
    "defendant; multiply: divide; promote: demote; freedom liberty liberation: oppression; dream: nightmare; locked: "
    "freed; fresh: stale; closely: loosely; slim skinny slender: fat bulky; aware familiar realize realise knew: "
    "unaware; plenty: none; focus attention: distract distraction blur"
)
OPPOSITES = tuple(tuple(side.split() for side in line.split(":")) for line in _OPPOSITES.split(";"))
