//! Which tokens of a text an answer may be made of, and where each id stands in it.

use std::ops::Range;

use crate::prompt::{Origin, PassageTokens};

/// Which tokens of a passage an answer may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Those of its text alone: an answer must be citable.
    Text,
    /// Those of its title, too.
    TextAndTitle,
}

impl Allowed {
    fn takes(self, origin: &Origin) -> bool {
        match origin {
            Origin::Text(_) => true,
            Origin::Heading => self == Allowed::TextAndTitle,
            Origin::Mark => false,
        }
    }
}

/// A text that answers are spans of.
pub trait Spans: Sync {
    /// Each id that an answer may begin with.
    fn distinct(&self, each: &mut dyn FnMut(u32));

    /// Where `id` stands, ascending.
    fn occurrences(&self, id: u32, into: &mut Vec<u32>);

    /// Tokens of the text, those where no answer may go with them.
    fn tokens(&self) -> usize;

    /// The id at `position`; `None` where no answer may go.
    fn at(&self, position: u32) -> Option<u32>;

    /// The ids at these positions; `None` where an answer may not go.
    fn span(&self, range: Range<usize>) -> Option<Vec<u32>> {
        range.map(|at| u32::try_from(at).ok().and_then(|at| self.at(at))).collect()
    }
}

/// The tokens that an answer may be a span of, with an index of where each id stands: a decoded token costs the distinct ids
/// or the occurrences of what was decoded so far, never a pass over the text.
#[derive(Debug, Clone, Default)]
pub struct SpanText {
    /// `u32::MAX` where no answer may go.
    ids: Vec<u32>,
    /// Positions, those of the same id together and ascending.
    positions: Vec<u32>,
    /// Each distinct id with its part of `positions`.
    distinct: Vec<(u32, Range<u32>)>,
}

const FORBIDDEN: u32 = u32::MAX;

impl SpanText {
    /// Of a passage's tokens, those that `allowed` takes.
    #[must_use]
    pub fn of_passage(passage: &PassageTokens, allowed: Allowed) -> Self {
        let free =
            passage.ids.iter().zip(&passage.origins).map(|(&id, origin)| if allowed.takes(origin) { id } else { FORBIDDEN });
        Self::new(free.collect())
    }

    /// Of ids, `u32::MAX` where no answer may go. Takes 8 bytes a token.
    #[must_use]
    pub fn new(ids: Vec<u32>) -> Self {
        let mut positions: Vec<u32> = (0..ids.len() as u32).filter(|&at| ids[at as usize] != FORBIDDEN).collect();
        positions.sort_by_key(|&at| (ids[at as usize], at));
        let mut distinct: Vec<(u32, Range<u32>)> = Vec::new();
        for (i, &at) in positions.iter().enumerate() {
            let (i, id) = (i as u32, ids[at as usize]);
            match distinct.last_mut() {
                Some((last, range)) if *last == id => range.end = i + 1,
                _ => distinct.push((id, i..i + 1)),
            }
        }
        Self { ids, positions, distinct }
    }
}

impl Spans for SpanText {
    fn distinct(&self, each: &mut dyn FnMut(u32)) {
        self.distinct.iter().for_each(|(id, _)| each(*id));
    }

    fn occurrences(&self, id: u32, into: &mut Vec<u32>) {
        if let Ok(i) = self.distinct.binary_search_by_key(&id, |(id, _)| *id) {
            into.extend_from_slice(&self.positions[self.distinct[i].1.start as usize..self.distinct[i].1.end as usize]);
        }
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn at(&self, position: u32) -> Option<u32> {
        self.ids.get(position as usize).copied().filter(|&id| id != FORBIDDEN)
    }
}
