//! Do collections go in whole, stay in step, and come back byte for byte?

use std::fs;
use std::path::{Path, PathBuf};

use palimpsest_index::{Change, Document, Format, Hit, Index, IndexError, IngestReport, Unread};

const UGLY: &str = "ÄÖÜ ß€ kernel 🍎👩‍👩‍👧‍👦 e\u{301} क्षि \u{feff}\u{0}\r\n\r\n日本語。テキスト！\n# Title\n\nA. B? \"C!\" kernel\u{2028}\t\t\u{a0}مرحبا \n\n";

fn index(dir: &Path) -> Index {
    Index::open(dir).expect("an index")
}

fn ingest(index: &Index, paths: &[&Path]) -> IngestReport {
    let paths: Vec<PathBuf> = paths.iter().map(|p| p.to_path_buf()).collect();
    index.ingest(&paths, &|_| {}).expect("ingested")
}

fn counts(report: &IngestReport) -> [usize; 5] {
    [report.added, report.updated, report.unchanged, report.removed, report.failed.len()]
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

/// Every hit is its document's text at its range.
fn check(index: &Index, hits: &[Hit]) {
    for hit in hits {
        let document = index.document(&hit.document).expect("read").expect("there");
        let range = hit.range.start as usize..hit.range.end as usize;
        assert_eq!(document.text.get(range), Some(hit.text.as_str()), "{hit:?}");
        assert_eq!((&document.title, &document.path), (&hit.title, &hit.path));
    }
}

#[test]
fn hits_are_the_documents_text_on_ugly_unicode() {
    let index = Index::in_memory().expect("an index");
    for copies in [0, 1, 7, 60] {
        let text = UGLY.repeat(copies);
        let id = format!("copies-{copies}");
        assert_eq!(index.add(Document::new(&id, "ÜGLY", &text)).expect("added"), Change::Added);
        index.commit().expect("committed");
        assert_eq!(index.document(&id).expect("read").expect("there").text, text);
    }
    let hits = index.search("kernels 日本語 ÄÖÜ \u{0} +(\"", 1_000).expect("hits");
    assert!(hits.len() > 10, "{} hits", hits.len());
    check(&index, &hits);
    let mut last = f32::INFINITY;
    for hit in &hits {
        assert!(hit.score <= last && hit.score > 0.0, "best first");
        last = hit.score;
    }
    let summary = index.documents().expect("listed");
    assert_eq!(summary.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["copies-0", "copies-1", "copies-60", "copies-7"]);
    assert_eq!(summary[2].text_bytes, 60 * UGLY.len() as u64);
    assert_eq!(summary[2].text_sha256, index.document("copies-60").expect("read").expect("there").text_sha256());
}

#[test]
fn no_question_is_an_error() {
    let index = Index::in_memory().expect("an index");
    index.add(Document::new("a", "A", "what is AND OR NOT title:kenya \"quoted")).expect("added");
    index.commit().expect("committed");
    for question in
        ["", " ", "AND", "NOT (", "\"", "title:", "a^", "[TO", "?*~", "\u{0}\u{feff}", "🍎", "a".repeat(100_000).as_str()]
    {
        check(&index, &index.search(question, 10).expect(question));
    }
    assert_eq!(index.search("kenya", 0).expect("hits").len(), 0);
    assert_eq!(index.search("kenya AND", usize::MAX).expect("hits").len(), 1);
}

#[test]
fn a_folder_goes_in_whole_and_stays_in_step() {
    let (files, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let root = files.path().canonicalize().expect("there");
    write(&root.join("a.md"), "# Apples\n\nA fruit of the orchard.\r\n");
    write(&root.join("deep/er/b.txt"), UGLY);
    write(&root.join("c.html"), "<title>Cherry</title><p>A stone fruit &amp; red</p>");
    write(&root.join(".hidden/d.md"), "hidden orchard");
    write(&root.join("deep/.e.txt"), "hidden orchard");
    write(&root.join("f.png"), [0x89, b'P', b'N', b'G', 0xff]);
    write(&root.join("broken.html"), [b'<', b'p', b'>', 0xff, 0xfe, 0xfd, 0x80, 0x81]);
    let index = index(store.path());
    let report = ingest(&index, &[&root]);
    assert_eq!((report.added, report.ignored), (if report.failed.is_empty() { 4 } else { 3 }, 1), "{report:?}");
    let read = |name: &str| index.document(root.join(name).to_str().expect("Unicode")).expect("read");
    let a = read("a.md").expect("there");
    assert_eq!(
        (a.title.as_str(), a.format, a.text.as_bytes()),
        ("Apples", Format::Markdown, &fs::read(root.join("a.md")).expect("read")[..])
    );
    assert_eq!(a.path.as_deref(), Some(root.join("a.md").as_path()));
    let b = read("deep/er/b.txt").expect("there");
    assert_eq!((b.title.as_str(), b.text.as_str()), ("b", UGLY));
    let c = read("c.html").expect("there");
    assert_eq!((c.title.as_str(), c.text.as_str()), ("Cherry", "A stone fruit & red\n"));
    assert!(read(".hidden/d.md").is_none() && read("deep/.e.txt").is_none());
    check(&index, &index.search("orchard fruit kernel", 100).expect("hits"));

    // Nothing changed; then one file each is changed, added, removed; a touched one is not read as a change.
    fs::remove_file(root.join("broken.html")).expect("removed");
    ingest(&index, &[&root]);
    assert_eq!(counts(&ingest(&index, &[&root])), [0, 0, 3, 0, 0]);
    write(&root.join("a.md"), "# Apricots\n\nA fruit of the south.\n");
    write(&root.join("deep/er/b.txt"), UGLY);
    write(&root.join("g.md"), "# Grapes");
    fs::remove_file(root.join("c.html")).expect("removed");
    assert_eq!(counts(&ingest(&index, &[&root])), [1, 1, 1, 1, 0]);
    assert!(index.search("orchard", 10).expect("hits").is_empty() && read("c.html").is_none());
    assert_eq!(index.search("apricot", 10).expect("hits")[0].title, "Apricots");

    // A file named by itself: gone, or never there. Forgetting takes a relative path as well.
    fs::remove_file(root.join("g.md")).expect("removed");
    let report = ingest(&index, &[&root.join("g.md"), &root.join("never.md")]);
    assert_eq!(counts(&report), [0, 0, 0, 1, 1]);
    assert!(matches!(&report.failed[0], (path, Unread::Io { .. }) if path.ends_with("never.md")));
    assert!(index.forget(root.join("deep/../a.md").to_str().expect("Unicode")).expect("forgotten"));
    assert!(!index.forget("a.md").expect("nothing") && !index.forget("").expect("nothing"));
    let status = index.status().expect("status");
    assert_eq!((status.documents, status.text_bytes), (1, UGLY.len() as u64));
    assert!(status.disk_bytes > 0);
}

#[test]
fn what_an_app_adds_does_not_go_with_a_folder() {
    let (files, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let root = files.path().canonicalize().expect("there");
    write(&root.join("a.md"), "file");
    let index = index(store.path());
    let note = root.join("note").to_str().expect("Unicode").to_string();
    index.add(Document::new(&note, "Note", "of an app")).expect("added");
    assert_eq!(counts(&ingest(&index, &[&root])), [1, 0, 0, 0, 0]);
    assert_eq!(counts(&ingest(&index, &[&root])), [0, 0, 1, 0, 0]);
    assert!(index.document(&note).expect("read").is_some());
}

#[test]
fn a_folder_that_is_gone_keeps_its_documents() {
    let (files, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let root = files.path().canonicalize().expect("there").join("disk");
    write(&root.join("a.md"), "file");
    let index = index(store.path());
    ingest(&index, &[&root]);
    fs::remove_dir_all(&root).expect("removed");
    assert_eq!(counts(&ingest(&index, &[&root])), [0, 0, 0, 0, 1]);
    assert_eq!(index.documents().expect("listed").len(), 1);
}

#[test]
fn a_document_is_replaced_whole() {
    let store = tempfile::tempdir().expect("a folder");
    let index = index(store.path());
    let long = "orchard words. ".repeat(1_000);
    let add = |title: &str, text: &str| index.add(Document::new("id", title, text)).expect("added");
    assert_eq!(add("One", &long), Change::Added);
    assert_eq!(add("One", &long), Change::Unchanged, "before the commit");
    index.commit().expect("committed");
    assert_eq!(add("One", &long), Change::Unchanged, "after it");
    assert_eq!(add("Two", &long), Change::Updated);
    assert_eq!(add("Two", "short"), Change::Updated, "twice before a commit");
    assert_eq!(index.search("orchard", 100).expect("hits").len(), 16, "nothing is visible before the commit");
    index.commit().expect("committed");
    assert!(index.search("orchard", 10).expect("hits").is_empty());
    assert_eq!(index.document("id").expect("read").expect("there").text, "short");
    assert_eq!(index.status().expect("status").passages, 1);
    assert!(matches!(index.add(Document::new("", "", "")), Err(IndexError::Id { bytes: 0, .. })));
}

#[test]
fn one_writes_and_another_is_told() {
    let store = tempfile::tempdir().expect("a folder");
    let (first, second) = (index(store.path()), index(store.path()));
    first.add(Document::new("a", "A", "first")).expect("added");
    let refused = second.add(Document::new("b", "B", "second"));
    assert!(matches!(refused, Err(IndexError::Locked { .. })), "{refused:?}");
    first.commit().expect("committed");
    drop(first);
    second.add(Document::new("b", "B", "second")).expect("added once the first is gone");
    second.commit().expect("committed");
    assert_eq!(second.search("first second", 10).expect("hits").len(), 2);
}

#[test]
fn an_index_opens_again_as_it_was() {
    let store = tempfile::tempdir().expect("a folder");
    {
        let first = index(store.path());
        first.add(Document::new("a", "A", UGLY)).expect("added");
        first.commit().expect("committed");
        first.add(Document::new("b", "B", "not committed")).expect("added");
    }
    let again = index(store.path());
    assert_eq!(again.document("a").expect("read").expect("there").text, UGLY);
    assert!(again.document("b").expect("read").is_none());
}
