//! What the words around a span of a passage say about whether it answers a question.
//!
//! A state of fixed size forgets which of a passage's names and numbers belong together; the text does not, and looking words up in it costs
//! no reading. An answer mostly stands in a sentence that has words of the question, near them, and has none of them itself: the sliding
//! window of Richardson et al. (MCTest, 2013) and the features of Chen et al. (arXiv 1704.00051, section 3.2), here as
//! log-odds beside the reader's own log-probabilities. How much each sign counts is fitted for each reader and tier (`palimpsest eval
//! calibrate`).

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::prompt::Origin;
use crate::words::{content, split};

/// Natural log-odds that a span gets for what is around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HintWeights {
    /// For its sentence having all words of the question that say something.
    pub told: f32,
    /// For standing near all of them.
    pub near: f32,
    /// For being made of them.
    pub echo: f32,
}

impl HintWeights {
    /// Whether any counts.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// What signs as [`Hints::signs`] gives them are worth.
    #[must_use]
    pub fn weigh(&self, [told, near, echo]: [f32; 3]) -> f32 {
        self.told * told + self.near * near + self.echo * echo
    }
}

/// Words over which nearness falls to `1 / e`; 3 gave 0.9 F1 less, 20 as much (tier A, 759 questions of squad_dev_a).
const REACH: f32 = 8.0;

/// Words of a question that are looked for, the first: what a span costs grows with them.
const MOST_WORDS: usize = 64;

/// A passage's words beside those of a question.
#[derive(Debug, Clone)]
pub struct Hints {
    weights: HintWeights,
    /// Of each token, the words that it is a part of.
    words: Vec<Range<u32>>,
    /// Of each word, the number of its sentence.
    sentences: Vec<u32>,
    /// Of each word, whether the question has it.
    asked: Vec<bool>,
    /// Where each of the question's words stands, ascending; empty for one that the passage lacks.
    places: Vec<Vec<u32>>,
}

impl Hints {
    /// Of a question about `text`, whose tokens came from `origins`. `None` where the weights count nothing.
    #[must_use]
    pub fn of(question: &str, origins: &[Origin], text: &str, weights: HintWeights) -> Option<Self> {
        if !weights.any() {
            return None;
        }
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for stem in split(question).filter_map(content) {
            let next = numbers.len();
            if next < MOST_WORDS {
                numbers.entry(stem).or_insert(next);
            }
        }
        let mut places = vec![Vec::new(); numbers.len()];
        let (mut bytes, mut sentences, mut asked): (Vec<Range<usize>>, Vec<u32>, Vec<bool>) = Default::default();
        for word in split(text) {
            let at = word.as_ptr() as usize - text.as_ptr() as usize;
            let gap = &text[bytes.last().map_or(0, |b| b.end)..at];
            let sentence = sentences.last().copied().unwrap_or(0) + u32::from(gap.contains(['.', '!', '?', '。', '！', '？']));
            let number = content(word).and_then(|stem| numbers.get(&stem));
            if let Some(&number) = number {
                places[number].push(bytes.len() as u32);
            }
            asked.push(number.is_some());
            sentences.push(sentence);
            bytes.push(at..at + word.len());
        }
        let words = origins.iter().map(|origin| match origin {
            Origin::Text(range) => {
                let from = bytes.partition_point(|b| b.end <= range.start) as u32;
                from..from.max(bytes.partition_point(|b| b.start < range.end) as u32)
            }
            _ => 0..0,
        });
        Some(Self { weights, words: words.collect(), sentences, asked, places })
    }

    /// Natural log-odds of the span of these tokens; 0 for one without a word.
    #[must_use]
    pub fn log_odds(&self, span: Range<usize>) -> f32 {
        self.weights.weigh(self.signs(span))
    }

