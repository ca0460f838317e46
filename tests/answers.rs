//! What happens while a question is answered: events in order, cancelling, budgets, many questions at once, own words.
//! Read by a tiny random reader: what it says is nonsense, how it comes to say it is not.

mod tiny;

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use palimpsest::index::{Document, Filter};
use palimpsest::{Answer, AskOptions, Cancel, Engine, Error, Event, Options, Tier};
use safetensors::Dtype;
use tiny::{Noise, Tiny, write_word_tokenizer};

const WORDS: [&str; 10] = ["river", "lake", "Zug", "Aare", "long", "deep", "is", "the", "and", "metres"];

/// Twelve documents that all match a question about the Zug.
fn engine(folder: &Path) -> Engine {
    let reader = folder.join("reader");
    if !reader.exists() {
        Tiny::odd().write_fla(&reader, Dtype::F32);
        write_word_tokenizer(&reader, &WORDS);
    }
    let store = folder.join(format!("store-{}", std::fs::read_dir(folder).expect("folder").count()));
    let engine = Engine::open(Options { reader: Some(reader.into()), ..Options::new(store) }).expect("opens");
    let mut noise = Noise(5);
    for n in 0..12 {
        let words: Vec<&str> = (0..120 + n).map(|_| WORDS[noise.below(WORDS.len())]).collect();
        let mut document = Document::new(format!("d{n}"), format!("Zug {n}"), words.join(" "));
        document.metadata.insert("even".into(), (n % 2 == 0).into());
        engine.index().add(document).expect("added");
    }
    engine.index().commit().expect("committed");
    engine
}

fn options() -> AskOptions {
    AskOptions { min_confidence: 0.0, ..AskOptions::default() }
}

const QUESTION: &str = "Is the river Zug long and deep?";

/// What of an answer does not depend on time and on what was read before.
fn said(a: &Answer) -> String {
    format!("{:?} {} {:?} {:?} {:?}", a.answer, a.confidence.to_bits(), a.citations, a.nearest, a.tier)
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Retrieved(_) => "retrieved",
        Event::Reading { .. } => "reading",
        Event::Token(_) => "token",
        Event::Citation(_) => "citation",
        Event::Done(_) => "done",
        _ => "unknown",
    }
}

/// Checks the order of a question's events and gives the answer they end with.
fn whole(events: &[Event]) -> Answer {
    let mut kinds: Vec<&str> = events.iter().map(kind).collect();
    kinds.dedup();
    assert_eq!(kinds, ["retrieved", "reading", "token", "citation", "done"]);
    let mut before = 0;
    for event in events {
        if let Event::Reading { tokens_read, tokens_restored, tokens_total } = event {
            assert!(*tokens_read >= before && tokens_read + tokens_restored <= *tokens_total);
            before = *tokens_read;
        }
    }
    let told: String = events.iter().filter_map(|e| if let Event::Token(t) = e { Some(t.as_str()) } else { None }).collect();
    let Some(Event::Done(answer)) = events.last() else { panic!("{events:?}") };
    assert_eq!(Some(told), answer.answer);
    assert!(events.iter().any(|e| matches!(e, Event::Citation(c) if *c == answer.citations[0])));
    answer.clone()
}

#[test]
fn a_disk_that_takes_no_state_is_told() {
    let [whole, broken] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    let expected = engine(whole.path()).ask(QUESTION, &options()).expect("answers");
    assert!(expected.notices.is_empty(), "{:?}", expected.notices);
    let engine = engine(broken.path());
    let slots = broken.path().join("store-1/snapshots/slots");
    std::fs::remove_dir_all(&slots).expect("the folder of the states");
    std::fs::write(&slots, "no folder").expect("written");
    let answer = engine.ask(QUESTION, &options()).expect("answers");
    assert_eq!(said(&answer), said(&expected));
    assert!(answer.notices.iter().any(|n| n.contains("is not kept")), "{:?}", answer.notices);
}

