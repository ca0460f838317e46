//! What a reader's scores are worth: weights and odds that belong to one reader, kept in `calibration.json` beside its weights.
//!
//! `palimpsest eval calibrate` fits them on questions and writes the file. A reader without one gets [`Calibration::default`],
//! which is cautious: it gives the reader's odds little weight.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ask::Tier;
use crate::error::{Error, Result};
use crate::files::ReaderFiles;

/// The file's name in a reader's folder.
pub const FILE: &str = "calibration.json";

/// How a reader's scores are mixed, and which chance of being right they stand for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calibration {
    /// Of the best passage's BM25 score, what a passage must have to be worth reading, 0..1.
    pub worth_reading: f32,
    /// Weight of the question's mean log-probability beside `ln(relative BM25)` in reranking.
    pub question: f32,
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
    /// Weight of `ln(relative BM25)` beside the first token's log-odds against none.
    pub bm25: f32,
    /// Weight of the mean log-probability of the span's further tokens.
    pub span: f32,
    /// Log-odds of being right at score 0.
    pub bias: f32,
    /// Log-odds a unit of the best score.
    pub slope: f32,
    /// Log-odds a unit of the lead over the next best passage, as far as [`LEAD`].
    pub lead: f32,
}

/// The lead of one passage over the next counts as far as this.
pub const LEAD: f32 = 10.0;

impl Default for Odds {
    fn default() -> Self {
        Self { bm25: 8.0, span: 0.0, bias: 0.0, slope: 0.25, lead: 0.0 }
    }
}

impl Default for Calibration {
    fn default() -> Self {
        Self { worth_reading: 0.5, question: 1.0, a: Odds::default(), b: Odds::default(), fitted_on: String::new() }
    }
}

impl Odds {
    /// The score of an answer: the log-odds `margin` of its first token, its further tokens' mean log-probability, and its
    /// passage's `relative` BM25 score in (0, 1].
    #[must_use]
    pub fn score(&self, margin: f32, span: f32, relative: f32) -> f32 {
        margin + self.span * span + self.bm25 * relative.ln()
    }

    /// The chance that the answer with the `best` score is right; `next` is the score of the next passage's.
    #[must_use]
    pub fn chance(&self, best: f32, next: Option<f32>) -> f32 {
        1.0 / (1.0 + (-self.log_odds(best, next)).exp())
    }

    fn log_odds(&self, best: f32, next: Option<f32>) -> f32 {
        self.bias + self.slope * best + self.lead * lead(best, next)
    }
}

/// How far the best score lies before the next, as far as [`LEAD`]; without a next it has all of it.
#[must_use]
pub fn lead(best: f32, next: Option<f32>) -> f32 {
    next.map_or(LEAD, |next| (best - next).clamp(0.0, LEAD))
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

    /// That of a reader, the default without a file.
    ///
    /// # Errors
    /// [`Error::Reader`] when the file is there and is none, or holds what is no number.
    pub fn open(from: &ReaderFiles) -> Result<Self> {
        let file = from.path(FILE);
        let bytes = match from.read(FILE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io(&file, e)),
        };
        serde_json::from_slice(&bytes).map_err(|e| Error::reader(&file, format!("is no calibration ({e}): fit it again")))
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
        assert_eq!(Calibration::open(&files).expect("none"), Calibration::default());
        let fitted = Calibration { a: Odds { slope: 0.5, ..Odds::default() }, fitted_on: "x".into(), ..Calibration::default() };
        fitted.save(&folder).expect("saved");
        assert_eq!(Calibration::open(&files).expect("there"), fitted);
        std::fs::write(folder.join(FILE), "{\"A\": {\"slope\": 2}}").expect("written");
        assert_eq!(Calibration::open(&files).expect("in part").a, Odds { slope: 2.0, ..Odds::default() });
        std::fs::write(folder.join(FILE), "{").expect("written");
        assert!(Calibration::open(&files).expect_err("broken").to_string().contains("calibration.json"));
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_higher_score_and_a_longer_lead_are_a_better_chance() {
        let odds = Odds { lead: 0.5, ..Odds::default() };
        assert!(odds.chance(2.0, Some(1.0)) > odds.chance(1.0, Some(0.0)));
        assert!(odds.chance(2.0, Some(0.0)) > odds.chance(2.0, Some(1.0)));
        assert_eq!(odds.chance(2.0, None), odds.chance(2.0, Some(-100.0)));
        assert!((0.0..=1.0).contains(&odds.chance(-1e30, None)) && odds.chance(0.0, Some(0.0)) == 0.5);
    }
}
