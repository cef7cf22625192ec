"""Times, numbers and other small classes of words."""

WEEKDAYS = """
monday Montag|tuesday Dienstag|wednesday Mittwoch|thursday Donnerstag|friday Freitag
saturday Samstag|sunday Sonntag
"""

MONTHS = """
january Januar|february Februar|march März|april April|may Mai|june Juni|july Juli|august August
september September|october Oktober|november November|december Dezember
"""

ORDINALS = """
first ersten|second zweiten|third dritten|fourth vierten|fifth fünften|sixth sechsten
seventh siebten|eighth achten|ninth neunten|tenth zehnten|eleventh elften|twelfth zwölften
"""

COMPARATIVES = """
older älter|younger jünger|taller größer|stronger stärker|happier glücklicher|richer reicher
poorer ärmer|faster schneller|cleverer klüger|lazier fauler|braver mutiger|quieter ruhiger
"""

MANNER = """
quickly schnell|slowly langsam|carefully vorsichtig|loudly laut|quietly leise|well gut
together zusammen|alone allein|badly schlecht
"""

NUMBER_WORDS = """
one eins|two zwei|three drei|four vier|five fünf|six sechs|seven sieben|eight acht|nine neun
ten zehn|eleven elf|twelve zwölf|thirteen dreizehn|fourteen vierzehn|fifteen fünfzehn
sixteen sechzehn|seventeen siebzehn|eighteen achtzehn|nineteen neunzehn
"""

TENS_WORDS = """
twenty zwanzig|thirty dreißig|forty vierzig|fifty fünfzig|sixty sechzig|seventy siebzig
eighty achtzig|ninety neunzig
"""
