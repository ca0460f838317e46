//! What a reader's scores are worth: weights and odds that belong to one reader, kept in `calibration.json` beside its weights.
//!
//! `palimpsest eval calibrate` fits them on questions and writes the file. A reader without one gets [`Calibration::default`],
//! which is cautious: it gives the reader's odds little weight.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ask::Tier;
use crate::error::{Error, Result};
use crate::files::ReaderFiles;
use crate::hints::HintWeights;

/// The file's name in a reader's folder.
pub const FILE: &str = "calibration.json";

/// How a reader's scores are mixed, and which chance of being right they stand for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calibration {
    /// Of the best passage's BM25 score, what a passage must have to be worth reading, 0..1.
    pub worth_reading: f32,
    /// Scores of answers after one reading.
    #[serde(rename = "A")]
    pub a: Odds,
    /// Scores of answers after a second reading.
    #[serde(rename = "B")]
    pub b: Odds,
    /// What it was fitted on, in words.
    pub fitted_on: String,
}

/// How the score of an answer is made, and the chance it stands for. All logarithms are natural.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Odds {
    /// Weight of [`Signs::relative`]'s logarithm beside the margin.
    pub bm25: f32,
    /// Weight of [`Signs::question`].
    pub question: f32,
    /// Weight of [`Signs::rest`].
    pub rest: f32,
    /// Weight of [`Signs::words`].
    pub words: f32,
    /// Weight of [`Signs::hint`].
    pub hint: f32,
    /// What chooses among the spans of a passage beside the reader; all 0 leave it alone.
    pub hints: HintWeights,
    /// Log-odds of being right at score 0.
    pub bias: f32,
    /// Log-odds a unit of the score.
    pub slope: f32,
}

/// What speaks for an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signs {
    /// Log-odds of its first token against none.
    pub margin: f32,
    /// How sure the reader is of this span among all ([`crate::answer::Span::rest`]).
    pub rest: f32,
    /// Its passage's BM25 score over the best one's, in (0, 1].
    pub relative: f32,
    /// Mean log-probability of the question's tokens after its passage, less that of the passage where it is highest; 0 or
    /// below.
    pub question: f32,
    /// What the question's words say ([`crate::words::Words::log_odds`]).
    pub words: f32,
    /// What the words around the answer say ([`crate::answer::Span::hint`]).
    pub hint: f32,
}

/// Log-odds without a calibration at which the reader finds an answer as likely as none: one in ten.
const UNKNOWN: f32 = -2.2;

impl Default for Odds {
    fn default() -> Self {
        Self {
            bm25: 8.0,
            question: 4.0,
            rest: 0.0,
            words: 0.0,
            hint: 0.0,
            hints: HintWeights::default(),
            bias: UNKNOWN,
            slope: 0.25,
        }
    }
}

impl Default for Calibration {
    fn default() -> Self {
        Self { worth_reading: 0.5, a: Odds::default(), b: Odds::default(), fitted_on: String::new() }
    }
}

impl Odds {
    fn numbers(&self) -> [f32; 10] {
        let HintWeights { told, near, echo } = self.hints;
        [self.bm25, self.question, self.rest, self.words, self.hint, told, near, echo, self.bias, self.slope]
    }

    /// The chance that the answer of this score is right.
    #[must_use]
    pub fn chance(&self, score: f32) -> f32 {
        1.0 / (1.0 + (-(self.bias + self.slope * score)).exp())
    }
}

impl Signs {
    /// How good an answer this is; `None` where that is no number.
    #[must_use]
    pub fn score(&self, odds: &Odds) -> Option<f32> {
        let reader = self.margin + odds.rest * self.rest;
        let text = odds.words * self.words + odds.hint * self.hint;
        let score = reader + odds.bm25 * self.relative.ln() + odds.question * self.question + text;
        score.is_finite().then_some(score)
    }
}

impl Calibration {
    /// The odds of answers that were read so.
    #[must_use]
    pub fn odds(&self, tier: Tier) -> &Odds {
        match tier {
            Tier::A => &self.a,
            Tier::B => &self.b,
        }
    }

