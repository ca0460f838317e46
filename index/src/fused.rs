//! How do words and meaning answer together? Feature `dense`.
//!
//! BM25 and the nearest vectors each rank passages; a passage scores 1 / (60 + rank) in each ranking that has it, summed up
//! (reciprocal rank fusion: Cormack, Clarke and Büttcher, 2009).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::card::{card, cards};
use crate::error::doing;
use crate::filter::{Filter, choose};
use crate::retriever::{Retriever, Source};
use crate::search::{Hit, SearchOptions};
use crate::vectors::{Encoder, Near, Role, Vectors};
use crate::{Index, IndexError, Progress};

/// What a rank is added to.
const RANK: f32 = 60.0;

/// Passages of each ranking that are looked at, at least.
const DEPTH: usize = 100;

/// Which rankings count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranking {
    /// The nearest vectors alone; a hit's score is the cosine.
    Dense,
    /// BM25 and the nearest vectors.
    Fused,
}

/// An index with the vectors of its passages.
pub struct Fused {
    index: Arc<Index>,
    vectors: Vectors,
    encoder: Arc<dyn Encoder>,
    ranking: Ranking,
}

impl Fused {
    /// Over `index`, with the vectors that lie below `dir`, or in memory; [`Retriever::sync`] brings them in step.
    ///
    /// # Errors
    /// As [`Vectors::open`].
    pub fn new(index: Arc<Index>, dir: Option<&Path>, encoder: Arc<dyn Encoder>) -> Result<Self, IndexError> {
        let vectors = match dir {
            Some(dir) => Vectors::open(dir, &*encoder)?,
            None => Vectors::in_memory(&*encoder)?,
        };
        Ok(Self { index, vectors, encoder, ranking: Ranking::Fused })
    }

    /// The same with another ranking.
    #[must_use]
    pub fn ranked_by(mut self, ranking: Ranking) -> Self {
        self.ranking = ranking;
        self
    }

    /// The vectors.
    #[must_use]
    pub fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// Passages that lie near as hits, best first; what changed since it was encoded is left out.
    fn hits(&self, near: Vec<Near>) -> Result<Vec<Hit>, IndexError> {
        let searcher = self.index.reader.searcher();
        let mut addresses = HashMap::new();
        let mut hits = Vec::with_capacity(near.len());
        for near in near {
            if !addresses.contains_key(&near.document) {
                let card = card(&searcher, &self.index.fields, &near.document)?;
                let current = card.is_some_and(|c| c.text_sha256 == near.text_sha256 && c.title == near.title);
                let found = if current { self.index.addresses_of(&searcher, &near.document)? } else { Vec::new() };
                addresses.insert(near.document.clone(), found);
            }
            if let Some(&(_, address)) = addresses[&near.document].get(near.passage as usize) {
                hits.push(self.index.hit(&searcher, address, near.cosine)?);
            }
        }
        Ok(hits)
    }

    /// Documents of which the filter holds.
    fn allowed(&self, filter: &Filter) -> Result<HashSet<String>, IndexError> {
        let searcher = self.index.reader.searcher();
        let chosen = choose(&searcher, self.index.fields.metadata, filter).map_err(doing("filter"))?;
        let cards = cards(&searcher, &self.index.fields, "")?.into_iter();
        let picked = |segment: u32, doc| chosen.get(segment as usize).is_some_and(|c| c.holds(doc));
        Ok(cards.filter(|(_, at)| picked(at.segment_ord, at.doc_id)).map(|(id, _)| id).collect())
    }
}

impl Retriever for Fused {
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        let depth = options.limit.max(DEPTH);
        let allowed = options.filter.as_ref().map(|filter| self.allowed(filter)).transpose()?;
        let vector = self.encoder.encode(&[question], Role::Question)?.pop().unwrap_or_default();
        let mut meant = self.hits(self.vectors.nearest(&vector, depth, allowed.as_ref())?)?;
        if self.ranking == Ranking::Dense {
            meant.truncate(options.limit);
            return Ok(meant);
        }
        let said = self.index.search_with(question, &SearchOptions { limit: depth, ..options.clone() })?;
        Ok(fuse([said, meant], options.limit))
    }

    fn source(&self, document: &str, range: Range<u64>) -> Result<Option<Source>, IndexError> {
        self.index.source(document, range)
    }

    fn sync(&self, stop: &AtomicBool, progress: &(dyn Fn(&Progress) + Sync)) -> Result<(), IndexError> {
        self.vectors.sync(&self.index, &*self.encoder, stop, progress)
    }
}

/// The `limit` best of several rankings, each best first.
fn fuse(rankings: [Vec<Hit>; 2], limit: usize) -> Vec<Hit> {
    let mut all: BTreeMap<(String, u32), Hit> = BTreeMap::new();
    for ranking in rankings {
        for (rank, mut hit) in ranking.into_iter().enumerate() {
            hit.score = 1.0 / (RANK + 1.0 + rank as f32);
            all.entry((hit.document.clone(), hit.passage)).and_modify(|known| known.score += hit.score).or_insert(hit);
        }
    }
    let mut all: Vec<Hit> = all.into_values().collect();
    // A stable sort: of equals the one of the earlier name.
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all.truncate(limit);
    all
}
