//! Is it right? Questions with known answers, scored as SQuAD scores them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::answer::{Asked, Silence, Span, after_one_reading, answer_second_reading, answer_spans, before_second_reading};
use crate::ask::Tier;
use crate::calibration::Signs;
use crate::cancel::Pace;
use crate::error::{Error, Result};
use crate::hints::Hints;
use crate::model::Sequence;
use crate::prompt::PassageTokens;
use crate::read::Reader;
use crate::spans::{Allowed, SpanText};
use crate::state::State;
use crate::trust::{Judged, auc};
use crate::words::Words;

/// A question about a paragraph: one line of a `.jsonl` file.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    /// Title of the article.
    #[serde(default)]
    pub title: String,
    /// The paragraph; may be left out where a whole collection is asked.
    #[serde(default)]
    pub context: String,
    /// What is asked.
    pub question: String,
    /// What is right; nothing, when the paragraph does not tell.
    #[serde(default)]
    pub answers: Vec<Gold>,
}

/// A right answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Gold {
    /// Its text.
    pub text: String,
}

/// What the reader said to one question.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Number of the question in the file, from 0.
    pub n: usize,
    /// What was asked.
    pub question: String,
    /// What tier A said.
    #[serde(flatten)]
    pub a: Said,
    /// What tier B said.
    pub b: Said,
}

/// What the reader said in one tier.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// What was answered; empty for no answer.
    pub prediction: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Exact match, 0 or 1.
    pub em: f64,
    /// Overlap of words, 0..1.
    pub f1: f64,
    /// Log-odds of the best span against none ([`Span::margin`]).
    pub margin: f32,
    /// How sure the reader is of that span among all ([`Span::rest`]).
    pub rest: f32,
    /// What the words around it say ([`Span::hint`]).
    pub hint: f32,
    /// What the question's words say ([`Words::log_odds`]).
    pub words: f32,
    /// The score that a confidence is made of ([`Signs::score`]).
    pub score: f32,
}

/// Means over the questions, 0..100.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Scores {
    /// Exact match.
    pub em: f64,
    /// F1 of words.
    pub f1: f64,
    /// Chance that an answerable question has a higher score ([`Said::score`]) than one without an answer, 0..1; `None` without both kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc_answerable: Option<f64>,
}

/// Scores of both tiers.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Tiers {
    /// One reading, the question after it.
    #[serde(rename = "A")]
    pub a: Scores,
    /// Two readings, the second in knowledge of the question.
    #[serde(rename = "B")]
    pub b: Scores,
}

/// Reads `.jsonl` or `.jsonl.zst`, the first `limit` lines.
///
/// # Errors
/// [`Error::Io`], or [`Error::Input`] naming the line that does not parse.
pub fn questions(file: &Path, limit: Option<usize>) -> Result<Vec<Question>> {
    let open = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
    let reader: Box<dyn Read> = if file.extension().is_some_and(|e| e == "zst") {
        Box::new(ruzstd::decoding::StreamingDecoder::new(open).map_err(|e| Error::Input(format!("{}: {e}", file.display())))?)
    } else {
        Box::new(open)
    };
    BufReader::new(reader)
        .lines()
        .take(limit.unwrap_or(usize::MAX))
        .enumerate()
        .map(|(i, line)| {
            let line = line.map_err(|e| Error::io(file, e))?;
            serde_json::from_str(&line).map_err(|e| Error::Input(format!("{} line {}: {e}", file.display(), i + 1)))
        })
        .collect()
}

/// Asks each question with its own paragraph given (both tiers, no confidence threshold) and hands each row to `each`.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn given_paragraph(reader: &Reader, questions: &[Question], each: &mut dyn FnMut(&Row)) -> Result<Tiers> {
    let mut sum = Tiers::default();
    let mut judged = [Vec::new(), Vec::new()];
    let mut last: Option<(&str, PassageTokens, State)> = None;
    for (n, q) in questions.iter().enumerate() {
        let (passage, state) = match last.take() {
            Some((context, passage, state)) if context == q.context => (passage, state),
            _ => {
                let passage = reader.prompt().passage(&q.title, &q.context)?;
                let mut state = State::empty(reader.config());
                reader.append(&mut [Sequence { ids: &passage.ids, state: &mut state }])?;
                (passage, state)
            }
        };
        let (once, twice) = (after_one_reading(reader, &q.question)?, before_second_reading(reader, &q.question, &passage)?);
        let (mut a, mut b) = (state.clone(), state.clone());
        let text = SpanText::of_passage(&passage, Allowed::TextAndTitle);
        let [hints_a, hints_b] = [Tier::A, Tier::B].map(|tier| hints(reader, q, &passage, tier));
        let (silence, text) = (Silence::Allowed, &text);
        let mut once = [Asked { state: &mut a, ids: &once, silence, text, hints: hints_a.as_ref() }];
        let first = answer_spans(reader, &mut once)?;
        let mut twice = [Asked { state: &mut b, ids: &twice, silence, text, hints: hints_b.as_ref() }];
        let second = answer_second_reading(reader, &mut twice, &mut Pace::free())?;
        let [a, b] = [said(reader, &first[0], q, Tier::A)?, said(reader, &second[0], q, Tier::B)?];
        for (judged, (sum, said)) in judged.iter_mut().zip([(&mut sum.a, &a), (&mut sum.b, &b)]) {
            judged.push(Judged { confidence: said.score, right: said.em > 0.0, answerable: !q.answers.is_empty() });
            sum.em += said.em * 100.0 / questions.len() as f64;
            sum.f1 += said.f1 * 100.0 / questions.len() as f64;
        }
        each(&Row { n, question: q.question.clone(), a, b });
        last = Some((&q.context, passage, state));
    }
    [sum.a.auc_answerable, sum.b.auc_answerable] = judged.map(|all| auc(&all));
    Ok(sum)
}

