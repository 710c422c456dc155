//! The check that logits pass before a token is chosen by them.

use crate::{Error, Result};

/// Refuses logits by which no token can be chosen: one that is not a number says that the rest cannot be trusted either,
/// and where none is above minus infinity there is nothing to choose.
///
/// # Errors
/// [`Error::Model`], which names the first one that is not a number.
pub fn check(logits: &[f32]) -> Result<()> {
    if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
        return Err(Error::Model(format!(
            "no token can be chosen: the logit of token {id} is not a number"
        )));
    }
    if logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
        let count = logits.len();
        return Err(Error::Model(format!(
            "no token can be chosen: none of the {count} logits is above minus infinity"
        )));
    }
    Ok(())
}

/// The same of logits that stayed on the GPU.
pub(crate) fn unusable() -> Error {
    Error::Model(
        "no token can be chosen: the model's logits are not numbers, or all are minus infinity"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_no_number_spoils_all() {
        let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
        assert!(check(&[1.0, least, f32::INFINITY]).is_ok());
        for (logits, problem) in [
            (&[1.0, nan, nan][..], "the logit of token 1 is not a number"),
            (&[least, nan], "the logit of token 1 is not a number"),
            (&[least, least], "none of the 2 logits is above minus infinity"),
            (&[], "none of the 0 logits is above minus infinity"),
        ] {
            let message = check(logits).unwrap_err().to_string();
            assert!(message.ends_with(problem), "{message}");
        }
    }
}
