//! Which questions were asked of a context? `turns.json`: one line of JSON, and its sum on the second.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::write_whole;
use crate::error::{Error, Result};

/// A question that was asked of a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: Option<String>,
    /// What the turn added to the state.
    pub(super) ids: Vec<u32>,
}

pub(super) fn write(folder: &Path, turns: &[Turn]) -> Result<()> {
    let json = serde_json::to_string(turns).map_err(|e| Error::Input(format!("turns: {e}")))?;
    let sum = blake3::hash(json.as_bytes()).to_hex();
    write_whole(&folder.join("turns.json"), format!("{json}\n{sum}").as_bytes())
}

/// The questions asked; none, with a notice, where they are not as they were written: they are set aside.
pub(super) fn read_or_set_aside(folder: &Path, notices: &mut Vec<String>) -> Vec<Turn> {
    read(folder).unwrap_or_else(|reason| {
        if let Some(reason) = reason {
            let (file, aside) = (folder.join("turns.json"), folder.join("turns.json.damaged"));
            let _ = fs::rename(&file, &aside);
            notices.push(format!("{reason}; set aside as {}", aside.display()));
        }
        Vec::new()
    })
}

/// The questions asked. `Err(None)` where none were, a sentence where they are damaged.
pub(super) fn read(folder: &Path) -> std::result::Result<Vec<Turn>, Option<String>> {
    let file = folder.join("turns.json");
    let bytes = fs::read(&file).map_err(|_| None)?;
    let parse = || {
        let (json, sum) = std::str::from_utf8(&bytes).ok()?.split_once('\n')?;
        (sum == blake3::hash(json.as_bytes()).to_hex().as_str()).then(|| serde_json::from_str(json).ok()).flatten()
    };
    parse().ok_or_else(|| Some(format!("{}, the questions asked, is not as it was written", file.display())))
}
