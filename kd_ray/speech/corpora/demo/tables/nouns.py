"""Nouns and adjectives."""

# Nouns: singular plural gender German German-plural classes [German other than nominative].
NOUNS = """
man men m Mann Männer person
woman women f Frau Frauen person
child children n Kind Kinder person
boy boys m Junge Jungen person Jungen
girl girls n Mädchen Mädchen person
doctor doctors m Arzt Ärzte person,job
teacher teachers m Lehrer Lehrer person,job
student students m Student Studenten person,job Studenten
friend friends m Freund Freunde person,kin
neighbour neighbours m Nachbar Nachbarn person,kin Nachbarn
brother brothers m Bruder Brüder person,kin
sister sisters f Schwester Schwestern person,kin
mother mothers f Mutter Mütter person,kin
father fathers m Vater Väter person,kin
uncle uncles m Onkel Onkel person,kin
aunt aunts f Tante Tanten person,kin
grandmother grandmothers f Großmutter Großmütter person,kin
grandfather grandfathers m Großvater Großväter person,kin
daughter daughters f Tochter Töchter person,kin
son sons m Sohn Söhne person,kin
colleague colleagues m Kollege Kollegen person,kin Kollegen
boss bosses m Chef Chefs person,kin
cook cooks m Koch Köche person,job
driver drivers m Fahrer Fahrer person,job
policeman policemen m Polizist Polizisten person,job Polizisten
nurse nurses f Krankenschwester Krankenschwestern person,job
singer singers m Sänger Sänger person,job
actor actors m Schauspieler Schauspieler person,job
farmer farmers m Bauer Bauern person,job Bauern
baker bakers m Bäcker Bäcker person,job
guest guests m Gast Gäste person
tourist tourists m Tourist Touristen person Touristen
customer customers m Kunde Kunden person Kunden
lawyer lawyers m Anwalt Anwälte person,job
engineer engineers m Ingenieur Ingenieure person,job
judge judges m Richter Richter person,job
king kings m König Könige person
queen queens f Königin Königinnen person
waiter waiters m Kellner Kellner person,job
journalist journalists m Journalist Journalisten person,job Journalisten
dog dogs m Hund Hunde animal
cat cats f Katze Katzen animal
horse horses n Pferd Pferde animal,mount
cow cows f Kuh Kühe animal
bird birds m Vogel Vögel animal,prey
mouse mice f Maus Mäuse animal,prey
bear bears m Bär Bären animal Bären
lion lions m Löwe Löwen animal Löwen
goat goats f Ziege Ziegen animal
duck ducks f Ente Enten animal
rabbit rabbits m Hase Hasen animal,prey Hasen
pig pigs n Schwein Schweine animal
monkey monkeys m Affe Affen animal Affen
bread - n Brot - food,baked
apple apples m Apfel Äpfel food,fruit
cake cakes m Kuchen Kuchen food,baked
egg eggs n Ei Eier food,cooked
cheese - m Käse - food
soup soups f Suppe Suppen food,cooked
potato potatoes f Kartoffel Kartoffeln food,cooked
tomato tomatoes f Tomate Tomaten food,fruit
banana bananas f Banane Bananen food,fruit
fish - m Fisch - food,cooked
meat - n Fleisch - food,cooked
salad salads m Salat Salate food
pear pears f Birne Birnen food,fruit
cherry cherries f Kirsche Kirschen food,fruit
carrot carrots f Karotte Karotten food,fruit
rice - m Reis - food,cooked
chocolate - f Schokolade - food
water - n Wasser - drink
milk - f Milch - drink
coffee - m Kaffee - drink,brew
tea - m Tee - drink,brew
juice - m Saft - drink
beer - n Bier - drink
wine - m Wein - drink
book books n Buch Bücher thing,readable,flat
newspaper newspapers f Zeitung Zeitungen thing,readable,flat
letter letters m Brief Briefe thing,readable,flat,written
magazine magazines f Zeitschrift Zeitschriften thing,readable,flat
story stories f Geschichte Geschichten readable,written,told
poem poems n Gedicht Gedichte readable,written
message messages f Nachricht Nachrichten readable,written
report reports m Bericht Berichte readable,written
coat coats m Mantel Mäntel thing,wearable
hat hats m Hut Hüte thing,wearable
shirt shirts n Hemd Hemden thing,wearable
dress dresses n Kleid Kleider thing,wearable
jacket jackets f Jacke Jacken thing,wearable
shoe shoes m Schuh Schuhe thing,wearable
glove gloves m Handschuh Handschuhe thing,wearable
skirt skirts m Rock Röcke thing,wearable
car cars n Auto Autos vehicle,driven,big
bus buses m Bus Busse vehicle,public,big
train trains m Zug Züge vehicle,public,big
bicycle bicycles n Fahrrad Fahrräder vehicle,cycle
ship ships n Schiff Schiffe vehicle,public,big
boat boats n Boot Boote vehicle,big
truck trucks m Lastwagen Lastwagen vehicle,driven,big
tram trams f Straßenbahn Straßenbahnen vehicle,public,big
table tables m Tisch Tische furniture,surface,big
chair chairs m Stuhl Stühle furniture,surface,seat,big
bed beds n Bett Betten furniture,surface,big
shelf shelves n Regal Regale furniture,inside,big
sofa sofas n Sofa Sofas furniture,surface,seat,big
cupboard cupboards m Schrank Schränke furniture,inside,openable,big
desk desks m Schreibtisch Schreibtische furniture,surface,big
drawer drawers f Schublade Schubladen inside,openable
kitchen kitchens f Küche Küchen room,inside
bathroom bathrooms n Badezimmer Badezimmer room,inside
bedroom bedrooms n Schlafzimmer Schlafzimmer room,inside
room rooms n Zimmer Zimmer room,inside
garden gardens m Garten Gärten room,inside
cellar cellars m Keller Keller room,inside
office offices n Büro Büros room,inside
garage garages f Garage Garagen room,inside
house houses n Haus Häuser building,inside,painted,big
church churches f Kirche Kirchen building,inside,big
school schools f Schule Schulen building,inside,big
hospital hospitals n Krankenhaus Krankenhäuser building,inside,big
hotel hotels n Hotel Hotels building,inside,big
museum museums n Museum Museen building,inside,big
theatre theatres n Theater Theater building,inside,big
castle castles n Schloss Schlösser building,inside,big
library libraries f Bibliothek Bibliotheken building,inside,big
restaurant restaurants n Restaurant Restaurants building,inside,big
shop shops m Laden Läden building,inside,big
factory factories f Fabrik Fabriken building,inside,big
university universities f Universität Universitäten building,inside,big
tower towers m Turm Türme building,big
bridge bridges f Brücke Brücken building,surface,big
mountain mountains m Berg Berge nature,big
lake lakes m See Seen nature,big
river rivers m Fluss Flüsse nature,big
forest forests m Wald Wälder nature,inside,big
island islands f Insel Inseln nature,surface,big
tree trees m Baum Bäume nature,picture,big
flower flowers f Blume Blumen thing,nature,picture
street streets f Straße Straßen nature,surface
city cities f Stadt Städte town,inside
village villages n Dorf Dörfer town,inside
bottle bottles f Flasche Flaschen thing,upright,openable
cup cups f Tasse Tassen thing,upright
vase vases f Vase Vasen thing,upright
lamp lamps f Lampe Lampen thing,upright,device
plate plates m Teller Teller thing,upright
bag bags f Tasche Taschen thing,upright,openable,load
box boxes f Kiste Kisten thing,upright,openable,load,inside
basket baskets m Korb Körbe thing,upright,load,inside
suitcase suitcases m Koffer Koffer thing,upright,openable,load
map maps f Karte Karten thing,flat
key keys m Schlüssel Schlüssel thing,flat
knife knives n Messer Messer thing,flat
spoon spoons m Löffel Löffel thing,flat
fork forks f Gabel Gabeln thing,flat
pencil pencils m Bleistift Bleistifte thing,flat
ticket tickets f Fahrkarte Fahrkarten thing,flat
towel towels n Handtuch Handtücher thing,flat
photo photos n Foto Fotos thing,flat
umbrella umbrellas m Regenschirm Regenschirme thing,flat
ball balls m Ball Bälle thing,flat,prey
computer computers m Computer Computer thing,device
radio radios n Radio Radios thing,device,upright
television televisions m Fernseher Fernseher thing,device,upright
machine machines f Maschine Maschinen device
heater heaters f Heizung Heizungen device
telephone telephones n Telefon Telefone thing,device,upright
camera cameras f Kamera Kameras thing,device
watch watches f Uhr Uhren thing,wearable,flat
door doors f Tür Türen openable,painted,part
window windows n Fenster Fenster openable,painted,part
wall walls f Wand Wände painted,part
gate gates n Tor Tore openable,painted,part
roof roofs n Dach Dächer painted,part
guitar guitars f Gitarre Gitarren thing,instrument
piano pianos n Klavier Klaviere instrument,big
violin violins f Geige Geigen thing,instrument
flute flutes f Flöte Flöten thing,instrument
trumpet trumpets f Trompete Trompeten thing,instrument
question questions f Frage Fragen abstract,asked,hardness
answer answers f Antwort Antworten abstract,answer
problem problems n Problem Probleme abstract,solved,hardness
riddle riddles n Rätsel Rätsel abstract,solved,hardness
idea ideas f Idee Ideen abstract
plan plans m Plan Pläne abstract
word words n Wort Wörter abstract,learnt,hardness
rule rules f Regel Regeln abstract,learnt
language languages f Sprache Sprachen abstract,learnt
song songs n Lied Lieder abstract,music
film films m Film Filme abstract,show
mistake mistakes m Fehler Fehler abstract
decision decisions f Entscheidung Entscheidungen abstract,hardness
picture pictures n Bild Bilder thing,picture,flat
exam exams f Prüfung Prüfungen event,exam,hardness
lesson lessons f Stunde Stunden event
meeting meetings f Sitzung Sitzungen event
concert concerts n Konzert Konzerte event
party parties f Feier Feiern event
wedding weddings f Hochzeit Hochzeiten event
journey journeys f Reise Reisen event
game games n Spiel Spiele event,played
holiday holidays m Urlaub Urlaube event
bill bills f Rechnung Rechnungen bill
money - n Geld - money
"""

