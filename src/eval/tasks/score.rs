//! RULER's metric.

/// The share of `references` that `answer` contains, ignoring case, from 0 to 1; 0 where there are
/// no references. More text after an answer can only raise it.
pub fn score(answer: &str, references: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    let found = references.iter().filter(|one| answer.contains(&one.to_lowercase())).count();
    found as f64 / references.len().max(1) as f64
}
