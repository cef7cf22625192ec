"""Verbs of patterns that need a certain one, and tables that patterns draw from."""

from kd_ray.speech.corpora.demo import tables
from kd_ray.speech.corpora.demo.lexicon import GermanVerb, Verb, entries

MODALS = entries(tables.MODALS)
LANGUAGES = entries(tables.LANGUAGES)
COMPARATIVES = entries(tables.COMPARATIVES)
PERSON = frozenset({"person"})

GLAD = """
read eat drink cook bake paint ride drive write wear visit dance sing swim sleep watch
work run study
"""
"""Verbs that go with `likes to` and with requests."""


def _verb(forms: str, german: str) -> tuple[Verb, GermanVerb]:
    base, third, past, participle, progressive, *particle = forms.split()
    infinitive, third_german, participle_german, *auxiliary = german.split()
    verb = Verb(base, third, past, participle, progressive, " ".join(particle), ())
    is_sein = auxiliary == ["sein"]
    return verb, GermanVerb(
        infinitive, third_german, participle_german, "sein" if is_sein else "haben"
    )


GO_BY_VEHICLE = _verb("go goes went gone going", "fahren fährt gefahren sein")
GO_ON_FOOT = _verb("go goes went gone going", "gehen geht gegangen sein")
FLY = _verb("fly flies flew flown flying", "fliegen fliegt geflogen sein")
TRAVEL = _verb("travel travels travelled travelled travelling", "reisen reist gereist sein")
RUN = _verb("run runs ran run running", "laufen läuft gelaufen sein")
LIVE = _verb("live lives lived lived living", "wohnen wohnt gewohnt")
LAY = _verb("put puts put put putting", "legen legt gelegt")
STAND = _verb("put puts put put putting", "stellen stellt gestellt")
SPEAK = _verb("speak speaks spoke spoken speaking", "sprechen spricht gesprochen")
PLAY = _verb("play plays played played playing", "spielen spielt gespielt")
HAVE = _verb("have has had had having", "haben hat gehabt")
SAY = _verb("say says said said saying", "sagen sagt gesagt")
THINK = _verb("think thinks thought thought thinking", "glauben glaubt geglaubt")
KNOW = _verb("know knows knew known knowing", "wissen weiß gewusst")
HOPE = _verb("hope hopes hoped hoped hoping", "hoffen hofft gehofft")
ASK = _verb("ask asks asked asked asking", "fragen fragt gefragt")
TRY = _verb("try tries tried tried trying", "versuchen versucht versucht")
PLAN = _verb("plan plans planned planned planning", "planen plant geplant")
DECIDE = _verb("decide decides decided decided deciding", "beschließen beschließt beschlossen")
COST = _verb("cost costs cost cost costing", "kosten kostet gekostet")
