//! One long text: read once, asked, forked, taken back, carried away; and what a kill or a flipped byte does to it.

mod tiny;

use std::path::Path;
use std::sync::Arc;

use palimpsest::context::STRIDE_TOKENS;
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