    /// Whether the likelihood of the question counts anywhere.
    pub(crate) fn wants_likelihood(&self) -> bool {
        self.a.question != 0.0 || self.b.question != 0.0
    }

    /// For a reader that cannot say "not here": its log-probabilities stand alone and are all below 0.
    #[must_use]
    pub fn without_none() -> Self {
        let odds = Odds { bias: 0.0, ..Odds::default() };
        Self { a: odds, b: odds, ..Self::default() }
    }

    /// The same, spans being chosen by the reader alone.
    #[must_use]
    pub fn without_hints(mut self) -> Self {
        (self.a.hints, self.b.hints) = Default::default();
        self
    }

    /// That of a reader; without a file [`Calibration::default`], or [`Calibration::without_none`].
    ///
    /// # Errors
    /// [`Error::Reader`] when the file is there and is none, or holds what is no number.
    pub fn open(from: &ReaderFiles, says_none: bool) -> Result<Self> {
        let file = from.path(FILE);
        let bytes = match from.read(FILE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && says_none => return Ok(Self::default()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::without_none()),
            Err(e) => return Err(Error::io(&file, e)),
        };
        let no = |why: String| Error::reader(&file, format!("is no calibration ({why}): fit it again"));
        let read: Self = serde_json::from_slice(&bytes).map_err(|e| no(e.to_string()))?;
        // JSON has no infinity, but 1e39 becomes one: every score would be none, and every question without an answer.
        if [read.a, read.b].iter().flat_map(Odds::numbers).chain([read.worth_reading]).all(|x| x.is_finite()) {
            Ok(read)
        } else {
            Err(no("a number in it is too large".into()))
        }
    }

    /// Writes it into the reader's `folder`: whole, or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        let part = folder.join("calibration.part");
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &file)).map_err(|e| Error::io(&file, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_comes_back_as_it_was_and_a_broken_one_is_named() {
        let folder = std::env::temp_dir().join(format!("palimpsest-calibration-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let files = ReaderFiles::folder(&folder);
        assert_eq!(Calibration::open(&files, true).expect("none"), Calibration::default());
        let fitted = Calibration { a: Odds { slope: 0.5, ..Odds::default() }, fitted_on: "x".into(), ..Calibration::default() };
        fitted.save(&folder).expect("saved");
        assert_eq!(Calibration::open(&files, true).expect("there"), fitted);
        std::fs::write(folder.join(FILE), "{\"A\": {\"slope\": 2}}").expect("written");
        assert_eq!(Calibration::open(&files, true).expect("in part").a, Odds { slope: 2.0, ..Odds::default() });
        for large in ["{\"A\": {\"hints\": {\"told\": 1e39}}}", "{\"B\": {\"slope\": -1e39}}", "{\"worth_reading\": 1e40}"] {
            std::fs::write(folder.join(FILE), large).expect("written");
            assert!(Calibration::open(&files, true).expect_err(large).to_string().contains("too large"));
        }
        std::fs::write(folder.join(FILE), "{").expect("written");
        assert!(Calibration::open(&files, true).expect_err("broken").to_string().contains("calibration.json"));
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn more_of_any_sign_is_a_better_chance() {
        let odds = Odds { rest: 1.0, words: 5.0, hint: 0.5, ..Odds::default() };
        let signs = Signs { margin: 1.0, rest: -1.0, relative: 0.8, question: -0.5, words: 0.2, hint: 2.0 };
        let chance = |signs: Signs| odds.chance(signs.score(&odds).expect("a number"));
        let before = chance(signs);
        assert!(chance(Signs { margin: 2.0, ..signs }) > before);
        assert!(chance(Signs { rest: -0.5, ..signs }) > before);
        assert!(chance(Signs { relative: 0.9, ..signs }) > before);
        assert!(chance(Signs { question: -0.4, ..signs }) > before);
        assert!(chance(Signs { words: 0.3, ..signs }) > before);
        assert!(chance(Signs { hint: 3.0, ..signs }) > before);
        assert!((0.0..=1.0).contains(&odds.chance(-1e30)));
        assert_eq!(Signs { margin: f32::NEG_INFINITY, ..signs }.score(&odds), None);
    }
}
