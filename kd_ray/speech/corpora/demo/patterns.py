"""The sentence patterns of the demo grammar, drawn at random."""

from dataclasses import dataclass, replace
from random import Random

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo import lexicon, tables
from kd_ray.speech.corpora.demo.clauses import (
    Adverbial,
    Being,
    Clause,
    Name,
    NounPhrase,
    Order,
    Pronoun,
    Statement,
    Tense,
    Words,
)
from kd_ray.speech.corpora.demo.lexicon import GermanVerb, Verb, entries
from kd_ray.speech.corpora.demo.phrases import Phrases, adjectives_for, number

_MODALS = entries(tables.MODALS)
_LANGUAGES = entries(tables.LANGUAGES)
_COMPARATIVES = entries(tables.COMPARATIVES)
_PERSON = frozenset({"person"})

_GLAD = """
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


_GO_BY_VEHICLE = _verb("go goes went gone going", "fahren fährt gefahren sein")
_GO_ON_FOOT = _verb("go goes went gone going", "gehen geht gegangen sein")
_FLY = _verb("fly flies flew flown flying", "fliegen fliegt geflogen sein")
_TRAVEL = _verb("travel travels travelled travelled travelling", "reisen reist gereist sein")
_RUN = _verb("run runs ran run running", "laufen läuft gelaufen sein")
_LIVE = _verb("live lives lived lived living", "wohnen wohnt gewohnt")
_LAY = _verb("put puts put put putting", "legen legt gelegt")
_STAND = _verb("put puts put put putting", "stellen stellt gestellt")
_SPEAK = _verb("speak speaks spoke spoken speaking", "sprechen spricht gesprochen")
_PLAY = _verb("play plays played played playing", "spielen spielt gespielt")
_HAVE = _verb("have has had had having", "haben hat gehabt")
_SAY = _verb("say says said said saying", "sagen sagt gesagt")
_THINK = _verb("think thinks thought thought thinking", "glauben glaubt geglaubt")
_KNOW = _verb("know knows knew known knowing", "wissen weiß gewusst")
_HOPE = _verb("hope hopes hoped hoped hoping", "hoffen hofft gehofft")
_ASK = _verb("ask asks asked asked asking", "fragen fragt gefragt")
_TRY = _verb("try tries tried tried trying", "versuchen versucht versucht")
_PLAN = _verb("plan plans planned planned planning", "planen plant geplant")
_DECIDE = _verb("decide decides decided decided deciding", "beschließen beschließt beschlossen")
_COST = _verb("cost costs cost cost costing", "kosten kostet gekostet")


@dataclass(frozen=True)
class SentencePair:
    """An English sentence, its German translation, and the pattern it was made by."""

    english: str
    german: str
    domain: str


class Grammar:
    """Draws sentence pairs of 3 to `max_words` English words from `seed`."""

    def __init__(self, seed: int, max_words: int) -> None:
        self._phrases = Phrases(Random(seed))
        self._max_words = max_words
        self._patterns = [
            (self._plain, 9.0),
            (self._fronted, 2.0),
            (self._giving, 1.5),
            (self._being, 2.5),
            (self._comparison, 0.8),
            (self._position, 1.3),
            (self._there_is, 0.8),
            (self._motion, 2.0),
            (self._placing, 3.0),
            (self._living, 0.7),
            (self._clock, 0.8),
            (self._counting, 1.2),
            (self._having, 1.2),
            (self._skill, 1.0),
            (self._gladly, 1.2),
            (self._infinitive, 1.2),
            (self._reported, 3.5),
            (self._conjoined, 5.0),
            (self._relative, 2.5),
            (self._question, 2.5),
            (self._request, 0.9),
        ]

    def draw(self) -> SentencePair:
        """One sentence pair; pairs repeat in the long run."""
        while True:
            pattern = self._phrases.weighted(self._patterns)
            english, german = pattern()
            words = " ".join(english).split()
            if 3 <= len(words) <= self._max_words:
                pair = (" ".join(words), " ".join(de.contract(" ".join(german).split())))
                return SentencePair(*pair, domain=pattern.__name__.lstrip("_"))

    # -- clauses -----------------------------------------------------------------------------

    def _tense(self, verb: Verb) -> Tense:
        tenses: list[tuple[Tense, float]] = [
            ("present", 4.0),
            ("perfect", 1.5),
            ("past", 3.0),
            ("future", 2.0),
            ("modal", 2.5),
            ("want", 1.0),
        ]
        if verb.progressive:
            tenses.append(("progressive", 2.0))
        return self._phrases.weighted(tenses)

    def _clause(self, *, short: bool = False, person_only: bool = False) -> Clause:
        """A clause about anything; `short` ones carry no adverbials and no long subjects."""
        draw = self._phrases
        while True:
            verb = draw.one(lexicon.VERBS)
            sense = draw.one(verb.senses)
            if not person_only or "person" in sense.subjects:
                break
        subject = draw.subject(sense.subjects)
        if short and "person" in sense.subjects and draw.chance(0.7):
            subject = draw.pronoun()
        direct = draw.object(sense.objects, subject) if sense.objects else None
        tense = self._tense(verb)
        if tense in ("modal", "want") and "person" not in sense.subjects:
            tense = "present"
        clause = Clause(subject, verb, sense.german, tense, direct=direct)
        if tense == "modal":
            clause = replace(clause, modal=draw.one(_MODALS))
        if draw.chance(0.15) and clause.modal[:1] != ("should",):
            clause = replace(clause, negated=True)
        return clause if short else self._with_adverbials(clause)

    def _with_adverbials(self, clause: Clause) -> Clause:
        draw = self._phrases
        if clause.tense in ("present", "perfect", "past", "future") and draw.chance(0.2):
            if not clause.negated:
                clause = replace(clause, frequency=draw.frequency(clause.tense))
        elif clause.tense not in ("progressive", "perfect") and draw.chance(0.45):
            clause = replace(clause, time=draw.time(clause.tense))
        if clause.direct is None and draw.chance(0.35):
            clause = replace(clause, place=draw.place())
        if not clause.negated and clause.place is None and draw.chance(0.1):
            clause = replace(clause, manner=draw.manner())
        return clause

    def _be_clause(self, *, short: bool = False) -> Being:
        """`X is (not) (very) adjective`."""
        draw = self._phrases
        classes = _PERSON if short or draw.chance(0.5) else frozenset({"thing", "building", "food"})
        classes = (
            classes if classes is _PERSON else classes | {"abstract", "event", "room", "animal"}
        )
        subject = draw.subject(classes)
        if isinstance(subject, NounPhrase):
            subject = replace(subject, adjective=None)
        noun_classes = subject.noun.classes if isinstance(subject, NounPhrase) else _PERSON
        adjective = draw.one(adjectives_for(noun_classes))
        german = adjective.german(noun_classes)
        assert german
        degree = draw.weighted([(("", ""), 4.0), (("very", "sehr"), 1.5), (("too", "zu"), 1.0)])
        predicate = Adverbial((degree[0], adjective.english), (degree[1], german))
        return Being(subject, predicate, past=draw.chance(0.35), negated=draw.chance(0.15))

    def _statement(self) -> Statement:
        draw = self._phrases
        return self._be_clause(short=True) if draw.chance(0.3) else self._clause(short=True)

    # -- patterns ----------------------------------------------------------------------------

    def _plain(self) -> tuple[Words, Words]:
        clause = self._clause()
        return clause.english(), clause.german()

    def _fronted(self) -> tuple[Words, Words]:
        clause = self._clause(short=True)
        if clause.tense in ("progressive", "perfect"):
            clause = replace(clause, tense="future")
        time = self._phrases.time(clause.tense)
        return (*time.english, *clause.english()), clause.german(front=time.german)

    def _giving(self) -> tuple[Words, Words]:
        draw = self._phrases
        verb = draw.one(lexicon.GIVING)
        sense = verb.senses[0]
        subject = draw.subject(_PERSON)
        tense = self._tense(verb)
        clause = Clause(
            subject,
            verb,
            sense.german,
            tense,
            modal=draw.one(_MODALS),
            direct=draw.noun_phrase(sense.objects),
            recipient=draw.object(_PERSON, subject),
        )
        return clause.english(), clause.german()

    def _being(self) -> tuple[Words, Words]:
        being = self._be_clause()
        return being.english(), being.german()

    def _comparison(self) -> tuple[Words, Words]:
        draw = self._phrases
        first, second = draw.subject(_PERSON), draw.object(_PERSON, Pronoun("i"))
        if isinstance(second, Pronoun):
            second = draw.name()
        english, german = draw.one(_COMPARATIVES)
        predicate = Adverbial(
            (english, "than", *second.english(subject=False)),
            (german, "als", *second.german("nom")),
        )
        being = Being(first, predicate, past=draw.chance(0.2))
        return being.english(), being.german()

    def _surface(self, case: lexicon.Case) -> tuple[Words, Words]:
        """`on the table` or `in(to) the box`, in the wanted case."""
        draw = self._phrases
        if draw.chance(0.6):
            phrase = draw.noun_phrase(frozenset({"surface"}), definite=True)
            preposition, german = "on", "auf"
        else:
            phrase = draw.noun_phrase(frozenset({"inside"}), definite=True)
            preposition, german = ("into" if case == "acc" else "in"), "in"
        return (preposition, *phrase.english(subject=False)), (german, *phrase.german(case))

    def _position(self) -> tuple[Words, Words]:
        """Things `are` somewhere; German says whether they lie or stand."""
        draw = self._phrases
        classes, verb = draw.one((("flat", "liegt liegen"), ("upright", "steht stehen")))
        subject = draw.noun_phrase(frozenset({classes}), definite=True)
        being = Being(subject, Adverbial(*self._surface("dat")), verb=verb)
        return being.english(), being.german()

    def _there_is(self) -> tuple[Words, Words]:
        draw = self._phrases
        noun = draw.one([n for n in lexicon.NOUNS if n.plural and n.classes & {"person", "animal"}])
        value = 1 + int(draw.random.random() * 12)
        if value == 1:
            phrase = NounPhrase(noun, "a")
        else:
            phrase = NounPhrase(noun, "", plural=True, number=number(value))
        place = draw.place()
        english = ("there", "is" if value == 1 else "are", *phrase.english(subject=True))
        german = (*place.german, "ist" if value == 1 else "sind", *phrase.german("nom"))
        return (*english, *place.english), german

    def _motion(self) -> tuple[Words, Words]:
        draw = self._phrases
        verb, kind = draw.one(
            (
                (_GO_BY_VEHICLE, "city"),
                (_GO_ON_FOOT, "place"),
                (_FLY, "city"),
                (_TRAVEL, "city"),
                (_RUN, "place"),
            )
        )
        tense = self._tense(verb[0])
        clause = Clause(
            draw.subject(_PERSON),
            *verb,
            tense,
            modal=draw.one(_MODALS),
            place=draw.to_city() if kind == "city" else draw.to_place(),
            negated=draw.chance(0.12),
        )
        if kind == "city" and verb is not _FLY and draw.chance(0.25):
            clause = replace(clause, manner=draw.means())
        elif tense not in ("progressive", "perfect") and draw.chance(0.4):
            clause = replace(clause, time=draw.time(tense))
        return clause.english(), clause.german()

    def _placing(self) -> tuple[Words, Words]:
        """`put`: flat things are laid, others are stood; both govern the accusative."""
        draw = self._phrases
        verb, classes = draw.one(((_LAY, "flat"), (_STAND, "upright")))
        clause = Clause(
            draw.subject(_PERSON),
            *verb,
            self._tense(verb[0]),
            modal=draw.one(_MODALS),
            direct=draw.noun_phrase(frozenset({classes}), definite=True),
            place=Adverbial(*self._surface("acc")),
        )
        return clause.english(), clause.german()

    def _living(self) -> tuple[Words, Words]:
        draw = self._phrases
        tense = draw.weighted([("present", 3.0), ("past", 1.0), ("want", 2.0)])
        clause = Clause(draw.subject(_PERSON), *_LIVE, tense, place=draw.city())  # type: ignore[arg-type]
        return clause.english(), clause.german()

    def _clock(self) -> tuple[Words, Words]:
        draw = self._phrases
        english, german = draw.clock()
        is_it = draw.weighted(
            [(("it is", "es ist"), 3.0), (("it is already", "es ist schon"), 1.5)]
        )
        return (is_it[0], english), (is_it[1], german)

    def _counting(self) -> tuple[Words, Words]:
        """Ages and prices: German numbers put the units before the tens."""
        draw = self._phrases
        english, german = number(2 + int(draw.random.random() * 98))
        if draw.chance(0.5):
            predicate = Adverbial((english, "years", "old"), (german, "Jahre", "alt"))
            being = Being(draw.subject(_PERSON), predicate)
            return being.english(), being.german()
        subject = draw.noun_phrase(
            frozenset({"wearable", "furniture", "cycle", "flat"}), definite=True
        )
        price = Name(f"{english} euros", f"{german} Euro", "they")
        clause = Clause(subject, *_COST, "present", direct=price)
        return clause.english(), clause.german()

    def _having(self) -> tuple[Words, Words]:
        draw = self._phrases
        subject = draw.subject(_PERSON)
        tense = draw.weighted([("present", 3.0), ("past", 1.0), ("future", 0.7)])
        owned = draw.weighted(
            [
                (draw.noun_phrase(frozenset({"kin", "animal", "thing", "vehicle", "room"})), 5.0),
                (Name("time", "Zeit", "he"), 0.6),
                (Name("no time", "keine Zeit", "he"), 0.6),
                (Name("no money", "kein Geld", "he"), 0.4),
                (Name("glasses", "eine Brille", "he"), 0.4),
            ]
        )
        clause = Clause(subject, *_HAVE, tense, direct=owned)  # type: ignore[arg-type]
        if draw.chance(0.3):
            clause = replace(clause, time=draw.time(clause.tense))
        return clause.english(), clause.german()

    def _skill(self) -> tuple[Words, Words]:
        """Languages and instruments: German has no article here."""
        draw = self._phrases
        if draw.chance(0.5):
            english, german = draw.one(_LANGUAGES)
            verb, skill = _SPEAK, Name(english, german, "he")
        else:
            noun = draw.one([n for n in lexicon.NOUNS if "instrument" in n.classes])
            verb, skill = _PLAY, Name(f"the {noun.singular}", noun.german, "he")
        clause = Clause(
            draw.subject(_PERSON), *verb, self._tense(verb[0]), draw.one(_MODALS), direct=skill
        )
        if draw.chance(0.3) and clause.tense not in ("progressive", "perfect"):
            clause = replace(clause, time=draw.time(clause.tense))
        return clause.english(), clause.german()

    def _activity(self) -> Clause:
        """Something a person does deliberately, present tense, subject yet to be replaced."""
        while True:
            clause = replace(self._clause(short=True, person_only=True), negated=False)
            if clause.verb.base in _GLAD.split() and clause.german_verb.third != "funktioniert":
                return replace(clause, tense="present", subject=self._phrases.subject(_PERSON))

    def _gladly(self) -> tuple[Words, Words]:
        clause = replace(self._activity(), gladly=True, negated=self._phrases.chance(0.2))
        return clause.english(), clause.german()

    def _infinitive(self) -> tuple[Words, Words]:
        draw = self._phrases
        inner = self._clause(short=True, person_only=True)
        inner = replace(inner, tense="present", negated=False)
        verb = draw.one((_TRY, _PLAN, _DECIDE, _HOPE))
        tense = draw.weighted([("present", 2.0), ("past", 2.0), ("future", 0.5)])
        outer = Clause(draw.subject(_PERSON), *verb, tense)  # type: ignore[arg-type]
        english = (*outer.english(), "to", inner.verb.base, *inner.english_middle())
        return english, (*outer.german(), *inner.german_infinitive())

    def _reported(self) -> tuple[Words, Words]:
        """`that`, `if`, `why`, `where`, `when` after saying and asking: the verb goes last."""
        draw = self._phrases
        verb = draw.one((_SAY, _THINK, _KNOW, _HOPE, _ASK))
        inner = self._statement()
        if verb is _ASK:
            word = draw.one((("if", "ob"), ("why", "warum"), ("when", "wann"), ("where", "wo")))
        else:
            word = ("that", "dass")
        outer = Clause(draw.subject(_PERSON), *verb, "present")
        if draw.chance(0.25) and verb is not _KNOW:
            outer = replace(outer, tense="past")
        elif verb is _KNOW and draw.chance(0.4):
            word = draw.one((("if", "ob"), ("why", "warum"), ("where", "wo")))
            outer = replace(outer, negated=True)
        german_outer = outer.german()
        if verb is _KNOW:
            german_outer = tuple(
                de.IRREGULAR["wissen"][outer.subject.person] if w == outer.german_verbs()[0] else w
                for w in german_outer
            )
        english = (*outer.english(), word[0], *inner.english())
        return english, (*german_outer, word[1], *inner.german(order="subordinate"))

    def _conjoined(self) -> tuple[Words, Words]:
        """Two clauses; `when` is `als` in the past and `wenn` otherwise."""
        draw = self._phrases
        first, second = self._statement(), self._statement()
        is_past = isinstance(second, Being) and second.past
        is_past = is_past or (isinstance(second, Clause) and second.tense == "past")
        word = draw.one(
            (
                ("because", "weil"),
                ("because", "weil"),
                ("although", "obwohl"),
                ("when", "als" if is_past else "wenn"),
                ("if", "wenn"),
                ("before", "bevor"),
                ("while", "während"),
                ("until", "bis"),
                ("but", "aber"),
                ("and", "und"),
            )
        )
        order: Order = "main" if word[0] in ("but", "and") else "subordinate"
        english = (*first.english(), word[0], *second.english())
        return english, (*first.german(), word[1], *second.german(order=order))

    def _relative(self) -> tuple[Words, Words]:
        """`the man who sings is tired`, `the book that she reads is new`."""
        draw = self._phrases
        by_subject = draw.chance(0.5)
        while True:
            clause = replace(self._clause(short=True), negated=False)
            if by_subject and "person" in draw.one(clause.verb.senses).subjects:
                head = draw.noun_phrase(_PERSON, definite=True)
                break
            direct = clause.direct
            if (
                not by_subject
                and isinstance(direct, NounPhrase)
                and not clause.german_verb.preposition
                and (direct.noun.plural or direct.determiner)
            ):
                head = direct
                break
        head = replace(head, determiner="the", adjective=None, number=None)
        adjective = draw.adjective_for(head.noun)
        predicate = adjective.german(head.noun.classes) if adjective else None
        if adjective is None or predicate is None or head.noun.singular == "holiday":
            return (), ()
        being = Being(head, Adverbial((adjective.english,), (predicate,)), past=draw.chance(0.3))
        head_english, head_german = head.english(subject=True), head.german("nom")
        if by_subject:
            inner = replace(clause, subject=head)
            english = ("who", *inner.english()[len(head_english) :])
            german = inner.german(order="subordinate")[len(head_german) :]
            german = (de.relative_pronoun("nom", head.shape), *german)
        else:
            inner = replace(clause, direct=None)
            english = ("who" if "person" in head.noun.classes else "that", *inner.english())
            case = inner.german_verb.case
            german = inner.german(order="subordinate")
            german = (de.relative_pronoun(case, head.shape), *german)
        main_english, main_german = being.english(), being.german()
        return (
            (*head_english, *english, *main_english[len(head_english) :]),
            (*head_german, *german, *main_german[len(head_german) :]),
        )

    def _question(self) -> tuple[Words, Words]:
        draw = self._phrases
        kind = draw.weighted([("yes_no", 3.0), ("word", 2.0), ("be", 1.5), ("which", 1.0)])
        if kind == "be":
            being = replace(self._be_clause(), negated=False)
            return being.english(order="question"), being.german(order="question")
        clause = replace(self._clause(short=kind != "yes_no"), negated=False)
        if kind == "yes_no":
            return clause.english(order="question"), clause.german(order="question")
        if kind == "word":
            english, german = draw.one(
                (("when", "wann"), ("why", "warum"), ("where", "wo"), ("how often", "wie oft"))
            )
            return (english, *clause.english(order="question")), clause.german(
                front=tuple(german.split())
            )
        direct = clause.direct
        if (
            not isinstance(direct, NounPhrase)
            or clause.german_verb.preposition
            or not direct.noun.plural
        ):
            return (), ()
        asked = replace(direct, determiner="which", number=None)
        clause = replace(clause, direct=None)
        german_asked = asked.german(clause.german_verb.case)
        return (*asked.english(subject=False), *clause.english(order="question")), clause.german(
            front=german_asked
        )

    def _request(self) -> tuple[Words, Words]:
        """A polite request; German has the pronoun `Sie` and the separable prefix at the end."""
        clause = replace(self._clause(short=True, person_only=True), negated=False, tense="present")
        if clause.direct is None or isinstance(clause.direct, Pronoun):
            return (), ()
        clause = replace(clause, subject=Pronoun("they"))
        german = list(clause.german(order="question"))
        german[1] = "Sie"
        return ("please", clause.verb.base, *clause.english_middle()), ("bitte", *german)
