"""People, cities, countries, languages."""

NAMES = """
anna Anna f|peter Peter m|maria Maria f|thomas Thomas m|sarah Sarah f|paul Paul m|emma Emma f
lucas Lukas m|laura Laura f|david David m|julia Julia f|martin Martin m|sophie Sophie f
daniel Daniel m|clara Klara f|max Max m|simon Simon m|lena Lena f|felix Felix m|oscar Oskar m
george Georg m|alice Alice f|robert Robert m|joy Joy f|roger Roger m|joyce Joyce f
"""

CITIES = """
london London|berlin Berlin|paris Paris|vienna Wien|munich München|cologne Köln|rome Rom
moscow Moskau|zurich Zürich|hamburg Hamburg|geneva Genf|prague Prag|warsaw Warschau
lisbon Lissabon|athens Athen|madrid Madrid|venice Venedig|brussels Brüssel|nuremberg Nürnberg
dresden Dresden|oslo Oslo|milan Mailand|naples Neapel|germany Deutschland|austria Österreich
france Frankreich|italy Italien|spain Spanien|poland Polen|greece Griechenland|sweden Schweden
norway Norwegen|england England|russia Russland|asia Asien
"""

# Countries with an article in German: name, where, whither.
ARTICLE_COUNTRIES = """
switzerland|in der Schweiz|in die Schweiz
turkey|in der Türkei|in die Türkei
"""

LANGUAGES = """
german Deutsch|english Englisch|french Französisch|spanish Spanisch|italian Italienisch
russian Russisch|swedish Schwedisch|polish Polnisch
"""
