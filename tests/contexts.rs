//! One long text: read once, asked, forked, taken back, carried away; and what a kill or a flipped byte does to it.

mod tiny;

use std::path::Path;
use std::sync::Arc;

use palimpsest::calibration::{Calibration, Odds};
use palimpsest::context::STRIDE_TOKENS;
use palimpsest::hints::HintWeights;
use palimpsest::store::Store;
use palimpsest::{Cancel, Context, Error, Reader, ReaderOptions};
use safetensors::Dtype;
use tiny::{Noise, Tiny, write_word_tokenizer};

const WORDS: [&str; 8] = ["gate", "erase", "write", "state", "passage", "the", "of", "decay"];

fn reader(folder: &Path, seed: u64) -> Arc<Reader> {
    Tiny { seed, ..Tiny::odd() }.write_fla(folder, Dtype::F32);
    write_word_tokenizer(folder, &WORDS);
    Arc::new(Reader::open(folder, &ReaderOptions::default()).expect("a tiny reader"))
}

fn text(words: usize) -> String {
    let mut noise = Noise(17);
    (0..words).map(|_| WORDS[noise.below(WORDS.len())]).collect::<Vec<_>>().join(" ")
}

fn whole(reader: &Arc<Reader>, folder: &Path, text: &str) -> Context {
    let mut context = Context::begin(reader, folder, "A title", text.as_bytes()).expect("begun");
    context.advance(&Cancel::new(), &mut |_, _| {}).expect("read");
    context
}

#[test]
fn questions_are_remembered_and_taken_back() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let text = text(3000);
    let path = folder.path().join("c");
    let mut context = whole(&reader, &path, &text);
    let fresh = context.state().clone();
    let first = context.ask("Which gate?").expect("asked");
    let (start, end) = (first.start.expect("a span") as usize, first.end.expect("a span") as usize);
    assert_eq!(text.get(start..end), first.answer.as_deref());
    // The search reads tokens that do not stay in the state.
    let stays = context.state().tokens() - fresh.tokens();
    assert!(first.tokens_read > stays && first.tokens_read <= stays + 14, "{first:?} {stays}");
    let after_one = context.state().clone();
    assert!(after_one.tokens() > fresh.tokens());
    context.ask("And the decay?").expect("asked");
    assert_eq!(context.turns().len(), 2);
    drop(context);

    let mut context = Context::open(&reader, &path).expect("opened again");
    assert!(context.status().notices.is_empty());
    context.undo(1).expect("taken back");
    assert_eq!(context.state(), &after_one);
    assert_eq!(context.ask("Which gate?").expect("asked").tokens_restored, after_one.tokens());
    context.undo(2).expect("taken back");
    assert_eq!(context.state(), &fresh);
    assert!(matches!(context.undo(1), Err(Error::Input(_))));
    assert_eq!(context.ask("Which gate?").expect("asked").answer, first.answer, "the same state says the same");
}

/// With weights that outweigh any reader, an answer stands where the question's words are; in a text too long to look through, the
/// reader answers alone.
#[test]
fn the_words_around_a_span_count_in_texts_of_bounded_length() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("reader");
    reader(&path, 7);
    let hints = HintWeights { told: 500.0, near: 500.0, echo: -500.0 };
    let loud = Odds { hints, ..Odds::default() };
    Calibration { a: loud, ..Calibration::default() }.save(&path).expect("saved");
    let hinted = Arc::new(Reader::open(&path, &ReaderOptions::default()).expect("opened"));
    let alone = Reader::open(&path, &ReaderOptions::default()).expect("opened");
    let alone = Arc::new(alone.with_calibration(Calibration::default()));

    let mut words = vec!["the passage of the passage of the"; 60].join(" ");
    let told = words.len();
    words.push_str(". state gate erase. ");
    words.push_str(&vec!["of the passage the of passage"; 60].join(" "));
    let ask = |reader: &Arc<Reader>, name: &str, text: &str| {
        whole(reader, &folder.path().join(name), text).ask("What state is erase?").expect("asked")
    };
    let short = ask(&hinted, "short", &words);
    assert_eq!((short.answer.as_deref(), short.start), (Some("gate"), Some((told + ". state ".len()) as u64)));
    assert_ne!(ask(&alone, "alone", &words).start, short.start);

    let long = format!("{words} {}", text(66_000));
    assert_eq!(ask(&hinted, "long", &long), ask(&alone, "long-alone", &long));
}

