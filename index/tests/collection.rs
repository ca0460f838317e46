//! Do collections go in whole, stay in step, and come back byte for byte?

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use std::ops::Bound;

use palimpsest_index::{
    Change, Document, FieldMap, Filter, Format, Hit, Index, IndexError, IngestOptions, IngestReport, Notice, Options,
    SearchOptions, Unread,
};

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
    assert!(hits.len() >= 6, "{} hits", hits.len());
    check(&index, &hits);
    let mut last = f32::INFINITY;
    for hit in &hits {
        assert!(hit.score <= last && hit.score > 0.0, "best first");
        last = hit.score;
    }
    // Any range, and none that cuts a character or lies beyond the end.
    let text = UGLY.repeat(60);
    for (from, to) in
        [(0, 0), (0, 1), (5, 900), (0, text.len()), (text.len(), text.len()), (3_000, 3_001), (7, 5), (1, text.len() + 1)]
    {
        let expected = text.get(from..to).map(str::to_string);
        assert_eq!(index.text("copies-60", from as u64..to as u64).expect("read"), expected, "{from}..{to}");
    }
    for hit in &hits {
        assert_eq!(index.text(&hit.document, hit.range.clone()).expect("read").as_ref(), Some(&hit.text));
    }
    assert_eq!(index.text("nobody", 0..0).expect("read"), None);
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
    assert_eq!(index.search("orchard", 100).expect("hits").len(), 13, "nothing is visible before the commit");
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
    // A third, opened before the next commit, sees it once it refreshes; and what it holds to be there is what is there.
    let third = index(store.path());
    second.forget("a").expect("forgotten");
    assert_eq!(third.search("first second", 10).expect("hits").len(), 2);
    third.refresh().expect("refreshed");
    assert_eq!(third.search("first second", 10).expect("hits").len(), 1);
    second.add(Document::new("a", "A", "again")).expect("added");
    second.commit().expect("committed");
    drop(second);
    assert_eq!(third.add(Document::new("a", "A", "again")).expect("added"), Change::Unchanged);
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

#[test]
fn a_search_looks_at_the_documents_of_its_filter() {
    let index = Index::in_memory().expect("an index");
    for (id, year, price, kind, old) in
        [("a", 1999, 0.5, "novel", true), ("b", 2010, -3.0, "essay", false), ("c", 2020, 12.0, "novel", false)]
    {
        let mut document = Document::new(id, id, "the same orchard in every book");
        document.metadata.insert("year".into(), i64::from(year).into());
        document.metadata.insert("price".into(), price.into());
        document.metadata.insert("kind".into(), kind.into());
        document.metadata.insert("old".into(), old.into());
        index.add(document).expect("added");
    }
    index.add(Document::new("d", "d", "an orchard without metadata")).expect("added");
    index.commit().expect("committed");
    let found = |filter: Filter| {
        let mut options = SearchOptions::default();
        options.filter = Some(filter);
        let mut ids: Vec<String> =
            index.search_with("orchard", &options).expect("hits").into_iter().map(|h| h.document).collect();
        ids.sort();
        ids.concat()
    };
    for (filter, ids) in [
        (Filter::is("kind", "novel"), "ac"),
        (Filter::is("kind", "nov"), ""),
        (Filter::is("year", 2010.0), "b"),
        (Filter::is("old", false), "bc"),
        (Filter::at_least("year", 2010i64), "bc"),
        (Filter::at_most("price", 0.5), "ab"),
        (Filter::Between("price".into(), Bound::Excluded((-3.0).into()), Bound::Excluded(12.0.into())), "a"),
        (Filter::Between("year".into(), Bound::Unbounded, Bound::Unbounded), "abc"),
        (Filter::Between("kind".into(), Bound::Included("f".into()), Bound::Unbounded), "ac"),
        (Filter::Between("kind".into(), Bound::Included("f".into()), Bound::Included(1i64.into())), ""),
        (Filter::And(vec![Filter::is("kind", "novel"), Filter::at_least("year", 2000i64)]), "c"),
        (Filter::Or(vec![Filter::is("kind", "essay"), Filter::at_most("year", 1999i64)]), "ab"),
        (Filter::Not(Box::new(Filter::is("kind", "novel"))), "bd"),
        (Filter::And(vec![]), "abcd"),
        (Filter::Or(vec![]), ""),
        (Filter::is("kin", "d"), ""),
    ] {
        assert_eq!(found(filter.clone()), ids, "{filter:?}");
    }
}