#[test]
fn events_come_in_order_and_end_with_the_answer() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = engine(folder.path());
    for tier in [Tier::A, Tier::B] {
        let options = AskOptions { tier: Some(tier), ..options() };
        let mut events = Vec::new();
        let answer = engine.ask_with(QUESTION, &options, &Cancel::new(), &mut |e| events.push(e)).expect("asked");
        assert_eq!(said(&whole(&events)), said(&answer));
        assert_eq!(answer.tier, tier);
        assert!(matches!(&events[0], Event::Retrieved(hits) if hits.len() == 5));
        assert_eq!(said(&engine.ask(QUESTION, &options).expect("asked")), said(&answer));
    }
}

#[test]
fn the_iterator_and_the_stream_say_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = Arc::new(engine(folder.path()));
    let answer = engine.ask(QUESTION, &options()).expect("asked");
    let iterated: Vec<Event> = engine.events(QUESTION, options()).map(|e| e.expect("an event")).collect();
    assert_eq!(said(&whole(&iterated)), said(&answer));
    let streamed = block_on(engine.events(QUESTION, options()));
    assert_eq!(said(&whole(&streamed)), said(&answer));
    let mut refused = engine.events(" ", options());
    assert!(matches!(refused.next(), Some(Err(Error::Input(_)))));
    assert!(refused.next().is_none() && refused.next().is_none());
}

/// Wakes a thread that waits for a stream.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().expect("bell") = true;
        self.1.notify_all();
    }
}

fn block_on(events: impl futures_core::Stream<Item = palimpsest::Result<Event>>) -> Vec<Event> {
    let (bell, mut out, mut events) = (Arc::new(Bell::default()), Vec::new(), pin!(events));
    let waker = Waker::from(bell.clone());
    loop {
        match events.as_mut().poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(event)) => out.push(event.expect("an event")),
            Poll::Ready(None) => return out,
            Poll::Pending => {
                let rung = bell.1.wait_while(bell.0.lock().expect("bell"), |rung| !*rung).expect("bell");
                drop(rung);
                *bell.0.lock().expect("bell") = false;
            }
        }
    }
}

#[test]
fn nothing_is_computed_after_cancel() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = engine(folder.path());
    // At each kind of event in turn, and in the middle of reading.
    for at in ["retrieved", "reading", "token", "citation"] {
        let (cancel, mut after) = (Cancel::new(), None);
        let fresh = self::engine(folder.path());
        let outcome = fresh.ask_with(QUESTION, &options(), &cancel, &mut |event| {
            let begun = !matches!(event, Event::Reading { tokens_read: 0, .. });
            if kind(&event) == at && begun {
                cancel.cancel();
            }
            if cancel.is_cancelled() {
                *after.get_or_insert(0) += 1;
            }
        });
        if ["retrieved", "reading"].contains(&at) {
            assert!(matches!(outcome, Err(Error::Cancelled)), "{at}: {outcome:?}");
            assert_eq!(after, Some(1), "{at}: events after cancel");
            assert_eq!(fresh.store().stats().entries, 0, "{at}: what was not wholly read is not kept");
        } else {
            // All was computed; what is left is told.
            assert!(outcome.is_ok(), "{at}: {outcome:?}");
        }
    }
    let cancelled = Cancel::new();
    cancelled.cancel();
    let outcome = engine.ask_with(QUESTION, &options(), &cancelled, &mut |event| panic!("{event:?}"));
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert!(matches!(engine.ask_many(&[QUESTION], &options(), &cancelled), Err(Error::Cancelled)));
}

