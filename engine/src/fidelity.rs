//! What does a state lose that is kept rounded, or put together from parts? Measured on questions with known answers: what is
//! answered, how likely the right answer is, and how far the distributions are from those after the exact state.

use serde::Serialize;

use crate::answer::{Asked, Silence, Span, after_one_reading, answer_spans};
use crate::compose::Part;
use crate::error::{Error, Result};
use crate::measure::{Question, squad_scores};
use crate::model::{Sequence, Want};
use crate::prompt::PassageTokens;
use crate::read::Reader;
use crate::snapshot::{Chain, Form, Snapshot};
use crate::spans::{Allowed, SpanText};
use crate::state::State;

/// Means over the questions for one way of keeping what was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Fidelity {
    /// How it was kept.
    pub kept: &'static str,
    /// Bytes kept for each passage or context.
    pub bytes: u64,
    /// Exact match, 0..100.
    pub em: f64,
    /// F1 of words, 0..100.
    pub f1: f64,
    /// Perplexity of the right answer: exp of the mean over all tokens of right answers and their ends.
    pub perplexity: f64,
    /// Nats: the mean over the same tokens of KL(exact || this), where exact is the first way in the table.
    pub kl: f64,
    /// Answers that are those of the first way, 0..100.
    pub same_answers: f64,
    #[serde(skip)]
    tokens: usize,
}

/// Questions that have an answer, with the ids of the first one.
fn answerable<'q>(reader: &Reader, questions: &'q [Question]) -> Result<Vec<(&'q Question, Vec<u32>)>> {
    let with_ids = questions.iter().filter_map(|q| {
        let gold = q.answers.first()?;
        Some(reader.prompt().encode(&format!(" {}", gold.text.trim())).map(|ids| (q, ids)))
    });
    with_ids.collect()
}

/// One state to ask, and the text its answer must be a span of.
struct Way<'a> {
    state: State,
    text: &'a SpanText,
}

