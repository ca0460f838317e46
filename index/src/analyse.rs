//! Which terms does a text have?
//!
//! Words are runs of letters, digits and the marks that combine with them, in compatibility form (NFKC), lower case, with the
//! endings of the collection's language taken off (Snowball). Scripts that are written without spaces give a term for every
//! two neighbouring characters. The same analysis is applied to passages and to questions.
//!
//! Of a question the words that carry no meaning of their own are left out, unless there are no others: they are in the
//! index, so that this can change without ingesting again.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use tantivy::tokenizer::{self as tt, StopWordFilter, TextAnalyzer, Token, TokenStream, Tokenizer};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// Words whose stems are kept in memory, at most.
const STEMS: usize = 1 << 16;

/// Longest word that is indexed, in bytes; longer ones are data, not words.
const WORD_BYTES: usize = 64;

/// Name of the analyser of passages in the schema.
pub(crate) const ANALYSER: &str = "palimpsest";

/// Words that ask, in English: frequent in questions and rare in passages, they would count as if they meant something.
const ASKING: [&str; 14] =
    ["what", "which", "who", "whom", "whose", "when", "where", "why", "how", "did", "does", "do", "many", "much"];

/// A language whose endings are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Language(&'static str, &'static str, tt::Language);

/// Name, code and stemmer.
const LANGUAGES: [Language; 18] = [
    Language("arabic", "ar", tt::Language::Arabic),
    Language("danish", "da", tt::Language::Danish),
    Language("dutch", "nl", tt::Language::Dutch),
    Language("english", "en", tt::Language::English),
    Language("finnish", "fi", tt::Language::Finnish),
    Language("french", "fr", tt::Language::French),
    Language("german", "de", tt::Language::German),
    Language("greek", "el", tt::Language::Greek),
    Language("hungarian", "hu", tt::Language::Hungarian),
    Language("italian", "it", tt::Language::Italian),
    Language("norwegian", "no", tt::Language::Norwegian),
    Language("portuguese", "pt", tt::Language::Portuguese),
    Language("romanian", "ro", tt::Language::Romanian),
    Language("russian", "ru", tt::Language::Russian),
    Language("spanish", "es", tt::Language::Spanish),
    Language("swedish", "sv", tt::Language::Swedish),
    Language("tamil", "ta", tt::Language::Tamil),
    Language("turkish", "tr", tt::Language::Turkish),
];

/// Languages that need no stemmer: bigrams and whole words are all there is to them here.
const WITHOUT_ENDINGS: [&str; 16] = [
    "none",
    "chinese",
    "zh",
    "japanese",
    "ja",
    "korean",
    "ko",
    "thai",
    "th",
    "lao",
    "lo",
    "khmer",
    "km",
    "burmese",
    "my",
    "vietnamese",
];

impl Language {
    /// By its English name or two-letter code, in any case; `None` when its endings are not known here.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        LANGUAGES.into_iter().find(|l| l.0 == name || l.1 == name)
    }

    pub(crate) fn name(self) -> &'static str {
        self.0
    }
}

/// Whether texts of that language are indexed as well as they can be here.
pub(crate) fn is_known(language: &str) -> bool {
    Language::named(language).is_some() || WITHOUT_ENDINGS.contains(&language.trim().to_lowercase().as_str())
}

/// The analyser of passages in that language.
pub(crate) fn passages(language: &str) -> TextAnalyzer {
    let stems = Language::named(language).map(Stems::new);
    TextAnalyzer::builder(Words { stems, ..Words::default() }).build()
}

/// Terms of a question in that language, each as often as it was said.
pub(crate) fn question(language: &str, question: &str) -> Vec<String> {
    let Some(l) = Language::named(language) else { return terms(passages(language), question) };
    let builder = TextAnalyzer::builder(Words::default()).dynamic();
    let builder = match StopWordFilter::new(l.2) {
        Some(stop) => builder.filter_dynamic(stop),
        None => builder,
    };
    let asking = if l.1 == "en" { ASKING.map(String::from).to_vec() } else { Vec::new() };
    let meaningful = builder.filter_dynamic(StopWordFilter::remove(asking)).filter_dynamic(tt::Stemmer::new(l.2)).build();
    let found = terms(meaningful, question);
    if found.is_empty() { terms(passages(language), question) } else { found }
}

