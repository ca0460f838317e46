//! How is a filter written down?
//!
//! `year >= 2020 and (kind = novel or kind = "short story") and not draft = true`: comparisons of a field with a value
//! (`=`, `!=`, `<`, `<=`, `>`, `>=`), a field by its name alone where any value will do, `and` before `or`, `not`, brackets.
//! A bare value is a truth (`true`, `false`), a number, or else a text; a quoted one is a text whatever it looks like.

use std::ops::Bound;
use std::str::FromStr;

use crate::document::Value;
use crate::filter::Filter;

/// Deepest nesting of brackets and `not`.
const DEEPEST: usize = 64;

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at} of the filter {text:?}: {expected} was expected, as in: year >= 2020 and not kind = \"short story\"")]
pub struct Unparsed {
    /// What was written.
    pub text: String,
    /// Where it stops making sense, in bytes.
    pub at: usize,
    /// What would have made sense.
    pub expected: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
enum Word<'a> {
    /// A bare word.
    Bare(&'a str),
    /// A quoted one, without its quotes.
    Quoted(String),
    /// An operator or a bracket.
    Sign(&'a str),
}

impl FromStr for Filter {
    type Err = Unparsed;

    fn from_str(text: &str) -> Result<Self, Unparsed> {
        let wrong = |(at, expected)| Unparsed { text: text.to_string(), at, expected };
        let words = words(text).map_err(wrong)?;
        let mut parser = Parser { words, next: 0, end: text.len(), depth: 0 };
        let filter = parser.either().map_err(wrong)?;
        match parser.words.get(parser.next) {
            None => Ok(filter),
            Some((at, _)) => Err(wrong((*at, "`and` or `or`"))),
        }
    }
}

type Wrong = (usize, &'static str);

fn words(text: &str) -> Result<Vec<(usize, Word<'_>)>, Wrong> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let sign = ["!=", "<=", ">=", "=", "<", ">", "(", ")"].into_iter().find(|sign| rest.starts_with(sign));
        let length = if c.is_whitespace() {
            c.len_utf8()
        } else if let Some(sign) = sign {
            words.push((at, Word::Sign(sign)));
            sign.len()
        } else if c == '"' || c == '\'' {
            let (word, length) = quoted(rest, c).ok_or((at, "the other quotation mark"))?;
            words.push((at, Word::Quoted(word)));
            length
        } else {
            let length = rest.find(|c: char| c.is_whitespace() || "!=<>()\"'".contains(c)).unwrap_or(rest.len());
            if length == 0 {
                return Err((at, "`!=`"));
            }
            words.push((at, Word::Bare(&rest[..length])));
            length
        };
        at += length;
    }
    Ok(words)
}

/// The text between two marks, of which a doubled one stands for itself, and its length with them.
fn quoted(text: &str, mark: char) -> Option<(String, usize)> {
    let mut word = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != mark {
            word.push(c);
        } else if chars.next_if(|&(_, c)| c == mark).is_some() {
            word.push(mark);
        } else {
            return Some((word, at + 1));
        }
    }
    None
}

struct Parser<'a> {
    words: Vec<(usize, Word<'a>)>,
    next: usize,
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn at(&self) -> usize {
        self.words.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let found = match self.words.get(self.next) {
            Some((_, Word::Bare(word))) => word.eq_ignore_ascii_case(keyword),
            Some((_, Word::Sign(sign))) => *sign == keyword,
            _ => false,
        };
        self.next += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<Filter, Wrong> {
        let mut any = vec![self.all()?];
        while self.takes("or") {
            any.push(self.all()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Filter::Or(any) })
    }

    fn all(&mut self) -> Result<Filter, Wrong> {
        let mut all = vec![self.one()?];
        while self.takes("and") {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
    }

    fn one(&mut self) -> Result<Filter, Wrong> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err((self.at(), "no deeper nesting"));
        }
        let filter = if self.takes("not") {
            Filter::Not(Box::new(self.one()?))
        } else if self.takes("(") {
            let within = self.either()?;
            if !self.takes(")") {
                return Err((self.at(), "a closing bracket"));
            }
            within
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, Wrong> {
        let name = match self.words.get(self.next) {
            Some((_, Word::Bare(word))) => (*word).to_string(),
            Some((_, Word::Quoted(word))) => word.clone(),
            _ => return Err((self.at(), "the name of a field")),
        };
        self.next += 1;
        let Some(sign) = ["!=", "<=", ">=", "=", "<", ">"].into_iter().find(|sign| self.takes(sign)) else {
            return Ok(Filter::Between(name, Bound::Unbounded, Bound::Unbounded));
        };
        let value = match self.words.get(self.next) {
            Some((_, Word::Bare(word))) => Value::written(word),
            Some((_, Word::Quoted(word))) => Value::Text(word.clone()),
            _ => return Err((self.at(), "a value")),
        };
        self.next += 1;
        Ok(match sign {
            "=" => Filter::Is(name, value),
            "!=" => Filter::Not(Box::new(Filter::Is(name, value))),
            "<" => Filter::Between(name, Bound::Unbounded, Bound::Excluded(value)),
            "<=" => Filter::Between(name, Bound::Unbounded, Bound::Included(value)),
            ">" => Filter::Between(name, Bound::Excluded(value), Bound::Unbounded),
            _ => Filter::Between(name, Bound::Included(value), Bound::Unbounded),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Filter {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn filters_are_read_as_they_are_written() {
        let not = |filter| Filter::Not(Box::new(filter));
        for (text, filter) in [
            ("year >= 2020", Filter::at_least("year", 2020i64)),
            ("year<=-1.5", Filter::at_most("year", -1.5)),
            ("kind = novel", Filter::is("kind", "novel")),
            ("kind='007'", Filter::is("kind", "007")),
            ("sku = 007", Filter::is("sku", 7i64)),
            ("\"a b\" = \"it \"\"is\"\"\"", Filter::is("a b", "it \"is\"")),
            ("old = true and new=false", Filter::And(vec![Filter::is("old", true), Filter::is("new", false)])),
            ("a = ÄÖ日本", Filter::is("a", "ÄÖ日本")),
            ("a != 1", not(Filter::is("a", 1i64))),
            ("NOT a", not(Filter::Between("a".into(), Bound::Unbounded, Bound::Unbounded))),
            (
                "a=1 or b=2 and c=3",
                Filter::Or(vec![Filter::is("a", 1i64), Filter::And(vec![Filter::is("b", 2i64), Filter::is("c", 3i64)])]),
            ),
            (
                "(a=1 or b=2) and c>3",
                Filter::And(vec![
                    Filter::Or(vec![Filter::is("a", 1i64), Filter::is("b", 2i64)]),
                    Filter::Between("c".into(), Bound::Excluded(3i64.into()), Bound::Unbounded),
                ]),
            ),
        ] {
            assert_eq!(read(text), filter, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stops() {
        let deep = "(".repeat(100_000);
        for (text, at) in [
            ("", 0),
            ("year >=", 7),
            ("= 3", 0),
            ("a = 1 b = 2", 6),
            ("a = 1 and", 9),
            ("(a = 1", 6),
            ("a = 'x", 4),
            ("a ! 3", 2),
            ("a = = 3", 4),
            (deep.as_str(), 64),
        ] {
            let refused = text.parse::<Filter>().expect_err(text);
            assert_eq!(refused.at, at, "{refused}");
        }
    }
}
