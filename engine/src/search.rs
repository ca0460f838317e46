//! Logits -> the best span of a text. A path begins with a token of the text, one of the few that are likeliest with what is around
//! them, and goes on with the token that the reader finds likeliest of those that follow, in the text, on what the path is so far. Of every path the log-probability
//! is known where it ends after each of its tokens; the best end of all paths is the answer. Within a path ties go to the lower id and
//! the earlier place, between paths to the shorter span and then to the path that was ahead.

use std::ops::Range;

use crate::answer::{ANSWER_TOKENS, Silence, Span};
use crate::hints::Hints;
use crate::spans::Spans;

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Breadth {
    /// First tokens that are followed at most, without and with hints.
    pub paths: [usize; 2],
    /// Nats that a first token may be worse than the best.
    pub behind: f32,
    /// Nats that a path may be worse than the best answer so far, and is gone on with: hints may still grow.
    pub patience: f32,
    /// Tokens that are read at most.
    pub tokens: u64,
}

/// Tokens that finding an answer reads at most; the mean is 10.
pub(crate) const SEARCH_TOKENS: usize = 40;

/// For answers. Tier A, 759 questions of squad_dev_a, tokens read a question: 3 behind 54.8 F1, 8.9; 4 54.9, 10.3; 6 55.2, 12.6; all of
/// 8 paths 55.5, 20.2.
pub(crate) const NARROW: Breadth = Breadth { paths: [1, 8], behind: 4.0, patience: 1.0, tokens: SEARCH_TOKENS as u64 };

/// For fitting how much hints count: nothing is left out for them.
pub(crate) const WIDE: Breadth = Breadth { paths: [8, 8], behind: f32::INFINITY, patience: 30.0, tokens: u64::MAX };

/// A span and what speaks for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub place: Range<usize>,
    /// Sum of the natural log-probabilities of all its tokens, the end included.
    pub logprob: f32,
    /// [`Hints::log_odds`]; 0 without.
    pub hint: f32,
}

impl Ended {
    pub(crate) fn score(&self) -> f32 {
        self.logprob + self.hint
    }
}

/// One beginning of an answer.
pub(crate) struct Path {
    /// Position of the first token in each occurrence in the text, ascending.
    begins: Vec<u32>,
    /// What is around each of them, as far as the path has been read.
    hints: Vec<f32>,
    /// The id after each of them, `u32::MAX` where no answer may go on.
    next: Vec<u32>,
    /// Tokens so far.
    len: usize,
    /// The last of them.
    pub last: u32,
    logprob: f32,
    /// The best of `hints`; 0 without any.
    hint: f32,
    /// Whether it is worth going on with.
    pub live: bool,
}

impl Path {
    fn score(&self) -> f32 {
        self.logprob + self.hint
    }
}