fn terms(mut analyser: TextAnalyzer, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    analyser.token_stream(text).process(&mut |token: &Token| found.push(token.text.clone()));
    found
}

/// Words and what they are without their endings: most words of a text were met before, and taking the endings off costs more
/// than all else that is done to a word.
#[derive(Clone)]
struct Stems {
    known: HashMap<String, String, FxBuildHasher>,
    stemmer: TextAnalyzer,
}

impl Stems {
    fn new(language: Language) -> Self {
        let stemmer = TextAnalyzer::builder(tt::RawTokenizer::default()).filter(tt::Stemmer::new(language.2)).build();
        Self { known: HashMap::default(), stemmer }
    }

    /// Puts the stem of `word` in its place.
    fn take_off(&mut self, word: &mut String) {
        if let Some(stem) = self.known.get(word) {
            word.clone_from(stem);
            return;
        }
        if self.known.len() >= STEMS {
            self.known.clear();
        }
        let mut stem = String::new();
        self.stemmer.token_stream(word).process(&mut |token: &Token| stem.clone_from(&token.text));
        self.known.insert(word.clone(), stem.clone());
        *word = stem;
    }
}

/// Splits a text into words and bigrams.
#[derive(Clone, Default)]
struct Words {
    token: Token,
    normal: String,
    /// Without, words keep their endings.
    stems: Option<Stems>,
}

/// The words of one text.
struct Stream<'a> {
    text: &'a str,
    at: usize,
    /// Where the run of characters without spaces ends in which the last token was a bigram.
    dense_until: usize,
    token: &'a mut Token,
    normal: &'a mut String,
    stems: Option<&'a mut Stems>,
}

impl Tokenizer for Words {
    type TokenStream<'a> = Stream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Stream<'a> {
        self.token.reset();
        Stream { text, at: 0, dense_until: 0, token: &mut self.token, normal: &mut self.normal, stems: self.stems.as_mut() }
    }
}

impl TokenStream for Stream<'_> {
    fn advance(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() {
            let start = self.at;
            // Most text is ASCII: a word of it needs no decoding.
            while self.at < bytes.len() && bytes[self.at].is_ascii_alphanumeric() {
                self.at += 1;
            }
            if self.at < bytes.len() && !bytes[self.at].is_ascii() {
                if let Some(c) = self.text[start..].chars().next().filter(|&c| self.at == start && is_dense(c)) {
                    if self.bigram(start, c) {
                        return true;
                    }
                    continue;
                }
                self.at +=
                    self.text[self.at..].char_indices().find(|&(_, c)| !in_word(c)).map_or(bytes.len() - self.at, |(i, _)| i);
                // A character that belongs to no word.
                if self.at == start {
                    self.at += self.text[start..].chars().next().map_or(1, char::len_utf8);
                    continue;
                }
            }
            if self.at > start {
                if self.at - start <= WORD_BYTES {
                    self.emit(start, self.at);
                    return true;
                }
            } else {
                self.at += 1;
            }
        }
        false
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

impl Stream<'_> {
    /// The characters `first`, at `start`, and the one after it; `first` alone when it stands alone; false at a run's end.
    fn bigram(&mut self, start: usize, first: char) -> bool {
        let second = start + first.len_utf8();
        self.at = second;
        match self.text[second..].chars().next().filter(|&c| is_dense(c)) {
            Some(c) => {
                self.dense_until = second + c.len_utf8();
                self.emit(start, self.dense_until);
                true
            }
            None if self.dense_until == second => false,
            None => {
                self.emit(start, second);
                true
            }
        }
    }

    fn emit(&mut self, start: usize, end: usize) {
        let word = &self.text[start..end];
        self.token.position = self.token.position.wrapping_add(1);
        self.token.offset_from = start;
        self.token.offset_to = end;
        self.token.text.clear();
        if word.is_ascii() {
            self.token.text.push_str(word);
            self.token.text.make_ascii_lowercase();
        } else {
            self.normal.clear();
            match is_nfkc_quick(word.chars()) {
                IsNormalized::Yes => self.normal.push_str(word),
                _ => self.normal.extend(word.nfkc()),
            }
            self.token.text.extend(self.normal.chars().flat_map(char::to_lowercase));
        }
        if let Some(stems) = &mut self.stems {
            stems.take_off(&mut self.token.text);
        }
    }
}

