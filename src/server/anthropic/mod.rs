//! Anthropic's interface: `/v1/messages`.

mod messages;

pub(super) use messages::{count, read};

use super::fault::{Fault, Kind};
use serde_json::{Value, json};

/// A fault in Anthropic's shape.
pub(super) fn error(fault: &Fault) -> Value {
    let class = match fault.kind {
        Kind::Invalid | Kind::TooLong | Kind::Method | Kind::MediaType | Kind::SlowBody => {
            "invalid_request_error"
        }
        Kind::TooLarge => "request_too_large",
        Kind::NotFound => "not_found_error",
        Kind::Key => "authentication_error",
        Kind::Host => "permission_error",
        Kind::Busy => "rate_limit_error",
        Kind::Crowded | Kind::Stopping => "overloaded_error",
        Kind::TimedOut => "timeout_error",
        Kind::Broken => "api_error",
    };
    json!({"type": "error", "error": {"type": class, "message": fault.message}})
}

#[cfg(test)]
mod tests;