/// The search for one answer.
pub(crate) struct Search<'a> {
    text: &'a dyn Spans,
    hints: Option<&'a Hints>,
    silence: Silence,
    breadth: Breadth,
    pub paths: Vec<Path>,
    best: Option<Ended>,
    first_logprob: f32,
    none: Option<(u32, f32)>,
    tokens_read: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(text: &'a dyn Spans, hints: Option<&'a Hints>, silence: Silence, breadth: Breadth) -> Self {
        let (paths, best, none) = (Vec::new(), None, None);
        Self { text, hints, silence, breadth, paths, best, first_logprob: f32::NEG_INFINITY, none, tokens_read: 0 }
    }

    /// Takes the logits of the first token.
    pub(crate) fn begin(&mut self, logits: &[f32], none: Option<u32>) {
        let normaliser = log_sum_exp(logits);
        let most = self.breadth.paths[usize::from(self.hints.is_some())];
        let mut firsts: Vec<(f32, u32)> = Vec::new();
        let mut here = Vec::new();
        self.text.distinct(&mut |id| {
            let logprob = logits[id as usize] - normaliser;
            self.first_logprob = self.first_logprob.max(logprob);
            let mut score = logprob;
            if let Some(hints) = self.hints {
                here.clear();
                self.text.occurrences(id, &mut here);
                score += best(here.iter().map(|&b| hints.log_odds(b as usize..b as usize + 1)));
            }
            if !score.is_finite() {
                return;
            }
            // The text's ids come in their order: of equals the first stays before.
            let at = firsts.partition_point(|(s, _)| *s >= score);
            if at < most {
                firsts.truncate(most - 1);
                firsts.insert(at, (score, id));
            }
        });
        self.none = none.map(|n| (n, logits[n as usize] - normaliser));
        if self.silence == Silence::Allowed && self.says_none() {
            return;
        }
        let bound = firsts.first().map_or(f32::INFINITY, |(best, _)| best - self.breadth.behind);
        for (score, id) in firsts.into_iter().filter(|(score, _)| *score >= bound) {
            let mut begins = Vec::new();
            self.text.occurrences(id, &mut begins);
            if !begins.is_empty() {
                let (hints, next) = (Vec::new(), Vec::new());
                let logprob = logits[id as usize] - normaliser;
                self.paths.push(Path { begins, hints, next, len: 1, last: id, logprob, hint: score - logprob, live: true });
            }
        }
    }

    /// Whether there is no answer, for all that the reader knows.
    fn says_none(&self) -> bool {
        self.none.is_some_and(|(_, logprob)| logprob > 0.5f32.ln())
    }

    /// Takes the logits after the last token of a path. `each` gets every occurrence of what may be an answer.
    pub(crate) fn step(&mut self, path: usize, logits: &[f32], end: Option<u32>, each: &mut dyn FnMut(Ended)) {
        self.tokens_read += 1;
        let path = &mut self.paths[path];
        let normaliser = log_sum_exp(logits);
        path.next.clear();
        path.next.extend(path.begins.iter().map(|&b| self.text.at(b.saturating_add(path.len as u32)).unwrap_or(u32::MAX)));
        let likelier = |best: Option<(f32, u32)>, &id: &u32| {
            let logit = logits[id as usize];
            Some(best.filter(|&(l, i)| l > logit || (l == logit && i < id)).unwrap_or((logit, id)))
        };
        let allowed = path.next.iter().filter(|id| **id != u32::MAX && path.len < ANSWER_TOKENS);
        let next = allowed.fold(None, likelier);
        path.hints.clear();
        if let Some(hints) = self.hints {
            path.hints.extend(path.begins.iter().map(|&b| hints.log_odds(b as usize..b as usize + path.len)));
        }
        // A form without an end ends where nothing follows.
        if end.is_some() || next.is_none() {
            let logprob = path.logprob + end.map_or(0.0, |end| logits[end as usize] - normaliser);
            // Without hints every occurrence is as good as the first.
            let places = if self.hints.is_some() { path.begins.len() } else { 1 };
            for (i, &begin) in path.begins.iter().take(places).enumerate() {
                let hint = path.hints.get(i).copied().unwrap_or_default();
                let ended = Ended { place: begin as usize..begin as usize + path.len, logprob, hint };
                if !ended.score().is_finite() {
                    continue;
                }
                if self.best.as_ref().is_none_or(|best| ended.score() > best.score()) {
                    self.best = Some(ended.clone());
                }
                each(ended);
            }
        }
        let Some((logit, id)) = next else {
            path.live = false;
            return;
        };
        path.logprob += logit - normaliser;
        let (mut next, mut next_again) = (path.next.iter(), path.next.iter());
        path.begins.retain(|_| next.next() == Some(&id));
        path.hints.retain(|_| next_again.next() == Some(&id));
        if self.hints.is_some() {
            path.hint = best(path.hints.iter().copied());
        }
        path.len += 1;
        path.last = id;
    }

    /// Gives up the paths that have become too unlikely, and the worst of the others where too many tokens would be read. To be
    /// called when all live ones took a step.
    pub(crate) fn prune(&mut self) {
        let bound = self.best.as_ref().map_or(f32::NEG_INFINITY, Ended::score) - self.breadth.patience;
        for path in &mut self.paths {
            path.live &= path.score() > bound;
        }
        let left = usize::try_from(self.breadth.tokens.saturating_sub(self.tokens_read)).unwrap_or(usize::MAX);
        let mut live: Vec<&mut Path> = self.paths.iter_mut().filter(|p| p.live).collect();
        live.sort_by(|a, b| b.score().total_cmp(&a.score()));
        live.into_iter().skip(left).for_each(|path| path.live = false);
    }

    /// The best path as far as it came: for a form without an end, of which no path came to where nothing follows.
    fn unfinished(&self) -> Option<Ended> {
        let path = self.paths.iter().filter(|p| p.score().is_finite()).max_by(|a, b| a.score().total_cmp(&b.score()))?;
        let place = path.begins.first().map(|&b| b as usize..b as usize + path.len)?;
        Some(Ended { place, logprob: path.logprob, hint: path.hint })
    }

    pub(crate) fn finish(self) -> Span {
        let silent = self.silence == Silence::Allowed && self.says_none();
        let found = self.best.clone().or_else(|| self.unfinished()).filter(|_| !silent);
        let none_logprob = self.none.map_or(f32::NEG_INFINITY, |(_, logprob)| logprob);
        let logprob = found.as_ref().map_or(if silent { none_logprob } else { 0.0 }, |c| c.logprob);
        let ids = found.as_ref().and_then(|c| self.text.span(c.place.clone()));
        let ids = ids.unwrap_or_else(|| self.none.filter(|_| silent).map(|(id, _)| id).into_iter().collect());
        Span {
            rest: if silent { 0.0 } else { (logprob - self.first_logprob).min(0.0) / ids.len().max(1) as f32 },
            hint: found.as_ref().map_or(0.0, |c| c.hint),
            place: found.map(|c| c.place),
            first_logprob: self.first_logprob,
            none_logprob,
            logprob,
            tokens_read: self.tokens_read,
            ids,
        }
    }
}

