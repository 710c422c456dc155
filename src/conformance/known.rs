//! Failures that are known: drivers' faults with a link to who is told of them. Each must fail: one that passes has been mended,
//! and its row goes.

use super::report::About;
use super::row::{Outcome, Row};
use super::trial::fits;

/// A failure that is known. `*` stands for any characters.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The backend.
    pub backend: &'static str,
    /// The adapter's name.
    pub adapter: &'static str,
    /// The driver and its version.
    pub driver: &'static str,
    /// The trial's name.
    pub case: &'static str,
    /// What is wrong with the driver.
    pub reason: &'static str,
    /// Who was told.
    pub link: &'static str,
}

/// Every known failure: none on the adapters that were tried.
pub const KNOWN: &[Known] = &[];

impl Known {
    fn is_of(&self, about: &About, row: &Row) -> bool {
        fits(self.backend, &about.backend)
            && fits(self.adapter, &about.name)
            && fits(self.driver, &about.driver)
            && fits(self.case, &row.name)
    }
}

/// What a row is where failures are known.
pub fn judge(known: &[Known], about: &About, row: &mut Row) {
    let Some(known) = known.iter().find(|known| known.is_of(about, row)) else { return };
    match row.outcome {
        Outcome::Failed | Outcome::Flaky => {
            let detail = row.detail.take().unwrap_or_default();
            row.outcome = Outcome::KnownFailure;
            row.detail = Some(format!("{} ({}): {detail}", known.reason, known.link));
        }
        Outcome::Passed => {
            row.outcome = Outcome::Failed;
            row.detail = Some(format!(
                "passed, but is a known failure: {} ({}); its row in src/conformance/known.rs goes",
                known.reason, known.link
            ));
        }
        Outcome::Unsupported | Outcome::KnownFailure => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE_UP: &[Known] = &[Known {
        backend: "gl",
        adapter: "*Tree*",
        driver: "4.*",
        case: "top_k/*nan*@*",
        reason: "NaN is the largest number",
        link: "https://example.org/1",
    }];

    fn about() -> About {
        About {
            backend: "gl".into(),
            name: "Old Tree 9".into(),
            driver: "4.1 oak".into(),
            ..About::default()
        }
    }

    fn judged(name: &str, outcome: Outcome, about: &About) -> Row {
        let mut row = Row { detail: Some("[3] is 1".into()), ..Row::of(name, outcome) };
        judge(MADE_UP, about, &mut row);
        row
    }

    #[test]
    fn what_is_known_to_fail_is_told_apart() {
        for outcome in [Outcome::Failed, Outcome::Flaky] {
            let row = judged("top_k/level-1-nan@checked", outcome, &about());
            assert_eq!(row.outcome, Outcome::KnownFailure);
            let detail = "NaN is the largest number (https://example.org/1): [3] is 1";
            assert_eq!(row.detail.unwrap(), detail);
        }
        // Other cases, and other drivers.
        let other = About { driver: "5.0 oak".into(), ..about() };
        for (name, about) in [("top_k/level-1-ties@checked", about()), ("top_k/nan@checked", other)]
        {
            assert_eq!(judged(name, Outcome::Failed, &about).outcome, Outcome::Failed);
        }
    }

    #[test]
    fn what_is_known_to_fail_must_fail() {
        let row = judged("top_k/level-1-nan@checked", Outcome::Passed, &about());
        assert_eq!(row.outcome, Outcome::Failed);
        assert!(row.detail.unwrap().starts_with("passed, but is a known failure: NaN is"));
        let row = judged("top_k/level-1-nan@checked", Outcome::Unsupported, &about());
        assert_eq!(row.outcome, Outcome::Unsupported);
    }
}
