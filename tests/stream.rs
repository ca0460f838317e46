//! A text read a piece at a time has the ids of the whole, whatever it holds.

mod tiny;

use std::io::Read;

use palimpsest::prompt::Prompt;
use tiny::Noise;

/// Hands out bytes in small odd portions, so that characters are cut between reads.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(to.len()).min(4093);
        to[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn shipped() -> Prompt {
    let reader = palimpsest::default_reader().expect("the reader that ships");
    Prompt::open(&reader, usize::MAX).expect("the shipped tokenizer")
}

#[test]
fn pieces_have_the_ids_of_the_whole() {
    let prompt = shipped();
    let bits = [
        "word",
        " word",
        "  ",
        "\n",
        "\n\n  ",
        "\t",
        "1234",
        " 5,678.90",
        "é",
        "漢字かな",
        " 🍎",
        "\u{a0}",
        "'s",
        "'ll",
        "...",
        " (",
        ")",
        "<|end|>",
        "\u{301}",
        "ﬁ",
        " x",
        "\r\n",
        "I'm",
        "\u{2028}",
        "\u{200b}",
        " שלום",
        "A",
        "_",
        "-",
        " —",
    ];
    let mut noise = Noise(5);
    for (name, size) in [("empty", 0), ("short", 300), ("one piece", 60_000), ("ugly", 400_000)] {
        let mut text = String::new();
        while text.len() < size {
            text.push_str(bits[noise.below(bits.len())]);
        }
        let mut ids = Vec::new();
        let mut again = String::new();
        let mut pieces = 0;
        let mut stream = prompt.stream(Trickle(text.as_bytes()));
        while let Some(piece) = stream.next_piece().expect("text") {
            assert_eq!(piece.ids.len(), piece.ends.len());
            assert!(piece.ends.last().is_none_or(|&e| e <= piece.text.len()));
            ids.extend(piece.ids);
            again.push_str(&piece.text);
            pieces += 1;
        }
        assert_eq!(again, text, "{name}");
        assert!(ids == prompt.encode(&text).expect("ids"), "{name}: ids of {pieces} pieces differ from those of the whole");
        assert!(size < 400_000 || pieces > 4, "{name}: {pieces} pieces");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let bytes = [b"fine ".as_slice(), &[0xff, 0xfe], b" and more"].concat();
    let error = shipped().stream(bytes.as_slice()).next_piece().expect_err("refused");
    assert!(error.to_string().contains("UTF-8"), "{error}");
}