fn best(hints: impl Iterator<Item = f32>) -> f32 {
    hints.fold(f32::NEG_INFINITY, f32::max)
}

/// `ln(sum(exp(x)))`, without overflow.
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + x.iter().map(|v| (v - max).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hints::HintWeights;
    use crate::prompt::{Origin, PassageTokens};
    use crate::spans::{Allowed, SpanText};

    const VOCABULARY: usize = 40;
    const END: u32 = 1;
    const NONE: u32 = 2;
    const EVERYTHING: Breadth = Breadth { paths: [99, 99], behind: f32::INFINITY, patience: f32::INFINITY, tokens: u64::MAX };

    /// What a reader that read `ids` after the question might say: the same for the same ids.
    fn logits(seed: u64, ids: &[u32]) -> Vec<f32> {
        let mut x = ids.iter().fold(seed | 1, |x, &id| (x ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1 << 21) as f32
        };
        (0..VOCABULARY).map(|_| next()).collect()
    }

    fn find(seed: u64, text: &SpanText, hints: Option<&Hints>, silence: Silence, breadth: Breadth, end: Option<u32>) -> Span {
        let mut search = Search::new(text, hints, silence, breadth);
        search.begin(&logits(seed, &[]), Some(NONE));
        let mut read: Vec<Vec<u32>> = search.paths.iter().map(|p| vec![p.last]).collect();
        while search.paths.iter().any(|p| p.live) {
            for (path, read) in read.iter_mut().enumerate().filter(|(path, _)| search.paths[*path].live).collect::<Vec<_>>() {
                search.step(path, &logits(seed, read), end, &mut |_| {});
                read.push(search.paths[path].last);
            }
            search.prune();
        }
        search.finish()
    }

    /// Words w0 to w9 in an order with repetitions; ids are 10 and up, a mark before them.
    fn passage() -> (PassageTokens, String) {
        let words = [0, 1, 2, 0, 3, 1, 2, 4, 5, 0, 1, 6, 7, 8, 9, 0, 1, 2, 3];
        let (mut ids, mut origins, mut text) = (vec![3], vec![Origin::Mark], String::new());
        for w in words {
            ids.push(10 + w);
            origins.push(Origin::Text(text.len()..text.len() + 3));
            text.push_str(&format!("w{w} "));
        }
        (PassageTokens { ids, origins }, text)
    }

    /// Against a plain walk from every first token, in f64.
    #[test]
    fn the_best_end_of_all_paths_wins() {
        let (passage, text) = passage();
        let spans = SpanText::of_passage(&passage, Allowed::Text);
        let hints = Hints::of("w3 w8?", &passage.origins, &text, HintWeights { told: 1.0, near: 4.0, echo: -2.0 });
        let ids = &passage.ids;
        for (seed, hints) in (1..60).flat_map(|seed| [(seed, None), (seed, hints.as_ref())]) {
            let log_softmax = |logits: &[f32], id: u32| {
                f64::from(logits[id as usize]) - logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln()
            };
            let mut want = (f64::NEG_INFINITY, 0..0);
            for first in 10..20 {
                let (mut said, mut logprob) = (vec![first], log_softmax(&logits(seed, &[]), first));
                let mut begins: Vec<usize> = (1..ids.len()).filter(|&at| ids[at] == first).collect();
                loop {
                    let next = logits(seed, &said);
                    for &at in &begins {
                        let hint = hints.map_or(0.0, |h| f64::from(h.log_odds(at..at + said.len())));
                        let score = logprob + log_softmax(&next, END) + hint;
                        if score > want.0 + 1e-9 {
                            want = (score, at..at + said.len());
                        }
                    }
                    let follow = begins.iter().filter_map(|&at| ids.get(at + said.len())).copied();
                    let best = follow.max_by(|a, b| next[*a as usize].total_cmp(&next[*b as usize]));
                    let Some(best) = best.filter(|_| said.len() < ANSWER_TOKENS) else { break };
                    begins.retain(|&at| ids.get(at + said.len()) == Some(&best));
                    logprob += log_softmax(&next, best);
                    said.push(best);
                }
            }
            let got = find(seed, &spans, hints, Silence::Overruled, EVERYTHING, Some(END));
            assert_eq!(got.place, Some(want.1.clone()), "seed {seed}");
            assert!((f64::from(got.logprob + got.hint) - want.0).abs() < 1e-4, "seed {seed}: {got:?} {want:?}");
            assert_eq!(got.ids, ids[want.1].to_vec());
            let narrow = find(seed, &spans, hints, Silence::Overruled, NARROW, Some(END));
            assert!(narrow.logprob + narrow.hint <= got.logprob + got.hint + 1e-5 && narrow.place.is_some());
            assert!(narrow.tokens_read <= SEARCH_TOKENS as u64 && narrow.rest <= 0.0);
            assert!((narrow.first_logprob, narrow.none_logprob) == (got.first_logprob, got.none_logprob));
        }
    }

    #[test]
    fn hints_choose_the_place() {
        let (passage, text) = passage();
        let spans = SpanText::of_passage(&passage, Allowed::Text);
        // w5 and w6 stand around the third w0 w1, tokens 10 and 11; the first is at token 1.
        let hints =
            Hints::of("w5 w6?", &passage.origins, &text, HintWeights { told: 0.0, near: 40.0, echo: -9.0 }).expect("they count");
        let alone = find(7, &spans, None, Silence::Overruled, NARROW, Some(END)).place.expect("a span");
        assert_eq!(alone.start, passage.ids.windows(alone.len()).position(|w| *w == passage.ids[alone.clone()]).expect("there"));
        let hinted = find(7, &spans, Some(&hints), Silence::Overruled, NARROW, Some(END)).place.expect("a span");
        assert!((9..13).contains(&hinted.start), "{hinted:?}");
    }

    #[test]
    fn silence_is_believed_where_it_is_likelier_than_not() {
        let (passage, _) = passage();
        let spans = SpanText::of_passage(&passage, Allowed::Text);
        for (logit, none) in [(30.0, true), (-30.0, false)] {
            let mut first = logits(5, &[]);
            first[NONE as usize] = logit;
            let mut search = Search::new(&spans, None, Silence::Allowed, NARROW);
            search.begin(&first, Some(NONE));
            assert_eq!(search.paths.is_empty(), none);
            let span = search.finish();
            assert_eq!((span.ids.first() == Some(&NONE), span.margin() < 0.0, span.place.is_none()), (none, none, none));
            let mut search = Search::new(&spans, None, Silence::Overruled, NARROW);
            search.begin(&first, Some(NONE));
            assert_eq!(search.paths.len(), 1);
        }
        let nothing = find(5, &SpanText::default(), None, Silence::Overruled, NARROW, Some(END));
        assert_eq!((nothing.ids.len(), nothing.place, nothing.tokens_read), (0, None, 0));
        assert_eq!(nothing.first_logprob, f32::NEG_INFINITY);
    }

    #[test]
    fn a_form_without_an_end_goes_on_as_far_as_it_may() {
        let (passage, text) = passage();
        let weights = HintWeights { told: 1.0, near: 1.0, echo: -1.0 };
        let hints = Hints::of("w5 w6?", &passage.origins, &text, weights).expect("they count");
        let spans = SpanText::of_passage(&passage, Allowed::Text);
        for seed in 1..20 {
            let place = find(seed, &spans, None, Silence::Overruled, EVERYTHING, None).place.expect("a span");
            assert!(place.len() == ANSWER_TOKENS || place.end == passage.ids.len(), "{place:?}");
            // Where many paths use up the tokens, the best of them is an answer still.
            let many = Breadth { behind: f32::INFINITY, ..NARROW };
            let hinted = find(seed, &spans, Some(&hints), Silence::Overruled, many, None);
            assert!(hinted.place.is_some() && hinted.tokens_read <= SEARCH_TOKENS as u64, "{hinted:?}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_answer_nothing() {
        let (passage, _) = passage();
        let spans = SpanText::of_passage(&passage, Allowed::Text);
        let nothing = vec![f32::NAN; VOCABULARY];
        let mut search = Search::new(&spans, None, Silence::Overruled, NARROW);
        search.begin(&nothing, Some(NONE));
        assert!(search.paths.is_empty() && search.finish().place.is_none());
        let mut search = Search::new(&spans, None, Silence::Overruled, NARROW);
        search.begin(&logits(3, &[]), Some(NONE));
        search.step(0, &nothing, Some(END), &mut |_| {});
        search.prune();
        assert!(!search.paths[0].live);
        let span = search.finish();
        assert_eq!((span.place, span.ids.len()), (None, 0));
    }
}
