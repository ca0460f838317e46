//! What the words of a question say about whether a passage can answer it, without a reader.
//!
//! A question that only looks as if the passage answered it was mostly made from one that it does answer: a name or a number was
//! exchanged, a `not` put in, a word turned into its opposite (Rajpurkar et al., arXiv 1806.03822, table 1). A small reader hardly
//! sees such changes; the words themselves show them. [`Words::log_odds`] weighs four signs by a logistic regression on 33,480 questions
//! of SQuAD 2.0's training set, half of them unanswerable (`palimpsest eval words FILE` with the file that `examples/train/twins.py` writes).
//! English only: in another language the first sign holds as well, while capitals, numbers and a `no` there can make confidence too low.

use std::collections::HashSet;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::fit::{Weighed, logistic};
use crate::measure::Question;
use crate::trust::{Judged, auc};

/// Signs that a question has, or lacks, an answer in a passage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Words {
    /// Largest share of the question's words that one sentence of the passage has, 0..1.
    pub told: f64,
    /// Names and numbers of the question that the passage does not have, 2 at most.
    pub strange: f64,
    /// The question says `not`, or a word like it: 0 or 1.
    pub negated: f64,
    /// The sentence that tells most has the opposite of a word of the question: 0 or 1.
    pub opposite: f64,
}

/// Weights of the signs in the order of [`Words`], after the constant.
pub type Weights = [f64; 5];

/// See the head of this file.
const WEIGHTS: Weights = [-0.72, 1.65, -0.68, -1.84, -1.36];

const STOP: &str = "a an the of in on at to for from by with and or but as is are was were be been being has have had do does did \
    it its he she his her they their them this that these those which who whom whose what when where while not no than then \
    also such into over under after before between during through about against so if can could may might will would should \
    there here more most some any all each other only very i you we our your him one two how many much s t";
const NEGATIONS: &str = "not never no without cannot isn wasn aren weren didn doesn hasn haven hadn couldn wouldn shouldn";
const ENDINGS: [&str; 11] = ["edly", "ment", "ions", "ing", "ion", "ers", "ed", "es", "ly", "er", "al"];
const OPPOSITES: &str = "first/last largest/smallest highest/lowest most/least before/after more/less more/fewer north/south east/west \
    northern/southern eastern/western increase/decrease increased/decreased old/new oldest/newest early/late best/worst begin/end \
    began/ended start/stop started/stopped win/lose won/lost won/failed allowed/banned accepted/rejected include/exclude \
    included/excluded major/minor public/private male/female longest/shortest longer/shorter high/low large/small many/few good/bad \
    strong/weak same/different born/buried founded/dissolved opened/closed built/destroyed supported/opposed husband/wife \
    father/mother son/daughter brother/sister king/queen men/women internal/external maximum/minimum positive/negative common/rare \
    buy/sell bought/sold create/destroy created/destroyed arrive/leave arrived/left gained/lost rise/fall upper/lower inside/outside \
    left/right winter/summer always/never with/without";

impl Words {
    /// Those of a question about a passage.
    #[must_use]
    pub fn of(question: &str, title: &str, passage: &str) -> Self {
        let asked: Vec<&str> = split(question).collect();
        let has: HashSet<String> = split(title).chain(split(passage)).map(stem).collect();
        let content: HashSet<String> = asked.iter().filter_map(|w| content(w)).collect();
        let mut best: (f64, HashSet<String>) = (0.0, HashSet::new());
        for sentence in passage.split_inclusive(['.', '!', '?']) {
            let words: HashSet<String> = split(sentence).map(stem).collect();
            let share = content.intersection(&words).count() as f64 / content.len().max(1) as f64;
            if share > best.0 {
                best = (share, split(sentence).map(str::to_lowercase).collect());
            }
        }
        let name = |w: &str| w.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit());
        let strange = asked.iter().skip(1).filter(|w| name(w) && !is(STOP, w) && !has.contains(&stem(w))).count();
        let short_not = question.to_lowercase().replace('’', "'").contains("n't");
        let yes = |b: bool| f64::from(u8::from(b));
        Self {
            told: best.0,
            strange: strange.min(2) as f64,
            negated: yes(short_not || asked.iter().any(|w| is(NEGATIONS, w))),
            opposite: yes(asked.iter().any(|w| opposites(w).any(|o| best.1.contains(o)))),
        }
    }

    /// Log-odds that the passage answers the question.
    #[must_use]
    pub fn log_odds(&self) -> f64 {
        self.features().iter().zip(WEIGHTS).map(|(x, w)| x * w).sum()
    }

    fn features(&self) -> Weights {
        [1.0, self.told, self.strange, self.negated, self.opposite]
    }
}

/// Runs of letters and digits.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty())
}

/// Whether `list` has the word, whatever its capitals.
fn is(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|w| w.eq_ignore_ascii_case(word))
}

