"""Questions nobody had to write: from an article to passages with questions whose answers are spans of them.

A span that could be an answer (a name, a date, a number, a noun phrase) is taken out of a sentence and a question word
put in: "The codec was developed by Marrow Labs in 1999." gives "Who was the codec developed by in 1999?". The sentence
is one of the passage, roughened (words dropped, the window cut) so that it can't simply be looked up, or one from
elsewhere in the article that names the same span. What this teaches is finding and copying, not English: the loss on
such questions is kept small. (Cloze translation: arXiv 1906.04980; recurring spans: arXiv 2101.00438.)
"""
import random
import re

STOP = set("""a an the of in on at to for from by with and or but as is are was were be been being has have had do does did
it its he she his her they their them this that these those which who whom whose what when where while not no than then
also such into over under after before between during through about against so if can could may might will would should
there here more most some any all each other only very i you we our your him one two""".split())
MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = re.compile(rf"\b(?:\d{{1,2}} {MONTH}(?: \d{{4}})?|{MONTH} \d{{1,2}}(?:, \d{{4}})?|{MONTH} \d{{4}}|(?:1\d|20)\d\d(?:s|[-–]\d{{2,4}})?)\b")
NUMBER = re.compile(r"[$€£]?\b\d[\d,.]*\d\b(?:\s?(?:%|percent|million|billion|km|miles|meters|metres|feet|years|people))?|\b\d\b|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|hundred)\b")
NAME = re.compile(r"\b[A-Z][\w'’.-]*[\w](?:(?:\s(?:of|the|de|and|von|van|for|in)){0,2}\s[A-Z][\w'’-]*\w)*")
WORD = re.compile(r"\S+")
AUX = set("is are was were has had have can could may might will would did does".split())
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(A-Z0-9])")
PLACE = set("in at near from to across".split())


def passages(text, rng, low=250, high=1100):
    """Paragraphs, short ones joined and long ones cut at sentences, until `low` to `high` characters."""
    out, held = [], ""
    for para in re.split(r"\n+", text):
        para = para.strip()
        if len(para) < 40 or para.count(" ") < 6:       # headings, lists
            continue
        want = rng.uniform(low, high)
        for sentence in ([para] if len(para) < want else SENTENCE.split(para)):
            if held and len(held) + len(sentence) > want:
                out.append(held)
                held = ""
            held = held + " " + sentence if held else sentence
        if len(held) >= low:
            out.append(held)
            held = ""
    return [p for p in out if len(p) <= 2000]


def sentences(passage):
    at = 0
    for m in SENTENCE.finditer(passage):
        yield at, passage[at:m.start()]
        at = m.end()
    yield at, passage[at:]


def candidates(sentence, rng):
    """(start, end, kind) of spans that could be answers."""
    out = [(m.start(), m.end(), "date") for m in DATE.finditer(sentence)]
    inside = lambda a, b: any(a < y and x < b for x, y, _ in out)
    for m in NUMBER.finditer(sentence):
        if not inside(m.start(), m.end()):
            out.append((m.start(), m.end(), "number"))
    for m in NAME.finditer(sentence):
        first = m.group().split()[0].lower()
        if m.start() == 0 and (first in STOP or " " not in m.group()):
            continue
        if not inside(m.start(), m.end()) and len(m.group()) < 60:
            out.append((m.start(), m.end(), "name"))
    words = [(m.start(), m.end()) for m in WORD.finditer(sentence)]
    i = 0
    while i < len(words):           # runs of content words, one to four long
        j = i
        while j < len(words) and j - i < 4 and re.fullmatch(r"[a-z][a-z'-]+[,;:.]?", sentence[words[j][0]:words[j][1]]) and sentence[words[j][0]:words[j][1]].strip(",;:.") not in STOP:
            j += 1
            if not sentence[words[j - 1][1] - 1].isalpha():
                break
        if j > i:
            a, b = words[i][0], words[j - 1][1]
            while not sentence[b - 1].isalpha():
                b -= 1
            if not inside(a, b) and b - a > 4 and rng.random() < 0.5:
                out.append((a, b, "phrase"))
        i = max(j, i + 1)
    return out