    /// Of the question's words, the share that stands in the span's sentence outside it; the mean of `exp(-distance / 8)` over them, 1 being next to it;
    /// of the span's words, the share that are the question's. Each 0..1.
    #[must_use]
    pub fn signs(&self, span: Range<usize>) -> [f32; 3] {
        let parts = self.words.get(span).unwrap_or_default().iter().filter(|r| !r.is_empty());
        let Some(words) = parts.cloned().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else { return [0.0; 3] };
        let sentence = |at: u32| self.sentences[at as usize];
        let (mut told, mut near) = (0.0, 0.0);
        for places in &self.places {
            let before = places[..places.partition_point(|&p| p < words.start)].last();
            let after = places.get(places.partition_point(|&p| p < words.end));
            let away = before.map(|p| words.start - p).into_iter().chain(after.map(|p| p + 1 - words.end)).min();
            if before.into_iter().chain(after).any(|&p| sentence(p) == sentence(words.start)) {
                told += 1.0;
            }
            near += away.map_or(0.0, |words| (-(words as f32) / REACH).exp());
        }
        let asked = self.places.len().max(1) as f32;
        let own = &self.asked[words.start as usize..words.end as usize];
        [told / asked, near / asked, own.iter().filter(|a| **a).count() as f32 / own.len() as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "The treaty was signed in 1959 by twelve states. Norway opened its station, Troll, in 1990!";
    const EVEN: HintWeights = HintWeights { told: 1.0, near: 1.0, echo: -1.0 };

    /// One token a word, after a mark and a title.
    fn passage(text: &str) -> Vec<Origin> {
        let mut origins = vec![Origin::Mark, Origin::Heading];
        let mut at = 0;
        for word in text.split_inclusive(' ') {
            origins.push(Origin::Text(at..at + word.len()));
            at += word.len();
        }
        origins
    }

    fn hints(question: &str, text: &str) -> Hints {
        Hints::of(question, &passage(text), text, EVEN).expect("they count")
    }

    #[test]
    fn what_stands_beside_the_words_of_the_question_is_likelier() {
        let of = hints("When was the treaty signed?", TEXT);
        let token = |word: &str| 2 + TEXT.split_inclusive(' ').position(|w| w.starts_with(word)).expect("there");
        let one = |word: &str| token(word)..token(word) + 1;
        // `treaty` is 4 words away, `signed` 2; both in the sentence.
        let near = ((-4f32 / 8.0).exp() + (-2f32 / 8.0).exp()) / 2.0;
        assert!((of.log_odds(one("1959")) - 1.0 - near).abs() < 1e-6, "{:?}", of.signs(one("1959")));
        assert!(of.log_odds(one("1959")) > of.log_odds(one("1990!")) + 1.0);
        // A word of the question says nothing of itself, and is no answer.
        assert_eq!(of.signs(one("signed"))[0], 0.5);
        assert_eq!(of.signs(one("signed"))[2], 1.0);
        assert!((of.signs(token("treaty")..token("1959") + 1)[2] - 2.0 / 5.0).abs() < 1e-6);
        assert_eq!(of.signs(0..2), [0.0; 3], "marks and titles have no words");
        assert_eq!(of.signs(90..99), [0.0; 3]);
    }

    #[test]
    fn anything_has_hints_or_none() {
        assert!(Hints::of("Who?", &passage(TEXT), TEXT, HintWeights::default()).is_none());
        for (question, text) in
            [("", ""), ("?", "."), ("Где станция?", "Станция здесь. Там — 1990!"), ("a b", "a"), ("Who?", " . ")]
        {
            let of = hints(question, text);
            for from in 0..passage(text).len() {
                for to in from..=passage(text).len() {
                    let signs = of.signs(from..to);
                    assert!(signs.iter().all(|s| (0.0..=1.0).contains(s)), "{question} {text} {signs:?}");
                    assert!(of.log_odds(from..to) <= 2.0);
                }
            }
        }
        let of = hints("Где станция?", "Станция здесь. Там — 1990!");
        assert!(of.log_odds(3..4) > of.log_odds(6..7));
    }
}
