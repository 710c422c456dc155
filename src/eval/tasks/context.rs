//! The long part of a prompt.

/// The text that a question is about, for any amount of filling.
pub(super) trait Context {
    /// The text with so many units of filling. `depth`, from 0 to 1, is the place of the first
    /// needle, where there are needles.
    fn text(&self, amount: u32, depth: f64) -> String;

    /// The most units of filling there are.
    fn most(&self) -> u32 {
        u32::MAX
    }

    /// The sentences that the answer needs, if they are few: each is in the text, once.
    fn needles(&self) -> &[String] {
        &[]
    }
}