/// The other order of reading: each question before its own paragraph, from the empty state, and once more after it where the
/// reader cannot point. Nothing that was read serves another question.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn question_first(reader: &Reader, questions: &[Question], each: &mut dyn FnMut()) -> Result<Scores> {
    let mut sum = Scores::default();
    for q in questions {
        let passage = reader.prompt().passage(&q.title, &q.context)?;
        let mut ids = reader.prompt().question(&q.question)?;
        ids.extend_from_slice(&passage.ids);
        if reader.prompt().start().is_none() {
            ids.extend(after_one_reading(reader, &q.question)?);
        }
        let text = SpanText::of_passage(&passage, Allowed::TextAndTitle);
        let mut state = State::empty(reader.config());
        let hints = hints(reader, q, &passage, Tier::B);
        let mut asked = [Asked { state: &mut state, ids: &ids, silence: Silence::Allowed, text: &text, hints: hints.as_ref() }];
        let said = said(reader, &answer_second_reading(reader, &mut asked, &mut Pace::free())?[0], q, Tier::B)?;
        sum.em += said.em * 100.0 / questions.len() as f64;
        sum.f1 += said.f1 * 100.0 / questions.len() as f64;
        each();
    }
    Ok(sum)
}

fn hints(reader: &Reader, q: &Question, passage: &PassageTokens, tier: Tier) -> Option<Hints> {
    Hints::of(&q.question, &passage.origins, &q.context, reader.calibration().odds(tier).hints)
}

fn said(reader: &Reader, span: &Span, q: &Question, tier: Tier) -> Result<Said> {
    let prediction = if span.place.is_some() { reader.prompt().decode(&span.ids)?.trim().to_string() } else { String::new() };
    let (em, f1) = squad_scores(&prediction, &q.answers);
    let words = Words::of(&q.question, &q.title, &q.context).log_odds() as f32;
    let signs = Signs { margin: span.margin(), rest: span.rest, relative: 1.0, question: 0.0, words, hint: span.hint };
    let score = signs.score(reader.calibration().odds(tier)).unwrap_or(f32::MIN);
    let Signs { margin, rest, hint, words, .. } = signs;
    Ok(Said { prediction, tokens: span.ids.clone(), em, f1, margin, rest, hint, words, score })
}

/// Exact match and F1 against the best of the right answers, as SQuAD's own script computes them, 0..1.
#[must_use]
pub fn squad_scores(prediction: &str, gold: &[Gold]) -> (f64, f64) {
    let p = normalise(prediction);
    if gold.is_empty() {
        let right = f64::from(u8::from(p.is_empty()));
        return (right, right);
    }
    let em = gold.iter().any(|g| normalise(&g.text) == p);
    let f1 = gold.iter().map(|g| f1(&p, &normalise(&g.text))).fold(0.0, f64::max);
    (f64::from(u8::from(em)), f1)
}

/// Lower case, without ASCII punctuation and articles.
fn normalise(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    bare.split_whitespace().filter(|w| !["a", "an", "the"].contains(w)).map(str::to_string).collect()
}

fn f1(p: &[String], g: &[String]) -> f64 {
    if p.is_empty() || g.is_empty() {
        return f64::from(u8::from(p == g));
    }
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for word in g {
        *left.entry(word).or_default() += 1;
    }
    let same = p
        .iter()
        .filter(|w| match left.get_mut(w.as_str()) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            _ => false,
        })
        .count() as f64;
    if same == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (same / p.len() as f64, same / g.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gold(texts: &[&str]) -> Vec<Gold> {
        texts.iter().map(|t| Gold { text: (*t).to_string() }).collect()
    }

    #[test]
    fn scores_are_those_of_squad() {
        assert_eq!(squad_scores("The Beatles!", &gold(&["beatles"])), (1.0, 1.0));
        assert_eq!(squad_scores("", &gold(&[])), (1.0, 1.0));
        assert_eq!(squad_scores("x", &gold(&[])), (0.0, 0.0));
        assert_eq!(squad_scores("", &gold(&["x"])), (0.0, 0.0));
        let (em, f1) = squad_scores("second oil shock", &gold(&["oil shock crisis", "shock"]));
        assert_eq!(em, 0.0);
        assert!((f1 - 2.0 / 3.0).abs() < 1e-12);
    }
}
