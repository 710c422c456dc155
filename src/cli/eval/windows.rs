//! Windows of texts: pieces of each length, spread evenly over every text.

use super::super::model::Model;
use super::super::prompt;
use asynctls::{Error, Result};
use std::path::{Path, PathBuf};

/// A piece of a text.
#[derive(Debug)]
pub struct Window {
    /// Its place among the finished parts.
    pub key: String,
    /// The text's number.
    pub text: usize,
    /// The length that was asked for.
    pub length: u32,
    /// Where it begins, in tokens of the text.
    pub from: usize,
    /// Its tokens, as many as its length.
    pub tokens: Vec<u32>,
}

/// `count` windows of each length and text, of which the last `scored` tokens do not overlap.
pub fn windows(
    model: &Model,
    texts: &[PathBuf],
    lengths: &[u32],
    (count, scored): (u32, u32),
) -> Result<Vec<Window>> {
    // What begins a text begins each window.
    let begin = model.tokenizer.begin(Vec::new());
    let mut windows = Vec::new();
    for (number, path) in texts.iter().enumerate() {
        let text = prompt::read_text("--text", path)?;
        let tokens = model.tokenizer.encode(&text, false)?;
        for &length in lengths {
            let own = (length as usize).saturating_sub(begin.len());
            for (i, from) in
                starts(path, tokens.len(), own, (count, scored))?.into_iter().enumerate()
            {
                windows.push(Window {
                    key: format!("text {number} length {length} window {i}"),
                    text: number,
                    length,
                    from,
                    tokens: [&begin, &tokens[from..from + own]].concat(),
                });
            }
        }
    }
    Ok(windows)
}

// Where windows begin in a text of so many tokens: the first at its begin, the last at its end.
fn starts(
    path: &Path,
    tokens: usize,
    length: usize,
    (count, scored): (u32, u32),
) -> Result<Vec<usize>> {
    let Some(room) = tokens.checked_sub(length) else {
        let limit = format!("it has {tokens} tokens where {length} are needed");
        return Err(Error::argument("--text", path.display(), limit));
    };
    let most = room / scored.max(1) as usize + 1;
    if count as usize > most {
        let limit = format!(
            "{} has {tokens} tokens, room for {most} windows of {length} whose last {scored} are not the same",
            path.display()
        );
        return Err(Error::argument("--windows", count, limit));
    }
    let apart = (count as usize).saturating_sub(1).max(1);
    Ok((0..count as usize).map(|i| room * i / apart).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_spread_and_score_nothing_twice() {
        let starts = |tokens, length, count| starts(Path::new("a.txt"), tokens, length, (count, 8));
        assert_eq!(starts(100, 40, 1).unwrap(), [0]);
        assert_eq!(starts(100, 40, 4).unwrap(), [0, 20, 40, 60]);
        assert_eq!(starts(56, 40, 3).unwrap(), [0, 8, 16]);
        assert_eq!(starts(40, 40, 1).unwrap(), [0]);
        let message = starts(56, 40, 4).unwrap_err().to_string();
        assert!(
            message.starts_with("--windows is 4, but a.txt has 56 tokens, room for 3"),
            "{message}"
        );
        let message = starts(39, 40, 1).unwrap_err().to_string();
        assert!(message.ends_with("it has 39 tokens where 40 are needed"), "{message}");
    }
}