ADJECTIVES = """
new thing,vehicle,furniture,building,abstract,device,job,room:neu
old thing,vehicle,furniture,building,person,animal,device,town,nature,part,instrument:alt
beautiful thing,building,nature,town,room,music,animal,event,instrument:schön
small thing,vehicle,furniture,building,animal,room,town,nature,part,fruit:klein
big animal,big,load,town,room,abstract,part:groß
expensive thing,vehicle,furniture,device,wine,event,instrument:teuer
cheap thing,vehicle,furniture,device:billig
red thing,vehicle,part,fruit:rot
blue thing,vehicle,part:blau
green thing,vehicle,part,fruit,nature:grün
white thing,vehicle,part,animal,furniture:weiß
black thing,vehicle,part,animal,furniture:schwarz
yellow thing,vehicle,fruit,part:gelb
brown animal,furniture,wearable,load:braun
long abstract,event,readable,nature:lang
short person:klein|event,readable,abstract,music,show:kurz
light room:hell|thing,furniture:leicht
hard hardness:schwierig|seat,surface,baked,fruit:hart
right answer,learnt,abstract:richtig
wrong answer,abstract,flat,public:falsch
heavy load,furniture,flat,instrument,upright:schwer
empty upright,room,building,public,inside:leer
dirty wearable,room,part,upright,vehicle:schmutzig
clean wearable,room,part,upright:sauber
broken device,vehicle,upright,part,furniture:kaputt
dark room,inside,nature:dunkel
young person,animal:jung
tall person,nature,building:groß
friendly person:freundlich
famous person,building,music,readable,show:berühmt
rich person:reich
poor person,animal:arm
strong brew:stark|person,animal:stark
clever person,animal,abstract:klug
lazy person,animal:faul
hungry person,animal:hungrig
angry person:wütend
happy person:glücklich
tired person,animal:müde
sick person,animal:krank
quiet room,town,nature,person:ruhig
brave person:mutig
dangerous animal,nature,abstract:gefährlich
fresh food,drink:frisch
hot brew,cooked,drink:heiß
cold drink,room,nature:kalt
warm drink,wearable,room:warm
sweet fruit,baked,brew:süß
important abstract,event,readable:wichtig
easy hardness,learnt,event:leicht
interesting abstract,readable,person,show,event:interessant
boring show,readable,event,person:langweilig
strange abstract,person,readable,animal:seltsam
funny show,readable,person,animal:lustig
modern building,device,furniture,room,town:modern
"""