#[test]
fn dropping_the_events_cancels() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = Arc::new(engine(folder.path()));
    let mut events = engine.events(QUESTION, options());
    let cancel = events.canceller();
    assert!(matches!(events.next(), Some(Ok(Event::Retrieved(_)))));
    assert!(!cancel.is_cancelled());
    drop(events);
    assert!(cancel.is_cancelled());
    // The thread lets go of the engine.
    let began = Instant::now();
    while Arc::strong_count(&engine) > 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "the thread goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn budgets_read_fewer_passages_and_say_so() {
    let folder = tempfile::tempdir().expect("folder");
    let all = engine(folder.path()).ask(QUESTION, &options()).expect("asked");
    assert!(all.notices.is_empty(), "{:?}", all.notices);
    let mut read_before = u64::MAX;
    // For each of five passages 40 tokens of a search are set aside, of which it mostly reads fewer.
    for budget in [all.tokens_read + 200, all.tokens_read / 2, 340, 10] {
        let engine = engine(folder.path());
        let options = AskOptions { budget_tokens: Some(budget), ..options() };
        let answer = engine.ask(QUESTION, &options).expect("asked");
        assert!(answer.tokens_read <= budget && answer.tokens_read <= read_before, "{budget}: {}", answer.tokens_read);
        assert_eq!(answer.notices.iter().any(|n| n.contains("ran out")), budget < all.tokens_read, "{:?}", answer.notices);
        assert_eq!(answer.answer.is_none(), budget == 10);
        assert_eq!(answer.nearest.is_empty(), budget != 10, "what was not read is shown still");
        read_before = answer.tokens_read;
        let twice = engine.ask(QUESTION, &AskOptions { tier: Some(Tier::B), ..options }).expect("asked");
        assert!(twice.tokens_read <= budget, "tier B, {budget}: {}", twice.tokens_read);
    }
    let late = AskOptions { budget_ms: Some(0), ..options() };
    let none = engine(folder.path()).ask(QUESTION, &late).expect("asked");
    assert!(none.answer.is_none() && none.tokens_read == 0 && none.nearest.len() == 5, "{none:?}");
    assert!(none.notices[0].contains("0 ms ran out: 0 of 5"), "{:?}", none.notices);
    let in_time = AskOptions { budget_ms: Some(600_000), ..options() };
    assert_eq!(said(&engine(folder.path()).ask(QUESTION, &in_time).expect("asked")), said(&all));
}

#[test]
fn many_questions_are_answered_as_each_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let questions: Vec<String> = WORDS.iter().map(|w| format!("Is the {w} of the Zug long and deep?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    for tier in [Tier::A, Tier::B] {
        let options = AskOptions { tier: Some(tier), ..options() };
        let alone: Vec<Answer> = questions.iter().map(|q| engine(folder.path()).ask(q, &options).expect("asked")).collect();
        let together = engine(folder.path()).ask_many(&questions, &options, &Cancel::new()).expect("asked");
        assert_eq!(together.iter().map(said).collect::<Vec<_>>(), alone.iter().map(said).collect::<Vec<_>>());
        // A passage that several need is read once; nothing goes uncounted.
        let read = |all: &[Answer]| all.iter().map(|a| a.tokens_read).sum::<u64>();
        assert!(read(&together) < read(&alone), "{} {}", read(&together), read(&alone));
        for (one, alone) in together.iter().zip(&alone) {
            assert_eq!(one.tokens_read + one.tokens_restored, alone.tokens_read);
        }
    }
    assert!(engine(folder.path()).ask_many(&[], &options(), &Cancel::new()).expect("none").is_empty());
}

#[test]
fn a_filter_says_which_documents_are_read() {
    let folder = tempfile::tempdir().expect("folder");
    let options = AskOptions { filter: Some(Filter::is("even", false)), passages: 12, ..options() };
    let mut found = Vec::new();
    let engine = engine(folder.path());
    engine
        .ask_with(QUESTION, &options, &Cancel::new(), &mut |e| {
            if let Event::Retrieved(hits) = e {
                found = hits;
            }
        })
        .expect("asked");
    assert_eq!(found.len(), 6);
    assert!(found.iter().all(|h| h.document[1..].parse::<u32>().expect("a number") % 2 == 1), "{found:?}");
}

#[test]
fn own_words_are_marked_and_cited() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = engine(folder.path());
    let bound = engine.ask(QUESTION, &options()).expect("asked");
    assert!(!bound.free);
    let mut events = Vec::new();
    let free = AskOptions { free: true, ..options() };
    let answer = engine.ask_with(QUESTION, &free, &Cancel::new(), &mut |e| events.push(e)).expect("asked");
    whole(&events);
    let citation = &answer.citations[0];
    let text = engine.document(&citation.document).expect("cited").text;
    assert_eq!(text.get(citation.start as usize..citation.end as usize), Some(citation.quote.as_str()));
    // A random reader does not keep to the text.
    assert!(answer.free && !citation.quote.contains(answer.answer.as_deref().expect("words")), "{answer:?}");
    assert_eq!(citation, &bound.citations[0], "the span that speaks for it is cited");
}