/// A word without its ending: enough to find `signed` in `signing`.
fn stem(word: &str) -> String {
    let low = word.to_lowercase();
    if low.len() <= 4 {
        return low;
    }
    let bare = ENDINGS.iter().find_map(|e| low.strip_suffix(e)).or_else(|| low.strip_suffix('s'));
    bare.map_or_else(|| low.clone(), str::to_string)
}

/// The stem of a word that says something, none of one like `the`.
pub(crate) fn content(word: &str) -> Option<String> {
    (!is(STOP, word)).then(|| stem(word))
}

fn opposites(word: &str) -> impl Iterator<Item = &'static str> {
    OPPOSITES.split_whitespace().filter_map(move |pair| {
        let (a, b) = pair.split_once('/')?;
        if a.eq_ignore_ascii_case(word) { Some(b) } else { b.eq_ignore_ascii_case(word).then_some(a) }
    })
}

/// What the words are worth on questions with their own paragraphs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WordsMeasured {
    /// Questions, answerable and not.
    pub n: usize,
    /// Chance that an answerable question gets higher odds than one without an answer, by the weights in use.
    pub auc_answerable: Option<f64>,
    /// The weights that fit these questions best, both kinds counting alike: constant, told, strange, negated, opposite.
    pub fitted: Weights,
}

/// Measures [`Words`] on `questions`, and fits their weights again.
///
/// # Errors
/// [`Error::Input`] unless some questions have an answer and some have none.
pub fn measure_words(questions: &[Question]) -> Result<WordsMeasured> {
    let words: Vec<Words> = questions.iter().map(|q| Words::of(&q.question, &q.title, &q.context)).collect();
    let with = questions.iter().filter(|q| !q.answers.is_empty()).count() as f64;
    let without = questions.len() as f64 - with;
    if with == 0.0 || without == 0.0 {
        return Err(Error::Input(format!(
            "of {} questions, {with} have an answer and {without} have none: words are measured on both kinds",
            questions.len()
        )));
    }
    let rows = words.iter().zip(questions).map(|(w, q)| {
        let right = !q.answers.is_empty();
        let half = questions.len() as f64 / 2.0;
        Weighed { features: w.features(), right: f64::from(u8::from(right)), weight: half / if right { with } else { without } }
    });
    let rows: Vec<_> = rows.collect();
    let judged =
        |(w, q): (&Words, &Question)| Judged { confidence: w.log_odds() as f32, right: false, answerable: !q.answers.is_empty() };
    let all: Vec<Judged> = words.iter().zip(questions).map(judged).collect();
    Ok(WordsMeasured { n: questions.len(), auc_answerable: auc(&all), fitted: logistic(&rows) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGE: &str =
        "The treaty was signed in 1959 by twelve countries. It entered into force in 1961. Norway opened a station.";

    #[test]
    fn what_was_changed_in_a_question_is_seen() {
        let of = |q: &str| Words::of(q, "Antarctic Treaty", PASSAGE);
        let asked = of("When was the treaty signed by twelve countries?");
        assert_eq!((asked.told, asked.strange, asked.negated, asked.opposite), (1.0, 0.0, 0.0, 0.0));
        assert_eq!(of("When was the treaty signed by Sweden in 1970?").strange, 2.0);
        assert_eq!(of("Which country of the Antarctic Treaty opened it?").strange, 0.0, "the title counts");
        for negated in ["When wasn't the treaty signed?", "Why can't it end?", "Who won’t sign?", "Who did not sign?"] {
            assert_eq!(of(negated).negated, 1.0, "{negated}");
        }
        assert_eq!(of("Who won the war that Don lost?").negated, 0.0);
        assert_eq!(of("What should I sign?").strange, 0.0);
        assert_eq!(of("What station was closed by Norway?").opposite, 1.0);
        assert!(of("Who wrote the national anthem?").told < 0.3);
        for worse in ["When wasn't the treaty signed by twelve countries?", "When was the treaty signed by Sweden?", "Who sang?"]
        {
            assert!(of(worse).log_odds() < asked.log_odds(), "{worse}");
        }
    }

    #[test]
    fn anything_is_a_number() {
        for (q, p) in [("", ""), ("?", "."), ("Где?", "Здесь. Там!"), ("a", "b")] {
            assert!(Words::of(q, "", p).log_odds().is_finite());
        }
    }

    #[test]
    fn what_tells_them_apart_gets_weight() {
        let question = |question: &str, answers: &[&str]| Question {
            title: String::new(),
            context: PASSAGE.into(),
            question: question.into(),
            answers: answers.iter().map(|t| crate::measure::Gold { text: (*t).into() }).collect(),
        };
        let good = question("When was the treaty signed by twelve countries?", &["1959"]);
        let bad = question("When was the treaty not signed by Sweden?", &[]);
        assert!(measure_words(std::slice::from_ref(&good)).is_err() && measure_words(&[]).is_err());
        let got = measure_words(&[good.clone(), bad.clone(), good, bad]).expect("both kinds");
        assert_eq!(got.auc_answerable, Some(1.0));
        assert!(got.fitted[1] > 0.0 && got.fitted[2] < 0.0 && got.fitted[3] < 0.0, "{got:?}");
    }
}