def question(sentence, a, b, kind, rng):
    """The sentence with [a, b) asked for; None if nothing sensible is left."""
    before, after = sentence[:a].split(), sentence[b:].strip().rstrip(".!?").split()
    last = before[-1].lower() if before else ""
    ask = {"date": ["when", "in what year", "what year"], "number": ["how many", "what number", "how much"],
           "name": ["who", "what", "which"], "phrase": ["what", "what", "which"]}[kind]
    wh = rng.choice(ask)
    if kind == "name" and last in PLACE:
        wh = rng.choice(["where", "where", "what place", "what"])
    if kind in ("date",) and last in ("in", "on", "since", "by") and rng.random() < 0.8:
        before = before[:-1]
    elif wh == "where" and last in PLACE:
        before = before[:-1]
    if last in ("the", "a", "an"):
        before = before[:-1]
    cut = rng.randint(5, 14)                    # a window around the answer
    before, after = before[-cut:], after[:rng.randint(2, 10)]
    if rng.random() < 0.6:                      # up to the nearest clause border
        for i in range(len(before) - 1, -1, -1):
            if before[i][-1] in ",;:" and len(before) - i > 4:
                before = before[i + 1:]
                break
        for i, w in enumerate(after):
            if w[-1] in ",;:" and i + len(before) > 3:
                after = after[:i + 1]
                break
    drop = rng.choice([0, 0, 0.1, 0.25])
    keep = lambda w: w.lower() in AUX or rng.random() >= drop
    before, after = [w for w in before if keep(w)], [w for w in after if keep(w)]
    if len([w for w in before + after if w.lower() not in STOP]) < 2:
        return None
    if before and before[0].lower() in STOP:
        before[0] = before[0].lower()
    form, aux = rng.random(), next((i for i, w in enumerate(before) if w.lower() in AUX), None)
    if not before:
        words = [wh] + after                                                # Who wrote ...
    elif aux is not None and aux > 0 and form < 0.6:
        words = [wh, before[aux].lower()] + before[:aux] + before[aux + 1:] + after     # What was X built of ...
    elif form < 0.75:
        words = [wh] + after + before if rng.random() < 0.3 else before + [wh] + after
    elif rng.random() < 0.5:
        words = [wh, "did"] + before + after
    else:
        words = before + [wh] + after
    text = re.sub(r"[,;:]+$", "", " ".join(words))
    return text[:1].upper() + text[1:] + ("?" if rng.random() < 0.9 else "")


def content(text):
    return {w for w in re.findall(r"[a-z]{4,}|\d+", text.lower()) if w not in STOP}


def article(title, text, rng, per_passage=5):
    """-> [(passage, [(question, start, end)], [question without an answer here])]"""
    parts = passages(text, rng)
    if len(parts) > 60:
        parts = parts[:60]
    found = []                          # (passage number, sentence, start in sentence, end, kind, start in passage)
    by_span = {}
    for n, passage in enumerate(parts):
        for at, sentence in sentences(passage):
            if not 30 < len(sentence) < 400:
                continue
            for a, b, kind in candidates(sentence, rng):
                item = (n, sentence, a, b, kind, at + a)
                found.append(item)
                by_span.setdefault(sentence[a:b], []).append(item)
    out = [(p, [], []) for p in parts]
    rng.shuffle(found)
    weight = {"name": 1.0, "date": 0.7, "number": 0.6, "phrase": 0.45}
    for n, sentence, a, b, kind, start in found:
        passage, asked, foreign = out[n]
        if len(asked) >= per_passage or rng.random() > weight[kind]:
            continue
        span = sentence[a:b]
        elsewhere = [x for x in by_span[span] if x[0] != n]
        if elsewhere and kind != "phrase" and rng.random() < 0.5:       # another sentence on the same thing
            other = rng.choice(elsewhere)
            if len((content(other[1]) - content(span)) & content(passage)) >= 2:
                q = question(other[1], other[2], other[3], kind, rng)
                if q:
                    asked.append((q, start, start + len(span)))
                continue
        if passage.count(span) > 1 and rng.random() < 0.6:
            continue                    # which of them is meant is a guess
        q = question(sentence, a, b, kind, rng)
        if q:
            asked.append((q, start, start + len(span)))
            if rng.random() < 0.25 and len(out) > 1:                    # the same question put to a neighbour
                m = n + rng.choice([-1, 1])
                if 0 <= m < len(out) and span.lower() not in out[m][0].lower():
                    out[m][2].append(q)
    return [x for x in out if x[1]]