#[test]
fn forks_and_exports_go_on_alone_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let mut context = whole(&reader, &folder.path().join("c"), &text(500));
    context.ask("Which gate?").expect("asked");
    let mut fork = context.fork(&folder.path().join("fork")).expect("forked");
    let blob = context.export().expect("exported");
    let mut import = Context::import(&reader, &folder.path().join("import"), &mut blob.as_slice()).expect("imported");
    assert_eq!((fork.state(), import.state()), (context.state(), context.state()));
    let said = fork.ask("And the decay?").expect("asked");
    assert_eq!(import.ask("And the decay?").expect("asked"), said);
    assert_eq!(context.turns().len(), 1, "the original does not know");
    assert!(Context::import(&reader, &folder.path().join("import"), &mut blob.as_slice()).is_err(), "the name is taken");
}

#[test]
fn a_damaged_blob_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let blob = whole(&reader, &folder.path().join("c"), &text(50)).export().expect("exported");
    let target = folder.path().join("import");
    for at in (0..blob.len()).step_by(997) {
        let mut flipped = blob.clone();
        flipped[at] ^= 4;
        assert!(matches!(Context::import(&reader, &target, &mut flipped.as_slice()), Err(Error::Input(_))), "byte {at}");
        assert!(Context::import(&reader, &target, &mut &blob[..at]).is_err(), "cut at {at}");
        assert!(!target.join("log").exists());
    }
}

#[test]
fn reading_goes_on_where_it_was_cut_short() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let text = text(20_000);
    let one = whole(&reader, &folder.path().join("one"), &text);
    let path = folder.path().join("two");
    let mut two = Context::begin(&reader, &path, "A title", text.as_bytes()).expect("begun");
    let cancel = Cancel::new();
    let stopped = two.advance(&cancel, &mut |read, _| {
        if read > 3_000 {
            cancel.cancel()
        }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(two.status().tokens, 3 * STRIDE_TOKENS as u64, "nothing is read after it");
    assert!(matches!(two.advance(&cancel, &mut |_, _| panic!("read on")), Err(Error::Cancelled)));
    drop(two);
    let mut two = Context::open(&reader, &path).expect("opened");
    let (had, left) = (two.status().tokens, two.status().tokens_left);
    assert!(had > 0 && left > 0, "{had} read, {left} left");
    assert!(matches!(two.ask("Which gate?"), Err(Error::Input(_))), "not asked before it is wholly read");
    two.advance(&Cancel::new(), &mut |_, _| {}).expect("read on");
    assert_eq!(two.state(), one.state());
}

#[test]
fn cancelling_loses_nothing_that_was_asked() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let mut context = whole(&reader, &folder.path().join("c"), &text(300));
    let before = context.state().clone();
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(context.ask_with("Which gate?", &cancel), Err(Error::Cancelled)));
    assert_eq!((context.turns().len(), context.state()), (0, &before));
    let never = Context::read(&reader, &folder.path().join("d"), "", text(10).as_bytes(), &cancel, &mut |_, _| {});
    assert!(matches!(never, Err(Error::Cancelled)));
    let read = Context::read(&reader, &folder.path().join("d"), "", text(10).as_bytes(), &Cancel::new(), &mut |_, _| {});
    assert_eq!(read.expect("made anew").status().tokens_left, 0);
}

#[test]
fn a_state_that_is_not_the_texts_is_refused_and_read_again() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let path = folder.path().join("c");
    let good = whole(&reader, &path, &text(200)).state().clone();
    let file = path.join("state");
    let bytes = std::fs::read(&file).expect("state");
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        std::fs::write(&file, &flipped).expect("flipped");
        let mut context = Context::open(&reader, &path).expect("opens");
        assert!(!context.status().notices.is_empty(), "byte {at}: nobody was told");
        context.advance(&Cancel::new(), &mut |_, _| {}).expect("read again");
        assert_eq!(context.state(), &good, "byte {at}");
    }
    let other = self::reader(&folder.path().join("other"), 8);
    let context = Context::open(&other, &path).expect("opens");
    assert_eq!(context.status().tokens, 0, "a state of other weights is not taken");
    assert!(!context.status().notices.is_empty());
}