/// Asks every way's state the same question and adds what came of it to `sums`. Returns the spans.
fn ask_all(reader: &Reader, q: &Question, gold: &[u32], ways: &[Way<'_>], sums: &mut [Fidelity]) -> Result<Vec<Span>> {
    let asked = after_one_reading(reader, &q.question)?;
    let mut forks: Vec<State> = ways.iter().map(|w| w.state.clone()).collect();
    let mut contexts: Vec<Asked<'_>> = forks
        .iter_mut()
        .zip(ways)
        .map(|(state, w)| Asked { state, ids: &asked, silence: Silence::Allowed, text: w.text, hints: None })
        .collect();
    let spans = answer_spans(reader, &mut contexts)?;
    // The right answer, given: the distribution before each of its tokens and before its end.
    let told: Vec<u32> = asked.iter().chain(gold).copied().collect();
    let wanted: Vec<u32> = gold.iter().copied().chain(reader.prompt().end()).collect();
    let mut forks: Vec<State> = ways.iter().map(|w| w.state.clone()).collect();
    let mut batch: Vec<_> = forks.iter_mut().map(|state| Sequence { ids: &told, state }).collect();
    let mut said: Vec<Vec<Vec<f32>>> = vec![Vec::new(); ways.len()];
    reader.forward(&mut batch, Want::All, &mut |i, position, logits| {
        if position + 1 >= asked.len() && said[i].len() < wanted.len() {
            said[i].push(log_softmax(logits));
        }
    })?;
    let exact = said[0].clone();
    for ((sum, said), span) in sums.iter_mut().zip(&said).zip(&spans) {
        for ((row, exact), id) in said.iter().zip(&exact).zip(&wanted) {
            sum.perplexity -= f64::from(row[*id as usize]);
            sum.kl += kl(exact, row);
            sum.tokens += 1;
        }
        score(reader, span, q, &spans[0], sum)?;
    }
    Ok(spans)
}

fn score(reader: &Reader, span: &Span, q: &Question, first: &Span, sum: &mut Fidelity) -> Result<()> {
    let prediction = if span.place.is_some() { reader.prompt().decode(&span.ids)? } else { String::new() };
    let (em, f1) = squad_scores(prediction.trim(), &q.answers);
    sum.em += em;
    sum.f1 += f1;
    sum.same_answers += f64::from(u8::from(span.ids == first.ids));
    Ok(())
}

fn means(mut sums: Vec<Fidelity>, questions: usize) -> Vec<Fidelity> {
    for sum in &mut sums {
        for part in [&mut sum.em, &mut sum.f1, &mut sum.same_answers] {
            *part *= 100.0 / questions.max(1) as f64;
        }
        let tokens = sum.tokens.max(1) as f64;
        (sum.perplexity, sum.kl) = ((sum.perplexity / tokens).exp(), sum.kl / tokens);
    }
    sums
}

/// The forms of `snapshot.rs`, each question's own paragraph read and kept in each of them. `each` is called after each question.
///
/// # Errors
/// As [`crate::model::Model::forward`]; [`Error::Input`] when no question has an answer.
pub fn forms(reader: &Reader, questions: &[Question], each: &mut dyn FnMut()) -> Result<(usize, Vec<Fidelity>)> {
    let forms = [("f32", Form::F32), ("f16", Form::F16), ("int8", Form::Int8)];
    let mut sums: Vec<Fidelity> = forms.iter().map(|(kept, _)| Fidelity { kept, ..Fidelity::default() }).collect();
    let questions = answerable(reader, questions)?;
    let mut last: Option<(&str, SpanText, Vec<State>)> = None;
    for (q, gold) in &questions {
        let (context, text, states) = match last.take() {
            Some(last) if last.0 == q.context => last,
            _ => {
                let passage = reader.prompt().passage(&q.title, &q.context)?;
                let state = read(reader, &passage.ids)?;
                let key = Chain::new(reader.fingerprint()).key();
                let mut kept = Vec::new();
                for ((_, form), sum) in forms.iter().zip(&mut sums) {
                    let bytes = Snapshot::encode(state.tokens(), state.data(), reader.fingerprint(), &key, *form);
                    sum.bytes = bytes.len() as u64;
                    let back = Snapshot::decode(&bytes, reader.fingerprint(), &key).map_err(|e| Error::Input(e.to_string()))?;
                    let back = reader.take_up(back.tokens, &back.data, &passage.ids);
                    kept.push(back.ok_or_else(|| Error::Input("a form changed the size of a state".into()))?);
                }
                (q.context.as_str(), SpanText::of_passage(&passage, Allowed::TextAndTitle), kept)
            }
        };
        let ways: Vec<Way<'_>> = states.iter().map(|s| Way { state: s.clone(), text: &text }).collect();
        ask_all(reader, q, gold, &ways, &mut sums)?;
        each();
        last = Some((context, text, states));
    }
    if questions.is_empty() {
        return Err(Error::Input("none of these questions has an answer".into()));
    }
    Ok((questions.len(), means(sums, questions.len())))
}

fn read(reader: &Reader, ids: &[u32]) -> Result<State> {
    let mut state = State::empty(reader.config());
    reader.append(&mut [Sequence { ids, state: &mut state }])?;
    Ok(state)
}

/// Each question asked of `passages` paragraphs, its own among them at a place that goes round: read in sequence; put together from
/// parts ([`Part`]); each apart, the surest answer taken (tier A); and its own alone, which no one has who does not know which it is.
///
/// # Errors
/// As [`forms`]; [`Error::Input`] where the questions have fewer paragraphs than `passages`.
pub fn composition(
    reader: &Reader,
    questions: &[Question],
    passages: usize,
    each: &mut dyn FnMut(),
) -> Result<(usize, Vec<Fidelity>)> {
    let questions = answerable(reader, questions)?;
    let mut paragraphs: Vec<&Question> = Vec::new();
    for (q, _) in &questions {
        if paragraphs.iter().all(|p| p.context != q.context) {
            paragraphs.push(q);
        }
    }
    if passages == 0 || paragraphs.len() < passages {
        return Err(Error::Input(format!(
            "{passages} passages for each of {} paragraphs: choose at least 1 and fewer",
            paragraphs.len()
        )));
    }
    let (state, transition) = (State::bytes(reader.config()) as u64, Part::transition_bytes(reader.config()) as u64);
    let ways = [("sequence", state), ("composed", state + transition), ("tier A", state), ("own alone", state)];
    let mut sums: Vec<Fidelity> = ways.iter().map(|&(kept, bytes)| Fidelity { kept, bytes, ..Fidelity::default() }).collect();
    for (n, (q, gold)) in questions.iter().enumerate() {
        let own = paragraphs.iter().position(|p| p.context == q.context).unwrap_or(0);
        let others = (1..paragraphs.len()).map(|i| (own + i) % paragraphs.len());
        let mut chosen: Vec<usize> = others.take(passages - 1).collect();
        let place = n % (chosen.len() + 1);
        chosen.insert(place, own);
        let read: Vec<PassageTokens> = chosen
            .iter()
            .map(|i| reader.prompt().passage(&paragraphs[*i].title, &paragraphs[*i].context))
            .collect::<Result<_>>()?;
        let ids: Vec<&[u32]> = read.iter().map(|p| p.ids.as_slice()).collect();
        let parts = Part::read(reader, &ids)?;
        let together = PassageTokens { ids: ids.concat(), origins: read.iter().flat_map(|p| p.origins.clone()).collect() };
        let all = SpanText::of_passage(&together, Allowed::Text);
        let alone: Vec<SpanText> = read.iter().map(|p| SpanText::of_passage(p, Allowed::Text)).collect();
        let composed = Part::compose(reader.config(), &parts)?.ok_or_else(|| Error::Input("no passages".into()))?;
        // Tier A asks each passage; the right answer's likelihood is that of its own passage's state for both of the last.
        let mut ways = vec![
            Way { state: self::read(reader, &together.ids)?, text: &all },
            Way { state: composed, text: &all },
            Way { state: parts[place].state().clone(), text: &alone[place] },
            Way { state: parts[place].state().clone(), text: &alone[place] },
        ];
        let mut here = vec![Fidelity::default(); ways.len()];
        let spans = ask_all(reader, q, gold, &ways, &mut here)?;
        let asked = after_one_reading(reader, &q.question)?;
        ways.clear();
        let mut forks: Vec<State> = parts.iter().map(|p| p.state().clone()).collect();
        let mut contexts: Vec<Asked<'_>> = forks
            .iter_mut()
            .zip(&alone)
            .map(|(state, text)| Asked { state, ids: &asked, silence: Silence::Allowed, text, hints: None })
            .collect();
        let apart = answer_spans(reader, &mut contexts)?;
        let surest = apart.iter().max_by(|a, b| a.margin().total_cmp(&b.margin()));
        (here[2].em, here[2].f1, here[2].same_answers) = (0.0, 0.0, 0.0);
        if let Some(surest) = surest {
            score(reader, surest, q, &spans[0], &mut here[2])?;
        }
        for (sum, here) in sums.iter_mut().zip(here) {
            sum.em += here.em;
            sum.f1 += here.f1;
            sum.perplexity += here.perplexity;
            sum.kl += here.kl;
            sum.same_answers += here.same_answers;
            sum.tokens += here.tokens;
        }
        each();
    }
    Ok((questions.len(), means(sums, questions.len())))
}

/// Perplexity of paragraphs, each read from the empty state: exp of the mean over all their tokens but the first. Returns how many
/// tokens, too.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn perplexity(reader: &Reader, questions: &[Question], each: &mut dyn FnMut()) -> Result<(usize, f64)> {
    let (mut nats, mut tokens) = (0.0, 0usize);
    let mut last = None;
    for q in questions {
        if last.replace(&q.context) != Some(&q.context) {
            let ids = reader.prompt().passage(&q.title, &q.context)?.ids;
            let mut state = State::empty(reader.config());
            reader.forward(&mut [Sequence { ids: &ids, state: &mut state }], Want::All, &mut |_, position, logits| {
                if let Some(next) = ids.get(position + 1) {
                    nats -= f64::from(log_softmax(logits)[*next as usize]);
                    tokens += 1;
                }
            })?;
        }
        each();
    }
    Ok((tokens, (nats / tokens.max(1) as f64).exp()))
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    let normaliser = max + sum.ln() as f32;
    logits.iter().map(|x| x - normaliser).collect()
}

/// KL(p || q) of two rows of log-probabilities, nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_is_that_of_the_distributions() {
        let (p, q) = (log_softmax(&[0.0, 0.0]), log_softmax(&[0.0, 3.0f32.ln()]));
        let want = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl(&p, &q) - want).abs() < 1e-6 && kl(&p, &p).abs() < 1e-9);
    }
}