# ---- questions made unanswerable, after the kinds found in SQuAD 2.0: antonyms, negation, other names and numbers ----

ANTONYMS = [p.split("/") for p in """first/last largest/smallest highest/lowest most/least before/after more/less more/fewer north/south east/west
northern/southern eastern/western increase/decrease increased/decreased old/new oldest/newest early/late best/worst begin/end began/ended
start/stop started/stopped win/lose won/lost won/failed allowed/banned accepted/rejected include/exclude included/excluded major/minor public/private male/female
longest/shortest longer/shorter high/low large/small many/few good/bad strong/weak same/different born/buried founded/dissolved
opened/closed built/destroyed supported/opposed husband/wife father/mother son/daughter brother/sister king/queen men/women internal/external
maximum/minimum positive/negative common/rare buy/sell bought/sold create/destroy created/destroyed arrive/leave arrived/left gained/lost rise/fall
upper/lower inside/outside left/right winter/summer always/never with/without can/cannot""".split()]
OPPOSITE = {}
for x, y in ANTONYMS:
    OPPOSITE.setdefault(x, []).append(y)
    OPPOSITE.setdefault(y, []).append(x)


def unanswerable(q, names, rng, passage=""):
    """The question with one thing changed so that the passage no longer answers it; None when no rule applies.
    `names`: other names of the article. With a `passage`, names and words of its own are put in mostly: what is asked then sounds
    as if it were told there."""
    words, ways = q.split(), []
    for i, w in enumerate(words):
        bare = w.strip("?,.").lower()
        if bare in OPPOSITE:
            ways.append((i, rng.choice(OPPOSITE[bare])))
        elif re.fullmatch(r"(1\d|20)\d\d\??", w):
            ways.append((i, str(int(w[:4]) + rng.choice([-30, -13, -7, -2, 3, 9, 21]))))
        elif bare in ("is", "are", "was", "were", "did", "does", "do", "has", "had") and 0 < i < len(words) - 3 and rng.random() < 0.15:
            ways.append((i, w + " not" if bare in ("is", "are", "was", "were") else w[:-1] + "dn't" if bare == "had" else {"did": "didn't", "does": "doesn't", "do": "don't", "has": "hasn't"}[bare]))
    near = [m.group() for m in NAME.finditer(passage) if m.start() > 0 and len(m.group()) < 40 and m.group().split()[0].lower() not in STOP]
    names = near if near and rng.random() < 0.7 else names
    own = [i for i, w in enumerate(words) if i and len(w) > 5 and w.isalpha() and w.islower() and w in passage]
    if own and rng.random() < 0.25:             # a word of the passage for another of its words
        i = rng.choice(own)
        other = [w for w in re.findall(r"\b[a-z]{5,}\b", passage) if w not in q and w not in STOP and w[-2:] == words[i][-2:]]
        if other:
            return " ".join(words[:i] + [rng.choice(other)] + words[i + 1:])
    spans = [(m.start(), m.end()) for m in NAME.finditer(q) if m.start() > 0]
    if spans and names and (not ways or rng.random() < 0.6):
        a, b = rng.choice(spans)
        other = [n for n in names if n.lower() not in q.lower() and q[a:b] not in n]
        if other:
            return q[:a] + rng.choice(other) + q[b:]
    if not ways:
        return None
    i, new = rng.choice(ways)
    tail = "?" if words[i].endswith("?") else ""
    return " ".join(words[:i] + [new + tail] + words[i + 1:])