/// Sections of some 600 tokens with a blank line between.
fn chapters(count: usize, edited: Option<usize>) -> String {
    let chapter = |n: usize| {
        let mut noise = Noise(100 + n as u64 + if edited == Some(n) { 1000 } else { 0 });
        (0..320).map(|_| WORDS[noise.below(WORDS.len())]).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(chapter).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn an_edited_text_is_read_again_from_its_first_changed_section_only() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let store = Arc::new(Store::in_memory(64 << 20));
    let (path, file) = (folder.path().join("c"), folder.path().join("book.txt"));
    let of_file = |path: &Path| {
        let context = Context::of_file(&reader, path, "Book", &file).expect("the file's context");
        context.beside(&store).expect("restored")
    };
    let read = |mut context: Context| {
        context.advance(&Cancel::new(), &mut |_, _| {}).expect("read");
        context.state().clone()
    };
    std::fs::write(&file, chapters(12, None)).expect("written");
    let all = read(of_file(&path)).tokens();
    let again = of_file(&path);
    assert_eq!((again.status().tokens, again.status().tokens_left), (all, 0), "the same text is known by its content");
    drop(again);
    let elsewhere = of_file(&folder.path().join("d"));
    assert_eq!(elsewhere.status().tokens, all, "also under another name: its end is in the store");
    for (edited, first) in [(8, 8 * 638), (1, 638), (0, 0)] {
        std::fs::write(&file, chapters(12, Some(edited))).expect("written");
        let context = of_file(&path);
        let had = context.status().tokens;
        assert!((first..first + 638).contains(&had), "{had} tokens kept of a text that differs from token {first} on");
        let (new, text) = (folder.path().join(format!("new-{edited}")), chapters(12, Some(edited)));
        let mut fresh = Context::begin(&reader, &new, "Book", text.as_bytes()).expect("begun");
        fresh.advance(&Cancel::new(), &mut |_, _| {}).expect("read");
        assert_eq!(read(context), *fresh.state(), "the same bits as a reading from nothing");
    }
    // More text at the end: what was there is not read again.
    std::fs::write(&file, format!("{}\n\nAnd more.", chapters(12, Some(0)))).expect("written");
    assert_eq!(of_file(&path).status().tokens, all);
}

#[test]
fn questions_keep_an_old_text_from_being_replaced() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let (path, file) = (folder.path().join("c"), folder.path().join("book.txt"));
    std::fs::write(&file, text(50)).expect("written");
    let mut context = Context::of_file(&reader, &path, "Book", &file).expect("begun");
    context.advance(&Cancel::new(), &mut |_, _| {}).expect("read");
    context.ask("Which gate?").expect("asked");
    drop(context);
    std::fs::write(&file, text(60)).expect("written");
    assert!(matches!(Context::of_file(&reader, &path, "Book", &file), Err(Error::Input(_))));
    let mut context = Context::open(&reader, &path).expect("nothing was lost");
    assert_eq!(context.turns().len(), 1);
    context.undo(1).expect("taken back");
    drop(context);
    assert!(Context::of_file(&reader, &path, "Book", &file).expect("renewed").status().tokens_left > 0);
}

#[test]
fn a_second_one_looks_and_does_not_touch() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let path = folder.path().join("c");
    let mut first = whole(&reader, &path, &text(50));
    let mut second = Context::open(&reader, &path).expect("looked at");
    assert_eq!(second.state(), first.state());
    for refused in [second.ask("Which gate?").err(), second.renew("", "x".as_bytes()).err()] {
        assert!(matches!(&refused, Some(Error::Context { reason, .. }) if reason.contains("in use")), "{refused:?}");
    }
    assert_eq!(second.fork(&folder.path().join("copy")).expect("copied").state(), first.state());
    first.ask("Which gate?").expect("asked");
    drop((first, second));
    assert_eq!(Context::open(&reader, &path).expect("free").turns().len(), 1);
}

#[test]
fn a_flipped_byte_of_a_context_changes_no_answer_silently() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let path = folder.path().join("c");
    let mut context = whole(&reader, &path, &text(200));
    context.ask("And the decay?").expect("asked");
    let fork = |to: &Path| drop(context.fork(to).expect("forked"));
    let right = {
        fork(&folder.path().join("right"));
        Context::open(&reader, &folder.path().join("right")).expect("opened").ask("Which gate?").expect("asked")
    };
    let mut noise = Noise(5);
    let mut told = 0;
    for round in 0..120 {
        let name = ["text", "log", "spans", "seal.json", "turns.json", "state"][round % 6];
        let at = folder.path().join(format!("f{round}"));
        fork(&at);
        let mut bytes = std::fs::read(at.join(name)).expect("read");
        let byte = noise.below(bytes.len());
        bytes[byte] ^= 1 << noise.below(8);
        std::fs::write(at.join(name), bytes).expect("flipped");
        let ask = || {
            let mut context = Context::open(&reader, &at)?;
            context.advance(&Cancel::new(), &mut |_, _| {})?;
            let answer = context.ask("Which gate?")?;
            Ok::<_, Error>((answer, context.status().notices.len()))
        };
        match ask() {
            Ok((answer, 0)) => assert_eq!(answer.answer, right.answer, "byte {byte} of {name}"),
            Ok(_) | Err(Error::Context { .. }) => told += 1,
            Err(other) => panic!("byte {byte} of {name}: {other}"),
        }
    }
    assert!(told >= 80, "flips were seen: {told} of 120");
}