/// Letters and digits of scripts with spaces, and the marks that combine with them.
fn in_word(c: char) -> bool {
    !is_dense(c) && (c.is_alphanumeric() || is_mark(c))
}

/// Marks that are no letters to Unicode but stand within words: accents, and the signs that join Indic consonants.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}')
        || matches!(
            c as u32,
            0x93c
                | 0x94d
                | 0x9bc
                | 0x9cd
                | 0xa3c
                | 0xa4d
                | 0xabc
                | 0xacd
                | 0xb3c
                | 0xb4d
                | 0xbcd
                | 0xc4d
                | 0xcbc
                | 0xccd
                | 0xd4d
                | 0xdca
        )
}

/// Characters of scripts that are written without spaces between words: Han, kana, Hangul (whose words carry their
/// particles), Thai, Lao, Burmese, Khmer.
fn is_dense(c: char) -> bool {
    matches!(
        c as u32,
        0xe01..=0xe3a | 0xe40..=0xe4e | 0xe81..=0xece | 0x1000..=0x109f | 0x1780..=0x17d3 | 0x1100..=0x11ff
            | 0x3005..=0x3007 | 0x3041..=0x3096 | 0x30a1..=0x30fa | 0x30fc..=0x30fe | 0x3400..=0x4dbf | 0x4e00..=0x9fff
            | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xff66..=0xff9d | 0x20000..=0x3134f
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(language: &str, text: &str) -> Vec<String> {
        terms(passages(language), text)
    }

    #[test]
    fn words_are_runs_of_letters_without_their_endings() {
        assert_eq!(
            words("en", "The Kernels' ISA-512, cafés e\u{301}te\u{301} don't"),
            ["the", "kernel", "isa", "512", "café", "été", "don", "t"]
        );
        assert_eq!(words("german", "Häuser ﬁnden"), ["haus", "find"]);
        assert_eq!(words("klingon", "Kernels  ß"), ["kernels", "ß"]);
        assert_eq!(words("en", "क्षि नमस्ते"), ["क्षि", "नमस्ते"]);
        assert_eq!(words("en", "🍎\u{feff}\u{0}—€ "), Vec::<String>::new());
        assert_eq!(words("en", &"x".repeat(WORD_BYTES + 1)), Vec::<String>::new());
    }

    #[test]
    fn a_stem_that_is_remembered_is_the_stemmers() {
        // More words than are remembered, each met twice.
        let mut text: Vec<String> = (0..STEMS + 500).map(|n| format!("w{n}ings Reading häuser n{}s", n % 700)).collect();
        text.extend_from_within(..2_000);
        let text = text.join(" ");
        for language in LANGUAGES.into_iter().take(4) {
            let plain = TextAnalyzer::builder(Words::default()).filter(tt::Stemmer::new(language.2)).build();
            assert!(terms(passages(language.0), &text) == terms(plain, &text), "{}", language.0);
        }
    }

    #[test]
    fn scripts_without_spaces_give_bigrams() {
        assert_eq!(words("ja", "日本語。水 abc東京x"), ["日本", "本語", "水", "abc", "東京", "x"]);
        assert_eq!(words("en", "東"), ["東"]);
        assert_eq!(words("th", "สวัสดี").len(), 5);
        assert_eq!(words("en", "a東京都 b"), ["a", "東京", "京都", "b"]);
    }

    #[test]
    fn a_question_keeps_what_means_something() {
        assert_eq!(question("english", "What is the capital of Kenya?"), ["capit", "kenya"]);
        assert_eq!(question("english", "Who is who?"), ["who", "is", "who"]);
        assert_eq!(question("none", "What is it"), ["what", "is", "it"]);
    }

    #[test]
    fn languages_have_names_and_codes() {
        assert_eq!(Language::named(" EN ").map(Language::name), Some("english"));
        assert!(is_known("Turkish") && is_known("ja") && is_known("none"));
        assert!(!is_known("klingon") && Language::named("klingon").is_none());
    }
}
