"""Verbs."""

# base third past participle progressive [particle]; then one sense a line:
# subjects > objects = infinitive third participle [sein] [prefix-] [acc|dat] [+preposition]
VERBS = """
see sees saw seen seeing
 person > person,animal,building,nature,vehicle = sehen sieht gesehen
hear hears heard heard hearing
 person,animal > person,animal,music,vehicle = hören hört gehört
know knows knew known -
 person > person,town,building,music,answer,readable = kennen kennt gekannt
visit visits visited visited visiting
 person > kin,building,town = besuchen besucht besucht
meet meets met met meeting
 person > person = treffen trifft getroffen
buy buys bought bought buying
 person > food,drink,wearable,vehicle,furniture,thing,instrument = kaufen kauft gekauft
sell sells sold sold selling
 person > fruit,baked,wearable,vehicle,furniture,building,instrument = verkaufen verkauft verkauft
find finds found found finding
 person,animal > thing,mount,answer,room,money = finden findet gefunden
look looks looked looked looking for
 person > thing,kin,room,building,answer = suchen sucht gesucht
lose loses lost lost losing
 person > flat,wearable,money,load,played = verlieren verliert verloren
forget forgets forgot forgotten -
 person > flat,abstract,event,load,answer = vergessen vergisst vergessen
need needs needed needed -
 person > thing,money,vehicle,furniture,job,drink = brauchen braucht gebraucht
carry carries carried carried carrying
 person > load,furniture,upright = tragen trägt getragen
wear wears wore worn wearing
 person > wearable = tragen trägt getragen
read reads read read reading
 person > readable = lesen liest gelesen
write writes wrote written writing
 person > written = schreiben schreibt geschrieben
eat eats ate eaten eating
 person > food = essen isst gegessen
 animal > fruit,baked,cooked = fressen frisst gefressen
drink drinks drank drunk drinking
 person > drink = trinken trinkt getrunken
cook cooks cooked cooked cooking
 person > cooked = kochen kocht gekocht
bake bakes baked baked baking
 person > baked = backen backt gebacken
cut cuts cut cut cutting
 person > baked,fruit = schneiden schneidet geschnitten
wash washes washed washed washing
 person > wearable,vehicle,fruit,upright = waschen wäscht gewaschen
clean cleans cleaned cleaned cleaning
 person > room,part = putzen putzt geputzt
open opens opened opened opening
 person > openable,written = öffnen öffnet geöffnet
close closes closed closed closing
 person > openable = schließen schließt geschlossen
repair repairs repaired repaired repairing
 person > vehicle,device,part,furniture = reparieren repariert repariert
paint paints painted painted painting
 person > picture = malen malt gemalt
 person > painted = streichen streicht gestrichen
learn learns learned learned learning
 person > learnt,music = lernen lernt gelernt
understand understands understood understood -
 person > learnt,asked,solved,person,show = verstehen versteht verstanden
answer answers answered answered answering
 person > asked,written = beantworten beantwortet beantwortet
 person > person = antworten antwortet geantwortet dat
solve solves solved solved solving
 person > solved = lösen löst gelöst
drive drives drove driven driving
 person > driven = fahren fährt gefahren
ride rides rode ridden riding
 person > mount = reiten reitet geritten
 person > cycle = fahren fährt gefahren
miss misses missed missed missing
 person > public,event = verpassen verpasst verpasst
 person > person,town = vermissen vermisst vermisst
catch catches caught caught catching
 person,animal > prey = fangen fängt gefangen
 person > public = erreichen erreicht erreicht
save saves saved saved saving
 person > person,animal = retten rettet gerettet
 person > money = sparen spart gespart
pass passes passed passed -
 person > exam = bestehen besteht bestanden
order orders ordered ordered ordering
 person > food,drink,furniture = bestellen bestellt bestellt
pay pays paid paid paying
 person > bill = bezahlen bezahlt bezahlt
 person > person = bezahlen bezahlt bezahlt
watch watches watched watched watching
 person > show = sehen sieht gesehen
 person,animal > animal,person,vehicle = beobachten beobachtet beobachtet
leave leaves left left leaving
 person > building,town,room = verlassen verlässt verlassen
call calls called called calling
 person > person = rufen ruft angerufen an-
invite invites invited invited inviting
 person > person = laden lädt eingeladen ein-
turn turns turned turned turning on
 person > device = schalten schaltet eingeschaltet ein-
turn turns turned turned turning off
 person > device = schalten schaltet ausgeschaltet aus-
pick picks picked picked picking up
 person > kin = holen holt abgeholt ab-
 person > flat,wearable = heben hebt aufgehoben auf-
look looks looked looked looking at
 person,animal > picture,building,animal,person = sehen sieht angesehen an-
listen listens listened listened listening to
 person > person = hören hört zugehört zu- dat
 person > music = hören hört angehört an-
follow follows followed followed following
 person,animal > person,animal,driven = folgen folgt gefolgt sein dat
help helps helped helped helping
 person > person,animal = helfen hilft geholfen dat
thank thanks thanked thanked thanking
 person > person = danken dankt gedankt dat
believe believes believed believed -
 person > person = glauben glaubt geglaubt dat
wait waits waited waited waiting for
 person > person,public,answer,written = warten wartet gewartet +auf
think thinks thought thought thinking of
 person > person,event,solved,money = denken denkt gedacht +an
talk talks talked talked talking about
 person > person,abstract,event,readable,money = sprechen spricht gesprochen +über
laugh laughs laughed laughed laughing about
 person > mistake,show,readable,person = lachen lacht gelacht +über
dream dreams dreamed dreamed dreaming of
 person,animal > food,nature,event,money,building = träumen träumt geträumt dat +von
dance dances danced danced dancing with
 person > person = tanzen tanzt getanzt dat +mit
play plays played played playing with
 person,animal > person,animal,prey = spielen spielt gespielt dat +mit
belong belongs belonged belonged - to
 vehicle,building,furniture,load,wearable,animal > person = gehören gehört gehört dat
sleep sleeps slept slept sleeping
 person,animal > - = schlafen schläft geschlafen
work works worked worked working
 person > - = arbeiten arbeitet gearbeitet
 device > - = funktionieren funktioniert funktioniert
sing sings sang sung singing
 person > - = singen singt gesungen
 person > music = singen singt gesungen
dance dances danced danced dancing
 person > - = tanzen tanzt getanzt
swim swims swam swum swimming
 person,animal > - = schwimmen schwimmt geschwommen sein
run runs ran run running
 person,animal > - = laufen läuft gelaufen sein
laugh laughs laughed laughed laughing
 person > - = lachen lacht gelacht
cry cries cried cried crying
 person > - = weinen weint geweint
smile smiles smiled smiled smiling
 person > - = lächeln lächelt gelächelt
come comes came come coming
 person,animal,public > - = kommen kommt gekommen sein
arrive arrives arrived arrived arriving
 person,vehicle > - = kommen kommt angekommen sein an-
leave leaves left left leaving
 public > - = fahren fährt abgefahren sein ab-
 person > - = gehen geht weggegangen sein weg-
stay stays stayed stayed staying
 person > - = bleiben bleibt geblieben sein
wait waits waited waited waiting
 person,animal,public > - = warten wartet gewartet
get gets got got getting up
 person,animal > - = stehen steht aufgestanden sein auf-
fall falls fell fallen falling asleep
 person,animal > - = schlafen schläft eingeschlafen sein ein-
study studies studied studied studying
 person > - = studieren studiert studiert
start starts started started starting
 event > - = beginnen beginnt begonnen
end ends ended ended ending
 event > - = enden endet geendet
stop stops stopped stopped stopping
 vehicle > - = halten hält angehalten an-
 person > - = hören hört aufgehört auf-
"""

# base third past participle progressive = German; given things; `to` marks "explains X to Y".
GIVING = """
give gives gave given giving = geben gibt gegeben; thing,fruit,money,answer
show shows showed shown showing = zeigen zeigt gezeigt; thing,room,building,town,mistake
send sends sent sent sending = schicken schickt geschickt; written,flat,money,flower
bring brings brought brought bringing = bringen bringt gebracht; thing,food,drink,answer
lend lends lent lent lending = leihen leiht geliehen; readable,money,cycle,load,driven
tell tells told told telling = erzählen erzählt erzählt; told
explain explains explained explained explaining to = erklären erklärt erklärt; solved,abstract
"""

MODALS = """
can kann kannst können
must muss musst müssen
should sollte solltest sollten
may darf darfst dürfen
"""