#[test]
fn records_are_documents_that_change_one_by_one() {
    let (files, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let root = files.path().canonicalize().expect("there");
    let index = index(store.path());
    let map = FieldMap {
        id: Some("sku".into()),
        title: Some("name".into()),
        text: vec!["about".into()],
        metadata: vec!["price".into()],
    };
    let mut options = IngestOptions::default();
    options.fields = Some(map);
    let records =
        |path: &Path| index.ingest_with(&[path.to_path_buf()], &options, &AtomicBool::new(false), &|_| {}).expect("ingested");
    let (table, lines) = (root.join("stock.csv"), root.join("stock.jsonl"));
    write(&table, "sku,name,about,price\n1,Apple,\"a fruit, round\",0.5\n2,Pear,\"a \"\"fruit\"\"\nof two lines\",2\n");
    assert_eq!(counts(&records(&table)), [2, 0, 0, 0, 0]);
    write(&table, "sku,name,about,price\n2,Pear,sweeter now,2\n3,Plum,blue fruit,3\n");
    assert_eq!(counts(&records(&table)), [1, 1, 0, 1, 0]);
    let mut options = SearchOptions::default();
    options.filter = Some(Filter::at_least("price", 3i64));
    let hits = index.search_with("fruit", &options).expect("hits");
    assert_eq!((hits.len(), hits[0].title.as_str(), hits[0].path.as_deref()), (1, "Plum", Some(table.as_path())));

    write(
        &lines,
        "{\"sku\":\"x\",\"name\":\"Fig\",\"about\":\"soft\",\"price\":1}\nnot json\n{\"sku\":\"y\",\"name\":\"Nut\"}\n",
    );
    let report = records(&lines);
    assert_eq!(counts(&report), [1, 0, 0, 0, 2]);
    assert!(matches!(&report.failed[1].1, Unread::Field { name } if name == "about"));

    // Its map is kept: a folder brings the records in step, and removes them with their file.
    assert_eq!(counts(&ingest(&index, &[&root])), [0, 0, 3, 0, 2]);
    write(&table, "sku,name,about,price\n0,Quince,hard fruit,1\n2,Pear,sweeter now,2\n2,Pear,again,2\n");
    let report = ingest(&index, &[&root]);
    assert_eq!(counts(&report), [1, 1, 1, 1, 3], "the pear is on another line");
    assert!(matches!(&report.failed[0], (at, Unread::Damaged { .. }) if at.to_string_lossy().ends_with("stock.csv#4")));
    let hit = &index.search("sweeter", 1).expect("hits")[0];
    assert_eq!((hit.title.as_str(), hit.place.as_ref().and_then(|p| p.line)), ("Pear", Some(3)));
    fs::remove_file(&table).expect("removed");
    assert_eq!(counts(&ingest(&index, &[&table])), [0, 0, 0, 2, 0]);
    assert_eq!(counts(&ingest(&index, &[&root])), [0, 0, 1, 0, 2]);

    // Another encoding, parted by semicolons, as spreadsheets write them; a table that was a text becomes records.
    let sheet = root.join("blatt.csv");
    write(&sheet, b"sku;name;about;price\n1;K\xe4se;w\xfcrzig und schm\xe4ckt gut;3\n");
    fs::remove_file(&lines).expect("removed");
    let report = ingest(&index, &[&root]);
    assert_eq!(counts(&report), [1, 0, 0, 1, 0], "{report:?}");
    assert_eq!(counts(&records(&sheet)), [1, 0, 0, 1, 0]);
    assert_eq!(index.search("würzig", 1).expect("hits")[0].title, "Käse");
}

#[test]
fn a_file_longer_than_memory_goes_in_as_any_other() {
    let (files, store) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = files.path().canonicalize().expect("there").join("long.md");
    let text = format!("# Long\n\n{}the end of the orchard", UGLY.repeat(40_000));
    write(&path, &text);
    let index = index(store.path());
    assert_eq!(counts(&ingest(&index, &[&path])), [1, 0, 0, 0, 0]);
    let document = index.document(path.to_str().expect("Unicode")).expect("read").expect("there");
    assert!(document.text == text && document.title == "Long");
    let hits = index.search("orchard end", 3).expect("hits");
    assert_eq!(hits[0].range.end, text.len() as u64);
    assert_eq!(
        hits[0].place.as_ref().and_then(|p| p.line),
        Some(1 + text[..hits[0].range.start as usize].matches('\n').count() as u64)
    );
    assert_eq!(counts(&ingest(&index, &[&path])), [0, 0, 1, 0, 0]);
    // Not UTF-8 near its end: read as another encoding, and none of the old passages stays.
    let mut bytes = text.into_bytes();
    bytes.extend([b' ', 0xfc, b'b', b'e', b'r']);
    write(&path, &bytes);
    let report = ingest(&index, &[&path]);
    assert_eq!(report.updated + report.failed.len(), 1);
}

#[test]
fn a_language_without_endings_is_told_and_still_found() {
    let mut options = Options::default();
    options.language = "klingon".into();
    let index = Index::in_memory_with(&options).expect("an index");
    assert_eq!(index.notices(), [Notice::UnknownLanguage { language: "klingon".into() }]);
    index.add(Document::new("a", "", "tlhIngan Hol 日本語の文章")).expect("added");
    index.commit().expect("committed");
    assert_eq!(index.search("TLHINGAN", 10).expect("hits").len(), 1);
    assert_eq!(index.search("日本語", 10).expect("hits").len(), 1);

    let store = tempfile::tempdir().expect("a folder");
    options.language = "de".into();
    let german = Index::open_with(store.path(), &options).expect("an index");
    assert!(german.notices().is_empty());
    german.add(Document::new("a", "", "Die Häuser stehen am Fluss")).expect("added");
    german.commit().expect("committed");
    drop(german);
    // It keeps its language, whatever it is opened with.
    assert_eq!(index_again(store.path()).search("haus", 10).expect("hits").len(), 1);
}

fn index_again(dir: &Path) -> Index {
    Index::open(dir).expect("an index")
}

#[test]
fn hits_say_where_a_person_finds_them() {
    let index = Index::in_memory().expect("an index");
    let mut document =
        Document::new("a", "A", format!("# One\n\n{}\n\n## Two\n\nkernel {}", "words. ".repeat(150), "more. ".repeat(100)));
    document.format = Format::Markdown;
    index.add(document).expect("added");
    index.commit().expect("committed");
    let place = index.search("kernel", 1).expect("hits")[0].place.clone().expect("a place");
    assert_eq!((place.heading.as_deref(), place.line, place.page), (Some("Two"), Some(5), None));
}

#[test]
fn an_ingest_that_is_stopped_keeps_what_went_in_and_goes_on_later() {
    // Progress is told every 50 ms: a machine that has taken in all of it by then gets more.
    let stopped_half_way = [400, 1600, 6400].into_iter().any(|files| {
        let dir = tempfile::tempdir().expect("a folder");
        let documents = dir.path().join("documents");
        let line = "Many words about rivers, lakes and mountains, over and over again. ".repeat(300);
        for n in 0..files {
            write(&documents.join(format!("{n}.txt")), format!("{n} {line}"));
        }
        let index = index(&dir.path().join("index"));
        let stop = AtomicBool::new(true);
        let stopped = index.ingest_with(std::slice::from_ref(&documents), &IngestOptions::default(), &stop, &|_| {});
        assert!(matches!(stopped, Err(IndexError::Stopped)), "{stopped:?}");
        assert_eq!(index.documents().expect("documents").len(), 0);
        stop.store(false, Ordering::Release);
        let told = |_: &_| stop.store(true, Ordering::Release);
        match index.ingest_with(std::slice::from_ref(&documents), &IngestOptions::default(), &stop, &told) {
            Err(IndexError::Stopped) => {}
            Ok(_) => return false,
            Err(e) => panic!("{e}"),
        }
        let before = index.documents().expect("documents").len();
        assert!(before > 0 && before <= files, "{before}");
        let report = ingest(&index, &[&documents]);
        assert_eq!(counts(&report), [files - before, 0, before, 0, 0]);
        before < files
    });
    assert!(stopped_half_way);
}
