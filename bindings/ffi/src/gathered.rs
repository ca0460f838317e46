//! What happens while a question is answered, gathered for the host: what is new is told at once, more of the same (how far
//! reading is, further pieces of the answer) some times a second. Waking a host up costs more than decoding a token may: 0.15 ms
//! of two cores in Python, where the reader that ships decodes one in 2 ms.

use std::mem::{Discriminant, discriminant, take};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::lock;
use crate::records::AskEvent;

/// Between two times that more of the same is told.
const EVERY: Duration = Duration::from_millis(50);

/// Events on their way from the thread that answers to the one that tells the host.
#[derive(Default)]
pub(crate) struct Gathered {
    inner: Mutex<Inner>,
    news: Condvar,
}

#[derive(Default)]
struct Inner {
    events: Vec<AskEvent>,
    ended: bool,
    /// What the last event told was, and when.
    told: Option<(Discriminant<AskEvent>, Instant)>,
    /// Whoever takes waits without a limit: it is woken by any event.
    idle: bool,
}

impl Inner {
    /// How long what is there may wait; without a limit where nothing is there.
    fn may_wait(&self) -> Option<Duration> {
        let more_of_the_same = match self.events.as_slice() {
            [] => true,
            [one @ (AskEvent::Token { .. } | AskEvent::Reading { .. })] => {
                self.told.is_some_and(|(kind, _)| kind == discriminant(one))
            }
            _ => false,
        };
        if self.ended || !more_of_the_same {
            return Some(Duration::ZERO);
        }
        let rest = self.told.map_or(Duration::ZERO, |(_, at)| EVERY.saturating_sub(at.elapsed()));
        if self.events.is_empty() && rest.is_zero() { None } else { Some(rest) }
    }
}

impl Gathered {
    /// Adds an event to what is to be told. It wakes nobody up where it may wait.
    pub(crate) fn add(&self, event: AskEvent) {
        let mut inner = lock(&self.inner);
        match (inner.events.last_mut(), event) {
            (Some(AskEvent::Token { text }), AskEvent::Token { text: more }) => text.push_str(&more),
            (Some(last @ AskEvent::Reading { .. }), more @ AskEvent::Reading { .. }) => *last = more,
            (_, event) => inner.events.push(event),
        }
        self.wake(inner);
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        if inner.idle || inner.may_wait() == Some(Duration::ZERO) {
            drop(inner);
            self.news.notify_one();
        }
    }

    /// Waits until there is something to tell; none at the end.
    pub(crate) fn take(&self) -> Option<Vec<AskEvent>> {
        let mut inner = lock(&self.inner);
        loop {
            match inner.may_wait() {
                Some(Duration::ZERO) => break,
                Some(rest) => inner = self.news.wait_timeout(inner, rest).unwrap_or_else(PoisonError::into_inner).0,
                None => {
                    inner.idle = true;
                    inner = self.news.wait(inner).unwrap_or_else(PoisonError::into_inner);
                    inner.idle = false;
                }
            }
        }
        let events = take(&mut inner.events);
        inner.told = events.last().map(|event| (discriminant(event), Instant::now()));
        (!events.is_empty()).then_some(events)
    }

    /// Ends it once it is dropped, however that comes about.
    pub(crate) fn ending(&self) -> Ending<'_> {
        Ending(self)
    }
}

/// See [`Gathered::ending`].
pub(crate) struct Ending<'a>(&'a Gathered);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.0.inner);
        inner.ended = true;
        self.0.wake(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> AskEvent {
        AskEvent::Token { text: text.into() }
    }

    fn reading(tokens_read: u64) -> AskEvent {
        AskEvent::Reading { tokens_read, tokens_restored: 0, tokens_total: 9 }
    }

    #[test]
    fn what_is_new_is_told_at_once_and_more_of_it_together() {
        let gathered = Gathered::default();
        gathered.add(reading(1));
        assert_eq!(gathered.take(), Some(vec![reading(1)]));
        gathered.add(reading(2));
        gathered.add(reading(3));
        gathered.add(token("a"));
        let began = Instant::now();
        assert_eq!(gathered.take(), Some(vec![reading(3), token("a")]));
        gathered.add(token("b"));
        gathered.add(token("c"));
        assert_eq!(gathered.take(), Some(vec![token("bc")]));
        assert!(began.elapsed() >= EVERY / 2, "{:?}", began.elapsed());
        gathered.add(token("d"));
        drop(gathered.ending());
        assert_eq!(gathered.take(), Some(vec![token("d")]));
        assert_eq!((gathered.take(), gathered.take()), (None, None));
    }

    #[test]
    fn whoever_waits_is_woken_by_a_slow_token_and_by_the_end() {
        let gathered = Gathered::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ending = gathered.ending();
                for piece in ["a", "b", "c"] {
                    gathered.add(token(piece));
                    std::thread::sleep(EVERY * 2);
                }
            });
            // One by one, or together where this thread is late.
            let mut told = String::new();
            while let Some(events) = gathered.take() {
                for event in events {
                    let AskEvent::Token { text } = event else { panic!("{event:?}") };
                    told.push_str(&text);
                }
            }
            assert_eq!(told, "abc");
        });
    }
}
