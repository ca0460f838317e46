//! What is asked of a context, and taken back.

use std::fs;
use std::ops::Range;

use serde::Serialize;

use super::log::{Log, LogSpans};
use super::{Context, KEPT_TURNS, Turn, turns};
use crate::answer::{Asked, Silence, after_one_reading, answer_spans_at};
use crate::cancel::{Cancel, Pace};
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::snapshot::Chain;
use crate::state::State;

/// An answer from a context.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContextAnswer {
    /// A span of the text, or none.
    pub answer: Option<String>,
    /// Log-odds of its first token against none: how sure the reader is.
    pub margin: Option<f32>,
    /// First byte of the answer in the text.
    pub start: Option<u64>,
    /// The byte after its last.
    pub end: Option<u64>,
    /// Tokens run through the reader in this call.
    pub tokens_read: u64,
    /// Tokens that the kept state held.
    pub tokens_restored: u64,
}

impl Context {
    /// Asks the text; question and answer become part of what the next question is asked after.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty question or a text not wholly read; [`Error::Context`] when another process has it or it is
    /// damaged; as [`crate::model::Model::forward`].
    pub fn ask(&mut self, question: &str) -> Result<ContextAnswer> {
        self.ask_with(question, &Cancel::new())
    }

    /// As [`Context::ask`], until `cancel`.
    ///
    /// # Errors
    /// As [`Context::ask`]; [`Error::Cancelled`]: then nothing was asked.
    pub fn ask_with(&mut self, question: &str, cancel: &Cancel) -> Result<ContextAnswer> {
        self.lock.held(&self.folder)?;
        if self.state.tokens() < self.all_tokens() {
            return Err(Error::Input(format!("{} is not wholly read yet: read it on first", self.folder.display())));
        }
        let asked = after_one_reading(&self.reader, question)?;
        let before = self.state.tokens();
        let hints = self.log.hints(question, self.reader.calibration().a.hints)?;
        let spans = match self.spans.take() {
            Some(spans) => spans,
            None => self.spans()?,
        };
        let mut fork = self.state.clone();
        let mut pace = Pace::until(cancel);
        let span = answer_spans_at(
            &self.reader,
            &mut [Asked { state: &mut fork, ids: &asked, silence: Silence::Allowed, text: &spans, hints: hints.as_ref() }],
            &mut pace,
        );
        self.spans = Some(spans);
        let span = span?.into_iter().next();
        let place = span.as_ref().and_then(|s| s.place.clone());
        let (answer, range) = match place {
            Some(place) => self.quote(self.log.bytes_of(place)?)?,
            None => (None, None),
        };
        let decoded = span.as_ref().map(|s| s.ids.as_slice()).unwrap_or_default();
        let ids: Vec<u32> = asked.iter().chain(decoded).copied().chain(self.reader.prompt().end()).collect();
        // The fork has read the question already.
        let done = (fork.tokens() - before) as usize;
        let mut rest = [Sequence { ids: &ids[done..], state: &mut fork }];
        self.reader.forward_at(&mut rest, Want::Nothing, &mut pace, &mut |_, _, _| {})?;
        self.keep(&format!("turn-{}", self.turns.len()))?;
        if let Some(old) = self.turns.len().checked_sub(KEPT_TURNS) {
            let _ = fs::remove_file(self.folder.join(format!("turn-{old}")));
        }
        self.state = fork;
        self.chain.extend(&ids);
        let tokens_read = ids.len() as u64 + span.as_ref().map_or(0, |s| s.tokens_read);
        self.turns.push(Turn { question: question.trim().to_string(), answer: answer.clone(), ids });
        turns::write(&self.folder, &self.turns)?;
        self.keep("state")?;
        Ok(ContextAnswer {
            answer,
            margin: span.map(|s| s.margin()).filter(|m| m.is_finite()),
            start: range.as_ref().map(|r| r.start),
            end: range.map(|r| r.end),
            tokens_read,
            tokens_restored: before,
        })
    }

    /// The index over what was read, proven.
    pub(crate) fn spans(&self) -> Result<LogSpans> {
        Log::spans(&self.log)
    }

    /// The first token of the answer to `question`; nothing is remembered of it.
    ///
    /// # Errors
    /// As [`Context::ask`].
    pub fn first_token(&self, question: &str) -> Result<u32> {
        let asked = after_one_reading(&self.reader, question)?;
        let (mut fork, mut likeliest) = (self.state.clone(), 0);
        let mut batch = [Sequence { ids: &asked, state: &mut fork }];
        self.reader.forward(&mut batch, Want::Largest, &mut |_, _, id| likeliest = id[0] as u32)?;
        Ok(likeliest)
    }

    /// Takes back the last `turns` questions.
    ///
    /// # Errors
    /// [`Error::Input`] when there are not as many; as [`Context::advance`] when the state from before was not kept any more.
    pub fn undo(&mut self, turns: usize) -> Result<()> {
        let Some(left) = self.turns.len().checked_sub(turns) else {
            return Err(Error::Input(format!("{turns} turns cannot be taken back: there are {}", self.turns.len())));
        };
        if turns == 0 {
            return Ok(());
        }
        self.lock.held(&self.folder)?;
        self.turns.truncate(left);
        turns::write(&self.folder, &self.turns)?;
        let before = self.folder.join(format!("turn-{left}"));
        match self.load(&before)? {
            Ok((state, chain)) if state.tokens() == self.all_tokens() => {
                (self.state, self.chain) = (state, chain);
                self.keep("state")?;
            }
            _ => {
                self.state = State::empty(self.reader.config());
                self.chain = Chain::new(self.reader.fingerprint());
                self.restore_from_store()?;
                self.advance(&Cancel::new(), &mut |_, _| {})?;
            }
        }
        for turn in left..left + turns {
            let _ = fs::remove_file(self.folder.join(format!("turn-{turn}")));
        }
        Ok(())
    }

    /// The text at `range`, white space around it left out.
    fn quote(&self, range: Range<u64>) -> Result<(Option<String>, Option<Range<u64>>)> {
        let Ok(text) = std::str::from_utf8(self.log.text(range.clone())?) else { return Ok((None, None)) };
        let start = range.start + (text.len() - text.trim_start().len()) as u64;
        let text = text.trim();
        let end = start + text.len() as u64;
        Ok(if text.is_empty() { (None, None) } else { (Some(text.to_string()), Some(start..end)) })
    }
}
