//! Variable tracking: a value that assignments hand on.

use super::draws::Draws;
use super::filling::Filling;
use super::hidden::{Hidden, Places};
use super::puzzle::Puzzle;

/// Variables of a chain: RULER's one chain of four hops.
const VARIABLES: usize = 5;

pub(super) fn puzzle(mut draws: Draws, filling: &Filling) -> Puzzle<'_> {
    let value = draws.number(5);
    let names = draws.distinct(VARIABLES, |draws| draws.letters(5).to_uppercase());
    let mut sentences = vec![format!("VAR {} = {value}.", names[0])];
    sentences.extend(names.windows(2).map(|two| format!("VAR {} = VAR {}.", two[1], two[0])));
    let places = Places::behind(&mut draws, VARIABLES - 1);
    Puzzle {
        before:
            "A chain of variable assignments is hidden within the following text. Keep track of \
                 it. I will ask you about the variables afterwards."
                .into(),
        context: Box::new(Hidden::new(&mut draws, filling, sentences, VARIABLES, places)),
        question: format!(
            "Which {VARIABLES} variables hold the value {value}, directly or by way of other \
             variables?"
        ),
        prefix: format!("The {VARIABLES} variables that hold the value {value} are"),
        references: names,
    }
}
